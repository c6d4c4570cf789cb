"""Defects that are cut out and pasted: which, where, with which labels, and what stays as it was."""

from __future__ import annotations

import random
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from data.layout import xyxy_to_rows
from data.rare.cuts import MARGIN, cut_out, edges, groups, meet
from data.rare.paste import find_place, paste
from engine.pasting import Pasting, find_sources

NONE = np.zeros((0, 4))
BOX = np.array([[40.0, 30.0, 60.0, 45.0]])


def surface(grey: int = 100, side: int = 128) -> np.ndarray:
    """Slightly rough, even grey."""
    noise = np.random.default_rng(grey).integers(-3, 4, (side, side, 1))
    return np.repeat(grey + noise, 3, 2).astype(np.uint8)


def with_defect(grey: int = 100) -> np.ndarray:
    """The surface with a defect of 220 in `BOX`."""
    pixels = surface(grey)
    pixels[30:45, 40:60] = 220
    return pixels


def one_cut(grey: int = 100):
    _, area = groups(BOX, 128, 128)[0]
    return cut_out(with_defect(grey), BOX, np.array([1]), area)


def test_groups_take_what_their_surroundings_touch():
    boxes = np.array([[10, 10, 20, 20], [100, 100, 110, 110], [24, 12, 30, 20], [60, 60, 64, 64.0]])
    found = {tuple(members): area.tolist() for members, area in groups(boxes, 128, 128)}
    assert set(found) == {(0, 2), (1,), (3,)}
    assert found[(0, 2)] == [10 - MARGIN, 10 - MARGIN, 30 + MARGIN, 20 + MARGIN]
    assert found[(1,)][2:] == [118, 118]
    # No area holds a part of a box that is not its own.
    for members, area in groups(boxes, 128, 128):
        others = [i for i in range(4) if i not in members]
        assert not meet(np.array(area), boxes[others]).any()


def test_groups_of_many_boxes_in_a_chain():
    chain = np.array([[8 * i, 8, 8 * i + 6, 14] for i in range(60)], dtype=float)
    (members, area), = groups(chain, 512, 512)
    assert len(members) == 60 and area.tolist() == [0, 0, min(478 + 72, 512), 14 + 72]


def test_surroundings_beyond_the_image_are_unknown():
    box = np.array([[0.0, 50.0, 12.0, 60.0]])
    _, area = groups(box, 128, 128)[0]
    cut = cut_out(surface(), box, np.array([0]), area)
    assert np.isnan(cut.sides[0]).all() and cut.sides[1:, 0] == pytest.approx([100] * 3, abs=1)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.25])
@pytest.mark.parametrize("mirror", [False, True])
def test_pasted_boxes_are_where_the_defect_is(factor, mirror):
    cut = one_cut().scaled(factor)
    cut = cut.mirrored() if mirror else cut
    target = surface(110)
    for seed in range(10):
        pixels, boxes = paste(target, NONE, cut, np.random.default_rng(seed))
        rows, columns = np.nonzero(pixels[..., 0] > 165)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert boxes[0] == pytest.approx(found, abs=1.0)
        changed = np.argwhere((pixels != target).any(-1))
        inside = ((changed >= boxes[0, 1::-1] - 2 * MARGIN) & (changed <= boxes[0, 3:1:-1] + 2 * MARGIN)).all()
        assert inside and (target == surface(110)).all()


def test_blending_takes_on_the_targets_brightness():
    target = surface(120)
    pixels, boxes = paste(target, NONE, one_cut(), np.random.default_rng(0))
    x1, y1, x2, y2 = boxes[0].astype(int)
    ring = pixels[y1 - 4 : y2 + 4, x1 - 4 : x2 + 4].astype(float).copy()
    ring[4:-4, 4:-4] = np.nan
    assert np.nanmean(ring) == pytest.approx(120, abs=3)  # 100 in the source
    assert pixels[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3].mean() == pytest.approx(240, abs=8)  # the contrast is the source's


def test_boxes_of_the_target_are_kept_clear():
    cut, rng = one_cut(), np.random.default_rng(0)
    taken = np.array([[0.0, 0.0, 128.0, 60.0]])
    height, width = cut.pixels.shape[:2]
    places = [find_place(surface(), taken, cut, rng) for _ in range(30)]
    assert all(y >= 60 for _, y in places) and len({x for x, _ in places}) > 5
    assert find_place(surface(), np.array([[0.0, 0.0, 128.0, 128.0]]), cut, rng) is None
    assert height < 68 and width < 128


def test_places_look_like_the_surroundings():
    cut, rng = one_cut(), np.random.default_rng(0)
    part = surface(100)
    part[:, 70:] = 10  # background to the right of the part
    width = cut.pixels.shape[1]
    assert all(x + width <= 70 for x, _ in (find_place(part, NONE, cut, rng) for _ in range(30)))
    assert find_place(surface(200), NONE, cut, rng) is None
    rough = np.repeat(np.random.default_rng(0).choice([60, 140], (128, 128, 1)), 3, 2).astype(np.uint8)
    assert find_place(rough, NONE, cut, rng) is None  # of the same mean
    assert edges(rough)[:, 0] == pytest.approx([100] * 4, abs=8)


def test_a_cut_larger_than_the_target_has_no_place():
    assert paste(surface(100, 24), NONE, one_cut(), np.random.default_rng(0)) is None
    exact = one_cut()
    height, width = exact.pixels.shape[:2]
    pixels, boxes = paste(surface(100)[:height, :width], NONE, exact, np.random.default_rng(0))
    assert boxes.tolist() == exact.boxes_xyxy.tolist() and pixels.shape == exact.pixels.shape


