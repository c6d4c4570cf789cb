"""Decisions in the command lines: thresholds chosen by val.py, plans inside weights, verdicts of detect.py."""
