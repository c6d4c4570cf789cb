"""Start a run: check everything that can be checked, build the networks, train in one process or several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import models.environment  # noqa: F401  (before ultralytics)
import torch
import torch.distributed as dist
from ultralytics.utils.torch_utils import init_seeds

from cfg import UserError
from data import validate
from engine.build import build_detector, build_networks
from engine.checkpoint import RUN, install, load_detector, read
from engine.profile import profile
from engine.settings import RESUMABLE, complete
from engine.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent


def train(given: dict[str, Any], command: list[str] | None = None) -> Path:
    """Train as the arguments say; return the run folder.

    Args:
        given: arguments by name, as on the command line (`engine.settings`).
        command: the command line behind them, needed to start one process per GPU.

    Raises:
        UserError: anything wrong with arguments, data, model, teacher or checkpoint, before a run folder is made.
    """
    install()
    checkpoint = None
    if given.get("resume"):
        settings, checkpoint = resumed(given)
    else:
        settings = complete(given)
    if needs_processes(settings):
        return start_processes(settings, command or [])
    join_processes(settings)
    summary = validate(settings["data"])
    init_seeds(settings.get("seed") or 0)
    names = {0: "item"} if settings.get("single_cls") else summary.names
    networks = build_networks(settings, len(names), names)
    trainer = make_trainer(settings, networks, checkpoint)
    trainer.train()
    finish_processes(trainer)
    return Path(trainer.save_dir)


def make_trainer(settings: dict[str, Any], networks: Any, checkpoint: dict[str, Any] | None) -> Trainer:
    """The trainer, with ultralytics' complaints about argument values as `UserError`."""
    try:
        return Trainer(settings, networks, checkpoint)
    except UserError:
        raise
    except (TypeError, ValueError, SyntaxError) as error:
        raise UserError(" ".join(str(error).split())) from error
    except OSError as error:
        raise UserError(f"{error.filename or settings['project']}: cannot be written ({error.strerror}); choose another --project") from error


def resumed(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and content of the last.pt that `resume` names; what may change on resume is taken from the command line."""
    path = Path(given["resume"]) if isinstance(given["resume"], str) else latest_run(given)
    content = read(path)
    if not isinstance(content, dict) or content.get("format") != RUN:
        raise UserError(f"{path}: expected the last.pt of an interrupted run, got a finished or other checkpoint; start a new run")
    fixed = [name for name in given if name not in (*RESUMABLE, "resume", "data")]
    if fixed:
        raise UserError(f"resume: {', '.join(fixed)} cannot change in a resumed run; leave out, or start a new run with --weights")
    settings = content["meta"]["train_args"] | {k: v for k, v in given.items() if k != "resume"}
    settings |= {"resume": str(path), "save_dir": str(path.resolve().parent.parent), "exist_ok": True}
    return settings, content


def latest_run(given: dict[str, Any]) -> Path:
    """The newest last.pt below runs/train."""
    folder = Path(given.get("project") or "runs/train")
    found = sorted(folder.glob("*/weights/last.pt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(f"--resume: no last.pt below {folder}; give its path: --resume runs/train/exp/weights/last.pt")
    return found[-1]


# -- several processes --------------------------------------------------------------------------------------------------


def needs_processes(settings: dict[str, Any]) -> bool:
    """Whether several GPUs were named and this is not one of their processes yet."""
    return "," in str(settings.get("device") or "") and "LOCAL_RANK" not in os.environ


def start_processes(settings: dict[str, Any], command: list[str]) -> Path:
    """Run the same command once per GPU with torch's launcher."""
    count = len(str(settings["device"]).strip("[]() ").split(","))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    done = subprocess.run([*launcher, str(ROOT / "train.py"), *command], check=False)
    if done.returncode:
        raise UserError(f"--device {settings['device']}: a training process failed; its message is above")
    return Path(settings["project"])


def join_processes(settings: dict[str, Any]) -> None:
    """Under torchrun: join the process group, and agree on one run folder and this machine's devices."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return
    on_cpu = str(settings.get("device")) == "cpu" or not torch.cuda.is_available()
    if on_cpu:
        settings["device"] = "cpu"
    elif not settings.get("device"):
        settings["device"] = ",".join(str(i) for i in range(int(os.environ["LOCAL_WORLD_SIZE"])))
    dist.init_process_group("gloo" if on_cpu else "nccl")
    from ultralytics.cfg import get_save_dir
    from types import SimpleNamespace

    where = [str(get_save_dir(SimpleNamespace(**({"task": "detect", "mode": "train", "save_dir": None} | settings))))]
    dist.broadcast_object_list(where, 0)
    settings["save_dir"] = where[0]


def finish_processes(trainer: Trainer) -> None:
    """Leave the process group; validate best.pt in a fresh process, where no rank waits for another."""
    if not dist.is_initialized():
        return
    rank = dist.get_rank()
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0 and trainer.best.exists():
        clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        command = [sys.executable, str(ROOT / "val.py"), "--weights", str(trainer.best), "--data", str(trainer.args.data)]
        command += ["--device", str(trainer.args.device).split(",")[0], "--save-dir", str(trainer.save_dir / "val")]
        subprocess.run(command, env=clean, check=False)


# -- information --------------------------------------------------------------------------------------------------------


def info(given: dict[str, Any]) -> str:
    """Layers, parameters, size and GFLOPs of a model YAML (or weights) without training it."""
    name = given.get("model") or given.get("weights")
    if not name:
        raise UserError("--info: expected a model; say for example --cfg s-model.yaml --info")
    nc = None
    if given.get("data"):
        nc = validate(given["data"]).nc
    model = load_detector(name)[0] if str(name).endswith(".pt") else build_detector(name, nc)
    size = given.get("imgsz") or 640
    facts = profile(model, size)
    rows = [f"{layer.i:>4}  {str(layer.f):<28} {layer.np:>10,}  {str(layer.type).rpartition('.')[2]}" for layer in model.model]
    summary = (
        f"{Path(str(name)).name}: {facts['layers']} layers, {facts['parameters']:,} parameters, {facts['size_mb']:.1f} MB in fp32, "
        f"{facts['gflops']:.1f} GFLOPs at {size} px, strides {[int(s) for s in model.stride]}"
    )
    return "\n".join(["   n  from                         parameters  block", *rows, summary])
