#!/usr/bin/env python
# PYTHON_ARGCOMPLETE_OK
"""Validate weights on a data set: accuracy (COCO definitions), size and speed; table, plots and JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from cfg import UserError, guard
from cfg.class_names import shown
from cfg.command_line import read_arguments
from engine.arguments import add_precision, add_tiling, count, fraction
from engine.completion import complete_at_tab
from engine.locate import locate_weights


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--weights", help=".pt, .onnx, .torchscript or an OpenVINO folder")
    which.add_argument("--compare", nargs=2, metavar=("A", "B"), help="compare two weights, or two files of --detections, on the same "
                       "images; verdicts too where both hold a plan, or with --decision")  # fmt: skip
    parser.add_argument("--data", required=True, help="data YAML: a path or a name in cfg/data")
    parser.add_argument("--imgsz", type=count, help="input size in pixels (default: as trained or exported)")
    parser.add_argument("--batch", type=count, default=16, help="images per batch (default: 16; exported models: as exported)")
    parser.add_argument("--device", help="cpu or a GPU number (default: first GPU, else cpu)")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"), help="part of the data set (default: val)")
    parser.add_argument("--conf", type=fraction, default=0.001, help="confidence threshold; AP needs a low one (default: 0.001)")
    parser.add_argument("--iou", type=fraction, default=0.7, help="IoU threshold of NMS (default: 0.7)")
    parser.add_argument("--border", action="store_true", help="leave a grey border of half a stride around every image, "
                        "as ultralytics' own validation does (default: none, as in detect.py)")  # fmt: skip
    parser.add_argument("--map-classes", action="store_true", help="pair the model's classes with the data's by name "
                        "(default: another order is refused)")  # fmt: skip
    add_precision(parser)
    add_tiling(parser)
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON; with - as the only output on stdout")
    parser.add_argument("--detections", metavar="FILE", help="write labels and detections of every image as .npz")
    parser.add_argument("--report", action="store_true", help="write report.html: one page with charts and images, works "
                        "offline")  # fmt: skip
    parser.add_argument("--eval-teacher", action="store_true", help="score the run's dynamic teacher too (SDD, LGD)")
    _add_decisions(parser)
    parser.add_argument("--plots", action=argparse.BooleanOptionalAction, default=True, help="draw curves (default: yes)")
    parser.add_argument("--project", default="runs/val", help="folder of the run folders (default: runs/val)")
    parser.add_argument("--name", default="exp", help="run folder; numbered when it exists (default: exp)")
    parser.add_argument("--save-dir", help="exact run folder, instead of project/name")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    complete_at_tab(parser)
    return read_arguments(parser, argv)


def _add_decisions(parser: argparse.ArgumentParser) -> None:
    """Add the arguments about OK and NG."""
    add = parser.add_argument_group("decisions: OK, NG or REVIEW for every image").add_argument
    add("--decide", action="store_true", help="choose thresholds that keep --max-escape, for exactly this file; writes decision.yaml")
    add("--max-escape", type=fraction, help="largest share of NG images that may pass as OK")
    add("--confidence", type=fraction, default=0.95, help="confidence of the guaranteed rates and of intervals (default: 0.95)")
    add("--max-overkill", type=fraction, help="largest share of OK images that may be rejected; scores between the two thresholds go to REVIEW")
    add("--per-class", action="store_true", help="a threshold for each class, each with the guaranteed rate (default: one for all)")
    add("--decision", metavar="FILE", help="decision plan (default: the one inside the weights); with --decide, the one to start from")
    add("--group-by", metavar="COLUMN", help="count parts or lots, not images: a column of --groups")
    add("--groups", metavar="FILE", help="CSV with the columns image and COLUMN (default: groups.csv beside the data YAML)")
    add("--margin", type=fraction, default=0.01, help="with --compare: largest loss of mAP that counts as equal (default: 0.01, a point)")
    add("--embed", action="store_true", help="put the plan into the weights too (.pt, .onnx, OpenVINO)")


def main() -> int:
    """Run the command line; return the exit status, 1 when images were left out as damaged."""
    args = parse()
    save_dir = run_folder(args)
    new, stdout = not save_dir.exists(), os.dup(1)
    try:
        if args.json == "-":
            os.dup2(2, 1)  # the libraries' progress goes to stderr, so that stdout is nothing but JSON
        result = _compare(args, save_dir) if args.compare else validate(args, save_dir)
    except UserError:
        if new and save_dir.is_dir() and [path.name for path in save_dir.iterdir()] == ["data.yaml"]:
            shutil.rmtree(save_dir)  # nothing came of this run
        raise
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
    status = 1 if result["settings"]["images_dropped"] else 0
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    if args.json == "-":
        print(text)
        return status
    if args.json:
        try:
            Path(args.json).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json {args.json}: cannot be written ({error.strerror}); choose another file") from None
    print("\n".join(result["words"]) if args.compare else table(result))
    return status


def _compare(args: argparse.Namespace, save_dir: Path) -> dict[str, Any]:
    if args.decide or args.embed:
        raise UserError("--compare: expected without --decide and --embed; choose thresholds for each model first")
    for given in args.compare:
        if Path(given).suffix != ".npz":
            locate_weights(given, "--compare")
        elif not Path(given).is_file():
            raise UserError(f"--compare {given}: expected a file that val.py --detections wrote, but nothing is there; check the path")
    from data import data_yaml
    from engine.decision.comparing import compare, read_side
    from engine.decision.options import DecisionOptions

    groups = DecisionOptions(group_by=args.group_by, groups=args.groups).read_groups(data_yaml(args.data))

    dropped = []

    def boxes_of(weights: str, folder: Path) -> Path:
        part = argparse.Namespace(**vars(args) | {"weights": weights, "plots": False, "decision": None})
        part.detections = str(folder / "boxes.npz")
        dropped.append(validate(part, folder, decide=False)["settings"]["images_dropped"])
        return Path(part.detections)

    a, b = (read_side(given, args.decision, partial(boxes_of, folder=save_dir / name)) for given, name in zip(args.compare, "ab", strict=True))
    return compare(a, b, args.margin, groups, args.group_by) | {"settings": {"images_dropped": max(dropped, default=0)}}


def validate(args: argparse.Namespace, save_dir: Path, decide: bool = True) -> dict[str, Any]:
    """Validate as the arguments say; return `engine.validation.evaluate.evaluate`'s result. Raises `UserError`.

    Args:
        decide: judge the images too, where there is a decision plan or one is to be made.
    """
    locate_weights(args.weights)  # before the imports that take seconds
    from engine.decision.options import decision_options

    names = ("decide", "max_escape", "confidence", "max_overkill", "per_class", "decision", "group_by", "groups", "embed")
    decision = decision_options(**{name: getattr(args, name) for name in names}) if decide else None
    from engine.validation.evaluate import evaluate  # heavy: not for --help

    options: tuple[str, ...] = ("weights", "data", "imgsz", "batch", "device", "split", "conf", "iou", "plots", "precision", "detections")
    options += ("eval_teacher", "border", "map_classes", "tile", "overlap", "report")
    return evaluate(**{name: getattr(args, name) for name in options}, save_dir=save_dir, decision=decision)


def run_folder(args: argparse.Namespace) -> Path:
    """The folder of the run: `save_dir`, else a new one in `project`."""
    return Path(args.save_dir).resolve() if args.save_dir else fresh_folder(Path(args.project).resolve(), args.name)


def fresh_folder(project: Path, name: str) -> Path:
    """Return project/name, or the first of name-2, name-3 ... that does not exist, as the other commands number theirs."""
    number, folder = 1, project / name
    while folder.exists():
        number += 1
        folder = project / f"{name}-{number}"
    return folder


def table(result: dict[str, Any]) -> str:
    """Format the result of `engine.validation.evaluate.evaluate` for people."""

    def cell(value: float | None) -> str:
        return f"{'-':>10}" if value is None else f"{value:>10.4f}"

    metrics, model, speed, settings = (result[key] for key in ("metrics", "model", "speed", "settings"))
    width = max(8, *(len(shown(row["name"])) for row in result["per_class"]))
    columns = ("precision", "recall", "F1", "AP50", "AP50-95", "AP75", "AR100")
    lines = [f"{'class':<{width}}{'boxes':>8}" + "".join(f"{column:>10}" for column in columns)]
    overall = metrics | {"AP50": metrics["mAP50"], "AP50-95": metrics["mAP50-95"]}
    rows = [{"name": "all", "boxes": sum(row["boxes"] for row in result["per_class"])} | overall, *result["per_class"]]
    lines += [f"{shown(row['name']):<{width}}{row['boxes']:>8}" + "".join(cell(row[c]) for c in columns) for row in rows]
    more = ("AR1", "AR10", "AR100", "AR_max", "AP_small", "AP_medium", "AP_large")
    lines += ["", "  ".join(f"{name} {cell(metrics[name]).strip()}" for name in more)]
    lines += limits(result["limits"])
    lines += [f"precision, recall and F1 at confidence {metrics['best_conf']:.3f}, where F1 is largest"]
    counted = ""
    if model["parameters"] is not None:
        counted = f", {model['parameters']:,} parameters, {model['layers']} layers, "
        counted += f"{model['gflops']:.1f} GFLOPs at {model['imgsz']}"
    lines += [f"model: {model['format']}, {model['size_mb']:.1f} MB{counted}"]
    lines += [
        f"speed at batch 1, {'x'.join(map(str, speed['imgsz']))}, {settings['device']}: {speed['fps']:.1f} FPS "
        f"(inference {speed['inference_ms']:.1f} ms + NMS {speed['postprocess_ms']:.1f} ms; "
        f"letterbox {speed['preprocess_ms']:.1f} ms before)"
    ]
    if "tiling" in result:
        cut = result["tiling"]
        lines += [
            f"in {cut['tiles']} tiles of {cut['tile']} px, overlap {cut['overlap']:g}: {cut['ms_per_image']:.1f} ms for an image "
            f"from pixels to boxes; {cut['cut_objects']} objects are whole in no tile"
        ]
    if settings["classes"] == "mapped":
        lines += ["the model's classes were paired with the data's by name"]
    if "dynamic_teacher" in result:
        told = result["dynamic_teacher"]["metrics"]
        names = ("mAP50", "mAP50-95", "AP75", "AR1", "AR10")
        scores = "  ".join(f"{name} {cell(told[name]).strip()}" for name in names)
        lines += [f"dynamic teacher, which is given the labels: {scores}"]
    if "decision" in result:
        lines += ["", *result["decision"]["words"]]
    if "report" in settings:
        lines += [f"report: {settings['report']}"]
    lines += [f"{settings['images']} images of split '{settings['split']}'; results in {settings['save_dir']}"]
    return "\n".join(lines)


def limits(counted: dict[str, int]) -> list[str]:
    """Lines that say how many detections counted, and which figures that capped."""
    usual, boxes = counted["coco"], counted["boxes_per_class"]
    lines = [f"counted: up to {counted['per_class']} detections of a class in an image, {counted['per_image']} in all"]
    if boxes > usual:
        lines[0] += f" (COCO's {usual} is too few: an image has {boxes} boxes of a class)"
        lines += [f"CAPPED: AR1, AR10 and AR100 stop at 1, 10 and {usual} detections; AR_max does not"]
    if counted["short_images"]:
        lines += [
            f"CAPPED: {counted['short_images']} images have more boxes (up to {counted['boxes_per_image']}) than the "
            f"{counted['per_image']} that can be found there: recall and AP cannot reach 1"
        ]
    return lines


if __name__ == "__main__":
    sys.exit(guard(main))
