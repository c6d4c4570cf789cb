"""What a new student starts from: shipped weights, its teacher (`--teacher-init`), a file (`--weights`), or random weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cfg import UserError
from distill.networks import FrozenTeacher
from engine.settings import SELECT, SHIPPED, Network
from engine.start.race import Rival
from engine.start.selection import Selection, fill, isomorphic, select
from engine.start.shipped import shipped_for
from engine.start.source import Source, read_source, wiring_of_state, yolov5_layout
from engine.training.classes import start_from, start_note
from engine.transfer import FIRST_ROW, transfer
from models.detector import Detector
from models.wiring import Wiring, wiring_of

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

ENOUGH = 0.75  # share of a file's tensors that fit by name and shape, below which it is another network's
SOME = 0.25  # ... for a student of ultralytics, whose YAML may be a changed copy of the file's; by chance a sixth may fit
PART = 0.25  # share of the student's numbers that a teacher of another layout must have, in blocks of the same width


@dataclass(frozen=True)
class Start:
    """Lines for the run's header, and a table of what each block took where blocks were matched one by one.

    `whole`: nothing of the student is left as it was. `rival`: what the student had where a part of it was replaced, which may have
    been better (`engine.start.race`).
    """

    lines: list[str]
    table: list[str] = field(default_factory=list)
    whole: bool = False
    rival: Rival | None = None


def start_of(student: DetectionModel, teacher: FrozenTeacher | None, network: Network, names: dict[int, str]) -> list[Start]:
    """Fill a new student as a run says: from shipped weights, its teacher, a file; later ones win.

    Weight selection is for students that no file is given for. An untrained teacher gives nothing: runs of different seeds
    would all start alike.

    Raises:
        UserError: as `start_from_file`.
    """
    starts, mode, path = [], network.teacher_init, network.weights
    if path == SHIPPED:
        path, shipped = None, shipped_for(student)
        starts += [start_from_file(student, str(shipped), network, names)] if shipped else []
    if teacher and teacher.trained and not teacher.spec.headless and mode and not (mode == SELECT and path):
        start = start_from_teacher(student, teacher, mode, trained=bool(starts))
        starts = [start] if start.whole else [*starts, start]
    if path:
        starts.append(start_from_file(student, path, network, names))
    return starts or [Start([f"start: random weights; --weights FILE starts {Path(network.model).name} from trained ones"])]


def start_from_file(student: DetectionModel, path: str, network: Network, names: dict[int, str]) -> Start:
    """Fill a student, in place, from a file of weights: by name and shape from the same model, else by structure.

    Args:
        path: a checkpoint of ours, ultralytics' or YOLOv5's, or a bare state dict.
        network, names: of the run, and the student's classes.

    Raises:
        UserError: the file cannot be used, hardly anything in it fits, or as `engine.training.classes.start_from`.
    """
    source, model = read_source(path), Path(network.model).name
    note = [f"start: the head of {path} is left out: it was distilled without labels"] if source.untrained else []
    if isinstance(student, Detector) and source.description and not _same_model(student, source):
        selection = select(student, source.wiring(), source.state)
        if not selection.total.taken:
            raise UserError(f"{path}: no block of it ({source.layout}) has a place in {model}; leave --weights out")
        return Start([line_of(selection, f"the weights {path} ({source.layout})"), *note], table_of(selection))
    _check_layout(student, source, model)
    return Start([*start_from(student, path, network, names), *note])


def start_from_teacher(student: DetectionModel, teacher: FrozenTeacher, mode: bool | str, trained: bool = False) -> Start:
    """Fill a student from its teacher: by weight selection where the layouts match, or by name and shape.

    Slices of wider blocks compute something else than these. They are better than random weights, and not better than a start of the
    student's own (benchmarks/learning.md).

    Args:
        mode: "select", or True: by name and shape whatever the layouts.
        trained: the student has start weights already.

    Returns:
        What was taken, or why nothing was.
    """
    state, source = teacher.model.state_dict(), teacher.spec.label
    if mode != SELECT:
        return Start([start_note(source, transfer(student, state))])
    wiring = _wiring_of_teacher(teacher, state)
    if isinstance(student, Detector) and wiring:
        wired, own = wiring_of(student), _copy(student)
        missing, selection = isomorphic(wired, wiring), fill(own, wired, wiring, state)
        sliced = len(selection.units) - len(selection.whole)
        whole = missing is None and not (trained and sliced)
        if not whole:
            own = _copy(student)
            selection = fill(own, wired, wiring, state, selection.whole)
        if whole or selection.total.numbers_taken >= PART * selection.total.numbers:
            rival = Rival(_differing(student, own), f"the {source}") if trained and not whole else None
            student.load_state_dict(own)
            return Start([line_of(selection, f"the {source}, by weight selection")], table_of(selection), whole, rival)
        if not missing:
            wider = f"{sliced} of its {len(selection.units)} blocks are wider; --weights with its file takes slices of them"
            return Start([f"start: no weights of the {source}: {wider}"])
        difference = f"its layout differs (no {missing})"
    elif student.state_dict().keys() == state.keys():
        return Start([start_note(source, transfer(student, state))])
    else:
        difference = "its layout differs"
    return Start([f"start: no weights of the {source}: {difference}; --teacher-init True copies those of the same name and shape"])


def _wiring_of_teacher(teacher: FrozenTeacher, state: dict[str, Tensor]) -> Wiring | None:
    """What each tensor of a detector of ours, or of ultralytics' YOLOv5u, is; None for other networks."""
    if isinstance(teacher.model, Detector):
        return wiring_of(teacher.model)
    description = yolov5_layout(state)
    return wiring_of_state(teacher.spec.label, description | {"nc": teacher.spec.nc}, dict(teacher.spec.names), state) if description else None


