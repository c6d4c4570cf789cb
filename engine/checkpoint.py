"""Checkpoints are data, not code: state dict, model YAML and metadata in plain types.

`best.pt` ("tandem-detector") holds the student alone; `last.pt` ("tandem-run") the same fields, with the averaged
student under ``state``, and what a resumed run needs under ``run``. Both load with `torch.load(weights_only=True)` in
any process, whatever can be imported there. Files of other programs go through `engine.foreign`.
"""

from __future__ import annotations

import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from cfg.version import VERSION as TANDEM_VERSION
from engine.foreign import Inert, build_stock, find_module, harvest_state_dict, is_torchscript, load_inert, rebuild
from engine.plain import plain, save_atomic
from engine.safe_tensors import SUFFIX, read_safetensors

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

DETECTOR, RUN = "tandem-detector", "tandem-run"
VERSION = 1
UNTRAINED = "untrained"  # in `meta`: the beginning of the names of tensors that no training has moved (a run without labels)
FIELDS = {"kind": str, "yaml": dict, "nc": int, "names": dict, "stride": list, "state": dict, "meta": dict}


def pack(detector: DetectionModel, meta: dict[str, Any], kind: str = DETECTOR) -> dict[str, Any]:
    """Return the content of a `kind` checkpoint: YAML, names and strides of `detector`, its fp32 state, `meta`.

    Date and library versions are added to `meta` where it has none. Tensors are copies on the CPU.
    """
    from models.detector import Detector

    import ultralytics

    versions = {"tandem": TANDEM_VERSION, "torch": str(torch.__version__), "ultralytics": ultralytics.__version__}
    names = detector.names if isinstance(detector.names, dict) else dict(enumerate(detector.names))
    state = {k: v.detach().float() if v.is_floating_point() else v.detach() for k, v in detector.state_dict().items()}
    content: dict[str, Any] = plain(
        {
            "format": kind,
            "version": VERSION,
            "kind": "tandem" if isinstance(detector, Detector) else "ultralytics",
            "yaml": detector.yaml,
            "nc": len(names),
            "names": names,
            "stride": [int(s) for s in detector.stride],
            "state": state,
            "meta": {"date": datetime.now().astimezone().isoformat(timespec="seconds"), "versions": versions} | meta,
        }
    )
    return content


def save_student(path: str | Path, detector: DetectionModel, meta: dict[str, Any]) -> None:
    """Write `best.pt`: one detector, ours or a stock ultralytics one, and nothing else. Raises as `save_atomic`."""
    save_atomic(path, pack(detector, meta))


def read(path: str | Path) -> Any:
    """Load any checkpoint file without running code from it: plain content, or `Inert` objects for pickled classes.

    Raises:
        UserError: no such file, empty, damaged, not a checkpoint, refused by the unpickler, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: weights file not found; give the path of a .pt or .safetensors file")
    if not path.stat().st_size:
        raise UserError(f"{path}: expected a checkpoint, got an empty file; train or copy it again")
    if path.suffix == SUFFIX:
        return _checked(path, read_safetensors(path))
    try:
        if is_torchscript(path):
            raise UserError(f"{path}: expected a checkpoint, got a TorchScript export; rename it .torchscript")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are not data; the next reader judges them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None
    except UserError:
        raise
    except Exception:  # a pickled model, a damaged file or no checkpoint at all: the next reader tells which
        return load_inert(path)
    return _checked(path, content)


def _checked(path: Path, content: Any) -> Any:
    """`content`, after a look at the fields of a checkpoint of ours."""
    if is_own(content) and (fault := _fault(content)):
        raise UserError(f"{path}: the checkpoint {fault}; save it again with this version of Tandem")
    return content


def is_own(content: Any) -> bool:
    """Whether what `read` returned is a checkpoint of Tandem's: its fields are as `pack` makes them."""
    return isinstance(content, dict) and content.get("format") in (DETECTOR, RUN)


