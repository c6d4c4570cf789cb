"""Tandem on the line: a service that answers with verdicts. Needs no deep-learning library; a test holds that."""
