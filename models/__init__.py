"""Networks: blocks, heads, losses, and the parser that builds a detector from YAML rows."""

import models.environment  # noqa: F401  (must run before ultralytics is imported anywhere)