def _fault(content: dict[str, Any]) -> str:
    """What is wrong with the fields of a checkpoint of ours; nothing where they are as `pack` makes them."""
    if missing := [field for field in FIELDS if field not in content]:
        return f"lacks {', '.join(missing)}"
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        return f"is of version {version!r}, expected {VERSION} or older"
    for field, kind in FIELDS.items():
        if not isinstance(content[field], kind):
            return f"has {type(content[field]).__name__} for '{field}', expected {kind.__name__}"
    names, nc, meta = content["names"], content["nc"], content["meta"]
    if isinstance(nc, bool) or nc < 1 or len(names) != nc or sorted(map(str, names)) != sorted(map(str, range(nc))):
        return f"has {len(names)} class names for {nc} classes"
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content["state"].items()):
        return "has something else than named tensors for 'state'"
    return "" if isinstance(meta.get("train_args") or {}, dict) else "has no arguments in 'train_args'"


def load_detector(
    path: str | Path, device: str | torch.device = "cpu", as_teacher: bool = False
) -> tuple[DetectionModel, dict[str, Any]]:
    """Rebuild the detector of a checkpoint.

    Args:
        path: `best.pt` or `last.pt` of Tandem (of the latter, the averaged student), or an ultralytics detection .pt.
        device: where the module goes.
        as_teacher: also take models that can only be learned from (`engine.foreign.TEACHERS`).

    Returns:
        The module in float32 and eval mode (every parameter trainable), and the checkpoint's fields (`FIELDS`, and
        ``run`` for `last.pt`) in plain types.

    Raises:
        UserError: as `read`; or the file holds tensors without a model that can be built.
    """
    return detector_of(path, read(path), device, as_teacher)


def detector_of(
    path: str | Path, content: Any, device: str | torch.device = "cpu", as_teacher: bool = False
) -> tuple[DetectionModel, dict[str, Any]]:
    """As `load_detector`, of a file that was `read` already."""
    path, module = Path(path), find_module(content)
    if module is not None:
        detector = rebuild(path, module, as_teacher)
        content = _describe_foreign(detector, content)
    elif is_own(content):
        detector = _rebuild_own(path, content)
    else:
        raise UserError(
            f"{path}: expected a checkpoint with a model, got bare tensors or something else; "
            "weights alone can start a training: train.py --cfg MODEL.yaml --weights FILE; "
            "a torchvision teacher's are named in a YAML as those in cfg/teachers"
        )
    detector.task = "detect"
    detector.args = _with_defaults(content["meta"].get("train_args"))
    return detector.float().eval().to(device), content


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return name -> tensor (CPU, as stored) of any checkpoint: ours, ultralytics, YOLOv5, or a bare state dict.

    Raises:
        UserError: as `read`; or there is not one named tensor in the file.
    """
    return read_weights(path)[0]


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[int, str] | None]:
    """As `read_state`, and the class names by index where the file has them, else None.

    Of a student that was distilled without labels, the tensors that were trained: its head is left out.
    """
    return weights_of(path, read(path))


def weights_of(path: str | Path, content: Any) -> tuple[dict[str, Tensor], dict[int, str] | None]:
    """As `read_weights`, of a file that was `read` already."""
    module = find_module(content)
    state = harvest_state_dict(module) if module is not None else named_tensors(content)
    if not state:
        raise UserError(f"{path}: expected a checkpoint with named tensors, got none; give a .pt file of a detector")
    if odd := next((name for name, tensor in state.items() if not _is_dense_real(tensor)), None):
        raise UserError(f"{path}: expected plain tensors of real numbers, got {odd} as {_kind(state[odd])}; save them as float32 or float16")
    fields = vars(module) if module is not None else content
    if is_own(content):
        untrained = untrained_part(content["meta"])
        state = {k: v for k, v in state.items() if not (untrained and k.startswith(untrained))}
    return state, _class_names(fields.get("names"))


def _is_dense_real(tensor: Tensor) -> bool:
    """Whether a tensor holds its numbers one by one, in a type that can be reckoned with."""
    eight_bits = tensor.is_floating_point() and tensor.element_size() == 1
    return tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_complex() or eight_bits)


def _kind(tensor: Tensor) -> str:
    place = "no numbers at all" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
    return f"{place}, {str(tensor.dtype).removeprefix('torch.')}"


def check_head(path: str | Path, content: dict[str, Any]) -> None:
    """Raise `UserError` for a student that was distilled without labels: it is loaded, but its predictions say nothing."""
    if untrained_part(content["meta"]):
        raise UserError(
            f"{path}: expected a trained detector, got a student that was distilled without labels: its head is untrained; train "
            f"it first: train.py --cfg MODEL.yaml --weights {path}"
        )


def untrained_part(meta: dict[str, Any]) -> str:
    """The beginning of the names of a checkpoint's tensors that no training has moved; empty where all were trained."""
    untrained = meta.get(UNTRAINED)
    return untrained if isinstance(untrained, str) else ""


