"""Value types shared by the command lines. Imports nothing heavy, so that ``--help`` stays fast."""

from __future__ import annotations

import argparse


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
    parser.add_argument("--tile", type=count, help="look at large images in tiles of so many pixels, each scaled to --imgsz "
                        "(default: at the whole image)")  # fmt: skip
    parser.add_argument("--overlap", type=float, help="share of a tile that its neighbour sees too, 0 to 0.9; best at least the "
                        "length of a defect (default: 0.2; where labels are known, up to 0.5 if their lengths ask for it)")  # fmt: skip


def seconds(text: str) -> float:
    """Parse a number of at least 0; ``inf`` is one."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0.0:
        raise argparse.ArgumentTypeError(f"expected seconds, a number of at least 0, got '{text}'")
    return value
