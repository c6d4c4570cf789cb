"""Start weights: what a new student takes from a file or from its teacher, matched by structure."""
