"""The random state of each epoch, equal in a resumed run and in one that was not interrupted."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

from engine.training.draws import Draws

from ultralytics.data.build import InfiniteDataLoader
from ultralytics.utils import RANK


def seed_epoch(seed: int, epoch: int, loader: InfiniteDataLoader) -> None:
    """Draw the order of images, their augmentation and the masks of an epoch from random numbers of its own.

    Worker processes, which only a GPU's run has, read ahead of the epoch with numbers of theirs: there, a resumed run draws
    order and augmentation anew.
    """
    states = np.random.SeedSequence([seed, RANK + 1, epoch]).generate_state(3)
    for_python, for_numpy, for_torch = states.tolist()
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.manual_seed(for_torch)
    if isinstance(loader.sampler, Draws):
        loader.sampler.set_epoch(epoch, again=not loader.num_workers)
    if not loader.num_workers:
        loader.generator.manual_seed(for_torch)
        loader.reset()


def mosaic_images(loader: InfiniteDataLoader) -> list[int]:
    """Indices of the images that the data set keeps for the next mosaics, oldest first; worker processes keep their own."""
    return [] if loader.num_workers else list(loader.dataset.buffer)


def keep_mosaic_images(loader: InfiniteDataLoader, indices: list[int]) -> None:
    """Have the data set keep these images (of `mosaic_images`), as if it had just read them."""
    if not loader.num_workers:
        for index in indices:
            if index < len(loader.dataset):
                loader.dataset.load_image(index)


def pending_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by parameter, of the batches since the optimiser's last step."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def put_gradients(model: nn.Module, gradients: dict[str, Tensor]) -> None:
    """Give the parameters these gradients (of `pending_gradients`)."""
    for name, parameter in model.named_parameters():
        if name in gradients:
            parameter.grad = laid_out_as(parameter, gradients[name])


def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser's running means the memory layout of their parameters, which a checkpoint does not keep.

    Fused optimisers refuse tensors of another layout, others are slower with them.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = laid_out_as(parameter, value)


def laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A copy of `value` with the device and strides of `parameter`, of the same shape."""
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
