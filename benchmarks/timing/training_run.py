"""Time training steps: a student's, its teacher's forward pass, the distilled one; ultralytics' beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.timing.cells import no_bfloat16
from benchmarks.timing.numbers import ratios, summary
from benchmarks.timing.rounds import Samples, take_turns
from benchmarks.timing.session import Crew, Settings, bar_of

EVERY = 50  # steps between two measurements of gradients in a training (kd_every)
PART = "part_"


@dataclass(frozen=True)
class Kind:
    """One kind of step: a variant of `steps.StepTask` for a student at a precision."""

    variant: str
    model: str
    precision: str


@dataclass(frozen=True)
class Pairs:
    """Who learns from whom: students of Tandem's with teacher and method; ultralytics' own pair.

    `teacher` is None for a method that makes its own; `progress` is the fraction of training the steps are taken from.
    """

    students: list[str]
    teacher: str | None
    distill: str
    stock: str
    stock_teacher: str
    batch: int
    objects: int
    progress: float

    def kinds(self, precisions: list[str]) -> list[Kind]:
        """All kinds of steps, those that are divided by each other close together."""
        found, ours = [], ("student", "teacher", "distilled", "measured")
        for precision in precisions:
            for model in self.students:
                found += [Kind(name, model, precision) for name in ours if name != "teacher" or self.teacher]
            found += [Kind(name, self.stock, precision) for name in ("stock", "stock-distilled")]
        return found

    def options(self, kind: Kind) -> dict[str, Any]:
        """Teacher and method of a kind."""
        others = {"student": None, "stock": None, "stock-distilled": self.stock_teacher}
        teacher = others.get(kind.variant, self.teacher)
        distill = self.distill if kind.variant in ("teacher", "distilled", "measured") else None
        return {"teacher": teacher, "distill": distill}


def run(pairs: Pairs, precisions: list[str], settings: Settings, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure all kinds of steps; return ``rows``, one per kind, ``comparisons``, one per student and precision; ``interrupted``."""
    samples, kinds = Samples(), pairs.kinds(precisions)
    facts: dict[Kind, dict[str, Any] | None] = {}
    for kind in kinds:
        if reason := why_not(kind, settings.device):
            samples.fail(kind, reason)
    ready = [kind for kind in kinds if kind not in samples.errors]
    with (
        samples.until_interrupted(ready, settings.rounds),
        bar_of(settings.rounds * len(ready)) as bar,
        Crew(settings, samples) as crew,
    ):
        for kind in ready:
            tell(f"starting {describe(kind, pairs)}")
            facts[kind] = crew.add(
                kind, "benchmarks.timing.steps:StepTask", f"{kind.variant}-{kind.model}-{kind.precision}",
                variant=kind.variant, model=kind.model, precision=kind.precision, batch=pairs.batch,
                imgsz=settings.imgsz, objects=pairs.objects, progress=pairs.progress, classes=settings.classes,
                device=settings.device, clock=settings.clock, **pairs.options(kind),
            )  # fmt: skip
        take_turns(ready, settings.rounds, crew.ask, samples, tick=bar.update)
    rows = [row_of(kind, pairs, samples, facts.get(kind)) for kind in kinds]
    compared = [comparison(model, precision, samples) for precision in precisions for model in pairs.students]
    return {"rows": rows, "comparisons": [one for one in compared if one], "interrupted": samples.interrupted}


def why_not(kind: Kind, device: str) -> str | None:
    """What is missing for a kind of step on ``cpu`` or ``cuda:N``; None: nothing."""
    if kind.precision == "fp32":
        return None
    if kind.precision != "bf16":
        return "training is timed in fp32 and bf16"
    if kind.variant.startswith("stock") and device == "cpu":
        return "ultralytics' trainer refuses bfloat16 on a CPU"
    return no_bfloat16(device)


def describe(kind: Kind, pairs: Pairs) -> str:
    """A kind of step in words."""
    return {
        "student": f"{kind.model} alone",
        "teacher": f"forward pass of the teacher {pairs.teacher}",
        "distilled": f"{kind.model} {f'from {pairs.teacher} ' if pairs.teacher else ''}by {pairs.distill}",
        "measured": "the same in a step that measures gradients",
        "stock": f"ultralytics: {kind.model} alone",
        "stock-distilled": f"ultralytics: {kind.model}, distill_model={pairs.stock_teacher}",
    }[kind.variant]


def row_of(kind: Kind, pairs: Pairs, samples: Samples, facts: dict[str, Any] | None) -> dict[str, Any]:
    """What results.json has of one kind of step: ms, images/s, ratio to the student's, memory, parts; or the reason."""
    row: dict[str, Any] = {"variant": kind.variant, "model": kind.model, "precision": kind.precision}
    row |= {"what": describe(kind, pairs), "reason": samples.errors.get(kind)}
    if kind not in samples.values:
        return row
    steps = samples.column(kind, "step_ms")
    row |= (facts or {}) | {"step_ms": summary(list(steps.values())).plain()}
    row["images_per_s"] = 1000 * pairs.batch / row["step_ms"]["median"]
    alone = Kind("stock" if kind.variant.startswith("stock") else "student", kind.model, kind.precision)
    row["to_student"] = _ratio(steps, samples.column(alone, "step_ms")) if alone != kind else None
    for name in ("rss_mb", "cuda_mb"):
        row[name] = max(samples.listed(kind, name), default=None)
    row["parts"] = parts_of(kind, samples)
    row["samples_ms"] = list(steps.values())
    return row


def parts_of(kind: Kind, samples: Samples) -> dict[str, dict[str, float]]:
    """Median ms of each part, and its median share of the sum of all parts in the same step."""
    turns = [{k: v for k, v in one.items() if k.startswith(PART)} for one in samples.values[kind].values()]
    found = {}
    for name in dict.fromkeys(name for turn in turns for name in turn):
        times = [turn[name] for turn in turns if name in turn]
        shares = [turn[name] / sum(turn.values()) for turn in turns if name in turn]
        plain = name.removeprefix(PART).removesuffix("_ms")
        found[plain] = {"ms": summary(times).median, "share": summary(shares).median}
    return found


def comparison(model: str, precision: str, samples: Samples) -> dict[str, Any] | None:
    """The distilled step over student step plus teacher forward pass, round by round; None where one is missing.

    With gradients measured in one step of `EVERY`, a distilled step costs on average distilled + (measured -
    distilled) / `EVERY`.
    """
    names = ("student", "teacher", "distilled", "measured")
    student, teacher, distilled, measured = (samples.column(Kind(n, model, precision), "step_ms") for n in names)
    if not teacher and Kind("teacher", model, precision) not in samples.errors:  # the method makes its own, in its step
        teacher = dict.fromkeys(student, 0.0)
    floor = {number: student[number] + teacher[number] for number in student if number in teacher}
    average = {n: distilled[n] + (measured[n] - distilled[n]) / EVERY for n in distilled if n in measured}
    found: dict[str, Any] = {"model": model, "precision": precision}
    found["without_measuring"] = _ratio(distilled, floor)
    if found["without_measuring"] is None:
        return None
    found["with_measuring"] = _ratio(average, floor)
    found["added"] = _ratio({n: distilled[n] - floor[n] for n in distilled if n in floor}, distilled)
    parts = parts_of(Kind("distilled", model, precision), samples)
    found["losses_and_masks"] = parts.get("distillation losses", {}).get("share")
    return found


def _ratio(values: dict[int, float], reference: dict[int, float]) -> dict[str, Any] | None:
    found = summary(ratios(values, reference))
    return found.plain() if found else None
