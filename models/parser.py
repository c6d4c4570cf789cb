"""From YAML rows `[from, repeats, block, args]` to layers.

Every row is built and run at once on a small probe image, so that strides are measured, promised channels are checked
against real ones, and a mistake is reported with the row it stands in.

A model YAML may name a `base:` YAML whose keys it overrides, and a row may use any top-level key (`nc`, `anchors`,
`attention`, `fusion` ...) instead of its block or an argument: so an ablation is one line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cfg import UserError, find, is_number, nearest, read_yaml
from models.blocks import BLOCKS
from models.heads import HEADS
from models.rules import Site, whole

Output = torch.Tensor | list[torch.Tensor]  # of one row: some (backbones, pyramids) have several
MOST_REPEATS = 1000  # of a row: beyond it a network is a slip of the keyboard, and takes hours to build
KEYS = ("nc", "depth_multiple", "width_multiple", "divisor", "loss", "backbone", "head", "base", "channels", "yaml_file")  # that are read
PROBE_SIZE = 256  # image side of the probe; twice the coarsest stride any of our models has


def read_model(source: str | Path | dict[str, Any]) -> dict[str, Any]:
    """Return a model description as one dict, `base:` files merged in, with the file's path under `yaml_file`.

    Raises:
        UserError: no such file, not a mapping, a `base` that leads back to itself, or rows missing.
    """
    if isinstance(source, dict):
        description = dict(source)
    else:
        path = find("models", source)
        description = _with_base(path, seen=())
        description["yaml_file"] = path.name
    where = description.get("yaml_file", "model description")
    for section in ("backbone", "head"):
        if not isinstance(description.get(section), list) or not description[section]:
            raise UserError(f"{where}: expected a list of rows under '{section}:', got {description.get(section)!r}")
    return description


def _check_keys(own: dict[str, Any], base: dict[str, Any], where: str) -> None:
    """Refuse a key of a file that nothing reads: it is in no row, and no key of the `base` file. A checkpoint may have more."""
    rows = [row for part in ("backbone", "head") for row in _as_list((base | own).get(part)) if isinstance(row, list) and len(row) == 4]
    words = {word for row in rows for word in (row[2], *_as_list(row[3])) if isinstance(word, str)}
    for key in own:
        if key not in KEYS and key not in words and key not in base:
            raise UserError(f"{where}: '{key}' is used by no row{nearest(str(key), [*KEYS, *words])}; correct it or take it out")


def _with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise UserError(f"{path}: its 'base' leads back to itself; remove one of the 'base:' lines")
    own = read_yaml(path)
    if "base" not in own:
        _check_keys(own, {}, path.name)
        return own
    base_name = own.pop("base")
    if not isinstance(base_name, str) or not base_name:
        raise UserError(f"{path}: expected 'base' to name a model YAML as s-model.yaml, got {base_name!r}; correct it or take it out")
    beside = path.parent / str(base_name)
    base = _with_base(beside.resolve() if beside.is_file() else find("models", base_name), (*seen, path))
    _check_keys(own, base, path.name)
    return base | own


def scaler(width: float, divisor: int = 8) -> Callable[[int], int]:
    """Return the function from channels in the YAML to channels at `width`, rounded up to a multiple of `divisor`."""
    return lambda channels: max(divisor, -(-int(channels * width + 0.5) // divisor) * divisor)


def build(description: dict[str, Any], channels: int = 3) -> tuple[nn.Sequential, list[int]]:
    """Build all rows of a model description.

    Args:
        description: what `read_model` returns.
        channels: image channels.

    Returns:
        The layers and the indices of outputs to keep. Each layer has `i`, `f`, `type`, `np` as ultralytics' models have, and
        `gives`: (channels, stride) of each of its outputs.

    Raises:
        UserError: naming file, row and block, for an unknown block, wrong arguments or channels that do not fit.
    """
    rows = [*description["backbone"], *description["head"]]
    where = description.get("yaml_file", "model description")
    scale = scaler(_factor(description, "width_multiple", where), _divisor(description, where))
    depth = _factor(description, "depth_multiple", where)
    layers: list[nn.Module] = []
    outputs: list[Output] = []
    image = torch.zeros(1, channels, PROBE_SIZE, PROBE_SIZE)
    for index, row in enumerate(rows):
        source, repeats, name, args = _read_row(row, description, f"{where}, row {index}")
        context = f"{where}, row {index} ({name})"
        if name in list(HEADS) and not isinstance(source, list):
            raise UserError(f"{context}: a head reads a list of levels; write [[{source}], ...]")
        inputs = _inputs(source, outputs, image, context)
        if repeats > 1 and repeats * depth > MOST_REPEATS:
            raise UserError(f"{context}: expected at most {MOST_REPEATS} repeats, got {repeats} times depth_multiple {depth:g}; correct one of them")
        repeats = max(round(repeats * depth), 1) if repeats > 1 else repeats
        site = Site(
            channels=tuple(x.shape[1] for x in inputs),
            strides=tuple(PROBE_SIZE // x.shape[2] for x in inputs),
            repeats=repeats,
            args=tuple(args),
            scale=scale,
        )
        layer, output = _build_row(name, site, inputs, is_last=index == len(rows) - 1, context=context)
        layers.append(_annotate(layer, index, source, name, output))
        if output is not None:
            outputs.append(output)
    kept = {s if s >= 0 else i + s for i, layer in enumerate(layers) for s in _as_list(layer.f) if s != -1}
    return nn.Sequential(*layers), sorted(kept)


def _factor(description: dict[str, Any], key: str, where: str) -> float:
    value = description.get(key, 1.0)
    if not is_number(value) or value <= 0:
        raise UserError(f"{where}: expected {key} to be a number above 0, got {value!r}; correct it")
    return value


def _divisor(description: dict[str, Any], where: str) -> int:
    try:
        return whole("divisor", description.get("divisor", 8))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _read_row(row: Any, description: dict[str, Any], context: str) -> tuple[Any, int, str, list[Any]]:
    if not isinstance(row, list) or len(row) != 4 or not isinstance(row[3], list):
        raise UserError(f"{context}: expected [from, repeats, block, [args]], got {row!r}")
    source, repeats, name, args = row
    if not isinstance(name, str):
        raise UserError(f"{context}: expected the name of a block in third place, got {name!r}")
    if not isinstance(repeats, int) or isinstance(repeats, bool) or not 1 <= repeats <= MOST_REPEATS:
        raise UserError(f"{context}: expected repeats as a whole number from 1 to {MOST_REPEATS}, got {repeats!r}")
    substitute = {k: v for k, v in description.items() if k not in ("backbone", "head")}
    return source, repeats, str(substitute.get(name, name)), [substitute.get(a, a) if isinstance(a, str) else a for a in args]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _inputs(source: Any, outputs: list[Output], image: torch.Tensor, context: str) -> list[torch.Tensor]:
    """The probe tensors a row reads; -1 is the row before it, or the image for the first row.

    Of a row with several outputs, a row that names it alone gets them all.
    """
    inputs: list[torch.Tensor] = []
    if source == []:
        raise UserError(f"{context}: 'from' names no row; name at least one, or -1 for the row before")
    for position in _as_list(source):
        if not isinstance(position, int) or not -max(len(outputs), 1) <= position < len(outputs):
            raise UserError(f"{context}: 'from' must name an earlier row (0 to {len(outputs) - 1}, or -1), got {position!r}")
        given = outputs[position] if outputs else image
        if isinstance(given, list) and isinstance(source, list):
            pick = f"[{position}, 1, Level, [0]]"
            raise UserError(f"{context}: row {position} has {len(given)} outputs; pick one with a row {pick}")
        inputs += _as_list(given)
    return inputs


@torch.no_grad()
def _build_row(
    name: str, site: Site, inputs: list[torch.Tensor], is_last: bool, context: str
) -> tuple[nn.Module, Output | None]:
    """Build one row's layer and run it on the probe; return both (no output for a head). `context` starts every message."""
    try:
        _check_place(name, is_last)
        block = (HEADS if is_last else BLOCKS).get(name)
        plan = block.rule(site)
        copies = [block(*plan.args, **plan.kwargs) for _ in range(plan.copies)]
        layer = copies[0] if plan.copies == 1 else nn.Sequential(*copies)
        layer.eval()
        if plan.out_channels is None:
            return layer, None
        output = layer(inputs if len(inputs) > 1 else inputs[0])
        _check_grid(layer, inputs, output)
        real = tuple(x.shape[1] for x in output) if isinstance(output, list) else output.shape[1]
        if real != plan.out_channels:
            raise UserError(f"promised {plan.out_channels} output channels, gives {real}; correct its rule")
    except Exception as error:  # a block may fail in any way on arguments that are not meant for it
        kind = "" if isinstance(error, (UserError, TypeError, RuntimeError, ValueError)) else f"{type(error).__name__} "
        raise UserError(f"{context}: {kind}{' '.join(str(error).split())}".rstrip()) from error
    return layer, output


