"""Time models in runtimes: prepare each, keep a worker for each cell, ask in turns, divide by the reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.timing.cells import Cell, why_not
from benchmarks.timing.numbers import ratios, summary
from benchmarks.timing.prepare import form_of
from benchmarks.timing.rounds import Samples, groups, take_turns
from benchmarks.timing.session import Crew, Settings, bar_of
from benchmarks.timing.worker import WorkerFailed

TIMES = ("preprocess_ms", "forward_ms", "postprocess_ms")
Facts = dict[str, dict[str, Any]]  # by model: what `Prepared` found


def run(
    cells: list[Cell], reference: str, settings: Settings, alive: int, passes: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measure all cells.

    Args:
        reference: the model that the others are divided by, in the same runtime, precision and batch.
        alive: workers at a time; of more cells, groups of models are measured one after the other, each with the
            reference.
        passes: timed passes per turn.

    Returns:
        ``rows``, one per cell in order, ``models``, and ``interrupted``.
    """
    samples, facts, loaded = Samples(), {}, {}
    for cell in cells:
        if reason := why_not(cell.runtime, cell.precision, settings.device, settings.data):
            samples.fail(cell, reason)
    with samples.until_interrupted(cells, settings.rounds), tempfile.TemporaryDirectory(prefix="tandem-speed-") as folder:
        for model in dict.fromkeys(cell.model for cell in cells):
            wanted = [cell for cell in cells if cell.model == model and cell not in samples.errors]
            if wanted:
                tell(f"preparing {model}")
                facts[model] = prepare(model, wanted, settings, Path(folder), samples)
        _measure(cells, reference, facts, settings, alive, passes, samples, loaded, tell)
    rows = [row_of(cell, reference, samples, facts.get(cell.model), loaded.get(cell)) for cell in cells]
    return {"rows": rows, "models": facts, "interrupted": samples.interrupted}


def prepare(model: str, cells: list[Cell], settings: Settings, folder: Path, samples: Samples) -> dict[str, Any]:
    """Build and export one model in a process of its own; what failed is noted under the cells that need it."""
    forms = dict.fromkeys(form_of(cell.runtime, cell.precision, cell.batch) for cell in cells)
    number = len(list(folder.iterdir()))
    options = {"model": model, "folder": str(folder / str(number)), "imgsz": settings.imgsz, "data": settings.data}
    options |= {"classes": settings.classes, "device": settings.device}
    options["forms"] = [(form.runtime, form.precision, form.batch) for form in forms]
    try:
        with settings.worker("benchmarks.timing.prepare:Prepared", f"prepare-{model}", **options) as worker:
            facts = worker.facts
    except WorkerFailed as error:
        facts = {"reasons": {form.label: str(error) for form in forms}, "files": {}}
    for cell in cells:
        label = form_of(cell.runtime, cell.precision, cell.batch).label
        if label in facts["reasons"]:
            samples.fail(cell, facts["reasons"][label])
    return facts


def _measure(
    cells: list[Cell], reference: str, facts: Facts, settings: Settings, alive: int, passes: int, samples: Samples,
    loaded: dict[Cell, dict[str, Any]], tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Fill `samples`, and `loaded` with the facts of each worker."""
    ready = [cell for cell in cells if cell not in samples.errors]
    models = list(dict.fromkeys(cell.model for cell in ready))
    if not models:
        return
    most = max(sum(cell.model == model for cell in ready) for model in models)
    lead = reference if reference in models else models[0]
    batches = list(groups(models, lead, max(alive // most, 2)))
    with bar_of(settings.rounds * sum(cell.model in group for group in batches for cell in ready)) as bar:
        for number, group in enumerate(batches):
            members = [cell for cell in ready if cell.model in group]
            tell(f"group {number + 1} of {len(batches)}: starting {len(members)} workers")
            with Crew(settings, samples) as crew:
                for cell in members:
                    if cell not in samples.errors:
                        loaded[cell] = _start(crew, cell, facts[cell.model], settings, passes) or loaded.get(cell, {})
                first = number * settings.rounds
                take_turns(members, settings.rounds, crew.ask, samples, first, bar.update)


def _start(crew: Crew, cell: Cell, facts: dict[str, Any], settings: Settings, passes: int) -> dict[str, Any] | None:
    form = form_of(cell.runtime, cell.precision, cell.batch)
    name = f"{cell.model}-{cell.runtime}-{cell.precision}-{cell.batch}"
    return crew.add(
        cell, "benchmarks.timing.inference:InferenceTask", name, runtime=cell.runtime, precision=cell.precision,
        file=facts["files"][form.label], batch=cell.batch, imgsz=facts["imgsz"], device=settings.device,
        threads=settings.threads, passes=passes,
    )  # fmt: skip


def row_of(
    cell: Cell, reference: str, samples: Samples, facts: dict[str, Any] | None, loaded: dict[str, Any] | None
) -> dict[str, Any]:
    """What results.json has of one cell: times in ms per batch, ratios, memory, or the reason there are none."""
    row: dict[str, Any] = asdict(cell) | {"reason": samples.errors.get(cell)}
    row |= {name: facts.get(name) for name in ("imgsz", "parameters", "gflops", "trained")} if facts else {}
    if cell not in samples.values:
        return row
    row |= loaded or {}
    for name in TIMES:
        row[name] = summary(samples.listed(cell, name)).plain()
    forward = samples.column(cell, "forward_ms")
    row["images_per_s"] = 1000 * cell.batch / row["forward_ms"]["median"]
    for name, other in (("to_reference", cell.of(reference)), ("to_fp32", cell.in_full())):
        found = summary(ratios(forward, samples.column(other, "forward_ms")))
        row[name] = found.plain() if found and other != cell else None
    for name in ("rss_mb", "cuda_mb"):
        row[name] = max(samples.listed(cell, name), default=None)
    row["samples_ms"] = samples.listed(cell, "forward_ms")
    return row
