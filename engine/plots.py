"""Plots come last: none may end a run or cost a checkpoint, and class names are plain text in them.

`shielded` is the one way to draw, for ultralytics' plots (`engine.host_plots`) and for our own.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar

from cfg.class_names import shown

T = TypeVar("T")
NO_GLYPH = "missing from font"  # matplotlib's words
REASON = 160  # characters of an error in a message


def shielded(what: str) -> Callable[[Callable[..., T]], Callable[..., T | None]]:
    """Decorate a function that draws `what`, a file: text is plain, and what goes wrong is one line on stderr and None.

    Class names among the arguments, {index: name}, are given as `drawable` makes them.
    """

    def decorate(draw: Callable[..., T]) -> Callable[..., T | None]:
        @wraps(draw)
        def safe(*args: Any, **kwargs: Any) -> T | None:
            before = _open_figures()
            try:
                with _plain_text():
                    return draw(*map(_readable, args), **{key: _readable(value) for key, value in kwargs.items()})
            except Exception as error:  # no plot may end a run
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:REASON]
                print(f"{what} was not drawn ({reason}); all else goes on", file=sys.stderr, flush=True)
                for number in _open_figures() - before:
                    sys.modules["matplotlib.pyplot"].close(number)
                return None

        return safe

    return decorate


def drawable(names: Mapping[int, str]) -> dict[int, str]:
    """Class names as they are drawn: one short line each, none that a legend leaves out, as it does `_x` and nothing."""
    texts = {index: shown(name) for index, name in names.items()}
    return {index: f" {text}" if text.startswith("_") else text for index, text in texts.items()}


def _readable(value: Any) -> Any:
    """An argument of a plot: class names made drawable, anything else as it is."""
    names = isinstance(value, dict) and all(isinstance(k, int) and isinstance(v, str) for k, v in value.items())
    return drawable(value) if names else value


@contextmanager
def _plain_text() -> Iterator[None]:
    """Draw text as it is, and keep the library's warnings, one for every character that a font lacks, to one line."""
    import matplotlib  # late: not for runs without plots

    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    try:
        plain = matplotlib.rc_context({"text.parse_math": False, "text.usetex": False})  # else `$`, `^`, `_`, `\` and `%` are formulas
        with warnings.catch_warnings(record=True) as caught, plain:
            warnings.simplefilter("always")
            yield
    finally:
        fonts.setLevel(level)
    if any(NO_GLYPH in str(warning.message) for warning in caught):
        _say_once("plots: the font here lacks characters of the names, which are drawn as empty boxes")


@cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _open_figures() -> set[int]:
    pyplot = sys.modules.get("matplotlib.pyplot")
    return set(pyplot.get_fignums()) if pyplot else set()
