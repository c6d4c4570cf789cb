"""Detectors of other programs as teachers, shown by their pyramid features alone."""
