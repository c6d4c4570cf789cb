"""Start a run: check everything that can be checked, build the networks, train in one process or several."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from ultralytics.utils import DEFAULT_CFG_DICT, RANK
from ultralytics.utils.torch_utils import init_seeds, parse_device

from cfg import UserError
from data import resolve, validate
from data.unlabelled import find_unlabelled
from engine.checkpoint import RUN, install, load_detector, read
from engine.precision import training_precision
from engine.profile import profile
from engine.settings import RESUMABLE, check, complete
from engine.training.build import build_detector, build_networks
from engine.training.label_free import LabelFreeTrainer
from engine.training.report import read_results
from engine.training.trainer import Trainer
from models.environment import RANKS, available_cpus

ROOT = Path(__file__).resolve().parents[2]
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def train(given: dict[str, Any], command: list[str] | None = None) -> Path | None:
    """Train as the arguments say; return the run folder, or None where another process does so. Images that were left out
    are named there, in `engine.dataset.LEFT_OUT`.

    Args:
        given: arguments by name, as on the command line (`engine.settings`).
        command: the command line behind them, needed to start one process per GPU.

    Raises:
        UserError: anything wrong with arguments, data, model, teacher or checkpoint, before a run folder is made; or a
            loss that is not finite, or a full disk, which leave what the run had written.
    """
    install()
    checkpoint = student = None
    if given.get("resume"):
        settings, checkpoint, student = resumed(given)
    else:
        settings = complete(given)
    check_devices(settings)
    if needs_processes(settings):
        return start_processes(settings, command or [f"--{name}={value}" for name, value in given.items()])
    on_cpu = runs_on_cpu(settings) and "mps" not in devices_of(settings)
    settings["amp"] = training_precision(settings.get("amp", DEFAULT_CFG_DICT["amp"]), on_cpu)
    names = check_data(settings)
    join_processes(settings)
    init_seeds(settings.get("seed") or 0)
    networks = build_networks(settings, len(names), names, student)
    folder = run_folder(settings)
    existed = folder.exists()
    try:
        trainer = make_trainer(settings | {"save_dir": str(folder)}, networks, checkpoint)
        trainer.train()
    except OSError as error:
        discard(folder, existed)
        raise UserError(told(error, folder)) from error
    except UserError:
        discard(folder, existed)
        raise
    finish_processes(trainer)
    return Path(trainer.save_dir) if RANK in {-1, 0} else None


def told(error: OSError, folder: Path) -> str:
    """What the system refused, on which file (else the run folder), and what helps."""
    advice = "remove that cause, and start again or --resume"
    if error.errno in NO_ROOM:
        advice = "free space, or choose another --project"
    elif error.errno in NO_ACCESS:
        advice = "make it a writable folder, or choose another --project"
    return f"{error.filename or folder}: cannot be read or written ({error.strerror or error}); {advice}"


def make_trainer(settings: dict[str, Any], networks: Any, checkpoint: dict[str, Any] | None) -> Trainer:
    """The trainer, with what ultralytics says of the data set as `UserError`."""
    try:
        trainer = LabelFreeTrainer if settings.get("unlabelled") else Trainer
        return trainer(settings, networks, checkpoint)
    except RuntimeError as error:
        if "Dataset" not in str(error):
            raise
        raise UserError(" ".join(str(error).split())) from error


def check_data(settings: dict[str, Any]) -> dict[int, str]:
    """Class names of the run's data set, after a look at all its labels."""
    if settings.get("unlabelled"):
        return check_unlabelled(settings)
    summary = validate(settings["data"])
    content = resolve(settings["data"], require=("train", settings.get("split") or "val"))
    if content.get("channels", 3) != 3:
        raise UserError(
            f"{settings['data']}: expected images of 3 channels, got channels: {content['channels']}; "
            "leave it out"
        )
    return {0: "item"} if settings.get("single_cls") else summary.names


def check_unlabelled(settings: dict[str, Any]) -> dict[int, str]:
    """Class names of a student that learns from pictures alone, after a look for these: those of `data` where it is given.

    Its head is not trained, and a start from it leaves the head out: one class stands for all where none are known.
    """
    if not settings.get("resume"):  # a resumed run has lists of its own
        find_unlabelled(settings["unlabelled"])
    return resolve(settings["data"], require=())["names"] if settings.get("data") else {0: "item"}


