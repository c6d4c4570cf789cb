"""Heat maps: what each shows on networks whose answer is known, and the energy gate: inside the box, more than by chance."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import models.environment  # noqa: F401
from cfg import UserError
from engine.heatmaps.attention import attention
from engine.heatmaps.cells import read_cells
from engine.heatmaps.drise import drise
from engine.heatmaps.evidence import evidence
from engine.heatmaps.layercam import layercam
from engine.heatmaps.pictures import Heatmaps, boxed, energy_inside, overlay, unboxed
from models.blocks.attention import CBAM, DualAttention
from models.detector import Detector

SIDE = 64
MODEL = {
    "nc": 2, "anchors": [[10, 12, 16, 14], [24, 30, 40, 36]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
}  # fmt: skip
HEADS = {"anchor": [[2, 3], 1, "AnchorDetect", ["nc", "anchors", "coupled"]], "gfl": [[2, 3], 1, "GFLDetect", ["nc", "gfl", 16, 1, 5]],
         "stock": None}  # fmt: skip


def detector(kind: str, seed: int = 0) -> nn.Module:
    """A small detector with strides 8 and 16."""
    torch.manual_seed(seed)
    if kind == "stock":
        from ultralytics.nn.tasks import DetectionModel

        rows = {"nc": 2, "backbone": MODEL["backbone"], "head": [[[2, 3], 1, "Detect", ["nc"]]]}
        return DetectionModel(rows, nc=2, verbose=False).eval()
    return Detector(MODEL | {"head": [HEADS[kind]]}).eval()


def picture(seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """A noisy image (1, 3, SIDE, SIDE) with a bright square, and its box; dark squares lie around, and under it."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0.4, 0.6, (3, SIDE, SIDE))
    for x, y in rng.integers(0, SIDE - 16, (4, 2)):
        pixels[:, y : y + 16, x : x + 16] = rng.uniform(0.0, 0.1)
    x, y = rng.integers(4, SIDE - 24, 2)
    pixels[:, y : y + 16, x : x + 16] = rng.uniform(0.85, 1.0)
    return torch.from_numpy(pixels).float()[None], np.array([x, y, x + 16, y + 16], float)


@pytest.mark.parametrize("kind", HEADS)
def test_cells_are_the_head_s_predictions_in_its_order(kind: str) -> None:
    network, (pixels, _) = detector(kind), picture(0)
    with torch.no_grad():
        decoded, cells = network(pixels)[0][0], read_cells(network, pixels)
    assert torch.allclose(decoded[4:], cells.scores, atol=1e-6)
    assert cells.levels[0][2:] == (8, 8, 8.0) and cells.levels[1][2:] == (4, 4, 16.0)
    best = int(cells.scores[1].argmax())
    place = decoded[:2, best].tolist()
    assert cells.nearest(float(cells.scores[1, best]), 1, place) == best
    assert cells.level_of(0) == 0 and cells.level_of(cells.scores.shape[1] - 1) == 1
    shown = evidence(cells, SIDE, SIDE)
    assert shown.shape == (SIDE, SIDE) and shown.min() >= 0 and shown.max() <= cells.scores.max() + 1e-6


@pytest.mark.parametrize("kind", HEADS)
def test_layercam_is_where_the_gradient_of_that_box_is(kind: str) -> None:
    """A coupled head and its level see one cell; a head with 3 x 3 layers a neighbourhood: nothing elsewhere."""
    network, (pixels, _) = detector(kind), picture(1)
    with torch.no_grad():
        cells = read_cells(network, pixels)
    index = int(cells.scores[0, :64].argmax())  # on the finer level, 8 x 8 cells
    row, column = index // 8, index % 8
    middle = np.array([column + 0.5, row + 0.5]) * 8
    heat = layercam(network, pixels, np.array([[*middle - 6, *middle + 6]]), cells.scores[0, index].numpy()[None], [0])[0]
    ys, xs = np.nonzero(heat.numpy() > 0.5)
    assert heat.max() == 1 and len(xs)
    assert np.abs(xs - middle[0]).max() <= 28 and np.abs(ys - middle[1]).max() <= 28


