"""When distillation acts: its warm-up, its end, and how it fades until then."""

from __future__ import annotations

import math
from dataclasses import dataclass

DECAYS = ("none", "cosine")
FAINTEST = 1e-3  # of distillation when its warm-up starts: AdamW's steps do not shrink with it, so that adapters learn


@dataclass(frozen=True)
class Schedule:
    """What is left of distillation over training.

    Args:
        warmup: fraction of training over which distillation comes up to its share. Adapters that start from random weights (`score_l2`,
            `mgd`, `lgd`, `sdd`) ask for noise at first; those of the other methods are solved on the first batch.
        until: fraction of training after which distillation is off.
        decay: `cosine` lets it fade from full strength at the start to nothing at `until`, `none` keeps it up.
    """

    warmup: float = 0.0
    until: float = 1.0
    decay: str = "none"

    def left(self, progress: float) -> float:
        """Factor on distillation, 0..1, at `progress` (0..1) of training."""
        if progress >= self.until:
            return 0.0
        decayed = (1 + math.cos(math.pi * progress / self.until)) / 2 if self.decay == "cosine" else 1.0
        return decayed * max(progress / self.warmup, FAINTEST) if progress < self.warmup else decayed