def run_folder(settings: dict[str, Any]) -> Path:
    """Where the run writes: `save_dir` where it is settled, else the first free of exp, exp2, ... below `project`."""
    from ultralytics.cfg import get_save_dir

    return get_save_dir(SimpleNamespace(**(DEFAULT_CFG_DICT | {"save_dir": None} | settings)))


def discard(folder: Path, existed: bool) -> None:
    """Remove the folder of a run that failed with nothing to keep: no checkpoint, no more than one epoch's results."""
    csv = folder / "results.csv"
    kept = (folder / "weights/last.pt").exists() or csv.exists() and len(read_results(csv)[1]) > 1
    if not existed and not kept and int(os.environ.get("RANK", 0)) == 0:
        shutil.rmtree(folder, ignore_errors=True)


def resumed(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], nn.Module]:
    """Arguments (with what may change from the command line), content and student of the last.pt `resume` names."""
    path = Path(given["resume"]) if isinstance(given["resume"], str) else latest_run(given)
    student, content = load_detector(path)
    if content.get("format") != RUN:
        raise UserError(
            f"{path}: expected the last.pt of an interrupted run, got a finished or other checkpoint; "
            "start a new run"
        )
    found_by = ("resume", "project") if given["resume"] is True else ("resume",)
    fixed = [name for name in given if name not in (*RESUMABLE, *found_by, "data")]
    if fixed:
        raise UserError(
            f"resume: {', '.join(fixed)} cannot change in a resumed run; "
            "leave out, or start a new run with --weights"
        )
    folder = path.resolve().parent.parent
    data = folder / "data.yaml"  # the run's own copy, also after the folder was moved
    settings = content["meta"]["train_args"] | ({"data": str(data)} if data.is_file() else {})
    settings |= {k: v for k, v in given.items() if k not in found_by}
    settings |= {"resume": str(path.resolve()), "save_dir": str(folder), "exist_ok": True}
    check(settings)
    if content["run"]["epoch"] + 1 < settings["epochs"] and {"patience", "time"} & set(given):
        content["run"]["finished"] = False  # it stopped early by a limit that now is another
    return settings, content, student


def latest_run(given: dict[str, Any]) -> Path:
    """The newest last.pt below runs/train of a run that was interrupted; of one that is finished where none was."""
    folder = Path(given.get("project") or "runs/train")
    found = sorted(folder.glob("*/weights/last.pt"), key=lambda p: p.stat().st_mtime, reverse=True)
    if not found:
        raise UserError(f"--resume: no last.pt below {folder}; give its path: --resume runs/train/exp/weights/last.pt")
    return next((path for path in found if _interrupted(path)), found[0])


def _interrupted(last: Path) -> bool:
    try:
        content = read(last)
    except UserError:
        return False
    return isinstance(content, dict) and content.get("format") == RUN


# -- several processes -------------------------------------------------------------------------------------------------


def needs_processes(settings: dict[str, Any]) -> bool:
    """Whether several GPUs were named and this is not one of their processes yet."""
    return "," in str(settings.get("device") or "") and "LOCAL_RANK" not in os.environ


def devices_of(settings: dict[str, Any]) -> list[str]:
    """`--device` as a list: `["cpu"]`, `["0", "1"]`, empty when none is named."""
    device = settings.get("device")
    return [part for part in parse_device("" if device is None else device).split(",") if part]


def runs_on_cpu(settings: dict[str, Any]) -> bool:
    """Whether no GPU takes part: none was named, or there is none."""
    return devices_of(settings) in (["cpu"], ["mps"]) or not torch.cuda.device_count()


def check_devices(settings: dict[str, Any]) -> None:
    """Refuse GPUs that are not here, more processes than GPUs, and options that several processes cannot share."""
    present, wanted = torch.cuda.device_count(), devices_of(settings)
    absent = [d for d in wanted if d not in ("cpu", "mps") and not (d.isdigit() and int(d) < present)]
    if absent:
        here = f"{present} (0 to {present - 1})" if present else "none"
        raise UserError(
            f"--device {','.join(wanted)}: expected cpu or GPUs of this machine, which has {here}; "
            "say --device cpu"
        )
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), len(wanted) or present
    if here > 1 and not runs_on_cpu(settings) and here > gpus:
        raise UserError(
            f"--device {','.join(wanted) or 'all'}: expected a GPU for each of the {here} processes on this machine, "
            f"got {gpus}; start {gpus}: torchrun --nproc_per_node {gpus}"
        )
    processes = int(os.environ.get("WORLD_SIZE", len(wanted) or 1))
    if processes > 1:
        check_shared(settings, processes)


