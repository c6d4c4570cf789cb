"""One run on several machines: `--resume auto` begins it or goes on with it; a machine that is killed and comes back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from tiny import results, training, write_data, write_model

from cfg import UserError
from data import resolve
from distill.base import METHODS
from engine.precision import training_precision
from engine.settings import Settings, known_names, read_command_line
from engine.training import processes
from engine.training.launch import train
from engine.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    write_data(folder)
    write_model(folder / "model.yaml", width=8)
    return folder


def test_begun_gone_on_with_and_finished(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    given = training(place, name="auto", epochs=3, resume="auto")
    original = Trainer.save_metrics

    def save_metrics(self, metrics):
        original(self, metrics)
        if stops and self.epoch == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save_metrics", save_metrics)
    stops = [0, 1]  # before the first checkpoint: begun anew; before the second: gone on with
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(given)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"^--resume auto: expected the run in .*runs/auto to have these arguments, got others "
                       r"\(epochs: 3 there, 4 now; lr0: [\d.]+ there, 0.5 now\)"):  # fmt: skip
        train(given | {"lr0": 0.5, "epochs": 4})
    other = place / "other.yaml"
    other.write_text((place / "data.yaml").read_text().replace("val: ", "val: ./"))
    assert resolve(other) == resolve(place / "data.yaml")
    train_on = place / "elsewhere.yaml"
    train_on.write_text((place / "data.yaml").read_text().replace("dark", "darker"))
    opposite = "fp32" if training_precision(True, on_cpu=True) == "bf16" else "bf16"
    changes = ({"data": str(train_on)}, "data: .* now"), ({"recipe": "rare"}, "repeat_threshold: None there, 0.3 now"), ({"amp": opposite}, "amp: ")
    for change, named in changes:
        with pytest.raises(UserError, match=f"got others .*{named}"):
            train(given | change)
    folder = train(given | {"workers": 0, "data": str(other), "channels_last": True})  # which makes no difference
    assert folder == place / "runs/auto" and [row["epoch"] for row in results(folder)] == [1, 2, 3]
    before = (folder / "weights/last.pt").read_bytes()
    assert train(given) == folder and "this run is finished" in capsys.readouterr().out
    assert (folder / "weights/last.pt").read_bytes() == before and [path.name for path in (place / "runs").iterdir()] == ["auto"]


def test_results_of_somebody_else_are_not_emptied_before_the_arguments_are_checked(place: Path) -> None:
    folder = place / "runs/theirs"
    folder.mkdir(parents=True)
    (folder / "results.csv").write_text("part,score\nlot7,0.9\n")
    with pytest.raises(UserError, match="nowhere.yaml"):
        train(training(place, name="theirs", resume="auto", data="nowhere.yaml"))
    assert (folder / "results.csv").read_text() == "part,score\nlot7,0.9\n"


def test_the_command_of_several_gpus_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It names the run's folder, which no user does."""
    commands = []
    monkeypatch.setattr(processes.subprocess, "run", lambda command, **_: commands.append(command) or subprocess.CompletedProcess(command, 0))
    monkeypatch.setattr(processes, "devices_of", lambda run: ["0", "1"])
    processes.start_processes(Settings.of({"save_dir": str(tmp_path / "exp")}).run, ["--epochs", "3"])
    tokens = [str(token) for token in commands[0]]
    given = read_command_line(tokens[tokens.index(str(ROOT / "train.py")) + 1 :], known_names())
    assert given == {"epochs": 3, "save_dir": str(tmp_path / "exp")}


def test_what_several_machines_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.of({"device": "cpu", "unlabelled": "pictures", "batch": 8})
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="^--unlabelled: expected one machine"):
        processes.check_devices(settings.run, settings.data)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    processes.check_devices(settings.run, settings.data)


# -- several machines on this one: an agent of torchrun each. Slow. ----------------------------------------------------


