"""How often images are drawn, by hand-worked numbers, and the sampler that draws them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from data.rare.draws import draw, draw_weights
from engine.settings import Rare
from engine.training.draws import Draws, balanced, draws_note
from engine.training.repeat import seed_epoch

from ultralytics.data.build import InfiniteDataLoader

EMPTY = np.zeros(0)


def test_repeat_factors_by_hand():
    # 16 images: class 0 in 4 (f 1/4), class 1 in 1 (f 1/16), one of which shows both; t = 1/4.
    classes = [np.array([0.0, 0.0])] * 3 + [np.array([0.0, 1.0])] + [EMPTY] * 12
    weights = draw_weights(classes, 3, repeat_threshold=0.25)  # class 2 has no box
    assert weights.tolist() == [1.0] * 3 + [2.0] + [1.0] * 12  # sqrt((1/4) / (1/16)) = 2


def test_background_share_is_a_limit():
    classes = [np.array([0.0])] * 4 + [EMPTY] * 12
    weights = draw_weights(classes, 1, background_share=0.5)
    assert weights[:4].tolist() == [1.0] * 4 and weights[4:].sum() == pytest.approx(4.0)
    assert draw_weights(classes, 1, background_share=0.9).tolist() == [1.0] * 16  # they are 0.75: fewer than allowed
    assert draw_weights(classes, 1, background_share=0.0)[4:].sum() == 0.0
    assert draw_weights(classes, 1, background_share=1.0).tolist() == [1.0] * 16


@pytest.mark.parametrize("classes", [[EMPTY] * 3, [np.array([0.0])] * 3, [np.array([0.0])]])
def test_sets_of_one_kind_stay_as_they_are(classes):
    assert draw_weights(classes, 2, 0.001, 0.5).tolist() == [1.0] * len(classes)


def test_both_together():
    classes = [np.array([0.0])] * 1 + [EMPTY] * 15  # factor sqrt(1 / (1/16)) = 4; then backgrounds are half of the draws
    weights = draw_weights(classes, 1, repeat_threshold=1.0, background_share=0.5)
    assert weights[0] == 4.0 and weights[1:].sum() == pytest.approx(4.0)


def test_draws_are_the_weights_rounded():
    weights = np.array([4.0, 1.0, 1.0, 0.5, 1.5, 0.0])
    counts = [np.bincount(draw(weights, 12, np.random.default_rng(seed)), minlength=6) for seed in range(400)]
    wanted = 12 * weights / weights.sum()
    for count in counts:
        assert (count >= np.floor(wanted)).all() and (count <= np.ceil(wanted)).all()
    assert np.mean(counts, 0) == pytest.approx(wanted, abs=0.1)
    assert sorted(draw(np.ones(7), 7, np.random.default_rng(0)).tolist()) == list(range(7))
    assert draw(np.ones(50), 50, np.random.default_rng(0)).tolist() != draw(np.ones(50), 50, np.random.default_rng(1)).tolist()


def test_an_epoch_is_the_same_whenever_it_is_drawn():
    weights = np.arange(1.0, 21.0)
    first = Draws(weights, 20, seed=3)
    epochs = [list(first) for _ in range(4)]  # as worker processes ask, without a word of the epoch
    assert epochs[0] != epochs[1]
    second = Draws(weights, 20, seed=3)
    second.set_epoch(2)
    assert list(second) == epochs[2]
    second.set_epoch(2)  # already drawn ahead of time
    assert list(second) == epochs[3]
    second.set_epoch(2, again=True)
    assert list(second) == epochs[2]
    assert list(Draws(weights, 20, seed=4)) != epochs[0]


@pytest.mark.parametrize("count", [12, 13])
def test_processes_share_an_epoch(count):
    weights = np.array([3.0] + [1.0] * 9)
    parts = [list(Draws(weights, count, 0, rank, 2)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == -(-count // 2)
    together = np.bincount(np.concatenate(parts), minlength=10)
    assert together[0] in (3, 4) and together.max() == together[0]


class Numbers(Dataset):
    """Indices, with labels of which the first shows class 1."""

    labels = [{"cls": np.ones((1, 1))}] + [{"cls": np.zeros((0, 1))}] * 9

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index


def loader(**options) -> InfiniteDataLoader:
    plain = InfiniteDataLoader(Numbers(), batch_size=4, shuffle=True, generator=torch.Generator())
    return balanced(plain, Rare(**options), 0, 2, 4, 0, 1)


def test_off_is_ultralytics_loader():
    assert not isinstance(loader().sampler, Draws)


def test_loader_draws_by_share_and_steps():
    drawn = loader(background_share=0.5, min_steps=5)
    assert len(drawn) == 5
    seed_epoch(0, 0, drawn)
    indices = torch.cat(list(drawn)).tolist()
    assert len(indices) == 20 and indices.count(0) == 10
    assert len(loader(min_steps=1)) == 3  # never fewer than all images


def test_an_epoch_of_a_loader_can_be_drawn_again():
    drawn = loader(min_steps=3)
    epochs = []
    for epoch in (0, 1, 2, 1):
        seed_epoch(0, epoch, drawn)
        epochs.append(torch.cat(list(drawn)).tolist())
    assert epochs[3] == epochs[1] != epochs[2]


def test_note_says_what_is_drawn():
    drawn = loader(background_share=0.5, min_steps=5)
    note = draws_note(drawn.sampler, Numbers.labels, {0: "pit", 1: "dent"})
    assert note == "draws: 20 images an epoch of 10, 50% with objects, 0% with the least frequent class (pit)"
