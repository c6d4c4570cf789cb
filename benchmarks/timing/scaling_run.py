"""How cost grows: with image size, objects per image, batch and classes, one axis at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.timing.numbers import bends, slopes, summary
from benchmarks.timing.rounds import Samples, take_turns
from benchmarks.timing.session import Crew, Settings, bar_of
from benchmarks.timing.worker import WorkerFailed

AXES: dict[str, tuple[int, ...]] = {
    "imgsz": (320, 448, 640, 896, 1280, 1536),
    "objects": (1, 3, 10, 30, 100, 300),
    "batch": (1, 2, 4, 8, 16),
    "classes": (1, 6, 20, 80, 300),
}
QUICK: dict[str, tuple[int, ...]] = {"imgsz": (128, 256), "objects": (1, 30), "batch": (1, 4), "classes": (1, 80)}
KINDS = {"inference": "benchmarks.timing.scaled:ScaledForward", "training": "benchmarks.timing.scaled:ScaledStep"}
PARTS = {"inference": ("total", "forward", "nms"), "training": ("total", "forward", "loss", "backward")}


@dataclass(frozen=True)
class Point:
    """Where a model is measured: `kind` is inference or training."""

    model: str
    kind: str
    imgsz: int
    batch: int
    objects: int
    classes: int

    @property
    def worker(self) -> tuple[str, str, int]:
        """Points with the same one share a process: classes are part of the network."""
        return self.model, self.kind, self.classes

    def value(self, axis: str) -> int:
        """Its place on an axis."""
        return asdict(self)[axis]


def points(bases: list[Point], axes: dict[str, tuple[int, ...]]) -> list[Point]:
    """The bases, and each with one axis changed at a time; every point once."""
    moved = [replace(base, **{axis: value}) for base in bases for axis, values in axes.items() for value in values]
    return list(dict.fromkeys(moved + bases))


def run(
    models: list[str], axes: dict[str, tuple[int, ...]], batch: int, objects: int, settings: Settings,
    tell: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Measure; return ``rows``: one per model, kind, axis, with values, sides, medians by part, slopes, bends, reasons;
    and ``interrupted``.

    Args:
        axes: what to vary, and the values.
        batch, objects: where they are not varied, with the settings' image size and number of classes.
    """
    bases = [Point(m, k, settings.imgsz, batch, objects, len(settings.classes)) for m in models for k in KINDS]
    every, samples = points(bases, axes), Samples()
    for point in every:
        if reason := why_not(point, len(settings.classes)):
            samples.fail(point, reason)
    every = [point for point in every if point not in samples.errors]
    with samples.until_interrupted(every, settings.rounds), bar_of(settings.rounds * len(every)) as bar:
        for model in models:  # one after the other: nothing is divided by another model here
            mine = [point for point in every if point.model == model]
            tell(f"{model}: {len(mine)} points")
            with Crew(settings, samples) as crew:
                for key in dict.fromkeys(point.worker for point in mine):
                    name = "-".join(map(str, key))
                    crew.add(key, KINDS[key[1]], name, model=model, classes=key[2], device=settings.device)
                take_turns(mine, settings.rounds, lambda point: _ask(crew, samples, point), samples, tick=bar.update)
    rows = [row_of(base, axis, values, samples) for base in bases for axis, values in axes.items()]
    return {"rows": rows, "interrupted": samples.interrupted}


def why_not(point: Point, usual: int) -> str | None:
    """What keeps a point from being measured; None: nothing."""
    trained = Path(point.model).suffix == ".pt"
    return "weights have the classes they have; give the model's YAML" if trained and point.classes != usual else None


def _ask(crew: Crew, samples: Samples, point: Point) -> dict[str, Any]:
    """Ask a point's worker; one that is gone is gone for all of its points."""
    if reason := samples.errors.get(point.worker):
        raise WorkerFailed(reason)
    try:
        return crew.ask(point.worker, imgsz=point.imgsz, batch=point.batch, objects=point.objects)
    except WorkerFailed as error:
        samples.fail(point.worker, f"{error} (at {point.imgsz} px, batch {point.batch}, {point.objects} objects)")
        raise


def row_of(base: Point, axis: str, values: tuple[int, ...], samples: Samples) -> dict[str, Any]:
    """One model along one axis.

    ``sizes`` is what cost is compared with: the axis's value, for images their pixels. ``slopes`` and ``bends`` are by
    part.
    """
    row: dict[str, Any] = {"model": base.model, "kind": base.kind, "axis": axis, "values": [], "sizes": [], "sides": []}
    row |= {"ms": {part: [] for part in PARTS[base.kind]}, "rss_mb": [], "cuda_mb": [], "reasons": {}}
    for value in values:
        point = replace(base, **{axis: value})
        if point in samples.errors:
            row["reasons"][str(value)] = samples.errors[point]
        sides = samples.listed(point, "side")
        if not sides or (axis == "imgsz" and sides[0] ** 2 in row["sizes"]):  # two sizes that stride rounds to one
            continue
        row["values"].append(value)
        row["sides"].append(int(sides[0]))
        row["sizes"].append(int(sides[0]) ** 2 if axis == "imgsz" else value)
        for part, medians in row["ms"].items():
            medians.append(summary(samples.listed(point, f"{part}_ms")).median)
        for name in ("rss_mb", "cuda_mb"):
            row[name].append(max(samples.listed(point, name), default=None))
    row["slopes"] = {part: slopes(row["sizes"], medians) for part, medians in row["ms"].items()}
    row["bends"] = {part: bends(row["sizes"], medians) for part, medians in row["ms"].items()}
    return row
