"""Read checkpoints that other programs wrote, without running anything that is inside them.

ultralytics and YOLOv5 save whole Python objects. Loading such a file the usual way calls whatever it names, so a file
from a stranger can run any program. Here the unpickler knows tensors and containers only: every model class becomes an
inert stand-in that collects its fields, every other name is refused. The weights are then read off the stand-ins, and
an ultralytics model is built anew from its YAML.
"""

from __future__ import annotations

import pickle
import re
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

# Names that become the real thing: they make tensors and containers and can do nothing else.
REAL = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.slice": slice,
    "builtins.complex": complex,
    "builtins.bytearray": bytearray,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "torch.storage.UntypedStorage": torch.UntypedStorage,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
}
# Names that become inert stand-ins: model classes and the records that trainers put beside them.
INERT_PREFIXES = (
    "torch.nn.", "torch._C._nn", "torchvision.", "ultralytics.", "models.", "utils.", "numpy.", "pathlib.", "argparse.",
    "types.",
)  # fmt: skip
INERT_NAMES = {"builtins.getattr", "builtins.object", "collections.defaultdict", "collections.deque", "_codecs.encode"}
SCRIPT = "constants.pkl"  # the record that TorchScript archives have, and no others (torch.serialization)
ACTIVATION = re.compile(r"(?:torch\.)?nn\.(\w+)\(([\w\s=.,+-]*)\)")
DETECTORS = {"DetectionModel", "YOLOv10DetectionModel"}
TEACHERS = {"RTDETRDetectionModel"}  # can only be learned from: their heads are trained and read in other ways


class Inert:
    """Stands for an object of a class that was not loaded: takes any arguments, keeps its fields, does nothing."""

    origin = ""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update((k, v) for k, v in state.items() if isinstance(k, str))

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


class InertUnpickler(pickle.Unpickler):
    """Unpickler whose every name comes from `REAL`, becomes an `Inert` subclass, or is refused."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"  # protocol 2 uses Python 2's name
        if full in REAL:
            return REAL[full]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if full in INERT_NAMES or full.startswith(INERT_PREFIXES):
            return type(name, (Inert,), {"origin": full})
        raise UserError(f"names '{full}', which is neither a tensor nor a model class")


def is_torchscript(path: Path) -> bool:
    """Say whether the file is a TorchScript archive, which `torch.load` would otherwise run as a program.

    Asked of the reader that `torch.load` uses: Python's finds other entries in an archive that was made for that.
    """
    try:
        return SCRIPT in torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError:  # no archive, or a damaged one
        return False


@contextmanager
def no_scripts() -> Iterator[None]:
    """Within this context `torch.load` runs no TorchScript, whatever the file is by then."""
    run = torch.jit.load

    def refuse(*_: Any, **__: Any) -> Any:
        raise UserError("is a TorchScript program")

    torch.jit.load = refuse
    try:
        yield
    finally:
        torch.jit.load = run


def load_inert(path: Path) -> Any:
    """Load a pickled checkpoint with `Inert` objects in place of every class.

    Raises:
        UserError: the file names something outside the lists above, or is damaged.
    """
    pickler = types.SimpleNamespace(
        __name__="inert", Unpickler=InertUnpickler, load=lambda file, **kw: InertUnpickler(file, **kw).load()
    )
    try:
        with no_scripts():
            return torch.load(path, map_location="cpu", pickle_module=pickler, weights_only=False)
    except UserError as refused:
        raise UserError(f"{path}: refused, the file {refused}; get it again from a source you trust") from None
    except Exception as error:  # a damaged pickle can fail in any way at all, and none of them is our mistake
        detail = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: expected a checkpoint (.pt of Tandem, ultralytics or YOLOv5), got a damaged or different file "
            f"({type(error).__name__}: {detail}); get the file again"
        ) from None


def harvest_state_dict(module: Inert, prefix: str = "") -> dict[str, Tensor]:
    """Return name -> tensor for an inert module: its parameters and persistent buffers, its children's below."""
    fields = vars(module)
    hidden = fields.get("_non_persistent_buffers_set")
    hidden = hidden if isinstance(hidden, set) else set()
    own = _dict(fields, "_parameters") | _dict(fields, "_buffers")
    state = {f"{prefix}{k}": v.detach() for k, v in own.items() if isinstance(v, Tensor) and k not in hidden}
    for name, child in _dict(fields, "_modules").items():
        if isinstance(child, Inert):
            state |= harvest_state_dict(child, f"{prefix}{name}.")
    return state


