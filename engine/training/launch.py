"""Start a run: check everything that can be checked, build the networks, train in one process or several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cfg import UserError
from cfg.class_names import shown
from data import resolve, validate
from data.unlabelled import find_unlabelled
from engine.checkpoint import install
from engine.precision import training_precision
from engine.settings import Data, Run, Settings, complete
from engine.tiling.training import check_tiling, cut_data, is_cut
from engine.training.build import Networks, build_networks
from engine.training.folders import check_own_folder, discard, run_folder, told
from engine.training.label_free import LabelFreeTrainer
from engine.training.processes import (
    check_devices,
    devices_of,
    finish_processes,
    join_processes,
    lost_peer,
    needs_processes,
    runs_on_cpu,
    start_processes,
)  # fmt: skip
from engine.training.resume import AUTO, begun_or_new, resumed
from engine.training.trainer import Trainer

from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import init_seeds


def train(given: dict[str, Any], command: list[str] | None = None) -> Path | None:
    """Train as the arguments say; return the run folder, or None where another process does so.

    Images that were left out are named in the folder, in `engine.dataset.LEFT_OUT`.

    Args:
        given: arguments by name, as on the command line (`engine.settings`).
        command: the command line behind them, needed to start one process per GPU.

    Raises:
        UserError: anything wrong with arguments, data, model, teacher or checkpoint, before a run folder is made; or a
            loss that is not finite, or a full disk, which leave what the run had written.
    """
    install()
    if given.get("resume") == AUTO:
        begun = begun_or_new(given)
        if isinstance(begun, Path):
            return begun if RANK in {-1, 0} else None
        given = begun
    checkpoint = student = None
    if given.get("resume"):
        flat, checkpoint, student = resumed(given)
    else:
        flat = complete(given)
    settings, going_on = Settings.of(flat), checkpoint is not None
    run, data = settings.run, settings.data
    check_devices(run, data)
    if RANK == -1 and not going_on:  # else another process made the folder
        check_own_folder(run)
    tiles_ready = going_on or is_cut(data, run.save_dir)
    check_tiling(data, tiles_ready)
    cut = bool(data.tile) and not tiles_ready
    if needs_processes(run):
        return _train_in_processes(run, data, command or [f"--{name}={value}" for name, value in given.items()], cut)
    on_cpu = runs_on_cpu(run) and "mps" not in devices_of(run)
    names = check_data(data, going_on)
    epochs_done = checkpoint["run"]["epoch"] + 1 if checkpoint else 0
    run = join_processes(replace(run, amp=training_precision(run.amp, on_cpu)), epochs_done)
    init_seeds(run.seed or 0)
    networks = build_networks(settings, len(names), names, student)
    check_tiling(data, tiles_ready, int(max(networks.student.stride)))
    folder = run_folder(run)
    existed = folder.exists()
    try:
        if cut:
            data = replace(data, data=str(cut_data(data, folder)))
        settings = replace(settings, run=replace(run, save_dir=str(folder)), data=data)
        trainer = make_trainer(settings, networks, checkpoint)
        trainer.train()
    except OSError as error:
        discard(folder, existed)
        raise UserError(told(error, folder)) from error
    except UserError:
        discard(folder, existed)
        raise
    except RuntimeError as error:
        if told_by := lost_peer(error):
            raise told_by from error
        raise
    finish_processes(trainer)
    return Path(trainer.save_dir) if RANK in {-1, 0} else None


def _train_in_processes(run: Run, data: Data, command: list[str], cut: bool) -> Path:
    """Start one process per GPU; the data set is cut into tiles before. Raises as `start_processes` and `cut_data`."""
    if cut:
        folder = run_folder(run)
        run = replace(run, save_dir=str(folder))
        command = [*command, f"--data={cut_data(data, folder)}"]
    return start_processes(run, command)


def make_trainer(settings: Settings, networks: Networks, checkpoint: dict[str, Any] | None) -> Trainer:
    """The trainer, with what ultralytics says of the data set as `UserError`."""
    try:
        trainer = LabelFreeTrainer if settings.data.unlabelled else Trainer
        return trainer(settings, networks, checkpoint)
    except RuntimeError as error:
        if "Dataset" not in str(error):
            raise
        raise UserError(" ".join(str(error).split())) from error


def check_data(data: Data, going_on: bool = False) -> dict[int, str]:
    """Class names of the run's data set, after a look at all its labels.

    Args:
        going_on: whether the run is resumed: it has lists of unlabelled images of its own.
    """
    if data.unlabelled:
        return check_unlabelled(data.unlabelled, data.data, going_on)
    assert data.data, "a run has labels, or images without (engine.settings.complete)"
    summary = validate(data.data)
    content = resolve(data.data, require=("train", data.split or "val"))
    if content.get("channels", 3) != 3:
        raise UserError(
            f"{data.data}: expected images of 3 channels, got channels: {content['channels']}; "
            "leave it out"
        )
    _check_classes(data.classes, summary.names)
    return {0: "item"} if data.single_cls else summary.names


def _check_classes(wanted: int | list[int] | None, names: dict[int, str]) -> None:
    """Refuse ``classes`` that the data set does not have: ultralytics would leave every box out."""
    indices = wanted if isinstance(wanted, list) else [] if wanted is None else [wanted]
    if any(isinstance(index, bool) or index not in names for index in indices) or wanted == []:
        known = ", ".join(f"{index} {shown(name)}" for index, name in list(names.items())[:20])
        raise UserError(f"classes: expected indices of the data set's classes ({known}), got {wanted!r}; correct it or leave it out")


def check_unlabelled(pictures: str, data: str | None, going_on: bool) -> dict[int, str]:
    """Class names of a student that learns from images alone, after a look for these: those of `data` where it is given.

    Its head is not trained, and a later start leaves the head out. Without known classes it has a single one.
    """
    if not going_on:
        find_unlabelled(pictures)
    names: dict[int, str] = resolve(data, require=())["names"] if data else {0: "item"}
    return names
