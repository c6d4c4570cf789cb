"""Errors of a user, reported in one line: what was expected, what came, and the fix."""

from __future__ import annotations

import difflib
import errno
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import TypeGuard

# What the machine or its user's rights refuse, wherever it shows: no bug.
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE}
NO_MEMORY = r"out of memory|insufficient memory|can't allocate memory|not enough memory|cannot allocate memory"  # torch, OpenCV, the system


class UserError(ValueError):
    """Wrong input from outside (an argument, a file, a data set). Its message is shown to the user, on one line."""

    def __str__(self) -> str:
        """The message with what cannot be shown escaped (`printable`): names of the user's may hold anything."""
        return printable(super().__str__())


def printable(text: str) -> str:
    """Return a text on one line, with line ends and what else cannot be shown escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, or ``""`` when none is close."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value from a YAML or a command line is a finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object, least: int = 1) -> TypeGuard[float]:
    """Whether a value is a whole number of at least `least`, written as 640 or 640.0."""
    return is_number(value) and value == int(value) and value >= least


def refusal(error: Exception) -> str:
    """One line about what the machine refused (memory, disk, rights, a name too long); empty for any other error."""
    if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error), re.IGNORECASE):
        return f"out of memory ({printable(str(error).strip())[:200]}); use a smaller --imgsz or --batch"
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return f"{printable(str(error.filename or ''))[:200]}: {error.strerror}; choose another place or name, or free space".removeprefix(": ")
    return ""


def guard(main: Callable[[], int | None]) -> int:
    """Run a command line; return its exit status.

    That is what `main` returns, 2 after a `UserError` or a `refusal` (printed as one line), 130 after Ctrl-C, and 70 (EX_SOFTWARE)
    with the traceback after anything else: 1 says that some inputs could not be used, and a bug must not look like it.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character shows its escape
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if reason := refusal(error):
            print(f"error: {reason}", file=sys.stderr)
            return 2
        traceback.print_exc()
        print("error: this is a bug in Tandem; please report it with the lines above", file=sys.stderr)
        return 70