def _copy(student: DetectionModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def _differing(student: DetectionModel, other: dict[str, Tensor]) -> dict[str, Tensor]:
    """The student's tensors, copied, that are not equal to others of the same names; not its anchors, which are fitted to the data."""
    own = student.state_dict().items()
    return {name: tensor.clone() for name, tensor in own if not name.endswith("anchor_wh") and not torch.equal(tensor, other[name])}


def _check_layout(student: DetectionModel, source: Source, model: str) -> None:
    """Refuse tensors of an unknown layout, of which a few have a name and shape of the student's by chance."""
    own = student.state_dict()
    places = {name: own.get(name, own.get(f"{FIRST_ROW}{name}")) for name in source.state}
    fits = sum(place is not None and place.shape == source.state[name].shape for name, place in places.items())
    ours = isinstance(student, Detector)
    if 0 < fits < (ENOUGH if ours else SOME) * len(places):
        known = "of YOLOv5 (v6), of a model of ours, or of this model's backbone" if ours else "of this model or its backbone"
        raise UserError(
            f"{source.path}: expected weights {known}, got another layout: "
            f"{fits} of {len(places)} tensors fit {model} by name and shape, by chance; give others, or leave --weights out"
        )


def _same_model(student: DetectionModel, source: Source) -> bool:
    """Whether a file has the student's tensors, each of the same shape but those of the head, which depend on the classes."""
    own, head = student.state_dict(), f"model.{student.model[-1].i}."
    if source.untrained:  # its head is left out, of whatever kind it is
        own = {name: tensor for name, tensor in own.items() if not name.startswith(head)}
    if own.keys() != source.state.keys():
        return False
    return all(tensor.shape == source.state[name].shape for name, tensor in own.items() if not name.startswith(head))


# -- words -------------------------------------------------------------------------------------------------------------


def line_of(selection: Selection, source: str) -> str:
    """The header's line about what was taken by structure."""
    total = selection.total
    tensors = f"{total.taken} of {total.tensors} tensors, {total.whole} of them whole"
    return f"start: {total.numbers_taken:,} of {total.numbers:,} values from {source} ({tensors})"


def table_of(selection: Selection) -> list[str]:
    """What each block took, a line each."""
    width = max(map(len, selection.units))
    rows = [(unit.title, f"{unit.taken}/{unit.tensors}", unit.how) for unit in selection.units.values()]
    return [f"  {title:<{width}}  {count:>8}  {how}" for title, count, how in [("block", "tensors", "taken"), *rows]]
