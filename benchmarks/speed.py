"""Speed on this machine: models in runtimes, training steps, and how time grows with size.

    python benchmarks/speed.py inference --models yolov5su.yaml,s-model.yaml --runtimes onnx,openvino --threads 2
    python benchmarks/speed.py training --models s-model.yaml --teacher t-model.yaml --distill attention
    python benchmarks/speed.py scaling --models s-model.yaml

inference: models in runtimes, at precisions and batch sizes, each divided by the first model. training: a student's
step, the teacher's forward pass and the distilled step, beside ultralytics' own with and without distill_model.
scaling: cost against image size, objects per image, batch and classes. Everything is measured in turn, A B C A B C
..., so that other programs disturb all of them equally. results.md and results.json go to the folder of --out;
Ctrl-C ends the measuring, and they have the rounds until then.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: Python looks beside it, not in the repository
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cfg import UserError, guard
from cfg.command_line import read_arguments
from engine.arguments import fraction

COMMANDS = ("inference", "training", "scaling")
MODELS = {
    "inference": "yolov5su.yaml,t-model.yaml,s-model.yaml,s-model-fast.yaml,fault-mlp.yaml,hsd-resnet18.yaml,"
                 "yolo11n.yaml,yolo11s.yaml,yolo26n.yaml,yolo26s.yaml",
    "training": "s-model.yaml",
    "scaling": "s-model.yaml,yolo11s.yaml",
}  # fmt: skip
QUICK_MODELS = {"inference": "yolov5su.yaml,s-model.yaml", "training": "s-model.yaml", "scaling": "s-model.yaml"}
ROUNDS, QUICK_ROUNDS = {"inference": 20, "training": 5, "scaling": 3}, {"inference": 3, "training": 2, "scaling": 1}
BATCH = {"inference": "1", "training": "8", "scaling": "2"}
QUICK_BATCH = {"inference": "1", "training": "2", "scaling": "1"}
IMGSZ, QUICK_IMGSZ = 640, 128
OBJECTS, CLASSES = 10, 6  # about those of NEU-DET


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; what is not given stays None and is filled in by `complete`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("command", nargs="?", default="inference", choices=COMMANDS, help="default: inference")
    usual = "; ".join(f"{name}: {models}" for name, models in MODELS.items())
    parser.add_argument("--models", help="YAMLs (random weights) or weights (.pt), commas between; training: the "
                        f"students (default: {usual})")  # fmt: skip
    parser.add_argument("--reference", help="inference: the model the others are divided by (default: the first)")
    parser.add_argument("--imgsz", type=int, help="side of the images in pixels (default: 640)")
    parser.add_argument("--batch", help="images at a time; inference: also several, as 1,8 (default: 1; 8; 2)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: OMP_NUM_THREADS, else all cores)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or the number of a GPU")
    parser.add_argument("--runtimes", default="torch,onnx,openvino", help="inference: some of torch, compile, onnx, "
                        "openvino, tensorrt (default: torch,onnx,openvino)")  # fmt: skip
    parser.add_argument("--precisions", default="fp32", help="some of fp32, bf16, fp16, int8 (default: fp32)")
    parser.add_argument("--data", help="data YAML: its images calibrate INT8, and its classes are those of the models")
    parser.add_argument("--rounds", type=int, help="turns of everything (default: 20; 5; 3)")
    parser.add_argument("--passes", type=int, default=3, help="inference: timed passes per turn (default: 3)")
    parser.add_argument("--alive", type=int, default=12, help="inference: processes at a time, of about 0.8 GiB each, but "
                        "never fewer than two models have (default: 12)")  # fmt: skip
    parser.add_argument("--classes", type=int, default=CLASSES, help=f"of models from a YAML (default: {CLASSES})")
    parser.add_argument("--objects", type=int, default=OBJECTS, help=f"per image; training, scaling (default: {OBJECTS})")
    parser.add_argument("--teacher", default="t-model.yaml", help="training: YAML or weights (default: t-model.yaml)")
    parser.add_argument("--distill", default="attention", help="training: method, as train.py's (default: attention)")
    parser.add_argument("--stock", default="yolo11n.yaml", help="training: ultralytics' student (yolo11n.yaml)")
    parser.add_argument("--stock-teacher", default="yolo11s.yaml", help="training: its distill_model (yolo11s.yaml)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="training: cpu counts processor time, for "
                        "a machine that others use too (default: wall)")  # fmt: skip
    parser.add_argument("--progress", type=fraction, default=0.5, help="training: fraction of training the steps are taken "
                        "from, where a method changes with it (default: 0.5)")  # fmt: skip
    parser.add_argument("--axes", default="imgsz,objects,batch,classes", help="scaling: what to vary (default: all)")
    parser.add_argument("--out", default="runs/speed/exp", help="folder of the results (default: runs/speed/exp)")
    parser.add_argument("--quick", action="store_true", help="a look in minutes: small images, few rounds and models")
    return read_arguments(parser, argv)


def complete(args: argparse.Namespace, threads: str | None) -> argparse.Namespace:
    """Fill in defaults and check every value.

    Args:
        threads: OMP_NUM_THREADS as the person set it, None when not set.

    Raises:
        UserError: a value out of its range or a model, data set or device that is not there.
    """
    from models.environment import available_cpus

    name, quick = args.command, args.quick
    args.models = listed(args.models or (QUICK_MODELS if quick else MODELS)[name], "models")
    args.rounds = args.rounds if args.rounds is not None else (QUICK_ROUNDS if quick else ROUNDS)[name]
    args.imgsz = args.imgsz if args.imgsz is not None else QUICK_IMGSZ if quick else IMGSZ
    usual = int(threads) if (threads or "").isdigit() else available_cpus()
    args.threads = args.threads if args.threads is not None else usual
    batch = args.batch or (QUICK_BATCH if quick else BATCH)[name]
    args.batch = [number(part, "batch") for part in listed(batch, "batch")]
    for flag in ("rounds", "imgsz", "threads", "passes", "alive", "classes", "objects"):
        number(getattr(args, flag), flag)
    if name != "inference" and len(args.batch) > 1:
        raise UserError(f"--batch {','.join(map(str, args.batch))}: {name} takes one number; run it once for each")
    check_names(args)
    return args


def listed(text: str, flag: str) -> list[str]:
    """The parts of a list with commas, each once. Raises `UserError` when there is none."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise UserError(f"--{flag}: expected at least one, got '{text}'; leave it out for the default")
    return parts


