"""What the contract tests share: small networks and batches, and a minimal example of every block."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from distill.base import METHODS
from distill.model import FrozenTeacher, TrainingModel, spec_of
from models.blocks import BLOCKS
from models.detector import Detector
from models.rules import Plan, Site

from ultralytics.nn.tasks import DetectionModel

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64


def description(width: int = 8, attention: str = "dual", head: list[Any] | None = None) -> dict[str, Any]:
    """A model YAML with levels at strides 4 and 8, `width` and `2 * width` channels wide."""
    return {
        "nc": 2,
        "anchors": [[6, 6, 12, 12], [16, 16, 30, 30]],
        "yaml_file": "small.yaml",
        "backbone": [
            [-1, 1, "Conv", [8, 3, 2]],
            [-1, 1, "Conv", [width, 3, 2]],
            [-1, 1, "Conv", [2 * width, 3, 2]],
        ],
        "head": [
            [[-1, 1], 1, "BlockN", [width, attention]],
            [[-1, 2], 1, "BlockN", [2 * width, attention]],
            [[3, 4], 1, *(head or ["AnchorDetect", ["nc", "anchors", "decoupled", attention, 8, 1]])],
        ],
    }


MADE: dict[tuple, Copies] = {}  # networks by what they were made from: hundreds of tests begin with one of a few


def detector(width: int = 8, attention: str = "dual", seed: int = 0, head: list[Any] | None = None) -> Detector:
    """A small detector whose BatchNorm statistics are those of noise images."""
    return made(lambda: Detector(description(width, attention, head)), seed, (width, attention, str(head)))


def made(build: Callable[[], nn.Module], seed: int, key: tuple) -> nn.Module:
    """A copy of the network of `key`, which is built once, its BatchNorm statistics those of noise images."""
    torch.manual_seed(seed)
    if (seed, key) not in MADE:
        MADE[seed, key] = Copies(seen(build()))
    torch.manual_seed(seed)
    return MADE[seed, key].another()


class Copies:
    """Copies of a network by pickle, ten times as fast as `deepcopy`; tensors are cloned, not written out."""

    def __init__(self, network: nn.Module) -> None:
        self.tensors: list[torch.Tensor] = []
        content = io.BytesIO()
        pickler = pickle.Pickler(content, protocol=5)
        pickler.persistent_id = self._number
        pickler.dump(network)
        self.content = content.getvalue()

    def another(self) -> nn.Module:
        """One more copy."""
        clones = [type(t)(t.detach().clone(), t.requires_grad) if isinstance(t, nn.Parameter) else t.clone() for t in self.tensors]
        unpickler = pickle.Unpickler(io.BytesIO(self.content))
        unpickler.persistent_load = clones.__getitem__
        return unpickler.load()

    def _number(self, value: object) -> int | None:
        if not isinstance(value, torch.Tensor):
            return None
        known = [i for i, tensor in enumerate(self.tensors) if tensor is value]
        if not known:
            self.tensors.append(value)
        return known[0] if known else len(self.tensors) - 1


@torch.no_grad()
def seen(model: nn.Module) -> nn.Module:
    """The model with the BatchNorm statistics of noise images; without, its outputs hardly depend on the image."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.5
    for _ in range(5):
        model(torch.rand(4, 3, SIZE, SIZE))
    for norm, momentum in zip(norms, usual):
        norm.momentum = momentum
    return model


def batch(images: int = 3, seed: int = 0, boxes_of: list[int] | None = None) -> dict[str, torch.Tensor]:
    """Noise images with boxes: image i has `boxes_of[i]` of them (default: 1, 2, 3 ...)."""
    random = torch.Generator().manual_seed(seed)
    counts = boxes_of if boxes_of is not None else [i + 1 for i in range(images)]
    total = sum(counts)
    centres = 0.25 + 0.5 * torch.rand(total, 2, generator=random)
    sizes = 0.1 + 0.3 * torch.rand(total, 2, generator=random)
    return {
        "img": torch.rand(images, 3, SIZE, SIZE, generator=random),
        "batch_idx": torch.repeat_interleave(torch.arange(images), torch.tensor(counts)).float(),
        "cls": torch.randint(0, 2, (total, 1), generator=random).float(),
        "bboxes": torch.cat((centres, sizes), 1),
    }


def one_image(whole: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """The batch of image `index` alone."""
    mine = whole["batch_idx"] == index
    labels = {key: whole[key][mine] for key in ("cls", "bboxes")}
    return {"img": whole["img"][index : index + 1], "batch_idx": torch.zeros(int(mine.sum())), **labels}


def stock(width: int = 8, seed: int = 0) -> DetectionModel:
    """A small detector of ultralytics with box distributions, at strides 4 and 8."""
    convs = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [width, 3, 2]], [-1, 1, "Conv", [2 * width, 3, 2]]]
    rows = {"nc": 2, "backbone": convs, "head": [[[1, 2], 1, "Detect", ["nc"]]], "yaml_file": "stock.yaml"}
    model = made(lambda: DetectionModel(rows, nc=2, verbose=False), seed, ("stock", width))
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    return model