class Machines:
    """Agents of torchrun, each in the place of a machine; `restarts`: how often they start a training again that failed."""

    def __init__(self, folder: Path, options: dict, restarts: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.options = folder, [f"--{name}={value}" for name, value in options.items()]
        self.restarts = restarts
        self.agents: list[subprocess.Popen] = []

    def start(self, name: str) -> subprocess.Popen:
        """Start a machine; the first one holds the meeting point, and is waited for until it does."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d",
                    f"--rdzv_endpoint=127.0.0.1:{self.port}", "--rdzv_id=run", "--local-addr=127.0.0.1",
                    f"--max-restarts={self.restarts}"]  # fmt: skip
        with (self.folder / f"{name}.log").open("w") as log:
            agent = subprocess.Popen([*launcher, ROOT / "train.py", *self.options], cwd=self.folder, stdout=log, stderr=log,
                                     env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})  # fmt: skip
        self.agents.append(agent)
        if len(self.agents) == 1:
            wait(lambda: socket.socket().connect_ex(("127.0.0.1", self.port)) == 0, [agent])
        return agent

    def close(self) -> None:
        for agent in self.agents:
            if agent.poll() is None:
                lose(agent)


def lose(agent: subprocess.Popen) -> None:
    """End an agent and all its processes at once, as a machine without power does."""
    there = psutil.Process(agent.pid)
    for process in [there, *there.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    agent.wait()


def wait(done: Callable[[], bool], agents: list[subprocess.Popen], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end and all(agent.poll() in (None, 0) for agent in agents)
        time.sleep(0.2)


@pytest.fixture
def machines(place: Path) -> Iterator[Callable[[dict, int], Machines]]:
    started: list[Machines] = []

    def make(options: dict, restarts: int) -> Machines:
        started.append(Machines(place, options, restarts))
        return started[-1]

    yield make
    for group in started:
        group.close()


@pytest.mark.slow
def test_a_machine_that_is_lost_and_comes_back(place: Path, machines: Callable[[dict, int], Machines]) -> None:
    """Distilled by two methods with adapters. Killed in some epoch, the run goes on with its last checkpoint and has each epoch once."""
    teacher = train(training(place, model=str(write_model(place / "teacher.yaml")), name="teacher", epochs=1))
    epochs = 24
    options = training(place, name="both", epochs=epochs, teacher=str(teacher / "weights/best.pt"), distill="attention+mgd", resume="auto")
    group, folder = machines(options, 5), place / "runs/both"

    def rows() -> int:
        return len(results(folder)) if (folder / "results.csv").exists() else 0

    first, second = group.start("first"), group.start("second")
    wait(lambda: rows() >= 3, [first, second])
    lose(second)
    stood = rows()
    assert stood < epochs - 5
    time.sleep(20)  # the other machine's process ends, and its agent waits
    assert first.poll() is None and rows() <= stood + 1
    second = group.start("again")
    wait(lambda: first.poll() is not None and second.poll() is not None, [first, second])
    assert [row["epoch"] for row in results(folder)] == list(range(1, epochs + 1))
    assert torch.load(folder / "weights/best.pt", weights_only=True)["format"] == "tandem-detector"
    log = (place / "first.log").read_text()
    assert "another process of the training is gone" in log and "Resuming" in log and "this is a bug" not in log


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_on_two_machines(place: Path, machines: Callable[[dict, int], Machines], method: str) -> None:
    """Every method trains: none waits for a process that does something else."""
    if not (place / "runs/t/weights/best.pt").exists():
        train(training(place, model=str(write_model(place / "t.yaml")), name="t", epochs=1))
    teacher = {"teacher": str(place / "runs/t/weights/best.pt")} if METHODS.get(method).uses_teacher else {}
    group = machines(training(place, name=method, epochs=1, **teacher) | {"distill": method}, 0)  # a refusal is not tried again
    agents = [group.start(f"{method}-{number}") for number in range(2)]
    for agent in agents:
        agent.wait(timeout=900)  # on a machine that others use too
    log = (place / f"{method}-0.log").read_text() + (place / f"{method}-1.log").read_text()
    refused = [line for line in log.splitlines() if line.startswith("error: ")]
    if refused:  # by its kind of head or teacher, as in one process
        with pytest.raises(UserError) as alone:
            train(training(place, name=f"{method}-alone", epochs=1, **teacher) | {"distill": method})
        assert refused[0] == f"error: {alone.value}"
    else:
        assert [agent.returncode for agent in agents] == [0, 0], log[-2000:]
        assert len(results(place / f"runs/{method}")) == 1
