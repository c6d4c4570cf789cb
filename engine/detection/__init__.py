"""Detection on images, folders, videos and cameras, and the files it writes."""

import models.environment  # noqa: F401  (before any module here imports ultralytics)