def distilling(method: str, options: dict[str, Any] | None = None, attention: str = "dual") -> TrainingModel:
    """A small student with the method `method`, and a wider teacher when the method needs one.

    Two anchor-based detectors of ours, or, when the method refuses these, two of ours with box distributions.
    """
    part = METHODS.get(method)
    try:
        return pair(part, detector(8, "none", seed=1), detector(16, attention, seed=2), options or {})
    except UserError:
        gfl = ["GFLDetect", ["nc"]]
        return pair(part, detector(8, "none", 1, gfl), detector(16, attention, 2, gfl), options or {})


def pair(part: Any, student: nn.Module, teacher: nn.Module, options: dict[str, Any]) -> TrainingModel:
    """The method `part` between two networks. Raises `UserError` when it refuses them."""
    frozen = FrozenTeacher(teacher, "teacher small") if part.uses_teacher else None
    torch.manual_seed(3)
    distiller = part(spec_of(student, "student small"), frozen.spec if frozen else None, **options)
    distiller.prepare(SIZE, SIZE)
    model = TrainingModel(student, distiller, frozen)
    model.progress = 0.5  # some methods begin later than the training
    return model


# -- blocks -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """How one YAML row may use a block: channels and strides of its inputs, and its arguments."""

    args: list[Any] = field(default_factory=list)
    channels: tuple[int, ...] = (32,)
    strides: tuple[int, ...] = (8,)
    repeats: int = 1

    def site(self) -> Site:
        return Site(self.channels, self.strides, self.repeats, tuple(self.args), scale=lambda channels: channels)

    def inputs(self, rows: int, columns: int, seed: int = 0) -> Any:
        """Random feature maps; `rows` x `columns` cells at the coarsest stride, doubled per finer one."""
        random = torch.Generator().manual_seed(seed)
        factors = [max(self.strides) // s for s in self.strides]
        maps = [torch.randn(2, c, rows * f, columns * f, generator=random) for c, f in zip(self.channels, factors)]
        return maps if len(maps) > 1 else maps[0]

    def build(self, block: Any, seed: int = 0) -> tuple[nn.Module, Plan]:
        """The layer of this row, and the plan of the block's rule."""
        torch.manual_seed(seed)
        plan = block.rule(self.site())
        copies = [block(*plan.args, **plan.kwargs) for _ in range(plan.copies)]
        return (copies[0] if plan.copies == 1 else nn.Sequential(*copies)), plan


EXAMPLES = {  # blocks that need more than the usual rows below
    "Backbone": Example(["shufflenet_v2_x0_5", [4, 8]], (3,), (1,)),
    "DWConv": Example([32]),
    "FaultMLP": Example([], (40,)),  # groups of the shift of one size
    "Level": Example([1], (16, 8), (8, 8)),
    "SPP": Example([16, [5, 9, 13]]),
    "Swin": Example([4], repeats=2),
    "TopDown": Example([16], (16, 8), (16, 8)),
    "WeightedFusion": Example([], (16, 8, 32), (8, 4, 16)),
}
USUAL = [
    Example(),
    Example([16]),
    Example([], (16, 8), (8, 8)),
    Example([16], (16, 8), (8, 8)),
    Example([16], (32, 16), (16, 8)),
    Example([16], (8, 16), (4, 8)),
]


@cache
def example_of(name: str) -> Example:
    """The row with which a block is tested: the table's, or the first usual one that the block accepts."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    for example in USUAL:
        try:
            layer, _ = example.build(BLOCKS.get(name))
            layer.eval()(example.inputs(4, 4))
            return example
        except (UserError, TypeError, ValueError, RuntimeError, AttributeError):
            continue
    raise AssertionError(
        f"block '{name}' accepts none of the usual rows: add it to EXAMPLES in tests/contract/small.py, with arguments, "
        "input channels and strides of a row that it accepts"
    )


def wake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random values in all parameters and statistics, so that no gradient is zero by a zero initialisation."""
    random = torch.Generator().manual_seed(seed)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=random) * 0.5 + 0.1
            if tensor.ndim > 1:
                tensor.data *= torch.where(torch.rand(tensor.shape, generator=random) < 0.5, 1.0, -1.0)
    return module.eval()  # in training mode a bias before BatchNorm has no gradient


def hidden_modules(root: nn.Module) -> list[str]:
    """Where modules or parameters stand in plain lists, tuples, dicts or sets, which neither train nor save them."""
    found = []
    for path, module in root.named_modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and _holds_module(value):
                found.append(f"{type(module).__name__} '{path}'.{name}")
    return found


def _holds_module(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, (list, tuple, set)):
        return False
    return any(isinstance(v, (nn.Module, nn.Parameter)) or _holds_module(v) for v in value)




def same(one: Any, other: Any) -> bool:
    """Whether two nestings of lists, dicts and tensors are equal, bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_mean_of_single_losses(
    losses: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], whole: dict[str, torch.Tensor], rtol: float, atol: float
) -> dict[str, torch.Tensor]:
    """Each named loss of a batch must be the mean of its images' own losses; return those of the batch."""
    single, together = [losses(one_image(whole, i)) for i in range(len(whole["img"]))], losses(whole)
    for name, value in together.items():
        mean = torch.stack([s[name] for s in single]).mean()
        assert torch.allclose(value, mean, rtol=rtol, atol=atol), f"{name}: {value} is not the mean {mean}"
    return together
