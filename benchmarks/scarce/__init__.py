"""What `benchmarks/rare.py` measures on and by: sets with few defects among many good parts, and escapes at an overkill."""
