"""Scores of a detector: COCO metrics, suppression, latency."""
