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
    ],
)
def test_status_of_a_failure(capsys, error, status, text):
    assert guard(lambda: stop(error)) == status
    told = capsys.readouterr().err
    assert told.startswith(text) and (told == text or "please report" in told)


def test_status_of_success():
    assert (guard(lambda: None), guard(lambda: 0), guard(lambda: 1)) == (0, 0, 1)