def install() -> None:
    """Make ultralytics read every .pt file through `load_detector`: its trainer, validator, predictor and AutoBackend.

    All of them call `ultralytics.nn.tasks.load_checkpoint`, which looks `torch_safe_load` up when it runs. The original
    runs any code that a file holds. (`strip_optimizer` and the DDP launcher read their own run's files by other means.)
    """
    import ultralytics.nn
    from ultralytics.nn import tasks

    tasks.torch_safe_load = ultralytics.nn.torch_safe_load = _torch_safe_load


def _torch_safe_load(weight: str | Path, safe_only: bool | None = None) -> tuple[dict[str, Any], str]:
    """Answer as `ultralytics.nn.tasks.torch_safe_load`: (checkpoint with a built module under ``ema``, path)."""
    module, content = load_detector(weight)
    meta = content["meta"]
    own = {key: value for key, value in content.items() if key not in ("state", "run")}
    ckpt = {
        "epoch": -1 if meta.get("epoch") is None else meta["epoch"],
        "model": None,
        "train_args": meta.get("train_args") or {},
        "train_metrics": meta.get("metrics"),
        "date": meta.get("date"),
        "version": (meta.get("versions") or {}).get("ultralytics"),
        "tandem": own,
    }
    return {**ckpt, **content.get("run", {}), "ema": module}, str(weight)


def _rebuild_own(path: Path, content: dict[str, Any]) -> DetectionModel:
    names = {int(k): str(v) for k, v in content["names"].items()}
    if content["kind"] == "ultralytics":
        return build_stock(path, content["yaml"], names, content["state"])
    from models.detector import Detector

    try:
        detector = Detector(content["yaml"], nc=content["nc"], ch=content["yaml"].get("channels", 3), names=names)
        detector.load_state_dict(content["state"])
    except Exception as error:  # of damaged fields, anything
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: the model of this checkpoint cannot be built ({detail}); train it again") from None
    detector.names = names
    return detector


def _describe_foreign(detector: DetectionModel, content: Any) -> dict[str, Any]:
    """Return the fields that our own checkpoints have for an ultralytics checkpoint that was just rebuilt."""
    fields = content if isinstance(content, dict) else {}
    epoch, args = fields.get("epoch"), fields.get("train_args")
    meta = {
        "train_args": {k: v for k, v in args.items() if _is_plain(v)} if isinstance(args, dict) else {},
        "epoch": epoch if isinstance(epoch, int) else None,
        "date": str(fields.get("date") or ""),
        "versions": {"ultralytics": str(fields.get("version") or "")},
    }
    return {
        "format": "ultralytics",
        "kind": "ultralytics",
        "yaml": detector.yaml,
        "nc": len(detector.names),
        "names": detector.names,
        "stride": [int(s) for s in detector.stride],
        "state": detector.state_dict(),
        "meta": meta,
    }


def named_tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a (possibly nested) plain checkpoint: the first of the usual keys that holds some."""
    if not isinstance(content, dict):
        return {}
    nested = [content.get(key) for key in ("state", "state_dict", "ema", "model")]
    for candidate in (*nested, content):
        if isinstance(candidate, dict):
            found = {k: v for k, v in candidate.items() if isinstance(k, str) and isinstance(v, Tensor)}
            if len(found) > len(candidate) // 2:  # mostly tensors: a state dict, not a record beside it
                return found
    return {}


def _class_names(names: Any) -> dict[int, str] | None:
    """Class names as a file has them, a list or by index; None for anything else: a foreign file may hold what it likes."""
    names = dict(enumerate(names)) if isinstance(names, list) else names
    numbered = isinstance(names, dict) and bool(names) and all(str(key).isdecimal() for key in names)
    return {int(key): str(name) for key, name in names.items()} if numbered else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, Inert))


def _with_defaults(train_args: dict[str, Any] | None) -> dict[str, Any]:
    from ultralytics.utils import DEFAULT_CFG_DICT

    return {**DEFAULT_CFG_DICT, **(train_args or {})}