def check_shared(settings: dict[str, Any], processes: int) -> None:
    """Refuse options that several processes cannot share."""
    batch = settings.get("batch", DEFAULT_CFG_DICT["batch"])
    if batch < 1:
        raise UserError(
            "batch: expected a whole number with several processes; "
            "automatic batch sizes are for a single GPU"
        )
    if batch < processes:
        raise UserError(
            f"batch: expected an image or more for each of the {processes} processes, got {batch}; "
            f"say --batch {processes}"
        )
    if settings.get("rect"):
        raise UserError("rect: images cannot be sorted by shape with several processes; leave rect out")


def start_processes(settings: dict[str, Any], command: list[str]) -> Path:
    """Run the same command once per GPU with torch's launcher; they share the CPU cores. Returns their run folder."""
    folder = run_folder(settings)
    count = len(devices_of(settings))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    environment = dict(os.environ)
    if environment.get("OMP_NUM_THREADS") == str(available_cpus()):  # our own default, which is for one process
        environment["OMP_NUM_THREADS"] = str(max(available_cpus() // count, 1))
    command = [str(ROOT / "train.py"), *command, f"--save_dir={folder}"]
    if subprocess.run([*launcher, *command], env=environment, check=False).returncode:
        raise UserError(f"--device {settings['device']}: a training process failed; its message is above")
    return folder


def is_one_of_several() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def join_processes(settings: dict[str, Any]) -> None:
    """Under torchrun: join the process group, and agree on one run folder and arithmetic, and this machine's devices."""
    if not is_one_of_several():
        return
    on_cpu = runs_on_cpu(settings)
    if on_cpu:
        settings["device"] = "cpu"
    else:
        here = devices_of(settings) or [str(i) for i in range(int(os.environ["LOCAL_WORLD_SIZE"]))]
        settings["device"] = ",".join(here)
        # Before the first message: NCCL sends from the current device.
        torch.cuda.set_device(int(here[int(os.environ["LOCAL_RANK"])]))
    dist.init_process_group("gloo" if on_cpu else "nccl")
    agreed = [str(run_folder(settings)), settings["amp"]]
    dist.broadcast_object_list(agreed, 0)
    settings["save_dir"], settings["amp"] = agreed


def finish_processes(trainer: Trainer) -> None:
    """Leave the process group; validate best.pt in a fresh process, where no rank waits for another.

    Raises:
        UserError: that validation failed; the training is complete nevertheless.
    """
    if not dist.is_initialized():
        return
    rank = dist.get_rank()
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0 and trainer.best.exists() and not trainer.args.unlabelled:
        clean = {k: v for k, v in os.environ.items() if k not in RANKS}
        command = [sys.executable, str(ROOT / "val.py"), "--weights", str(trainer.best)]
        command += ["--data", str(trainer.args.data)]
        command += ["--device", str(trainer.args.device).split(",")[0], "--save-dir", str(trainer.save_dir / "val")]
        status = subprocess.run(command, env=clean, check=False).returncode
        if status not in (0, 1):  # 1: some images were left out, and it said so
            raise UserError(
                f"{trainer.best}: trained, but its validation failed with status {status}; "
                f"try again: {' '.join(command[1:])}"
            )


# -- information -------------------------------------------------------------------------------------------------------


def info(given: dict[str, Any]) -> str:
    """Layers, parameters, size and GFLOPs of a model YAML (or weights) without training it."""
    name = given.get("model") or given.get("weights")
    if not name:
        raise UserError("--info: expected a model; say for example --cfg s-model.yaml --info")
    nc = None
    if given.get("data"):
        nc = validate(given["data"]).nc
    if not isinstance(given.get("imgsz", 640), int):
        raise UserError(f"imgsz: expected a whole number of pixels, got {given['imgsz']!r}")
    model = load_detector(name)[0] if str(name).endswith(".pt") else build_detector(name, nc)
    size = given.get("imgsz") or 640
    facts = profile(model, size)
    blocks = [(layer, str(layer.type).rpartition(".")[2]) for layer in model.model]
    rows = [f"{layer.i:>4}  {str(layer.f):<28} {layer.np:>10,}  {block}" for layer, block in blocks]
    summary = (
        f"{Path(str(name)).name}: {facts['layers']} layers, {facts['parameters']:,} parameters, "
        f"{facts['size_mb']:.1f} MB in fp32, "
        f"{facts['gflops']:.1f} GFLOPs at {size} px, strides {[int(s) for s in model.stride]}"
    )
    return "\n".join(["   n  from                         parameters  block", *rows, summary])
