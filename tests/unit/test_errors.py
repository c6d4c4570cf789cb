"""Exit statuses of a command line."""

from __future__ import annotations

import pytest

from cfg import UserError, guard


def stop(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("a.yaml: expected x, got y"), 2, "error: a.yaml: expected x, got y\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyError("lost"), 70, "Traceback"),
        (FileNotFoundError(2, "No such file or directory", "lost"), 70, "Traceback"),
        (MemoryError(), 2, "error: out of memory (); use a smaller --imgsz or --batch\n"),
        (RuntimeError("CUDA out of memory.\nTried"), 2, "error: out of memory (CUDA out of memory.\\nTried); use a smaller --imgsz or --batch\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device; choose another place or name, or free space\n"),
        (OSError(36, "File name too long", "a\nb"), 2, "error: a\\nb: File name too long; choose another place or name, or free space\n"),
    ],
)
def test_status_of_a_failure(capsys, error, status, text):
    assert guard(lambda: stop(error)) == status
    told = capsys.readouterr().err
    assert told.startswith(text) and (told == text or "please report" in told)


def test_status_of_success():
    assert (guard(lambda: None), guard(lambda: 0), guard(lambda: 1)) == (0, 0, 1)