def _check_grid(layer: nn.Module, inputs: list[torch.Tensor], output: Output) -> None:
    """Refuse a row whose stride is no whole number, or that makes a one-cell grid coarser, whose stride is measured too small."""
    uneven = next((x for x in _as_list(output) if x.ndim != 4 or PROBE_SIZE % x.shape[2] or x.shape[2] != x.shape[3]), None)
    if uneven is not None:
        got = " x ".join(map(str, uneven.shape[2:]))
        raise UserError(
            f"expected a stride by which {PROBE_SIZE} can be divided, the same both ways: an image of {PROBE_SIZE} x {PROBE_SIZE} pixels "
            f"gives a grid of {got} cells; correct its kernel, stride or padding"
        )
    if min(x.shape[2] for x in [*inputs, *_as_list(output)]) > 1:
        return
    doubled = [x.repeat(1, 1, 2, 2) for x in inputs]
    larger = layer(doubled if len(doubled) > 1 else doubled[0])
    if any(b.shape[2] < 2 * a.shape[2] for a, b in zip(_as_list(output), _as_list(larger))):
        raise UserError(f"strides go up to {PROBE_SIZE}; take this row, or a stride before it, out")


def _check_place(name: str, is_last: bool) -> None:
    if is_last and name in list(BLOCKS):
        raise UserError(f"the last row must be a head ({', '.join(HEADS)}), got a block")
    if not is_last and name in list(HEADS):
        raise UserError("a head must be the last row; move it there")


def _annotate(layer: nn.Module, index: int, source: int | list[int], name: str, output: Output | None) -> nn.Module:
    outputs = [] if output is None else _as_list(output)
    gives = tuple((x.shape[1], PROBE_SIZE // x.shape[2]) for x in outputs)
    vars(layer).update(i=index, f=source, type=name, np=sum(p.numel() for p in layer.parameters()), gives=gives)
    return layer
