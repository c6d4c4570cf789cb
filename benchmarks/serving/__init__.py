"""Load on the service: its process, its clients, and the bare network beside it. Needs no deep-learning library."""
