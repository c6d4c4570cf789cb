"""Values that the arguments for rare defects may have."""

from __future__ import annotations

from cfg import UserError
from cfg.errors import is_number
from engine.settings.parts import Rare


def check_rare(rare: Rare, rect: bool = False) -> None:
    """Refuse values of a wrong type or outside their range.

    Args:
        rare: as given.
        rect: whether batches are to be of images of like shape.

    Raises:
        UserError: names the argument, what was expected and what was given.
    """
    threshold, share, steps, chance = rare.repeat_threshold, rare.background_share, rare.min_steps, rare.paste
    if threshold is not None and not (is_number(threshold) and 0 < threshold <= 1):
        raise UserError(f"repeat_threshold: expected a share of the images above 0, at most 1, or None, got {threshold!r}; try 0.3")
    if share is not None and not (is_number(share) and 0 <= share <= 1):
        raise UserError(f"background_share: expected a share from 0 to 1, or None, got {share!r}; try 0.5")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise UserError(f"min_steps: expected a whole number of batches of at least 0, got {steps!r}; try 50")
    if not is_number(chance) or not 0 <= chance <= 1:
        raise UserError(f"paste: expected a probability from 0 to 1, got {chance!r}; try 0.5")
    if rect and rare.chooses_draws:
        raise UserError("rect: batches of images of like shape cannot be drawn by class, background_share or min_steps; leave rect "
                        "out, or use --repeat-threshold None --background-share None --min-steps 0")  # fmt: skip
