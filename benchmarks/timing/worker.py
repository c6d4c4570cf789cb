"""Processes that stay alive and time something when they are asked; a crash of one is an answer, not the end.

Each thing that is timed has a process of its own, because libraries disturb one another within one (PyTorch after
OpenVINO runs on one thread) and because memory can only be told apart by process. A worker that waits blocks on its
pipe: it costs no processor time.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

GRACE_S = 5.0  # for a worker that was told to end
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "TORCHINDUCTOR_COMPILE_THREADS": "1"}  # no spinning


class WorkerFailed(RuntimeError):
    """A worker could not be made, crashed, or did not answer in time; the message is its row's reason."""


class Worker:
    """A process that builds one thing and answers questions about it.

    Args:
        factory: `package.module:Name` of what it builds; called with `options`. The result has `facts` (a dict) and
            `measure(**question)`, which returns a dict of numbers.
        options: plain values.
        threads: CPU threads of the libraries in it.
        log: file for all that it prints.
        limit_s: seconds after which it counts as stuck.

    Raises:
        WorkerFailed: it could not be built.
    """

    def __init__(self, factory: str, options: dict[str, Any], threads: int, log: Path, limit_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.log, self.limit_s = log, limit_s
        self.process = context.Process(target=serve, args=(theirs, factory, options, threads, str(log)), daemon=False)
        self.process.start()
        theirs.close()  # so that its end is seen here
        try:
            self.facts: dict[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **question: Any) -> dict[str, Any]:
        """Its answer. Raises `WorkerFailed` when it has none; it has ended then."""
        try:
            self.pipe.send(question)
            return self._answer()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise WorkerFailed(self._ended()) from None
            raise

    def _answer(self) -> dict[str, Any]:
        if not self.pipe.poll(self.limit_s):
            raise WorkerFailed(f"no answer in {self.limit_s:g} s")
        try:
            kind, content = self.pipe.recv()
        except EOFError:
            raise WorkerFailed(self._ended()) from None
        if kind == "failed":
            raise WorkerFailed(content)
        return content

    def _ended(self) -> str:
        """Why a process that said nothing is gone."""
        self.process.join(GRACE_S)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        return f"ended with status {code}, see {self.log.name}"

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.pipe.close()
        self.process.join(GRACE_S)
        for end in (self.process.terminate, self.process.kill):
            if self.process.is_alive():
                end()
                self.process.join(GRACE_S)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(pipe: Connection, factory: str, options: dict[str, Any], threads: int, log: str) -> None:
    """The worker's side: build, then answer until told to end. Runs in the new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of the terminal; the parent ends its workers
    _redirect(Path(log))
    os.environ |= QUIET | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}  # before torch is loaded
    try:
        thing = _build(factory, options, threads)
        pipe.send(("ready", thing.facts))
        while (question := pipe.recv()) is not None:
            gc.collect()
            pipe.send(("answer", thing.measure(**question)))
    except (EOFError, BrokenPipeError):  # the parent is gone
        return
    except Exception as error:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        pipe.send(("failed", told(error)))


def _build(factory: str, options: dict[str, Any], threads: int) -> Any:
    import torch

    import models.environment  # noqa: F401  (before ultralytics)

    torch.set_num_threads(threads)
    return made(factory, options)


def made(factory: str, options: dict[str, Any]) -> Any:
    """What `factory` (`package.module:Name`) makes of `options`."""
    module, _, name = factory.partition(":")
    return getattr(importlib.import_module(module), name)(**options)


def _redirect(log: Path) -> None:
    """Send all that this process writes, its libraries too, to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False, buffering=1), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115


def told(error: Exception) -> str:
    """One line about an error: our own messages as they are, others with their class."""
    from cfg import UserError

    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
