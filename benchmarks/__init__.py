"""Scripts and results that anyone can run again."""
