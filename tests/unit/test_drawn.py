"""Images of many materials: every material and family draws, boxes are where something is seen, seeds decide alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cfg import UserError
from data.check import check_data
from data.dataset import validate
from data.drawn.boxes import overlap
from data.drawn.draw_set import materials_of
from data.drawn.families import FAMILIES
from data.drawn.light import photograph
from data.drawn.materials import GROUPS, MATERIALS
from data.drawn.noise import noise
from data.drawn.scene import LEAST_PEAK, NAMES, compose, draw_scene
from data.layout import rows_to_xyxy
from data.sample import main, make_sample

ROOT = Path(__file__).resolve().parents[2]
SIZE = 96


def scenes(material: str, family: str | None = None, count: int = 4) -> list:
    return [compose(np.random.default_rng((3, i)), SIZE, material, family, empty=0.0) for i in range(count)]


@pytest.mark.parametrize("material", MATERIALS)
def test_every_material(material):
    """Images differ, hold boxes inside them, of families of the material alone; some are grey, some coloured."""
    pictures, rows = zip(*(draw_scene(np.random.default_rng((1, i)), SIZE, material) for i in range(12)))
    assert all(p.shape == (SIZE, SIZE, 3) and p.dtype == np.uint8 for p in pictures)
    assert len({p.tobytes() for p in pictures}) == 12 and min(p.std() for p in pictures) > 0
    grey = [bool((p == p[..., :1]).all()) for p in pictures]
    assert all(grey) if not MATERIALS[material].lit else 0 < sum(grey) < 12
    rows = np.concatenate(rows)
    assert len(rows) >= 12 and {NAMES[int(c)] for c in rows[:, 0]} <= set(MATERIALS[material].families)
    boxes = rows_to_xyxy(rows, SIZE, SIZE)
    assert boxes.min() >= 0 and boxes.max() <= SIZE and (boxes[:, 2:] - boxes[:, :2]).min() >= 6 - 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_seen_in_its_box(family):
    """On each of its materials: the photograph with the defect differs from that without it, most in the box."""
    drawn = 0
    for material in (name for name, kind in MATERIALS.items() if family in kind.families):
        for scene in scenes(material, family):
            if not scene.classes or NAMES[scene.classes[0]] != family:
                continue  # no place for it here: a broken edge needs an edge
            drawn += 1
            with_it, without = (photograph(np.random.default_rng(0), p, scene.grey, clean=True).astype(float)
                                for p in (scene.pixels, scene.clean))
            change = np.abs(with_it - without).max(-1)
            for box in scene.boxes:
                x1, y1, x2, y2 = np.concatenate([np.floor(box[:2]), np.ceil(box[2:])]).astype(int)
                assert change[y1:y2, x1:x2].max() > 0.4 * LEAST_PEAK and change[y1:y2, x1:x2].mean() > 0.25, material
    assert drawn >= 4


def test_nothing_is_changed_far_from_boxes():
    """What an image's defects change lies in their boxes, but for faint borders of soft ones."""
    shares = []
    for material in MATERIALS:
        for scene in scenes(material):
            change = np.abs(scene.pixels - scene.clean).max(-1)
            total = change.sum()
            for x1, y1, x2, y2 in scene.boxes:
                change[int(y1):int(np.ceil(y2)), int(x1):int(np.ceil(x2))] = 0
            shares.append(change.sum() / max(total, 1))
    assert np.mean(shares) < 0.1 and max(shares) < 0.6


def test_defects_do_not_hide_each_other():
    for material in MATERIALS:
        for scene in scenes(material):
            pairs = [(a, b) for i, a in enumerate(scene.boxes) for b in scene.boxes[:i]]
            assert all(overlap(a, b) <= 0.3 for a, b in pairs)


def test_every_family_has_a_material_and_groups_exist():
    assert {family for kind in MATERIALS.values() for family in kind.families} == set(FAMILIES)
    assert {name for names in GROUPS.values() for name in names} <= set(MATERIALS)


