"""`python -m data.check --data data.yaml [--json F]`: find what is wrong in a data set, file by file.

Exit status: 0 without errors (warnings alone are fine), 1 with errors, 2 for arguments that cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cfg import UserError, guard
from cfg.class_names import shown
from cfg.command_line import read_arguments
from data.dataset import WHAT, missing_text, part_paths, resolve
from data.files import list_images
from data.labels import LABEL_ERRORS
from data.layout import PARTS, label_path, rows_to_xyxy
from data.reader import Sample, read_samples

SHOWN = 20  # findings of one kind that are printed; --verbose prints all


@dataclass(frozen=True)
class Finding:
    """One thing found: level `error` or `warning`, a short code, the file, the line (0: whole file), the text."""

    level: str
    code: str
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.level:7} {self.code}: {self.file}{f':{self.line}' if self.line else ''}: {self.text}"


@dataclass
class Report:
    """Findings and counts of a data set: `parts[part]` holds images, boxes, background (images without boxes) and
    `classes` (boxes by class name).
    """

    data: str
    findings: list[Finding] = field(default_factory=list)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        """Findings that spoil training or its measurement."""
        return [f for f in self.findings if f.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings a person should look at."""
        return [f for f in self.findings if f.level == "warning"]

    def error(self, code: str, file: str | Path, text: str, line: int = 0) -> None:
        """Add an error."""
        self.findings.append(Finding("error", code, str(file), line, text))

    def warn(self, code: str, file: str | Path, text: str, line: int = 0) -> None:
        """Add a warning."""
        self.findings.append(Finding("warning", code, str(file), line, text))


def check_data(path: str | Path, min_size: float = 2.0) -> Report:
    """Read every image and label of a data set and report what is wrong.

    Args:
        path: data YAML, its folder, or a short name of `cfg/data`.
        min_size: boxes with a side below this many pixels are reported as tiny.

    Raises:
        UserError: the YAML itself cannot be used.
    """
    content = resolve(path, require=())
    names, report = content["names"], Report(str(path))
    parts: dict[str, list[Sample]] = {}
    for part in PARTS:
        images = _images(path, content, part, report)
        if images is not None:
            parts[part] = list(read_samples(images, len(names), remember=False))
            _count(report, part, parts[part], names)
    samples = [sample for found in parts.values() for sample in found]
    for sample in samples:
        _check_image(report, sample)
        _check_labels(report, sample, min_size)
    _check_copies(report, parts)
    _check_stems(report, samples)
    _check_orphans(report, content, samples)
    _check_classes(report, names)
    return report


def _images(path: str | Path, content: dict[str, Any], part: str, report: Report) -> list[Path] | None:
    """Return the images of a part, ``None`` when it is not named; note missing folders and empty parts."""
    entries = part_paths(content, part)
    if not entries:
        if part != "test":
            report.error("missing-part", path, f"expected a key '{part}', got none; add it or use data.split")
        return None
    images: list[Path] = []
    for entry in entries:
        if not entry.exists():
            report.error("missing-folder", path, missing_text(content, part, entry))
        else:
            images += list_images(entry)
    if not images and all(entry.exists() for entry in entries):
        report.error("no-images", entries[0], f"expected {WHAT[part]}, got none; put them there")
    return images


def _count(report: Report, part: str, samples: list[Sample], names: dict[int, str]) -> None:
    counts = np.zeros(len(names), dtype=int)
    for sample in samples:
        if sample.labels is not None:
            counts += np.bincount(sample.labels.rows[:, 0].astype(int), minlength=len(names))
    report.parts[part] = {
        "images": len(samples), "boxes": int(counts.sum()),
        "background": sum(s.labels is None or not (len(s.labels.rows) or s.labels.problems) for s in samples),
        "without_label_file": sum(s.labels is None for s in samples),
        "classes": {names[i]: int(counts[i]) for i in names}}


def _check_image(report: Report, sample: Sample) -> None:
    if sample.facts is None:
        code = "corrupt-image" if sample.image.exists() else "missing-image"
        report.error(code, sample.image, f"{sample.reason}; restore or remove it")
    elif sample.facts.note:
        report.warn("several-pictures", sample.image, f"{sample.facts.note}; divide it where the others matter")


