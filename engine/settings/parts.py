"""The arguments of a training, typed and sorted by what they are about.

Every function takes the part that it needs, so that its signature says what it depends on. The fields are called as on the command
line. `Settings.flat` is the one place that makes of them what ultralytics and checkpoints take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

Part = TypeVar("Part", "Run", "Data", "Network", "Distillation", "Rare")
SELECT = "select"  # of teacher_init: blocks of the student's width, or channels chosen of wider ones
SHIPPED = "shipped"  # of weights: those that come with Tandem, where it has some for the model


def ours(default: Any) -> Any:
    """A field that ultralytics does not know, or has another default for; the others have ultralytics' default."""
    return field(default=default, metadata={"ours": True})


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run writes, on what it computes, and what it says.

    `save_dir` is the run's folder once it is settled; `resume` is False or the last.pt of the run that goes on.
    """

    project: str
    name: str
    save_dir: str | None
    exist_ok: bool
    resume: bool | str
    device: str | int | list[int] | None
    amp: bool | str  # bf16 or fp32 once it is settled for a CPU
    seed: int
    epochs: int
    lr_steps: list[float] | None = ours(None)  # fractions of training at which the learning rate falls to a tenth, for lrf, cos_lr
    tensorboard: bool = ours(False)  # write TensorBoard events to the run folder
    verbose: bool = ours(False)  # every loss item, weight and share in the progress table, and all that the host library says


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images a run sees, how large, and how many at once."""

    data: str | None
    split: str
    imgsz: int
    batch: int | float
    rect: bool
    single_cls: bool
    classes: int | list[int] | None  # train on these only: boxes of others are left out
    unlabelled: str | None = ours(None)  # images to distil on without labels: a folder, a list file, a data YAML
    tile: int | None = ours(None)  # cut the data set into tiles of so many pixels, and train on these
    overlap: float | None = ours(None)  # share of a tile that its neighbour shows too; None: 0.2, or more for longer defects


@dataclass(frozen=True, kw_only=True)
class Network:
    """The student, and what it starts from."""

    model: str
    freeze: int | list[int] | None
    cls_pw: float
    weights: str | None = ours(SHIPPED)  # shipped, a file (ours, ultralytics', YOLOv5's), or None: random weights
    teacher_init: bool | str = ours(SELECT)  # `engine.start.start.start_from_teacher`; True: by name and shape
    map_classes: bool = ours(False)  # take the classes of weights and teacher by their names, where in another order
    auto_anchors: bool = ours(True)  # refit the anchors when the best possible recall on the training boxes is below 0.98


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """From whom and how the student learns beside the labels. The `kd_` arguments are options of `distill.balance.Balance`."""

    teacher: str | None = ours(None)  # .pt of ours or ultralytics', a YAML of cfg/teachers' kind, or of a model (untrained)
    distill: str | None = ours(None)  # configurations in cfg/distill: mgd, attention+0.5*ld; with a teacher: auto
    adaptive: str = ours("none")  # weights of the loss terms: stable, paper, none, uncertainty
    kd_share: float | None = ours(0.3)  # gradient ratio, distillation over detection; None: losses weighted by their gains
    kd_hold: bool = ours(True)  # keep that ratio throughout; False: set it at the start
    kd_cap: float | None = ours(None)  # largest ratio of all distillation losses together
    kd_project: bool = ours(True)  # raise detection's weight where the two gradients oppose each other
    kd_warmup: float = ours(0.0)  # fraction of training over which the ratio rises from 0
    kd_until: float = ours(1.0)  # fraction of training after which distillation is off
    kd_decay: str = ours("none")  # cosine: distillation fades from the start to kd_until
    kd_every: int = ours(50)  # steps between two measurements of the ratios

    @property
    def balance(self) -> dict[str, Any]:
        """Options of `distill.balance.Balance`, by its names."""
        return {name.removeprefix("kd_"): value for name, value in asdict(self).items() if name.startswith("kd_")}


@dataclass(frozen=True, kw_only=True)
class Rare:
    """For rare defects among many good parts, all off by default; the recipe `rare` sets them."""

    repeat_threshold: float | None = ours(None)  # t of repeat-factor sampling: classes in less than a share t are drawn more often
    background_share: float | None = ours(None)  # largest share of images without objects among those that are drawn
    min_steps: int = ours(0)  # least batches in an epoch: images of small data sets are drawn several times
    paste: float = ours(0.0)  # probability with which an image gets defects cut out of others of the training part

    @property
    def chooses_draws(self) -> bool:
        """Whether an epoch is to draw something else than every image once."""
        return self.repeat_threshold is not None or self.background_share is not None or self.min_steps > 0


PARTS = {"run": Run, "data": Data, "network": Network, "distillation": Distillation, "rare": Rare}


@dataclass(frozen=True)
class Settings:
    """All arguments of a training; `host`: those that only ultralytics reads, as far as they were given."""

    run: Run
    data: Data
    network: Network
    distillation: Distillation
    rare: Rare
    host: Mapping[str, Any]

    @classmethod
    def of(cls, flat: Mapping[str, Any]) -> Settings:
        """Sort arguments by name, as of `engine.settings.complete`; ultralytics' defaults stand for what is not given."""
        typed = {one.name for part in PARTS.values() for one in fields(part)}
        host = {name: value for name, value in flat.items() if name not in typed}
        parts = part_of(Run, flat), part_of(Data, flat), part_of(Network, flat), part_of(Distillation, flat), part_of(Rare, flat)
        return cls(*parts, host)

    def flat(self) -> dict[str, Any]:
        """All by name, as ultralytics and checkpoints take them."""
        parts = (asdict(getattr(self, name)) for name in PARTS)
        return {**self.host, **{name: value for part in parts for name, value in part.items()}}

    def changed(self, **changes: Any) -> Settings:
        """The same with other values, by their names."""
        return Settings.of(self.flat() | changes)


def part_of(part: type[Part], flat: Mapping[str, Any]) -> Part:
    """One part from arguments by name; ultralytics' defaults and ours stand for what is not given."""
    from engine.settings.defaults import defaults  # which reads the fields above

    known = defaults()
    return part(**{one.name: flat.get(one.name, known.get(one.name)) for one in fields(part)})
