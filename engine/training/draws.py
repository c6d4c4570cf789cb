"""Which images an epoch draws, and how many, where these are not all images once each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from data.rare.draws import draw, draw_weights
from engine.settings import Rare

from ultralytics.data.build import InfiniteDataLoader


class Draws(Sampler[int]):
    """Draws images by weights, anew in every epoch, the same ones whenever an epoch is drawn.

    Of several processes, each makes all draws and takes its part.

    Args:
        weights: (n,) relative frequency of each image.
        count: images of an epoch, of all processes together; rounded up to as many for each.
        seed: of the run.
        rank, processes: which of how many processes this is.
    """

    def __init__(self, weights: np.ndarray, count: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        self.weights, self.seed, self.rank, self.processes = weights, seed, rank, processes
        self.length = math.ceil(count / processes)
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1  # worker processes start the next epoch before this one ends
        return iter(draw(self.weights, self.length * self.processes, rng)[self.rank :: self.processes].tolist())

    def set_epoch(self, epoch: int, again: bool = False) -> None:
        """Draw this epoch next.

        Args:
            again: also where it was drawn before; False where worker processes may have drawn it already, ahead of time.
        """
        self.epoch = epoch if again else max(self.epoch, epoch)


def balanced(
    loader: InfiniteDataLoader, rare: Rare, seed: int, nc: int, batch_size: int, rank: int, processes: int
) -> InfiniteDataLoader:
    """Return a training loader that draws as the arguments say, the same one where they are off.

    Args:
        loader: ultralytics', of our `Dataset`.
        rare, seed: of the run.
        nc: number of classes.
        batch_size: images per batch of one process.
        rank, processes: which of how many processes this is.
    """
    if not rare.chooses_draws:
        return loader
    dataset = loader.dataset
    weights = draw_weights([x["cls"].reshape(-1) for x in dataset.labels], nc, rare.repeat_threshold, rare.background_share)
    count = max(len(dataset), rare.min_steps * batch_size * processes)
    sampler = Draws(weights, count, seed, rank, processes)
    same = ("num_workers", "prefetch_factor", "pin_memory", "collate_fn", "worker_init_fn", "generator", "drop_last",
            "pin_memory_device")  # fmt: skip
    options = {name: getattr(loader, name) for name in same}
    return InfiniteDataLoader(dataset=dataset, batch_size=min(batch_size, len(sampler)), sampler=sampler, **options)


def draws_note(sampler: Draws, labels: Sequence[dict[str, Any]], names: dict[int, str]) -> str:
    """A header line: how many images an epoch draws, the share of them with objects, and of the class that is drawn least."""
    chances = sampler.weights / sampler.weights.sum()
    shows = {i: sum(p for p, x in zip(chances, labels) if (x["cls"] == i).any()) for i in names}
    filled = sum(p for p, x in zip(chances, labels) if len(x["cls"]))
    least = min(shows, key=lambda index: shows[index])
    drawn = f"draws: {len(sampler) * sampler.processes} images an epoch of {len(labels)}, {filled:.0%} with objects"
    return f"{drawn}, {shows[least]:.0%} with the least frequent class ({names[least]})"
