"""Training in several processes: one per GPU, or those that torchrun started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cfg import UserError
from cfg.cpus import available_cpus
from engine.settings import Data, Run
from engine.training.folders import run_folder
from engine.training.summary import log_summary, scores_in, teacher_of
from engine.training.trainer import Trainer
from models.environment import RANKS

from ultralytics.utils.torch_utils import parse_device

VALIDATED = (0, 1)  # val.py's exit status; 1: some images were left out, and it said so
ROOT = Path(__file__).resolve().parents[2]


def needs_processes(run: Run) -> bool:
    """Whether several GPUs were named and this is not one of their processes yet."""
    return "," in str(run.device or "") and "LOCAL_RANK" not in os.environ


def devices_of(run: Run) -> list[str]:
    """`--device` as a list: `["cpu"]`, `["0", "1"]`, empty when none is named."""
    return [part for part in parse_device("" if run.device is None else run.device).split(",") if part]


def runs_on_cpu(run: Run) -> bool:
    """Whether no GPU takes part: none was named, or there is none."""
    return devices_of(run) in (["cpu"], ["mps"]) or not torch.cuda.device_count()


def check_devices(run: Run, data: Data) -> None:
    """Refuse GPUs that are not here, more processes than GPUs, and options that several processes cannot share."""
    present, wanted = torch.cuda.device_count(), devices_of(run)
    absent = [d for d in wanted if d not in ("cpu", "mps") and not (d.isdigit() and int(d) < present)]
    if absent:
        here = f"{present} (0 to {present - 1})" if present else "none"
        raise UserError(
            f"--device {','.join(wanted)}: expected cpu or GPUs of this machine, which has {here}; "
            "use --device cpu"
        )
    local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), len(wanted) or present
    if local > 1 and not runs_on_cpu(run) and local > gpus:
        raise UserError(
            f"--device {','.join(wanted) or 'all'}: expected a GPU for each of the {local} processes on this machine, "
            f"got {gpus}; start {gpus}: torchrun --nproc_per_node {gpus}"
        )
    processes = int(os.environ.get("WORLD_SIZE", len(wanted) or 1))
    if processes > 1:
        check_shared(data, processes)


def check_shared(data: Data, processes: int) -> None:
    """Refuse options that several processes cannot share."""
    if data.batch < 1:
        raise UserError(
            "batch: expected a whole number with several processes; "
            "automatic batch sizes are for a single GPU"
        )
    if data.batch < processes:
        raise UserError(
            f"batch: expected an image or more for each of the {processes} processes, got {data.batch}; "
            f"use --batch {processes}"
        )
    if data.unlabelled and int(os.environ.get("LOCAL_WORLD_SIZE", processes)) < processes:
        raise UserError("--unlabelled: expected one machine, which lists the images, got several; use the GPUs of one: --device 0,1")
    if data.rect:
        raise UserError("rect: images cannot be sorted by shape with several processes; leave rect out")


def start_processes(run: Run, command: list[str]) -> Path:
    """Run the same command once per GPU with torch's launcher; they share the CPU cores. Returns their run folder."""
    folder = run_folder(run)
    count = len(devices_of(run))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    environment = dict(os.environ)
    if environment.get("OMP_NUM_THREADS") == str(available_cpus()):  # our own default, which is for one process
        environment["OMP_NUM_THREADS"] = str(max(available_cpus() // count, 1))
    command = [str(ROOT / "train.py"), *command, f"--save_dir={folder}"]
    if subprocess.run([*launcher, *command], env=environment, check=False).returncode:
        raise UserError(f"--device {run.device}: a training process failed; its message is above")
    return folder


def is_one_of_several() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def join_processes(run: Run, epochs_done: int = 0) -> Run:
    """Under torchrun: join the process group; return the run with the folder, arithmetic and devices that all agree on.

    Args:
        run: of this process.
        epochs_done: of a resumed run.

    Raises:
        UserError: the processes do not resume from one checkpoint, or on CPUs PyTorch is too old.
    """
    if not is_one_of_several():
        return run
    on_cpu = runs_on_cpu(run)
    if on_cpu:
        run = replace(run, device="cpu")
    else:
        here = devices_of(run) or [str(i) for i in range(int(os.environ["LOCAL_WORLD_SIZE"]))]
        run = replace(run, device=",".join(here))
        # Before the first message: NCCL sends from the current device.
        torch.cuda.set_device(int(here[int(os.environ["LOCAL_RANK"])]))
    dist.init_process_group("gloo" if on_cpu else "nccl")
    if on_cpu:
        _check_average()
    agreed: list[Any] = [str(run_folder(run)), run.amp, epochs_done]
    dist.broadcast_object_list(agreed, 0)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, epochs_done)
    if set(everyone) != {agreed[2]}:
        raise UserError(f"--resume: expected one last.pt for all processes, got runs of {', '.join(map(str, everyone))} epochs; let all machines "
                        f"share the folder {agreed[0]}")  # fmt: skip
    return replace(run, save_dir=agreed[0], amp=agreed[1])


def _check_average() -> None:
    """Raise `UserError` if Gloo cannot average, which ultralytics' validation would ask for after a whole epoch."""
    try:
        dist.all_reduce(torch.zeros(1), op=dist.ReduceOp.AVG)
    except RuntimeError as error:
        if "AVG" not in str(error):
            raise
        raise UserError(f"several processes on CPUs: expected a PyTorch whose Gloo can average (2.11 can), got {torch.__version__}; install a "
                        "newer one, or train in one process") from None  # fmt: skip


def lost_peer(error: RuntimeError) -> UserError | None:
    """What to say when a process of the group is gone, on this machine or another; None for an error of another kind."""
    text = str(error)
    network = isinstance(error, (dist.DistBackendError, dist.DistNetworkError)) or any(word in text.lower() for word in ("gloo", "nccl"))
    if not (dist.is_initialized() and network):
        return None
    reason = " ".join(re.sub(r"\[[^\]]*\](:\d+:?)?", "", text).split()).split(". ")[0][:120]  # without places in the library, and addresses
    return UserError(f"another process of the training is gone ({reason}); start it again with --resume auto, or let torchrun do so with "
                     "--max-restarts: it goes on from last.pt")  # fmt: skip


def finish_processes(trainer: Trainer) -> None:
    """Leave the process group; validate best.pt and the teacher in fresh processes, where no rank waits for another.

    Raises:
        UserError: the validation of best.pt failed; the training is complete nevertheless.
    """
    if not dist.is_initialized():
        return
    rank = dist.get_rank()
    dist.barrier()
    dist.destroy_process_group()
    if rank != 0 or not trainer.best.exists() or trainer.settings.data.unlabelled:
        return
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "student.json"
        command = _validation(trainer, trainer.best, trainer.save_dir / "val", found)
        status = subprocess.run(command, env=_alone(), check=False).returncode
        if status not in VALIDATED:
            raise UserError(
                f"{trainer.best}: trained, but its validation failed with status {status}; "
                f"try again: {' '.join(command[1:])}"
            )
        if teacher := teacher_of(trainer):
            log_summary(trainer, {"student": scores_in(found), "teacher": _teacher_alone(trainer, teacher, Path(folder))})


def _teacher_alone(trainer: Trainer, path: str, folder: Path) -> dict[str, float]:
    """The teacher's metrics by a validation that prints nothing; empty where val.py cannot validate it on the run's data."""
    found = folder / "teacher.json"
    command = _validation(trainer, path, folder / "teacher", found) + ["--imgsz", str(trainer.args.imgsz), "--no-plots"]
    command += ["--map-classes"] if trainer.settings.network.map_classes else []
    done = subprocess.run(command, env=_alone(), capture_output=True, check=False)
    return scores_in(found) if done.returncode in VALIDATED else {}


def _validation(trainer: Trainer, weights: str | Path, folder: Path, found: Path) -> list[str]:
    """The command that validates weights on the run's data, in a folder, and writes what it found as JSON."""
    command = [sys.executable, str(ROOT / "val.py"), "--weights", str(weights), "--data", str(trainer.args.data)]
    command += ["--split", trainer.args.split, "--device", str(trainer.args.device).split(",")[0]]
    return [*command, "--save-dir", str(folder), "--json", str(found)]


def _alone() -> dict[str, str]:
    """The environment without torchrun's variables."""
    return {name: value for name, value in os.environ.items() if name not in RANKS}
