"""What a network's own attention modules let through, averaged over channels: the maps of the T/S paper's Figure 10."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cfg import UserError
from engine.heatmaps.evidence import enlarge


def gates(network: nn.Module) -> list[nn.Module]:
    """The modules with a `gate(features)`: what they multiply their input by, (B, C, H, W)."""
    return [module for module in network.modules() if hasattr(module, "gate")]


def attention(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return (H, W), 0 to 1, of an image (1, 3, H, W): the mean over modules of each one's gate, stretched to 0..1.

    Raises:
        UserError: the network has no such module.
    """
    modules: list[Any] = gates(network)
    maps: list[torch.Tensor] = []
    if not modules:
        raise UserError("--heatmap attention: expected a model with attention modules (dual, cbam), got one without; "
                        "use --heatmap evidence or layercam")  # fmt: skip
    height, width = pixels.shape[-2:]

    def keep(module: Any, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        gate = module.gate(inputs[0]).float().mean(1)[0]
        spread = gate.max() - gate.min()
        maps.append(enlarge((gate - gate.min()) / spread.clamp(min=1e-12), height, width))

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        with torch.no_grad():
            network(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps).mean(0)
