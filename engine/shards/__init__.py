"""Very many images: a job in shards, done by any number of workers, each shard exactly once."""

import models.environment  # noqa: F401  (before any module here imports ultralytics)