def number(value: Any, flag: str) -> int:
    """A whole number above 0. Raises `UserError` for anything else."""
    text = str(value)
    if not text.isdecimal() or not int(text):
        raise UserError(f"--{flag} {value}: expected a whole number above 0")
    return int(text)


def check_names(args: argparse.Namespace) -> None:
    """Find every model, the data set and the device; put the device's and the classes' names in their place."""
    import torch

    from benchmarks.timing.cells import PRECISIONS, RUNTIMES, chosen
    from benchmarks.timing.scaling_run import AXES
    from data import resolve

    args.runtimes = chosen(args.runtimes, RUNTIMES, "runtimes")
    args.precisions = chosen(args.precisions, PRECISIONS, "precisions")
    args.axes = chosen(args.axes, tuple(AXES), "axes")
    extra = [args.teacher, args.stock, args.stock_teacher] if args.command == "training" else []
    for model in [*args.models, *extra]:
        check_model(model)
    args.reference = args.reference or args.models[0]
    if args.reference not in args.models:
        raise UserError(f"--reference {args.reference}: expected one of --models {','.join(args.models)}; add it there")
    gpus = torch.cuda.device_count()
    if args.device != "cpu" and not (args.device.isdecimal() and int(args.device) < gpus):
        raise UserError(f"--device {args.device}: expected cpu or the number of a GPU, of which {gpus} are here")
    args.device = "cpu" if args.device == "cpu" else f"cuda:{int(args.device)}"
    names = resolve(args.data)["names"] if args.data else {i: f"class {i}" for i in range(args.classes)}
    args.names = list(names.values())


def check_model(name: str) -> None:
    """Raise `UserError` when there is no such YAML or file of weights."""
    from cfg import find
    from cfg.find import ROOT
    from engine.detectors import stock_yaml

    if Path(name).suffix not in (".pt", ".yaml", ".yml", ""):
        raise UserError(f"--models {name}: expected a model YAML or a .pt file, which is exported for each of --runtimes")
    if Path(name).suffix == ".pt":
        if not Path(name).is_file():
            raise UserError(f"{name}: weights file not found; give the path of a .pt file, or a model YAML")
    elif stock_yaml(name) is None and name not in [path.name for path in (ROOT / "teachers").glob("*.yaml")]:
        find("models", name)


def main() -> int:
    """Run the command line; return 0, 1 when nothing at all could be measured, or 130 when it was interrupted."""
    threads = os.environ.get("OMP_NUM_THREADS")  # as the person set it: our packages set a default
    args = complete(parse(), threads)
    from benchmarks.timing.report import facts, markdown, write
    from benchmarks.timing.session import Settings

    out = Path(args.out).resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror}); choose another folder") from None
    kept = ("imgsz", "passes", "reference", "objects", "rounds", "device")
    chosen = {name: getattr(args, name) for name in kept}
    chosen |= {"classes": len(args.names), "batch": args.batch if args.command == "inference" else args.batch[0]}
    about = facts(shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]]), args.command, args.threads, **chosen)
    settings = Settings(args.device, args.threads, args.rounds, args.imgsz, args.names, args.data, out, args.clock)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the workers too, as Ctrl-C does
    result = about | {"reference": args.reference} | measure(args, settings)
    files = write(out, args.command, result)
    print(markdown(args.command, result))
    print(f"results in {args.out}: {', '.join(files)}")
    if result["interrupted"]:
        return 130  # as `guard` has it
    return int(not any("samples_ms" in row or row.get("values") for row in result["rows"]))


def measure(args: argparse.Namespace, settings: Any) -> dict[str, Any]:
    """Run the subcommand."""
    if args.command == "inference":
        from benchmarks.timing.cells import grid
        from benchmarks.timing.inference_run import run

        cells = grid(args.models, args.runtimes, args.precisions, args.batch)
        return run(cells, args.reference, settings, args.alive, args.passes, tell)
    if args.command == "training":
        from benchmarks.harness.plan import uses_teacher
        from benchmarks.timing import training_run

        pairs = training_run.Pairs(
            args.models, args.teacher if uses_teacher(args.distill) else None, args.distill, args.stock, args.stock_teacher,
            args.batch[0], args.objects, args.progress,
        )  # fmt: skip
        return training_run.run(pairs, args.precisions, settings, tell)
    from benchmarks.timing import scaling_run

    values = scaling_run.QUICK if args.quick else scaling_run.AXES
    axes = {axis: values[axis] for axis in args.axes}
    return scaling_run.run(args.models, axes, args.batch[0], args.objects, settings, tell)


def tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(guard(main))