def find_module(content: Any) -> Inert | None:
    """Return the inert model of a loaded checkpoint: its average (`ema`) before its `model`, or None."""
    if isinstance(content, Inert):
        inner = vars(content).get("model")  # of a pickled ultralytics.YOLO object
        return content if "_modules" in vars(content) else inner if isinstance(inner, Inert) else None
    candidates = [content.get("ema"), content.get("model")] if isinstance(content, dict) else []
    return next((c for c in candidates if isinstance(c, Inert) and "_modules" in vars(c)), None)


def rebuild(path: Path, module: Inert, as_teacher: bool = False) -> DetectionModel:
    """Build the ultralytics detector that an inert module stands for, in float32; RT-DETR only `as_teacher`.

    Raises:
        UserError: not an ultralytics detection model, or its tensors do not fit the model that its YAML describes.
    """
    fields, kind = vars(module), module.origin
    name = kind.rpartition(".")[2] if kind.startswith("ultralytics.") else ""
    if name not in (DETECTORS | TEACHERS if as_teacher else DETECTORS):
        raise UserError(f"{path}: expected an ultralytics detection model, got {kind}; {_use_of(kind)}")
    rows, names = fields.get("yaml"), fields.get("names")
    if not isinstance(rows, dict) or not isinstance(names, (dict, list)):
        raise UserError(f"{path}: expected a model with its YAML and class names, got one without; save it again")
    names = dict(enumerate(names)) if isinstance(names, list) else names
    return build_stock(path, rows, names, harvest_state_dict(module), name if name in TEACHERS else "DetectionModel")


def _use_of(kind: str) -> str:
    """What a checkpoint of another kind of model is good for."""
    if kind.rpartition(".")[2] in TEACHERS:
        return "it can only be a teacher: train.py --teacher FILE"
    yolov5 = kind.startswith("models.")
    return "use its weights: train.py --cfg yolov5n.yaml --weights FILE" if yolov5 else "give a detection model"


def build_stock(
    path: Path, rows: dict[str, Any], names: dict[int, str], state: dict[str, Tensor], kind: str = "DetectionModel"
) -> DetectionModel:
    """Build a stock ultralytics model, of the class `kind`, from its YAML `rows` and fill it with `state`.

    The rows are checked first, because ultralytics evaluates the `activation` text and calls whatever a row names.

    Raises:
        UserError: the rows name something that is no layer, or do not describe the model that the tensors belong to.
    """
    from ultralytics.nn import tasks

    check_rows(path, rows)
    try:
        model = getattr(tasks, kind)(deepcopy(rows), ch=rows.get("channels", 3), nc=len(names), verbose=False)
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except Exception as error:  # rows from a file: whatever they cause is a fault of that file
        detail = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: the tensors do not fit the file's own model YAML ({detail}); save it again") from None
    model.names = {int(k): str(v) for k, v in names.items()}
    return model.float().eval()


def check_rows(path: Path, rows: dict[str, Any]) -> None:
    """Raise `UserError` unless every row names an ultralytics or torch layer and the activation is a plain one."""
    activation = rows.get("activation")
    match = ACTIVATION.fullmatch(activation.strip()) if isinstance(activation, str) else None
    if activation and not (match and _is_layer(getattr(nn, match[1], None))):
        raise UserError(f"{path}: refused, activation {activation!r} is not a torch.nn layer such as nn.SiLU()")
    try:
        layers = [row[2] for part in ("backbone", "head") for row in rows[part]]
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{path}: expected a model YAML with backbone and head rows, got none; save it again") from None
    for name in layers:
        if name != "Silence" and not _is_layer(_lookup(str(name))):
            raise UserError(f"{path}: refused, the model YAML names '{name}', which is not a known layer")


def _dict(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """A field of an inert object when it is the dict it should be: nothing in a foreign file can be relied on."""
    value = fields.get(name)
    return dict(value) if isinstance(value, dict) else {}


def _lookup(name: str) -> Any:
    import ultralytics.nn.modules as host

    if name == "TorchVision":  # would download weights while it is built
        return None
    return getattr(nn, name[3:], None) if name.startswith("nn.") else getattr(host, name, None)


def _is_layer(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)
