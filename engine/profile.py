"""How large a model is and how much it computes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

IMGSZ = 640


def profile(model: nn.Module, imgsz: int = IMGSZ) -> dict[str, Any]:
    """Return layers, parameters, size and computation of `model`, which stays as it is (a copy is measured).

    Layers are modules without children, as ultralytics counts them. GFLOPs are 2 x multiply-adds of one image of
    `imgsz` x `imgsz` pixels, counted by thop over a real pass at that size: convolutions, linear layers, norms,
    softmax, pooling, and functional matrix products (matmul, bmm, einsum, linear, scaled dot-product attention). Not
    counted: activations, element-wise products and sums (attention masks applied to features, fusion weights) and
    interpolation called as a function.

    Returns:
        ``layers``, ``parameters``, ``size_mb`` (float32 weights, 10^6 bytes), ``gflops``, ``imgsz``.
    """
    import thop

    parameters = sum(p.numel() for p in model.parameters())
    copy = deepcopy(model).float().eval()
    weight = next(copy.parameters())
    channels = getattr(model, "yaml", {}).get("channels", 3)
    image = torch.zeros(1, channels, imgsz, imgsz, device=weight.device)
    with torch.no_grad():
        macs = thop.profile(copy, inputs=[image], verbose=False)[0]
    return {
        "layers": sum(1 for module in model.modules() if not module._modules),
        "parameters": parameters,
        "size_mb": parameters * 4 / 1e6,
        "gflops": 2 * float(macs) / 1e9,
        "imgsz": imgsz,
    }
