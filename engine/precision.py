"""The arithmetic of training and inference: a setting of the run, not an accident of the machine it runs on."""

from __future__ import annotations

import os

import torch

import models.environment  # noqa: F401  (before anything that sets threads)
from cfg import UserError

SWITCH = "TANDEM_BF16"  # environment: 1 or 0, training on a CPU in bfloat16 or not, where the arguments leave it open
PRECISIONS = ("fp32", "bf16")  # of inference
SLOW = "which this processor emulates slowly: it has neither AMX nor AVX-512 BF16"


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware: AMX or AVX-512 BF16. Emulated it is slow.

    oneDNN's own answer (`torch.ops.mkldnn._is_mkldnn_bf16_supported`) is True for every AVX-512 processor: it emulates.
    """
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def training_precision(amp: bool | str, on_cpu: bool) -> bool | str:
    """The precision that a run with `amp` computes in, stored with it.

    Args:
        amp: ultralytics' argument: True or fp16, bf16, False or fp32.
        on_cpu: there, True leaves the choice to the environment (`SWITCH`), and else to the processor.

    Returns:
        ``bf16`` or ``fp32`` on a CPU; `amp` as it is on a GPU.

    Raises:
        UserError: the environment says neither 0 nor 1, or the GPU has no bfloat16.
    """
    asked = amp if isinstance(amp, bool) else str(amp).lower()
    if not on_cpu:
        if asked == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError("amp=bf16: expected a GPU with bfloat16 arithmetic, this one has none; use --amp True or fp32")
        return amp
    if asked in ("bf16", "fp32"):
        return asked
    return "bf16" if asked and _wanted() else "fp32"


def _wanted() -> bool:
    """Whether training on a CPU uses bfloat16 when the arguments leave it open."""
    said = os.environ.get(SWITCH, "").strip()
    if said not in ("", "0", "1"):
        raise UserError(f"{SWITCH}={said}: expected 1 (train in bfloat16 on a CPU), 0 (in float32), or nothing; correct it")
    return said == "1" if said else has_fast_bfloat16()


def described(amp: bool | str, on_cpu: bool, resumed: bool) -> str:
    """What a run computes in, for its header; says so when this processor is slow at it."""
    if not on_cpu:
        return f"amp={amp}"
    text = {"bf16": "bfloat16", "fp32": "float32"}[str(amp)]
    slow = f" ({SLOW})" if amp == "bf16" and not has_fast_bfloat16() else ""
    return text + " as the run was started" * resumed + slow
