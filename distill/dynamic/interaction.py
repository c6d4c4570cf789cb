"""Interaction of appearance and label embeddings within an image (SDD FTI-FDet, eqs. 3-4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from distill.cells import channels_second


class Interaction(nn.Module):
    """Multi-head attention: queries are appearance embeddings, keys and values label embeddings of the same image.

    Differs from the paper: logits are divided by the root of a head's width instead of sqrt(C), as in the attention it
    cites (Vaswani et al. 2017).

    Args:
        channels: C of the appearance embeddings and of the result.
        label_channels: of the label embeddings.
        heads: at most; the largest divisor of both it and C is taken.
    """

    def __init__(self, channels: int, label_channels: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = math.gcd(channels, heads)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(label_channels, channels, bias=False)  # a bias adds the same to all logits of a query
        self.value = nn.Linear(label_channels, channels)
        self.out = nn.Linear(channels, channels)
        for layer in (self.query, self.key, self.value):  # as torch's own attention; the default makes all shares alike
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, appearance: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """(B, M, C), (B, M, L), (B, M) -> (B, M, C). No object attends to an empty place; its own result is void."""
        query, key, value = (self._split(x) for x in (self.query(appearance), self.key(labels), self.value(labels)))
        logits = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        shares = logits.masked_fill(~valid[:, None, None], -torch.inf).softmax(-1)
        return self.out((shares @ value).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, M, C) -> (B, heads, M, C / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def paint(embeddings: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Embeddings (B, M, C) put back into their boxes (rows (B, M, H), columns (B, M, W)): (B, C, H, W).

    Where boxes overlap a cell has the mean of their embeddings, and 0 where there is none. The paper is silent on both;
    a sum would grow with the number of objects.
    """
    covering = torch.einsum("bmh,bmw->bhw", rows, columns)
    across = columns[..., None] * embeddings[:, :, None]  # (B, M, W, C)
    painted = (rows.transpose(1, 2) @ across.flatten(2)).unflatten(2, across.shape[2:])  # (B, H, W, C)
    return channels_second(painted / covering.clamp(min=1)[..., None])
