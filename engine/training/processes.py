"""Training in several processes: one per GPU, or those that torchrun started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cfg import UserError
from engine.training.folders import run_folder
from engine.training.trainer import Trainer
from models.environment import RANKS, available_cpus

from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.torch_utils import parse_device

ROOT = Path(__file__).resolve().parents[2]


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