def _check_labels(report: Report, sample: Sample, min_size: float) -> None:
    if sample.labels is None:
        return
    file, rows, lines = label_path(sample.image), sample.labels.rows, sample.labels.lines
    for problem in sample.labels.problems:
        note = report.error if problem.code in LABEL_ERRORS else report.warn
        note(problem.code, file, problem.text, problem.line)
    if sample.facts is None or not len(rows):
        return
    width, height = sample.facts.width, sample.facts.height
    boxes = rows_to_xyxy(rows, width, height)
    for i in np.flatnonzero((boxes[:, :2] < -1).any(1) | (boxes[:, 2] > width + 1) | (boxes[:, 3] > height + 1)):
        report.warn("outside-box", file, f"expected a box inside the {width} x {height} image, got "
                    f"{' '.join(f'{v:.1f}' for v in boxes[i])} (x1 y1 x2 y2); training clips it", lines[i])
    sides = boxes[:, 2:] - boxes[:, :2]
    for i in np.flatnonzero((sides < min_size).any(1)):
        report.warn("tiny-box", file, f"box of {sides[i, 0]:.1f} x {sides[i, 1]:.1f} pixels, below {min_size:g}; "
                    "check whether it is a slip", lines[i])


def _check_copies(report: Report, parts: dict[str, list[Sample]]) -> None:
    by_digest: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)
    for part, samples in parts.items():
        for sample in samples:
            if sample.facts:
                by_digest[sample.facts.digest].append((part, sample.image))
    for (part, image), *others in by_digest.values():
        for other_part, other in others:
            same = f"pixels identical to {image}"
            if other_part == part:
                report.warn("same-image", other, f"{same}, both in {part}; remove one")
            else:
                report.error("leaked-image", other, f"{same}: {other_part} and {part} share an image; "
                             "remove one, or divide again with data.split")


def _check_stems(report: Report, samples: list[Sample]) -> None:
    first: dict[Path, Path] = {}
    for sample in samples:
        label = label_path(sample.image)
        if first.setdefault(label, sample.image) != sample.image:
            report.warn("shared-label", sample.image, f"shares {label} with {first[label]}; rename one of the images")


def _check_orphans(report: Report, content: dict[str, Any], samples: list[Sample]) -> None:
    """Find label files whose image is missing, in the label folders that belong to the named image folders."""
    known = {label_path(sample.image) for sample in samples}
    for folder in [p for part in PARTS for p in part_paths(content, part) if p.is_dir()]:
        labels = label_path(folder / "x.jpg").parent
        for file in sorted(labels.rglob("*.txt")) if labels != folder and labels.is_dir() else ():
            if file not in known and file.name != "classes.txt":
                report.error("missing-image", file, f"label without image in {folder}; restore the image or remove it")


def _check_classes(report: Report, names: dict[int, str]) -> None:
    if report.parts and not any(part["boxes"] for part in report.parts.values()):
        report.error("no-boxes", report.data, "expected boxes, got none in the whole data set; check the labels folder")
        return
    train = report.parts.get("train", {}).get("classes", {})
    for name in names.values():
        if train and not train[name]:
            report.warn("unused-class", report.data, f"class '{shown(name)}' has no box in the training part")


def show(report: Report, verbose: bool = False) -> None:
    """Print the counts, then the findings by kind, errors first, at most `SHOWN` of each kind unless `verbose`."""
    for part, counts in report.parts.items():
        print(f"{part:5}  {counts['images']} images, {counts['boxes']} boxes, {counts['background']} without boxes "
              f"({counts['without_label_file']} without a label file)")
        print("       " + ", ".join(f"{shown(name)} {count}" for name, count in counts["classes"].items()))
    kinds: dict[str, list[Finding]] = defaultdict(list)
    for finding in report.errors + report.warnings:
        kinds[finding.code].append(finding)
    for code, findings in kinds.items():
        for finding in findings if verbose else findings[:SHOWN]:
            print(finding)
        if len(findings) > SHOWN and not verbose:
            print(f"        {code}: {len(findings) - SHOWN} more (--verbose)")
    print(f"{len(report.errors)} errors, {len(report.warnings)} warnings")


def main(argv: list[str] | None = None) -> int:
    """Command line of this module. Returns 1 when errors were found."""
    parser = argparse.ArgumentParser(prog="python -m data.check", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="data YAML, or its short name in cfg/data")
    parser.add_argument("--min-size", type=float, default=2.0, metavar="PX", help="boxes below are tiny (default: 2)")
    parser.add_argument("--json", metavar="FILE", help="write counts and findings as JSON (-: standard output)")
    parser.add_argument("--verbose", action="store_true", help="print every finding")
    options = read_arguments(parser, argv)
    report = check_data(options.data, options.min_size)
    text = json.dumps({"data": report.data, "errors": len(report.errors), "warnings": len(report.warnings),
                       "parts": report.parts, "findings": [asdict(f) for f in report.findings]}, indent=1)
    if options.json == "-":
        print(text)
    else:
        show(report, options.verbose)
    if options.json not in (None, "-"):
        try:
            Path(options.json).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json: expected a file that can be written, got {options.json} ({error})") from None
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(guard(main))
