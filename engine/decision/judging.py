"""Decisions in a validation: thresholds with a promise (`--decide`), and what a plan does to a labelled set."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cfg import UserError
from engine.decision.finding import check_regions, find_images
from engine.decision.options import DecisionOptions
from engine.decision.pictures import draw_confusion, draw_curve, draw_histogram, draw_sheet
from engine.decision.plans import check_embeddable, embed, find_plan
from engine.detection.options import IOU
from engine.validation.coco_metrics import Boxes
from inspection import tiles
from inspection.evidence import Evidence, gather
from inspection.groups import groups_of
from inspection.identity import identify
from inspection.plan import ClassRule, Plan, Promise, Tiling
from inspection.plan_file import load_plan, plan_content, rules_digest, save_plan
from inspection.promise import check_counts, choose, percent
from inspection.rates import Outcomes, confusion, curve, histogram, judge, rates
from inspection.rule_checks import check_rules, smallest_labels
from inspection.rules import Code

PLAN_FILE = "decision.yaml"


@dataclass(frozen=True)
class Deployed:
    """The weights that will decide, and how they are run.

    `path`, `names` by index, `device`, `imgsz`, `precision`; `chosen`: whether validation may have chosen the best epoch, as it does unless
    the training ran with `--val False`.
    """

    path: Path
    names: dict[int, str]
    device: torch.device
    imgsz: int
    precision: str
    chosen: bool = True


class Judge:
    """Judges one set by one plan. The constructor reports errors in the plan and the groups.

    Args:
        options: of `val.py`.
        deployed: the weights.
        data: the data YAML.
        split: the part of it.

    Attributes:
        plan: after `report` the one that was judged by; with it `evidence` and `words`, the set and the sentences about it.

    Raises:
        UserError: plan, groups or options are wrong.
    """

    def __init__(self, options: DecisionOptions, deployed: Deployed, data: Path, split: str) -> None:
        self.options, self.deployed, self.data, self.split = options, deployed, data, split
        self.groups = options.read_groups(data)
        if options.decide:
            empty = Plan(tuple(deployed.names.values()), (ClassRule(),) * len(deployed.names))
            self.plan: Plan | None = load_plan(options.decision, deployed.names) if options.decision else empty
            if options.embed:
                check_embeddable(deployed.path)
        else:
            self.plan = find_plan(deployed.path, options.decision, deployed.names)

    @property
    def needed(self) -> bool:
        """Whether there is anything to judge by."""
        return self.plan is not None

    def foresee(self, with_boxes: int, without: int) -> None:
        """Refuse a promise that so many images cannot show, before the model looks at them.

        Units are at most as many as images (`--group-by`), and a plan's rules may make OK images of NG ones.

        Raises:
            UserError: too few images.
        """
        plain = not (self.options.decision or self.options.group_by)
        if self.options.decide:
            check_counts(with_boxes, without if plain else None, self.options.wish, "images")

    def report(self, files: Sequence[str], truths: Sequence[Boxes], save_dir: Path, plots: bool = True,
               tiling: tiles.Tiling | None = None) -> dict[str, Any]:  # fmt: skip
        """Choose thresholds if asked to, judge, write the run folder's files; return the figures in plain types.

        Args:
            files, truths: the images and their labels in original pixels.
            tiling: tiles in which a validation looked at them, for thresholds to be chosen alike; a plan keeps its own.
            save_dir: where `decision.yaml`, lists and images go.

        Raises:
            UserError: too few images, or a rule that makes escapes; nothing is written then.
        """
        plan = self.plan
        assert plan, "a judge that is not `needed` reports nothing"
        if tiling and self.options.decide:
            plan = replace(plan, tiling=Tiling(tiling.side, tiling.overlap))
        evidence = self._gather(plan, files, truths)
        plan = self._choose(plan, evidence) if self.options.decide else plan
        outcomes, confidence = judge(plan, evidence), self.options.wish.confidence
        figures = rates(plan, evidence, outcomes, confidence)
        if self.options.decide:
            plan = self._sign(plan, evidence, figures)
            save_plan(save_dir / PLAN_FILE, plan)
            if self.options.embed:
                embed(self.deployed.path, plan)
        lists = {kind: _units(evidence, outcomes, kind) for kind in ("escapes", "overkills")}
        for kind, units in lists.items():
            _write_list(save_dir / f"{kind}.csv", evidence, outcomes, units)
        result = {"plan": plan_content(plan), "rates": figures, "curve": curve(plan, evidence, confidence),
                  "histogram": histogram(plan, evidence), "confusion": confusion(plan, evidence.images).tolist(),
                  **{kind: [evidence.names[unit] for unit in units] for kind, units in lists.items()},
                  "words": [*self._words(plan, figures, evidence), *smallest_labels(plan, evidence)]}  # fmt: skip
        self.plan, self.evidence, self.words = plan, evidence, result["words"]
        if plots:
            self._draw(save_dir, plan, evidence, outcomes, result, lists)
        return result

    def _gather(self, plan: Plan, files: Sequence[str], truths: Sequence[Boxes]) -> Evidence:
        column = self.options.group_by
        groups = groups_of(files, self.groups[0], column, self.groups[1]) if self.groups and column else [""] * len(files)
        own, run = None if self.options.decide else plan.model, self.deployed  # a new plan is signed with the run's own settings
        iou = IOU if own is None or own.iou is None else own.iou
        imgsz = run.imgsz if own is None or own.imgsz is None else own.imgsz
        planned = plan.tiling
        tiling = tiles.Tiling(planned.size, planned.overlap) if planned else None
        images = find_images(run.path, files, truths, groups, run.device, imgsz, run.precision, iou, tiling)
        check_regions(plan, images)
        return gather(plan, images, column or "image")

    def _choose(self, plan: Plan, evidence: Evidence) -> Plan:
        """The plan with thresholds; its rules make no escape. Raises `UserError`."""
        own = plan.promise
        if own and own.fingerprint == evidence.fingerprint() and len(set(plan.thresholds[plan.counting])) > 1:
            raise UserError("--decision: expected offsets between classes that were chosen on other images, got those of these very images; "
                            "start from a plan of another split, or without thresholds")  # fmt: skip
        plan, self.allowed = choose(plan, evidence, self.options.wish)
        check_rules(plan, evidence)
        return plan

    def _sign(self, plan: Plan, evidence: Evidence, figures: dict[str, Any]) -> Plan:
        """The plan with the file that it is for, and its promise."""
        wish, overkill = self.options.wish, figures["overkill"]
        run = self.deployed
        promise = Promise(
            wish.max_escape, wish.confidence, wish.method, evidence.unit, figures["escape"]["of"], overkill["of"],
            figures["escape"]["count"], self.allowed, overkill["count"], figures["review_ok"]["count"],
            tuple(overkill["interval"] or (0.0, 1.0)), wish.max_overkill, self.data.name, self.split, evidence.fingerprint(),
            date.today().isoformat(), rules_digest(plan),
        )  # fmt: skip
        return replace(plan, model=identify(run.path, imgsz=run.imgsz, iou=IOU, precision=run.precision), promise=promise)

    def _words(self, plan: Plan, figures: dict[str, Any], evidence: Evidence) -> list[str]:
        """What is promised and what it rests on, in sentences to be signed; without `--decide`, what was seen."""
        units, ok = evidence.plural, figures["overkill"]
        seen = f"{figures['escape']['count']} of {figures['escape']['of']} NG {units} passed as OK"
        over = "there were no OK ones"
        if ok["of"]:
            low, high = (percent(x) for x in ok["interval"])
            over = (f"{ok['count']} of {ok['of']} OK ones were rejected (overkill {percent(ok['rate'])}, {figures['confidence']:.0%} interval "
                    f"{low} to {high})")  # fmt: skip
        left = figures["review_ng"]["count"] + figures["review_ok"]["count"]
        place = figures["flagged_at_the_right_place"]["count"]
        tail = f"{left} were left to a person; {figures['flagged']['count']} NG were flagged, {place} of them at the right place"
        if not self.options.decide:
            return [f"Seen under the plan: {seen}; {over}; {tail}."]
        assert plan.model, "of the plan that was signed (_sign)"
        wish, run = self.options.wish, self.deployed
        each = " of each class" if wish.method != "joint" else ""
        beta = f", and at most {percent(wish.max_overkill)} of the OK ones are rejected" if wish.max_overkill is not None else ""
        promise = (f"Promise: with {percent(wish.confidence)} confidence (delta {wish.doubt:.4g}), at most {percent(wish.max_escape)} (alpha) of NG "
                   f"{units}{each} pass as OK with {run.path.name} ({plan.model.kind}){beta}: {seen} ({self.allowed} allowed); {over}; "
                   f"{tail}.")  # fmt: skip
        basis = (f"It rests on: {units} that are independent of each other (several of one part or lot: --group-by), a mix of defects as in "
                 f"production, and images that neither trained nor chose the weights (split '{self.split}' of {self.data.name}).")  # fmt: skip
        return [promise, basis, *self._doubts()]

    def _doubts(self) -> list[str]:
        """Why the images may not be what the promise rests on."""
        if self.split == "train":
            return ["WARNING: split 'train' trains weights: on images that they know, escapes are rarer than they will be; nothing is promised "
                    "for others. Use --split test."]  # fmt: skip
        if self.split == "val" and self.deployed.chosen:
            return ["WARNING: a training chooses its best epoch on split 'val'; if it was these weights' own, the promise is too optimistic. "
                    "Use --split test, or images kept for this alone."]  # fmt: skip
        return []

    def _draw(self, folder: Path, plan: Plan, evidence: Evidence, outcomes: Outcomes, result: dict[str, Any], lists: dict[str, list[int]]) -> None:
        draw_histogram(folder / "decision_scores.png", result["histogram"], plan)
        draw_curve(folder / "decision_curve.png", result["curve"], plan)
        draw_confusion(folder / "decision_confusion.png", np.array(result["confusion"]), plan)
        for kind, units in lists.items():
            (folder / f"{kind}.jpg").unlink(missing_ok=True)
            shown = [i for unit in units for i in range(len(evidence.of)) if evidence.of[i] == unit] if units else []
            if shown:
                images = [evidence.images[i] for i in shown]
                draw_sheet(folder / f"{kind}.jpg", images, [outcomes.verdicts[i] for i in shown])


def _units(evidence: Evidence, outcomes: Outcomes, kind: str) -> list[int]:
    """The units that escape or are overkill, the worst first: escapes of the lowest score, overkills of the highest."""
    chosen = evidence.ng & (outcomes.codes == Code.OK) if kind == "escapes" else ~evidence.ng & (outcomes.codes == Code.NG)
    scores = evidence.scores.max(1) * (1 if kind == "escapes" else -1)
    return sorted((i for i, there in enumerate(chosen) if there), key=lambda unit: scores[unit])


def _write_list(path: Path, evidence: Evidence, outcomes: Outcomes, units: list[int]) -> None:
    """One row for each image of the units: unit, image, verdict, rule, score, classes that are labelled."""
    try:
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            rows = csv.writer(file)
            rows.writerow(["unit", "image", "verdict", "rule", "score", "labels", "boxes"])
            for unit in units:
                for image, of, verdict in zip(evidence.images, evidence.of, outcomes.verdicts, strict=True):
                    if of == unit:
                        labels = " ".join(map(str, image.labels.classes))
                        rows.writerow([evidence.names[unit], image.name, verdict.code.name, verdict.rule, f"{verdict.score:.5f}", labels,
                                       len(image.found.scores)])  # fmt: skip
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --save-dir") from None