@pytest.mark.parametrize("along, across, angle", [(0.5, None, 0), (3, 1, 0.4), (40, 2, 1.2), (60, 30, 0), (300, 300, 0)])
def test_noise(along, across, angle):
    """Mean 0, std 1, smooth along its direction, at any coarseness."""
    field = noise(np.random.default_rng(2), 100, along, across, angle)
    assert field.shape == (100, 100) and field.dtype == np.float32
    assert abs(field.mean()) < 0.1 and abs(field.std() - 1) < 0.1
    if along >= 40 and across and across < along:
        horizontal, vertical = np.abs(np.diff(field, axis=1)).mean(), np.abs(np.diff(field, axis=0)).mean()
        assert horizontal != pytest.approx(vertical, rel=0.1)


def test_size_and_names_are_checked():
    rng = np.random.default_rng(0)
    assert draw_scene(rng, 64)[0].shape == (64, 64, 3)
    with pytest.raises(UserError, match="size: expected at least 64 pixels, got 63"):
        draw_scene(rng, 63)
    with pytest.raises(UserError, match="material: expected one of rolled"):
        draw_scene(rng, 64, "wood")
    with pytest.raises(UserError, match="family: expected one of .*, got 'open'"):
        draw_scene(rng, 64, "glass", "open")


def test_materials_of():
    assert materials_of("all") == tuple(MATERIALS)
    assert materials_of("glass, metal,cast") == (*GROUPS["metal"], "glass")
    with pytest.raises(UserError, match="got 'glas'; did you mean 'glass'"):
        materials_of("metal,glas")
    with pytest.raises(UserError, match="got none"):
        materials_of(" ,")


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.long
def test_files_do_not_depend_on_workers(tmp_path):
    """Nor does an image depend on how many follow it."""
    arguments = dict(size=64, seed=4, materials=("rolled", "bare_board", "glass"))
    one = make_sample(tmp_path / "one", images=70, **arguments).parent
    two = make_sample(tmp_path / "two", images=70, workers=2, **arguments).parent
    assert content(one) == content(two)
    few = make_sample(tmp_path / "few", images=12, **arguments).parent
    pictures = {path.name: path.read_bytes() for path in one.glob("images/*/*")}
    assert all(pictures[path.name] == path.read_bytes() for path in few.glob("images/*/*"))
    other = make_sample(tmp_path / "other", images=12, size=64, seed=5, materials=("rolled", "bare_board", "glass")).parent
    assert all(pictures[path.name] != path.read_bytes() for path in other.glob("images/*/*"))


@pytest.mark.long
def test_a_sound_data_set(tmp_path):
    """All materials by default names; the classes are all families; made again only for other arguments."""
    out = make_sample(tmp_path / "s", images=60, size=96, materials=tuple(MATERIALS), workers=1)
    summary = validate(out.parent)
    assert list(summary.names.values()) == list(FAMILIES)
    assert summary.images == {"train": 42, "val": 12, "test": 6} and 0 < sum(summary.background.values()) < 20
    assert not [f for f in check_data(out.parent).findings if f.code != "unused-class"]
    before = out.stat().st_mtime_ns
    make_sample(tmp_path / "s", images=60, size=96, materials=tuple(MATERIALS), workers=2)
    assert out.stat().st_mtime_ns == before
    make_sample(tmp_path / "s", images=60, size=96)  # steel in its place
    assert len(validate(out.parent).names) == 4


@pytest.mark.parametrize("arguments, message", [
    (["--materials", "bord"], "--materials: expected some of all, .* got 'bord'; did you mean 'board'?"),
    (["--materials", "all", "--size", "63"], "--images/--size/--seed: expected at least 10, 64 and 0"),
    (["--materials", "all", "--workers", "0"], "--workers: expected at least 1 process, got 0"),
    (["--materials", "all", "--difficulty", "0.2"], "--difficulty: expected with steel only"),
])  # fmt: skip
def test_command_line_errors(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        main([*arguments, "--out", str(tmp_path / "s")])
    assert not (tmp_path / "s").exists()


@pytest.mark.long
def test_command(tmp_path):
    """With its own processes, which the command's module must be able to start."""
    done = subprocess.run(
        [sys.executable, "-m", "data.sample", "--materials", "board", "--images", "70", "--size", "64", "--workers", "2",
         "--out", tmp_path / "s"], cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "s").glob("images/*/*.jpg"))) == 70
