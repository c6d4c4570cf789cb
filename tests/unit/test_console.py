"""What a training shows: few columns within 100, one line an epoch in a file, none of the host's own words."""

from __future__ import annotations

import io
import logging

import pytest

import models.environment  # noqa: F401  (before ultralytics)
from distill.base import Term
from engine.console import Progress, Quiet, console
from engine.training.console import table_head, table_row

from ultralytics.engine import trainer as host_trainer
from ultralytics.utils import LOGGER, TQDM

LOSSES = {"box_loss": 0.0512345, "obj_loss": 0.0812345, "cls_loss": 0.0712345}
TERMS = (Term("fg_loss", "feature"), Term("att_loss", "attention"), Term("own_loss", "own", own=True))
DISTILLED = LOSSES | {"fg_loss": 1.0, "att_loss": 0.25, "own_loss": 9.0, "w_box": 1.0, "share_fg": 0.1, "share_all": 0.298, "cos_all": 0.5}
HOST = "   100/300      12.3G" + " 0.05" * 3 + "   1234     640"


def test_columns_alone_and_distilled() -> None:
    assert table_head(list(LOSSES), ()).split() == ["epoch", "memory", "box", "obj", "cls", "objects", "size"]
    assert table_row(HOST, LOSSES, ()).split() == ["100/300", "12.3G", "0.0512", "0.0812", "0.0712", "1234", "640"]
    assert table_head(list(DISTILLED), TERMS).split() == ["epoch", "memory", "box", "obj", "cls", "kd", "kd", "share", "objects", "size"]
    assert table_row(HOST, DISTILLED, TERMS).split()[5:7] == ["1.25", "0.298"], "the sum of what acts on the student, and its share"


@pytest.mark.parametrize(("losses", "terms"), [(LOSSES, ()), (DISTILLED, TERMS)])
def test_a_row_with_its_bar_fits_in_100_columns_under_its_head(losses, terms) -> None:
    row, head = table_row(HOST, losses, terms), table_head(list(losses), terms)
    out = io.StringIO()
    for _ in (bar := Progress(range(999), row=str, file=out, disable=False)):
        bar.set_description(row)
    assert len(row) == len(head) and len(out.getvalue().strip("\n")) <= 100


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("file", "lines"), [(io.StringIO, 1), (Terminal, 1)])
def test_a_file_gets_one_line_and_a_terminal_one_that_is_redrawn(file, lines) -> None:
    out = file()
    bar = Progress(range(50), row=lambda text: f"row {text}", file=out, mininterval=0.0, disable=False)
    for i in bar:
        bar.set_description(str(i))
    text = out.getvalue()
    assert text.count("\n") == lines and "row 49: 100%" in text
    assert ("\r" in text) == (file is Terminal)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Ultralytics 8.4.190 🚀 Python-3.11 torch-2.14 CPU", False),
        ("\x1b[34m\x1b[1mengine/trainer: \x1b[0madaptive=none, lr0=0.01", False),
        ("Using 0 dataloader workers", False),
        ("", False),
        ("WARNING ⚠️ no labels found in x.txt", True),
        ("student: s-model.yaml, 6 classes", True),
        ("\nValidating best.pt...", True),
        ("cache='ram' may produce non-deterministic training results.", False),
    ],
)
def test_what_is_left_out_of_the_head(message: str, shown: bool) -> None:
    assert Quiet().filter(logging.LogRecord("x", logging.INFO, "", 0, message, None, None)) == shown


def test_of_a_message_of_several_lines_the_rest_stays() -> None:
    said = "Using 0 dataloader workers\nLogging results to runs\nStarting training for 2 epochs..."
    record = logging.LogRecord("x", logging.INFO, "", 0, said, None, None)
    assert Quiet().filter(record) and record.msg == "Logging results to runs"


def test_very_small_and_large_losses_keep_their_columns() -> None:
    row = table_row(HOST, {"box_loss": -1.2345e-12, "obj_loss": 4.23e-05, "cls_loss": 123456.0}, ())
    assert row.split()[2:5] == ["-1e-12", "4e-05", "1e+05"]


def test_verbose_and_the_end_leave_the_host_as_it_is() -> None:
    with console(True, str):
        assert host_trainer.TQDM is TQDM
    with pytest.raises(RuntimeError), console(False, str):
        assert host_trainer.TQDM is not TQDM and any(isinstance(f, Quiet) for f in LOGGER.filters)
        raise RuntimeError
    assert host_trainer.TQDM is TQDM and not any(isinstance(f, Quiet) for f in LOGGER.filters)