# -- as an augmentation ------------------------------------------------------------------------------------------------


def label_of(boxes_xyxy: np.ndarray, classes: list[int], shape=(128, 128), outlined: bool = False) -> dict:
    rows = xyxy_to_rows(np.array(classes), boxes_xyxy, shape[1], shape[0]).astype(np.float32)
    return {"cls": rows[:, :1], "bboxes": rows[:, 1:], "shape": shape,
            "segments": [np.zeros((5, 2), np.float32)] * len(classes) if outlined else []}  # fmt: skip


def dataset_of(images: list[np.ndarray], labels: list[dict], imgsz: int = 128) -> SimpleNamespace:
    return SimpleNamespace(ims=images, labels=labels, imgsz=imgsz, im_files=[None] * len(images))


def read(dataset: SimpleNamespace, index: int) -> dict:
    """A label as `get_image_and_label` has it before augmentation."""
    label = {key: value.copy() for key, value in dataset.labels[index].items() if key in ("cls", "bboxes", "segments")}
    size = dataset.ims[index].shape[:2]
    return label | {"img": dataset.ims[index], "ori_shape": dataset.labels[index]["shape"], "resized_shape": size}


def test_pasted_images_get_labels_and_nothing_else_changes():
    dataset = dataset_of([with_defect(), surface(104)], [label_of(BOX, [1]), label_of(NONE, [])])
    before = [pixels.copy() for pixels in dataset.ims]
    pasting = Pasting(dataset, 1.0, mirror=0.5)
    random.seed(0)
    counts = []
    for _ in range(20):
        label = read(dataset, 1)
        pasting(label)
        counts.append(len(label["cls"]))
        assert label["bboxes"].shape == (counts[-1], 4) and label["bboxes"].dtype == np.float32
        assert (label["cls"] == 1).all() and label["cls"].dtype == np.float32
        for x, y, *_ in label["bboxes"] * 128:
            assert label["img"][int(y), int(x), 0] > 180  # the defect is where its label says
    assert set(counts) <= {0, 1, 2, 3} and max(counts) > 1
    assert all((one == other).all() for one, other in zip(dataset.ims, before))
    assert len(dataset.labels[1]["cls"]) == 0


@pytest.mark.long
def test_chance_and_seed():
    dataset = dataset_of([with_defect(), surface(104)], [label_of(BOX, [1]), label_of(NONE, [])])
    runs = []
    for _ in range(2):
        random.seed(5)
        labels = [read(dataset, 1) for _ in range(60)]
        for label in labels:
            Pasting(dataset, 0.4)(label)
        runs.append([label["img"] for label in labels])
    assert all((one == other).all() for one, other in zip(*runs))
    assert 12 <= sum((image != dataset.ims[1]).any() for image in runs[0]) <= 36


@pytest.mark.long
def test_few_shots_are_copied_as_often_as_many():
    rng = np.random.default_rng(0)
    labels = [label_of(BOX, [0]) for _ in range(9)] + [label_of(BOX, [1])] + [label_of(NONE, [])]
    dataset = dataset_of([with_defect()] * 10 + [surface(102)], labels)
    pasting, seen = Pasting(dataset, 1.0), []
    random.seed(int(rng.integers(100)))
    for _ in range(60):
        label = read(dataset, 10)
        pasting(label)
        seen += label["cls"].ravel().astype(int).tolist()
    assert len(seen) > 60 and 0.35 < np.mean(seen) < 0.65


def test_polygons_go_with_their_boxes():
    dataset = dataset_of([with_defect(), surface(104)], [label_of(BOX, [1], outlined=True), label_of(NONE, [])])
    random.seed(0)
    label = read(dataset, 1)
    Pasting(dataset, 1.0)(label)
    assert len(label["segments"]) == len(label["bboxes"]) > 0
    for outline, (x, y, w, h) in zip(label["segments"], label["bboxes"]):
        assert [*outline.min(0), *outline.max(0)] == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def test_no_boxes_no_pasting():
    dataset = dataset_of([surface(), surface(104)], [label_of(NONE, []), label_of(NONE, [])])
    label = read(dataset, 1)
    Pasting(dataset, 1.0)(label)
    assert label["img"] is dataset.ims[1] and not len(label["cls"])


def test_defects_as_large_as_the_image_are_no_sources():
    whole = np.array([[2.0, 2.0, 126.0, 126.0]])
    assert find_sources([label_of(whole, [0]), label_of(BOX, [2])], 128).keys() == {2}


def test_size_follows_the_original_pixels():
    """A 128 px crop of a part is loaded at twice the scale of a 256 px one: so is a copy on it."""
    big = cv2.resize(surface(100, 256), (128, 128), interpolation=cv2.INTER_AREA)
    dataset = dataset_of([with_defect(), big], [label_of(BOX, [1]), label_of(NONE, [], (256, 256))])
    random.seed(1)
    sizes = []
    for _ in range(20):
        label = read(dataset, 1)
        Pasting(dataset, 1.0)(label)
        sizes += (label["bboxes"][:, 2] * 128).tolist()
    assert len(sizes) > 20 and min(sizes) > 20 * 0.5 * 0.75 and max(sizes) < 20 * 0.5 * 1.3
    far = dataset_of([with_defect(), big], [label_of(BOX, [1]), label_of(NONE, [], (1280, 1280))])
    label = read(far, 1)
    Pasting(far, 1.0)(label)
    assert not len(label["cls"])
