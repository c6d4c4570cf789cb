"""The start weights that come with Tandem (`weights/`): which of them, if any, a student starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.safe_tensors import SUFFIX, shapes_of

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

FOLDER = Path(__file__).resolve().parents[2] / "weights"


def shipped_for(student: DetectionModel, folder: Path = FOLDER) -> Path | None:
    """The file whose tensors are the student's by name and shape, but for those of the head, which depend on the classes.

    Known by its tensors, not by the name of a YAML: a copy of `s-model.yaml` with other classes or losses starts alike, a
    `s-model.yaml` with another layout does not.

    Raises:
        UserError: a file there is damaged.
    """
    head = f"model.{student.model[-1].i}."
    own = {name: tuple(t.shape) for name, t in student.state_dict().items() if not name.startswith(head)}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        found = {name: shape for name, shape in shapes_of(path).items() if not name.startswith(head)}
        if found == own:
            return path
    return None
