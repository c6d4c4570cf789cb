"""What was found in one image, for programs: numbers, the verdict, a drawing, and the forms of other libraries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from cfg.class_names import shown
from cfg.errors import UserError
from data.images import read_pixels, write_pixels
from data.result_files import Detections
from engine.detection.detect_run import detections
from engine.detection.settled import Settled
from engine.locate import require
from engine.plots import drawable
from inspection.rules import undefined

from ultralytics.engine.results import Results as HostResults

if TYPE_CHECKING:  # packages that Tandem does not need
    import pandas
    import supervision


@dataclass(frozen=True, repr=False, eq=False)
class Results(Detections):
    """Boxes and verdict of one image; sorted by score, as detect.py writes them.

    Attributes:
        names: class names by index.
        problem: why the image could not be looked at, empty where it was. Then there are no boxes, and the verdict is UNDEFINED.
        pixels: (H, W, 3) BGR uint8 of an image that is no file, else None: files are read again by `image`.
    """

    names: dict[int, str] = field(default_factory=dict)
    problem: str = ""
    pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def __repr__(self) -> str:
        if self.problem:
            return f"{self.path}: {self.problem}"
        counted = Counter(self.classes.tolist())
        found = ", ".join(f"{counted[index]} {shown(self.names[index])}" for index in sorted(counted)) or "(no detections)"
        verdict = f" -> {self.verdict.code.name}: {self.verdict.rule}" if self.verdict else ""
        return f"{self.path}{'' if self.frame is None else f' #{self.frame}'}: {found}{verdict}"

    @property
    def image(self) -> np.ndarray:
        """The image, (H, W, 3) BGR uint8. Raises `UserError` where it cannot be read."""
        if self.problem:
            raise UserError(f"{self.path}: {self.problem}; there is nothing to draw")
        return read_pixels(self.path) if self.pixels is None else self.pixels

    def plot(self, line_width: int | None = None) -> np.ndarray:
        """The image with its boxes, (H, W, 3) BGR uint8, as detect.py draws it.

        Args:
            line_width: in pixels; by the image's size when None.
        """
        table = np.column_stack([self.boxes_xyxy, self.scores, self.classes]).astype(np.float32)
        drawing: np.ndarray = HostResults(self.image.copy(), str(self.path), drawable(self.names), boxes=table).plot(line_width=line_width)
        return drawing

    def save(self, path: str | Path, line_width: int | None = None) -> Path:
        """Write `plot` to a file, whose ending chooses the format; return its path. Raises `UserError`."""
        path = Path(path)
        try:
            write_pixels(path, self.plot(line_width))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error}); expected a file such as drawn.jpg") from None
        return path

    def to_supervision(self) -> supervision.Detections:
        """As supervision's `Detections`, with `class_name` in its data. Raises `UserError` where the package is missing."""
        require("supervision", "to_supervision")
        import supervision

        names = np.array([self.names[index] for index in self.classes.tolist()], dtype=str)
        return supervision.Detections(self.boxes_xyxy, confidence=self.scores, class_id=self.classes, data={"class_name": names})

    def to_pandas(self) -> pandas.DataFrame:
        """As a table: class, name, confidence, x1, y1, x2, y2 in pixels. Raises `UserError` where the package is missing."""
        require("pandas", "to_pandas")
        import pandas

        table = pandas.DataFrame(self.boxes_xyxy, columns=["x1", "y1", "x2", "y2"])
        table.insert(0, "confidence", self.scores)
        table.insert(0, "name", [self.names[index] for index in self.classes.tolist()])
        table.insert(0, "class", self.classes)
        return table


def found_in(result: HostResults, settled: Settled, keep_pixels: bool) -> Results:
    """The result of an image that was looked at, with its verdict where there is a plan.

    Args:
        result: ultralytics', with its `item` (`engine.detection.predictor.look`).
        keep_pixels: of an image that cannot be read again.
    """
    if result.fault:
        return unreadable(result.item.path, result.fault, dict(result.names))
    found = detections(result.cpu().numpy(), result.item)
    if settled.decider:
        found, _ = settled.decider.judge(found, result.item.note)
    return Results(**vars(found), names=dict(result.names), pixels=result.orig_img if keep_pixels else None)


def unreadable(path: Path | str, reason: str, names: dict[int, str]) -> Results:
    """The result of a file that could not be looked at."""
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int)
    return Results(Path(path), PurePath(Path(path).name), None, 0, 0, *none, verdict=undefined(reason), names=names, problem=reason)
