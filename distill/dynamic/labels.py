"""Label encoder: true boxes and classes to embeddings (SDD FTI-FDet, section III-B-1; PointNet, Qi et al. 2017)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from distill.dynamic.objects import Objects


def descriptors(objects: Objects) -> Tensor:
    """(B, M, 4 + K): the box's corners x1 y1 x2 y2 over the image's size and the one-hot class, scaled to [-1, 1]."""
    centre, size = objects.boxes_xywhn.split(2, 2)
    corners = torch.cat((centre - size / 2, centre + size / 2), 2).clamp(0, 1)
    return torch.cat((corners, objects.classes), 2) * 2 - 1


def perceptron(*widths: int) -> nn.Sequential:
    """Linear, layer norm without parameters, ReLU, from each width to the next, object by object.

    Differs from PointNet: layer norm for BatchNorm, as the paper has it for small batches; an image's objects then do
    not depend on other images.
    """
    layers: list[nn.Module] = []
    for c_in, c_out in itertools.pairwise(widths):
        layers += [nn.Linear(c_in, c_out), nn.LayerNorm(c_out, elementwise_affine=False), nn.ReLU()]
    return nn.Sequential(*layers)


def over_objects(x: Tensor, valid: Tensor) -> Tensor:
    """(B, M, C) -> (B, C): the largest value over an image's objects, of which there is at least one."""
    return x.masked_fill(~valid[..., None], -torch.inf).amax(1)


class SpatialTransformer(nn.Module):
    """STN: multiplies each object's vector by a matrix learned from all objects of its image, the identity plus little.

    (B, M, C) -> (B, M, C).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.points = perceptron(width, 64, 128, 1024)
        self.context = perceptron(1024, 512, 256)
        self.matrix = nn.Linear(256, width * width)
        nn.init.normal_(self.matrix.weight, std=1e-3)  # not 0, with which nothing before it would learn at first
        with torch.no_grad():
            self.matrix.bias.copy_(torch.eye(width).flatten())

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        context = self.context(over_objects(self.points(x), valid))
        return x @ self.matrix(context).view(-1, self.width, self.width)


class LabelEncoder(nn.Module):
    """PointNet over an image's objects: each embedding knows its own label and, by a maximum over objects, all others.

    Permuting the objects of an image permutes the embeddings. `Objects` -> (B, M, channels).

    Args:
        nc: K, number of classes.
        channels: of the embeddings.
    """

    def __init__(self, nc: int, channels: int) -> None:
        super().__init__()
        self.at_input = SpatialTransformer(4 + nc)
        self.local = perceptron(4 + nc, 64)
        self.at_features = SpatialTransformer(64)
        self.points = perceptron(64, 128, 1024)
        self.join = nn.Sequential(perceptron(1024 + 64, 512, 256), nn.Linear(256, channels))

    def forward(self, objects: Objects) -> Tensor:
        x = self.at_input(descriptors(objects), objects.valid)
        local = self.at_features(self.local(x), objects.valid)
        context = over_objects(self.points(local), objects.valid)
        return self.join(torch.cat((context[:, None].expand(-1, local.shape[1], -1), local), 2))