def trained() -> Detector:
    """The small detector after a few steps on bright squares."""
    network = detector("anchor").train()
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=120)
    criterion = network.init_criterion()
    for step in range(120):
        images, boxes = zip(*(picture(100 * step + i + 1000) for i in range(8)))
        xywh = [[(b[0] + b[2]) / 2 / SIDE, (b[1] + b[3]) / 2 / SIDE, 16 / SIDE, 16 / SIDE] for b in boxes]
        batch = {"img": torch.cat(images), "cls": torch.zeros(8, 1), "bboxes": torch.tensor(xywh).float(), "batch_idx": torch.arange(8).float()}
        loss = criterion(network(batch["img"]), batch)[0].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Detector:
    return trained()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["evidence", "layercam"])
def test_the_energy_gate(network: Detector, kind: str) -> None:
    """The share of a map inside the box beats that of the same network with random weights."""

    def share(of: nn.Module, seed: int) -> float:
        pixels, box = picture(seed)
        with torch.no_grad():
            cells = read_cells(of, pixels)
        if kind == "evidence":
            return energy_inside(evidence(cells, SIDE, SIDE).numpy(), box)
        best = int(cells.scores[0].argmax())  # its surest box, wherever that is
        start, _, rows, columns, stride = cells.levels[cells.level_of(best)]
        row, column = divmod((best - start) % (rows * columns), columns)
        found = np.array([[column * stride, row * stride, (column + 1) * stride, (row + 1) * stride]])
        return energy_inside(layercam(of, pixels, found, [float(cells.scores[0, best])], [0])[0].numpy(), box)

    ours = np.mean([share(network, seed) for seed in range(20)])
    chance = [np.mean([share(of, seed) for seed in range(20)]) for of in map(partial(detector, "anchor"), range(1, 6))]
    assert ours > 2 * max(chance), (ours, chance)


def test_random_masks_find_what_a_detector_looks_at() -> None:
    """A detector that scores by the brightness of one corner of the image, wherever it says the box is."""
    box = np.array([[30.0, 30, 50, 50]])
    looks_at = (4, 4, 20, 20)

    def detect(pixels: torch.Tensor) -> np.ndarray:
        score = float(pixels[0, :, 4:20, 4:20].mean())
        return np.array([[30, 30, 50, 50, score, 1], [30, 30, 50, 50, 0.9, 0]])

    pixels = torch.zeros(1, 3, SIDE, SIDE)
    pixels[..., 4:20, 4:20] = 1
    heat = drise(detect, pixels, box, [1], masks=200)[0].numpy()
    assert energy_inside(heat, np.array(looks_at)) > 3 * energy_inside(heat, box[0])


@pytest.mark.parametrize("block", [DualAttention, CBAM])
def test_a_gate_is_what_features_are_multiplied_by(block: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module, features = block(16).eval(), torch.rand(1, 16, 6, 6)
    gated = module.gate(features) * features
    assert torch.allclose(module(features), features + gated if block is DualAttention else gated, atol=1e-6)


def test_attention_is_the_mean_gate_stretched() -> None:
    network = nn.Sequential(CBAM(4)).eval()
    heat = attention(network, torch.rand(1, 4, 8, 8))
    assert heat.shape == (8, 8) and heat.min() == 0 and heat.max() == 1
    with pytest.raises(UserError, match="expected a model with attention modules"):
        Heatmaps("attention", detector("anchor"), None, torch.device("cpu"), None)
    with pytest.raises(UserError, match="use --heatmap drise"):
        Heatmaps("layercam", None, None, torch.device("cpu"), None)


def test_maps_lie_on_the_picture_as_it_was() -> None:
    box = np.array([[10.0, 20, 50, 60]])
    assert boxed(box, 100, 200, 64, 128).tolist() == [[6.4, 12.8, 32, 38.4]]
    assert boxed(box, 100, 200, 128, 128).tolist() == [[6.4, 44.8, 32, 70.4]]  # 32 rows of border above
    heat = np.zeros((128, 128), np.float32)
    heat[45:70, 7:32] = 1
    back = unboxed(heat, 100, 200)
    assert back.shape == (100, 200) and energy_inside(back, box[0]) > 0.95
    grey = np.full((10, 10, 3), 100, np.uint8)
    assert (overlay(grey, np.zeros((10, 10))) == grey).all() and (overlay(grey, np.ones((10, 10))) != grey).any()
