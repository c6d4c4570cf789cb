"""Reports made without a network: images drawn here, boxes and labels drawn by chance, a plan by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from inspection.plan import ClassRule, Plan, Promise
from inspection.plan_file import rules_digest
from inspection.report.content import UNEVENTFUL, Content, Seen
from inspection.report.page import promise_lines, write_report
from inspection.report.thumbnails import Thumbnails
from inspection.rules import Found, decide

HOSTILE = "<script>alert(1)</script>"
NAMES = ("scratch", "pit", f'"{HOSTILE}', "Kratzer \u00fc \u2603")


def plan() -> Plan:
    """All classes at 0.5, a REVIEW zone from 0.4, and a promise."""
    promise = Promise(max_escape=0.01, confidence=0.95, method="joint", unit="image", ng=480, ok=900, misses=1, misses_allowed=1,
                      overkills=21, reviews=12, overkill_interval=(0.0145, 0.0355), data="steel.yaml", split="val", date="2026-11-26")
    made = Plan(NAMES, tuple(ClassRule(0.5, 0.4) for _ in NAMES), promise=promise)
    return replace(made, promise=replace(promise, rules=rules_digest(made)))


def write(folder: Path, count: int, decided: bool = True, labelled: bool = True, seed: int = 0, side: int = 200) -> Path:
    """Write a report of `count` images, of which a quarter has defects; return its path."""
    rng = np.random.default_rng(seed)
    chosen = plan() if decided else None
    thumbnails, seen = Thumbnails(folder / "report-pictures"), []
    grey = rng.normal(150, 12, (side, side, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2)
    for number in range(count):
        boxes = int(rng.integers(1, 4)) if rng.random() < 0.25 else 0
        corner = rng.uniform(0.02, 0.7, (boxes, 2)) ** 1.3 * side
        boxes_xyxy = np.concatenate([corner, corner + rng.uniform(0.05, 0.25, (boxes, 2)) * side], 1)
        classes = rng.choice(len(NAMES), boxes, p=(0.5, 0.3, 0.15, 0.05))
        labels = Found(boxes_xyxy, np.ones(boxes), classes)
        scores = rng.beta(6, 3, boxes) if boxes else rng.beta(1.2, 9, 1)
        found = labels if boxes else Found(np.array([[10.0, 10, 60, 40]]), scores, np.array([0]))
        keep = np.ones(len(scores), bool) if decided else scores >= 0.25
        found = Found(found.boxes_xyxy[keep], scores[keep], found.classes[keep])
        name = f"line 3/{HOSTILE if number % 50 == 7 else 'part'} {number:05d}.jpg"
        verdict = decide(chosen, found, side, side) if chosen else None
        known = {"labels": labels, "labelled_ng": boxes > 0} if labelled else {}
        picture = Seen(name, side, side, found, verdict, **known)
        if picture.group not in UNEVENTFUL:
            pixels = grey.copy()
            for x1, y1, x2, y2 in labels.boxes_xyxy.astype(int):
                pixels[y1:y2, x1:x2] //= 2
            picture = Seen(name, side, side, found, verdict, thumbnail=thumbnails.add(pixels), **known)
        seen.append(picture)
    facts = (("model", "best.onnx"), ("data", "steel.yaml, split val"), ("source", HOSTILE))
    content = Content("Inspection report", NAMES, seen, chosen, promise_lines(chosen) if chosen else (), facts,
                      [("part 1.jpg", "missing: pit, suspicion 0.91")] if labelled else (), [(HOSTILE, "not an image")])  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder / "report.html", content, thumbnails)
    return folder / "report.html"
