"""From finished runs to numbers: means, differences to the baseline with intervals, verdicts, costs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.plan import PLAIN, RIVAL_ALONE, Method
from benchmarks.harness.runs import DONE, KEPT, folder_name
from benchmarks.harness.schedule import Records
from benchmarks.harness.statistics import NOT_SHOWN, images_needed, paired_t, seeds_needed, verdict
from cfg import UserError
from engine.validation import average_precision as ap
from engine.validation.box_files import load_boxes
from inspection.compare import Interval, percentile

JUDGED = {"mAP50": slice(1), "mAP50-95": slice(None)}  # columns of the AP by IoU threshold, of which it is the mean
AGREE = 1e-3  # our AP and the COCO evaluator's on the images as they are


def resampled_scores(folder: Path, classes: int, draws: np.ndarray | None, count: int) -> dict[str, np.ndarray]:
    """Scores of one run on the images as they are (first entry) and on each resampled set.

    Args:
        folder: of the run, with boxes.npz.
        draws: (R, I) copies of each image, drawn for the first run and the same for all.

    Returns:
        mAP50 and mAP50-95, (1 + R,) each; `files`, the images' names, and `draws`.
    """
    files, truths, found = load_boxes(folder / "boxes.npz")
    if draws is None or draws.shape[1] != len(files):  # of another data set: `_check_images` refuses it
        draws = ap.resamples(len(files), count)
    weights = np.concatenate([np.ones((1, len(files)), dtype=draws.dtype), draws])
    by_threshold = ap.average_precision(ap.match(truths, found, classes), weights)
    scores = {name: by_threshold[:, columns].mean(1) for name, columns in JUDGED.items()}
    return scores | {"files": np.array(files), "draws": draws}


def compare(methods: Sequence[Method], records: Records, out: Path, classes: int, baseline: str,
            count: int) -> dict[str, Any]:  # fmt: skip
    """Rows by method and notes.

    Args:
        records: by label and seed; failed runs are left out of every mean.
        out: the comparison's folder.
        classes: of the data set.
        baseline: label that the others are compared with, but for those that name another.
        count: resamples of the images.
    """
    done = {key: record for key, record in records.items() if record["status"] == DONE}
    draws, scores, notes = None, {}, []
    for key, record in done.items():
        scores[key] = resampled_scores(out / "runs" / folder_name(*key), classes, draws, count)
        draws = scores[key]["draws"]
        _check_images(out, key, scores)
        for name in JUDGED:
            if abs(scores[key][name][0] - record["metrics"][name]) > AGREE:
                notes.append(f"{key[0]}, seed {key[1]}: {name} {record['metrics'][name]:.4f} by the COCO evaluator but "
                             f"{scores[key][name][0]:.4f} by ours: its interval is not to be trusted")  # fmt: skip
    rows = [_row(method, records, done, scores, baseline) for method in methods]
    return {"rows": rows, "notes": notes + remarks(methods, done, rows)}


def _check_images(out: Path, key: tuple[str, int], scores: dict) -> None:
    """Raise `UserError` when a run was scored on other images than the first one."""
    first = next(iter(scores))
    if not np.array_equal(scores[first]["files"], scores[key]["files"]):
        folder = out / "runs" / folder_name(*key)
        raise UserError(f"{folder}: scored on other images than {folder_name(*first)}: the data set was changed in "
                        "between; remove the folders of the runs before that, or choose another --out")  # fmt: skip


def _row(method: Method, records: Records, done: Records, scores: dict, baseline: str) -> dict[str, Any]:
    label, baseline = method.label, method.against or baseline
    mine = {seed: record for (name, seed), record in done.items() if name == label}
    plain = {seed: record for (name, seed), record in done.items() if name == baseline}
    failed = {seed: record for (name, seed), record in records.items() if name == label and record["status"] != DONE}
    errors = [f"seed {seed}: {record['error']}" for seed, record in failed.items()]
    row: dict[str, Any] = {"method": label, "seeds": sorted(mine), "errors": errors, "same_start": method.same_start}
    row |= {"against": baseline}
    if not mine:
        return row
    row |= {name: _mean([r["metrics"].get(name) for r in mine.values()]) for name in KEPT}  # older runs lack some
    row["epochs"] = sorted({r["epochs"] for r in mine.values()})
    row["epoch_seconds"] = _mean([r["epoch_seconds"] for r in mine.values()])
    row["train_seconds"] = _mean([r["train_seconds"] for r in mine.values()])
    row["peak_gb"] = _most([r["peak_bytes"] and r["peak_bytes"] / 1e9 for r in mine.values()])
    row["gpu_gb"] = _most([r["gpu_gb"] for r in mine.values()])
    row |= {name: next(iter(mine.values()))["model"][name] for name in ("parameters", "size_mb", "gflops")}
    shared = sorted(set(mine) & set(plain))
    if shared:
        row["relative_epoch_seconds"] = _mean([mine[s]["epoch_seconds"] / plain[s]["epoch_seconds"] for s in shared])
    if shared and label != baseline:  # a method against itself has nothing to show
        row["difference"] = {name: _difference(name, label, baseline, shared, done, scores) for name in JUDGED}
        row["verdict"] = row["difference"]["mAP50-95"]["verdict"]
    return row


def _difference(name: str, label: str, baseline: str, seeds: list[int], done: Records, scores: dict) -> dict[str, Any]:
    """The mean difference of one score over seeds: its intervals, the verdict, and what would settle it."""
    by_seed = [done[label, s]["metrics"][name] - done[baseline, s]["metrics"][name] for s in seeds]
    mean = statistics.mean(by_seed)
    over_seeds = paired_t(by_seed)
    gaps = [scores[label, s][name][1:] - scores[baseline, s][name][1:] for s in seeds]
    over_images = percentile(np.mean(gaps, axis=0))
    images = len(scores[label, seeds[0]]["files"])
    said = verdict(over_seeds, over_images)
    result: dict[str, Any] = {"mean": mean, "by_seed": dict(zip(map(str, seeds), by_seed)), "verdict": said}
    result |= {"over_seeds": _plain(over_seeds), "over_images": _plain(over_images)}
    if said == NOT_SHOWN:
        uncertain = over_seeds is not None and over_seeds.low <= 0 <= over_seeds.high
        result["seeds_needed"] = seeds_needed(by_seed) if uncertain else None
        wide = over_images.low <= 0 <= over_images.high
        result["images_needed"] = images_needed(mean, over_images, images) if wide else None
    return result


def remarks(methods: Sequence[Method], done: Records, rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know besides the numbers."""
    notes, compared = [], [row for row in rows if "verdict" in row]
    if one := _with_seeds(1, compared):
        notes.append(f"Only {one}: the spread between runs is unknown: no interval over seeds, and nothing is shown.")
    if two := _with_seeds(2, compared):
        notes.append(f"WARNING: {two}. The interval over seeds has one degree of freedom (t = 12.7): it is honest, "
                     "and so wide that only a large effect can be shown. With three, t is 4.3.")  # fmt: skip
    if len(compared) > 1:
        notes.append(f"{len(compared)} comparisons, each at 95 %: without any effect at all, "
                     f"{0.025 * len(compared):.1f} of them would be expected to say HELPS by chance.")  # fmt: skip
    if len({record.get("threads") for record in done.values()}) > 1:
        notes.append("The runs had different numbers of threads: their times do not compare.")
    different = [m.label for m in methods if not m.same_start and not m.rival]
    rivals = [m for m in methods if m.rival]
    if rivals:
        names, student = ", ".join(m.label for m in rivals), Path(rivals[0].cfg).name
        notes.append(f"{names}: ultralytics' own trainer, with first weights of its own, on {student}. Read what it "
                     f"distils against {RIVAL_ALONE}; where --cfg is another model, against nothing else.")  # fmt: skip
    if different:
        notes.append(f"Other initial weights than {PLAIN}: {', '.join(different)}; the others start alike.")
    return notes


def _with_seeds(count: int, compared: list[dict[str, Any]]) -> str:
    """`two seeds`, or `two seeds (attention, cwd)` where other rows have others; empty where no row has so many."""
    found = [row["method"] for row in compared if len(row["difference"]["mAP50-95"]["by_seed"]) == count]
    words = {1: "one seed", 2: "two seeds"}[count]
    return words + (f" ({', '.join(found)})" if len(found) < len(compared) else "") if found else ""


def _plain(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.mean(known) if known else None


def _most(values: list[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)
