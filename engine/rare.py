"""Training arguments for rare defects, all off by default; the recipe `rare` sets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfg import UserError
from cfg.errors import is_number

OPTIONS: dict[str, Any] = {
    "repeat_threshold": None,  # t of repeat-factor sampling: classes in less than a share t of the images are drawn more often
    "background_share": None,  # largest share of images without objects among those that are drawn
    "min_steps": 0,  # least batches in an epoch: images of small data sets are drawn several times
    "paste": 0.0,  # probability with which an image to train on gets defects cut out of others of the training part
}


def chooses_draws(options: Mapping[str, Any]) -> bool:
    """Whether an epoch is to draw something else than every image once."""
    return options["repeat_threshold"] is not None or options["background_share"] is not None or options["min_steps"] > 0


def check_rare(options: Mapping[str, Any], rect: bool = False) -> None:
    """Refuse values of a wrong type or outside their range.

    Args:
        options: values for all of `OPTIONS`.
        rect: whether batches are to be of images of like shape.

    Raises:
        UserError: names the argument, what was expected and what was given.
    """
    threshold, share, steps, chance = (options[name] for name in OPTIONS)
    if threshold is not None and not (is_number(threshold) and 0 < threshold <= 1):
        raise UserError(f"repeat_threshold: expected a share of the images above 0, at most 1, or None, got {threshold!r}; try 0.3")
    if share is not None and not (is_number(share) and 0 <= share <= 1):
        raise UserError(f"background_share: expected a share from 0 to 1, or None, got {share!r}; try 0.5")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise UserError(f"min_steps: expected a whole number of batches of at least 0, got {steps!r}; try 50")
    if not is_number(chance) or not 0 <= chance <= 1:
        raise UserError(f"paste: expected a probability from 0 to 1, got {chance!r}; try 0.5")
    if rect and chooses_draws(options):
        raise UserError("rect: batches of images of like shape cannot be drawn by class, background_share or min_steps; leave rect "
                        "out, or say --repeat-threshold None --background-share None --min-steps 0")  # fmt: skip
