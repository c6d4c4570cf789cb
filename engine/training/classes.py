"""Class names of start weights and data: compare them, copy by name, or refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from cfg import UserError
from cfg.class_names import REORDERED, Comparison, check_classes, compare, shown, unknown_note
from engine.checkpoint import read_weights
from engine.settings import Network
from engine.transfer import ClassSource, Transfer, transfer
from models.class_rows import class_rows, reorder_classes

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

LISTED = 5  # class names in a note


def start_from(student: DetectionModel, path: str, network: Network, names: dict[int, str]) -> list[str]:
    """Start the student, in place, from a file's tensors that fit; return notes for the run's header.

    Args:
        path: weights of ours, ultralytics' or YOLOv5's, or a bare state dict.
        network: of the run; `map_classes` takes class outputs by the classes' names.
        names: the student's classes.

    Raises:
        UserError: nothing fits, or the classes are the student's in another order.
    """
    state, known = read_weights(path)
    classes, note = _class_source(student, state, known, names, path, network.map_classes)
    copied = transfer(student, state, classes)
    if not copied.matched:
        raise UserError(f"{path}: no tensor fits {network.model} by name and shape; leave --weights out")
    return [start_note(f"weights {path}", copied), *([note] if note else [])]


def start_note(source: str, copied: Transfer) -> str:
    """What the header says of a start from a source, such as `teacher t.pt` or `weights w.pt`."""
    return f"start: {copied.matched} of {copied.total} tensors of the {source} fit the student by name and shape"


def _class_source(
    student: DetectionModel, state: dict[str, Tensor], known: Mapping[int, str] | None, names: Mapping[int, str], path: str,
    by_name: bool,
) -> tuple[ClassSource | None, str]:  # fmt: skip
    """Where the student's class outputs come from (None: copied as they are, if they fit), and what to say of it."""
    if not _has_class_outputs(student, state, len(known or names)):
        return None, ""
    if known is None:
        return None, f"class names of {path} are not known: classes are taken by their numbers"
    found = compare(known, names)
    if found.agrees:
        return None, unknown_note(path, found)
    if found.relation == REORDERED and not by_name:
        raise UserError(
            f"{path}: expected the classes of the data set, got the same in another order ({found.difference}); "
            "use --map-classes to start each class from the one of its name"
        )
    if not by_name and found.known != len(names):
        note = f"class outputs of {path}: none taken, it has {found.known} classes and the data {len(names)}"
        return None, note + _hint(found)
    source = found.by_name if by_name else found.in_place
    return ClassSource(source, found.known), _taken(path, names, source, "" if by_name else _hint(found))


def _has_class_outputs(student: DetectionModel, state: dict[str, Tensor], known: int) -> bool:
    """Whether the file has class outputs of a head like the student's, with `known` classes."""
    own = student.state_dict()
    wanted = {name: (len(rows), *own[name].shape[1:]) for name, rows in class_rows(student, known).items()}
    return any(name in state and tuple(state[name].shape) == shape for name, shape in wanted.items())


def _taken(path: str, names: Mapping[int, str], source: tuple[int | None, ...], hint: str) -> str:
    left = [shown(names[index]) for index, other in enumerate(source) if other is None]
    if not left:
        return f"class outputs of {path}: taken by name"
    listed = ", ".join(left[:LISTED]) + (" ..." if len(left) > LISTED else "")
    taken = len(source) - len(left)
    counts = f"class outputs of {path}: taken for {taken} of {len(source)} classes"
    return f"{counts}; left out for {listed}, whose names it does not have there{hint}"


def _hint(found: Comparison) -> str:
    """What else could be taken by name."""
    return "; --map-classes takes those of the same name" if found.by_name != found.in_place else ""


def renumber_teacher(model: DetectionModel, path: str, names: dict[int, str], by_name: bool) -> str:
    """Put a teacher's classes in the run's order, in place, where `by_name` and they are the same; return a note or nothing.

    A teacher of other classes is left as it is: the distiller refuses it.
    """
    found = compare(model.names, names)
    if found.relation != REORDERED or not by_name:
        return unknown_note(f"teacher {path}", found)
    if hasattr(model, "headless"):  # features only, which have no order of classes
        model.names = dict(names)
    else:
        reorder_classes(model, [source for source in found.by_name if source is not None], names)
    return f"teacher {path}: its classes were put in the data's order by name"


def check_resumed(student: DetectionModel, last: str, data: str, names: dict[int, str]) -> list[str]:
    """Refuse a data set whose classes are not those of the run that is resumed; return notes for its header."""
    fix = f"a resumed run keeps its classes: leave --data out, or start a new run with --weights {last} --map-classes"
    note = check_classes(last, student.names, data, names, fix)
    return [note] if note else []
