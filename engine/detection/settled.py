"""How a model looks at images: what the options leave open, settled once the model and its decision plan are known."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from cfg.class_names import nearest_name, shown
from cfg.errors import UserError
from engine.detection.deciding import Decider
from engine.detection.items import Source
from engine.detection.options import CONF, IOU, DetectOptions
from engine.tiling.pictures import TiledSource
from engine.weights import fit_size
from inspection.belonging import Settings, as_chosen
from inspection.plan import Plan
from inspection.tiles import Tiling, tiling_asked

from ultralytics.nn.autobackend import AutoBackend

MOST_AT_ONCE, PIXELS_AT_ONCE = 16, 640 * 640  # in a batch that is left to us: no more work than one usual image


@dataclass(frozen=True)
class Settled:
    """How a model looks at images, once the model and its plan are known.

    Attributes:
        options: as they are under the plan.
        doubts: why the plan's promise does not hold with these options, in sentences.
        tiling: None for whole images.
        decider: None without a plan.
        conf: the lowest score that is found.
        iou: overlap above which two boxes are one object.
        size: (height, width) of the network's input in pixels.
        batch: images at once.
        classes: indices of the classes to report, None for all.
    """

    options: DetectOptions
    doubts: tuple[str, ...]
    tiling: Tiling | None
    decider: Decider | None
    conf: float
    iou: float
    size: list[int]
    batch: int
    classes: list[int] | None


def settle(options: DetectOptions, backend: AutoBackend, trained: list[int], plan: Plan | None) -> Settled:
    """Fill in options that were left open, and print those that cannot be as requested.

    Args:
        trained: input size that the model was trained or exported with.

    Raises:
        UserError: an option that does not fit the model or the plan.
    """
    options, doubts = as_planned(options, plan)
    tiling = tiling_asked(options.tile, options.overlap)
    if tiling:
        tiling.check_stride(int(backend.stride))
    decider = Decider(plan, options.conf) if plan else None
    conf = decider.floor if decider else CONF if options.conf is None else options.conf
    iou = IOU if options.iou is None else options.iou
    size = input_size(options.imgsz, trained, backend)
    batch, classes = batch_size(options, backend, size), class_indices(options.classes, backend.names)
    return Settled(options, doubts, tiling, decider, conf, iou, size, batch, classes)


def cut(source: Source, settled: Settled) -> Source:
    """The source in tiles if requested, in batches as settled."""
    source = TiledSource(source, settled.tiling) if settled.tiling else source
    source.batch = settled.batch
    return source


def as_planned(options: DetectOptions, plan: Plan | None) -> tuple[DetectOptions, tuple[str, ...]]:
    """The options, with the plan's own where none was requested, and where the two differ, which is printed too (`as_chosen`).

    Raises:
        UserError: options that decide without a plan, or hide classes from it.
    """
    if plan is None:
        if options.sort_into:
            raise UserError(f"--sort-into {options.sort_into}: expected a decision plan, got none with the weights; choose thresholds with "
                            "val.py --decide, and give --decision FILE")  # fmt: skip
        return options, ()
    if options.classes is not None:
        raise UserError("--classes: expected all classes with a decision plan, got some; write severity: none for the others into the plan, "
                        "or use --no-decision")  # fmt: skip
    names = [field.name for field in fields(Settings)]
    settings, doubts = as_chosen(plan, Settings(**{name: getattr(options, name) for name in names}))
    return replace(options, **vars(settings)), doubts


def input_size(asked: list[int] | None, trained: list[int], backend: AutoBackend) -> list[int]:
    """Return (height, width) of the network's input and print where it differs from what was asked.

    Args:
        asked: ``--imgsz``; None for the size the model was trained or exported with.
        trained: that size.
        backend: a fixed-size export keeps its own size, everything else takes multiples of its stride.
    """
    if backend.format == "pt" or backend.dynamic:
        return fit_size(asked or trained, int(backend.stride))
    fixed = [trained[0], trained[-1]]
    if asked is not None and [asked[0], asked[-1]] != fixed:
        print(f"--imgsz {asked}: the exported model is fixed at {fixed}, which is used; export with --dynamic")
    return fixed


def class_indices(chosen: list[str] | None, names: dict[int, str]) -> list[int] | None:
    """Return the indices of classes given by name or index. Raises `UserError` on an unknown one.

    A name comes before an index: classes may be called by numbers, and then the class of that name is what is meant.
    """
    if chosen is None:
        return None
    by_name = {name: index for index, name in names.items()}
    found = []
    for given in chosen:
        index = by_name.get(given, int(given) if given.isdecimal() and int(given) in names else None)
        if index is None:
            known = ", ".join(f"{number} {shown(name)}" for number, name in names.items())
            hint = nearest_name(given, names.values())
            raise UserError(f"--classes {given}: expected an index or name of the model's classes ({known}){hint}")
        if given in by_name and given != str(index) and given.isdecimal() and int(given) in names:
            print(f"--classes {given}: taken as the name of class {index}, not as class number {given}")
        found.append(index)
    return found


def batch_size(options: DetectOptions, backend: AutoBackend, size: list[int]) -> int:
    """Return how many images go through the network at once.

    ``--batch``, but never more than a fixed-size export was made for. Without it, as many as a fixed-size export takes;
    else as many as make up one image of 640 x 640 pixels: small ones cost less together, half at 128 pixels, and large
    ones do not. With a viewer one, which is shown at once.

    Args:
        size: (height, width) of the network's input in pixels.
    """
    asked, fixed = options.batch, backend.format != "pt" and not backend.dynamic
    if asked is None:
        small = PIXELS_AT_ONCE // (size[0] * size[1])
        return 1 if options.view else backend.batch if fixed else max(1, min(small, MOST_AT_ONCE))
    if fixed and asked > backend.batch:
        print(f"--batch {asked}: the exported model takes {backend.batch} at once, which is used; export with --batch")
    return min(asked, backend.batch) if fixed else asked
