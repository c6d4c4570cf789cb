"""Exported models: made, quantised, and proved against PyTorch."""

import models.environment  # noqa: F401  (before any module here imports ultralytics)
