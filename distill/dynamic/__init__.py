"""The parts of a dynamic teacher, which makes features from labels and the student's own: one idea per file."""
