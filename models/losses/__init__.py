"""Loss functions of the detectors, one idea per file."""
