"""What a training run is: networks, trainer, processes, reports."""

import models.environment  # noqa: F401  (before any module here imports ultralytics)
