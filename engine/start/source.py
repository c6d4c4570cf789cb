"""What a file of weights holds: its tensors, and the layout of the network they belong to where that is known."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cfg import UserError
from engine.checkpoint import is_own, named_tensors, read, untrained_part, weights_of
from engine.foreign import find_module
from engine.transfer import anchors_in_pixels
from models.detector import Detector
from models.parser import read_model
from models.wiring import Wiring, wiring_of

YOLOV5 = "yolov5s.yaml"  # the rows of every YOLOv5 (v6) with three levels; widths and depths are read off the tensors
WIDTH_OF = {"Conv": "conv.weight", "C3": "cv3.conv.weight", "SPP": "cv2.conv.weight"}  # the tensor as long as a row is wide


@dataclass(frozen=True)
class Source:
    """Weights to start from.

    Attributes:
        path: the file.
        state: tensors by name; anchor sizes in pixels, under the name that our heads have for them.
        description: the model's YAML content; None where the layout is neither ours nor YOLOv5's.
        names: classes by index, None where the file has none.
        untrained: the beginning of the names of tensors that no training has moved; `state` is without them.
    """

    path: str
    state: dict[str, Tensor]
    description: dict[str, Any] | None
    names: dict[int, str] | None
    untrained: str = ""

    @property
    def layout(self) -> str:
        """What the network is, for messages."""
        return str(self.description.get("yaml_file", "a model of its own")) if self.description else "an unknown layout"

    def wiring(self) -> Wiring:
        """What each tensor is.

        Raises:
            UserError: the tensors are not those that the layout has.
        """
        assert self.description, "asked of a source of a known layout only"
        return wiring_of_state(self.path, self.description, self.names, self.state)


def read_source(path: str | Path) -> Source:
    """Read a file of weights: a checkpoint of ours, YOLOv5's or ultralytics', or a bare state dict.

    Raises:
        UserError: as `engine.checkpoint.read_state`; or a tensor holds numbers that are not finite.
    """
    return source_of(path, read(path))


def source_of(path: str | Path, content: Any) -> Source:
    """As `read_source`, of a file that was read already."""
    state, names = weights_of(path, content)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: expected finite weights, got NaN or infinity in {name}; the file is damaged or of a "
                            "training that failed; get it again")  # fmt: skip
    untrained = untrained_part(content["meta"]) if is_own(content) else ""
    if is_own(content) and content["kind"] == "tandem":
        return Source(str(path), state, content["yaml"], names, untrained)
    state = {(_in_pixels(name)): anchors_in_pixels(t) if name != _in_pixels(name) else t for name, t in state.items()}
    return Source(str(path), state, yolov5_layout(state), names, untrained)


def yolov5_detector(path: str | Path, content: Any) -> Detector | None:
    """The network of a file of YOLOv5 (v6) that was read: its own pickled model, or its tensors alone; None for other files.

    Raises:
        UserError: as `read_source`, or the tensors are not those that the layout has.
    """
    module = find_module(content)
    if is_own(content) or (module is not None and not module.origin.startswith("models.")):
        return None
    if module is None and not named_tensors(content):
        return None
    source = source_of(path, content)
    if source.description is None or not any(name.endswith(".anchor_wh") for name in source.state):
        return None
    detector = Detector(source.description, nc=source.description["nc"], names=source.names)
    try:
        detector.load_state_dict({name: tensor.float() for name, tensor in source.state.items()})
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: its tensors are not those of {source.layout} ({detail}); get the file again") from None
    detector.eval()
    return detector


def _in_pixels(name: str) -> str:
    return f"{name.removesuffix('.anchors')}.anchor_wh" if name.endswith(".anchors") else name


def yolov5_layout(state: dict[str, Tensor]) -> dict[str, Any] | None:
    """The model description of a YOLOv5 (v6) of any width and depth, from the shapes of its tensors; None for others.

    ultralytics' YOLOv5u has the same rows and another head, which no head of ours takes anything from.
    """
    description = deepcopy(read_model(YOLOV5)) | {"width_multiple": 1.0, "depth_multiple": 1.0, "divisor": 1}
    rows = [*description["backbone"], *description["head"]]
    for index, row in enumerate(rows[:-1]):
        if row[2] not in WIDTH_OF:
            continue
        weight = state.get(f"model.{index}.{WIDTH_OF[row[2]]}")
        if weight is None or weight.ndim != 4 or (index == 0 and weight.shape[1:] != (3, 6, 6)):
            return None
        row[3][0] = len(weight)
        if row[2] == "C3":
            row[1] = sum(name.startswith(f"model.{index}.m.") and name.endswith("cv1.conv.weight") for name in state)
    head, anchors = len(rows) - 1, state.get(f"model.{len(rows) - 1}.anchor_wh")
    outputs = state.get(f"model.{head}.m.0.weight")
    if outputs is not None and outputs.ndim == 4 and anchors is not None and anchors.ndim == 3 and anchors.shape[1]:
        description["nc"] = len(outputs) // anchors.shape[1] - 5
    width = f"{rows[0][3][0]} to {rows[9][3][0]} channels"
    return description | {"yaml_file": f"YOLOv5, {width}"}


def wiring_of_state(
    path: str, description: dict[str, Any], names: dict[int, str] | None, state: dict[str, Tensor]
) -> Wiring:
    """The wiring of the tensors of `state` that `description` has a place for; a foreign head has none.

    Raises:
        UserError: a row before the head lacks tensors, or has some of other shapes than the description says.
    """
    with torch.random.fork_rng(devices=[]):  # the student's random weights must not depend on the file
        try:
            skeleton = Detector(description, ch=description.get("channels", 3), nc=description["nc"])
        except (UserError, KeyError) as error:
            raise UserError(f"{path}: its own layout cannot be built ({error}); get the file again") from None
    if names and len(names) == skeleton.nc:
        skeleton.names = names
    head = f"model.{skeleton.head.i}."
    for name, tensor in skeleton.state_dict().items():
        found = state.get(name)
        if found is None and name.startswith(head):
            continue
        if found is None or found.shape != tensor.shape:
            got = "none" if found is None else list(found.shape)
            raise UserError(
                f"{path}: expected {name} of shape {list(tensor.shape)} as {description.get('yaml_file', 'its YAML')} has it, "
                f"got {got}; weights that were pruned, fused or cut cannot be used, give the file as it was trained"
            )
    wiring = wiring_of(skeleton)
    wiring.tensors = {name: wired for name, wired in wiring.tensors.items() if name in state}
    return wiring
