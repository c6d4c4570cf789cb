"""Scores of a detector: COCO metrics, suppression, latency."""

import models.environment  # noqa: F401  (before any module here imports ultralytics)
