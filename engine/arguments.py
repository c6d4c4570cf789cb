"""Value types shared by the command lines, and by calls from Python. Imports nothing heavy, so that ``--help`` stays fast."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from cfg.command_line import refuse_empty
from cfg.errors import UserError, nearest


def checked(parser: argparse.ArgumentParser, given: Mapping[str, Any], left_out: Iterable[str] = ()) -> dict[str, Any]:
    """Arguments of a Python call as a command line would have given them, each checked by what checks it there.

    Args:
        parser: of the script.
        given: by name, as `max_det`; None for the default.
        left_out: arguments of the script that the call does not take.

    Raises:
        UserError: an unknown name, or a value that the script would refuse.
    """
    actions = {action.dest: action for action in parser._actions if action.dest not in {"help", *left_out}}
    for name in given:
        if name not in actions:
            raise UserError(f"unknown argument '{name}'{nearest(name, actions)}; expected one of {', '.join(actions)}")
    return {name: _checked(actions[name], value) for name, value in given.items() if value is not None}


def _checked(action: argparse.Action, value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value  # NumPy's and torch's
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(f"{action.dest}: expected True or False, got {value!r}")
        return value
    many = isinstance(value, (list, tuple))
    if action.nargs:
        if many and not len(value):
            raise UserError(f"{action.dest}: expected at least one value, got none; leave it out")
        return [_read(action, part) for part in (value if many else [value])]
    return _read(action, ",".join(map(str, value)) if many else value)


def _read(action: argparse.Action, value: Any) -> Any:
    """One value, read as the command line's text. Raises `UserError`."""
    refuse_empty([action.dest, str(value)])
    try:
        read: Any = action.type(str(value)) if callable(action.type) else str(value)
    except (argparse.ArgumentTypeError, ValueError) as error:
        reason = str(error) if isinstance(error, argparse.ArgumentTypeError) else f"expected a number, got {value!r}"
        raise UserError(f"{action.dest}: {reason}") from None
    if action.choices and read not in action.choices:
        raise UserError(f"{action.dest}: expected {' or '.join(map(str, action.choices))}, got {value!r}{nearest(read, action.choices)}")
    return read


def image_size(text: str) -> list[int]:
    """Parse ``"640"`` or ``"480,640"`` (height, width) into one or two pixel counts of at least 1."""
    try:
        size = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        size = []
    if len(size) not in (1, 2) or min(size) < 1:
        raise argparse.ArgumentTypeError(f"expected pixels as 640 or height,width as 480,640, got '{text}'")
    return size


def fraction(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got '{text}'")
    return value


def count(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got '{text}'")
    return int(text)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision`` and its short form ``--half``, which exclude each other, as `precision` (`engine.backend.Backend`)."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--precision", choices=("fp32", "bf16"), default="fp32",
                       help="arithmetic: float32, the same on every processor, or bfloat16, with OpenVINO where the "
                       "processor has it (default: fp32)")  # fmt: skip
    group.add_argument("--half", dest="precision", action="store_const", const="half", default=argparse.SUPPRESS,
                       help="16 bits: float16 on a GPU, bfloat16 on a CPU, where weights and device allow it")  # fmt: skip


def add_tiling(parser: argparse.ArgumentParser) -> None:
    """Add ``--tile`` and ``--overlap`` (`inspection.tiles.Tiling`)."""
    parser.add_argument("--tile", type=count, help="cut large images into tiles of this many pixels, each scaled to "
                        "--imgsz (default: the whole image at once)")  # fmt: skip
    parser.add_argument("--overlap", type=float, help="share of a tile that its neighbour also shows, 0 to 0.9; at least the "
                        "length of a defect is best (default: 0.2; where labels are known, up to 0.5 for long defects)")  # fmt: skip


def seconds(text: str) -> float:
    """Parse a number of at least 0; ``inf`` is one."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0.0:
        raise argparse.ArgumentTypeError(f"expected seconds, a number of at least 0, got '{text}'")
    return value


SHARDS = ("shards", "shard", "shard_size", "ray", "actors")
FEW = ("save_txt", "save_conf", "save_json", "save_csv", "save_coco", "report", "heatmap", "line_width", "project", "name", "exist_ok",
       "view", "sort_into", "sort_copy")  # fmt: skip


def add_shards(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of very many images (`engine.shards.run`)."""
    add = parser.add_argument_group("very many images").add_argument
    add("--shards", metavar="DIR", help="job folder, or its address: results in Parquet, each image exactly once; the same command resumes "
        "an interrupted job")  # fmt: skip
    add("--shard", metavar="I/N", help="this worker takes every n-th shard from the i-th on (0 to n - 1); auto: from SLURM's or torchrun's variables")
    add("--shard-size", type=count, help="images in a shard (default: 5000)")
    add("--ray", metavar="ADDRESS", help="on a Ray cluster: its address, auto, or local for this machine")
    add("--actors", type=count, help="workers of Ray (default: one for each GPU, else for each core)")


def check_shards(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a message where arguments of very many images, and of few, are mixed."""
    if not options.shards:
        if name := next((name for name in SHARDS[1:] if getattr(options, name) is not None), None):
            parser.error(f"--{name.replace('_', '-')}: expected with --shards DIR; add it, or leave this out")
        return
    if name := next((name for name in FEW if getattr(options, name) != parser.get_default(name)), None):
        parser.error(f"--{name.replace('_', '-')}: expected without --shards, whose results are Parquet; python -m data.results makes "
                     "reports, CSV and JSON of them")  # fmt: skip
    if options.shard and options.ray:
        parser.error("--shard and --ray: expected one of them; Ray hands out the shards itself")
    if options.actors and not options.ray:
        parser.error("--actors: expected with --ray ADDRESS; add it, or leave this out")


def shard_options(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments without those of `add_shards`, and these."""
    return {k: v for k, v in given.items() if k not in SHARDS}, {k: given[k] for k in SHARDS}
