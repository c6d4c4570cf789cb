"""Knowledge distillation: masks, adapters, weights of the terms, and one file per method."""

import models  # noqa: F401  (sets the environment before ultralytics is imported anywhere)
