"""Training, validation, detection and export: how a run happens. Knows no block, loss or method by name."""

