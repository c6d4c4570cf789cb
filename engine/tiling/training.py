"""Training on tiles: the data set is cut once, into the run's folder, so that every epoch reads small files."""

from __future__ import annotations

from pathlib import Path

from cfg import UserError
from data.tile import lines, tile
from engine.settings import Data
from engine.training.processes import is_one_of_several
from inspection.tiles import tiling_asked

FOLDER = "tiles"  # in the run's folder


def is_cut(data: Data, save_dir: str | None) -> bool:
    """Whether the data set is the tiles that the process which started this one has cut, in the run's folder."""
    return save_dir is not None and data.data == str(Path(save_dir) / FOLDER / "data.yaml")


def check_tiling(data: Data, resumed: bool, stride: int = 0) -> None:
    """Refuse tiles that a run cannot be trained on.

    Args:
        data: of the run.
        resumed: whether its tiles are there already, of an earlier start or another process.
        stride: the student's largest, where it is known.

    Raises:
        UserError: see `inspection.tiles.Tiling`; or there are no labels to cut, or processes that would all do so.
    """
    for name, kinds, wanted in (("tile", int, "a whole number of pixels"), ("overlap", (int, float), "a share of the tile")):
        value = getattr(data, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise UserError(f"--{name}: expected {wanted}, got {value!r}; for example --tile 640 --overlap 0.2")
    tiling = tiling_asked(data.tile, data.overlap)
    if tiling is None:
        return
    tiling.check_stride(stride)
    if data.unlabelled:
        raise UserError("--tile: expected --data with labels, got --unlabelled; leave --tile out")
    if is_one_of_several() and not resumed:
        raise UserError("--tile: expected one process, got several of torchrun; cut the data first: python -m data.tile")


def cut_data(data: Data, folder: Path) -> Path:
    """Cut the run's data set into tiles in `folder`; return the data YAML of these. Raises `UserError` as `data.tile.tile`."""
    assert data.data and data.tile, "tiles are cut where --tile and --data are given (check_tiling)"
    out = folder / FOLDER
    _, parts = tile(data.data, out, data.tile, data.overlap, overwrite=(out / "data.yaml").is_file())
    print("\n".join(lines(parts)))
    print(f"training on tiles of {data.tile} px, seen at --imgsz {data.imgsz}; the tiles are in {out}", flush=True)
    return out / "data.yaml"
