"""Large images in tiles: detection and validation on whole images, training on tiles. The geometry is `inspection`'s."""

import models.environment  # noqa: F401  (before any module here imports ultralytics)
