"""Light backbones from torchvision as one YAML row, with features at named strides; never downloads weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cfg import UserError, nearest
from models.blocks import BLOCKS
from models.rules import Plan, Site, one_input, required


@dataclass(frozen=True)
class Network:
    """The layers of one of torchvision's classifiers, in order, and where each stride's last features leave it."""

    steps: tuple[str, ...]
    taps: dict[int, tuple[str, int]]  # stride -> (step, channels)


def _resnet(width: int) -> Network:
    stages = tuple(f"layer{i}" for i in range(1, 5))
    taps = {4 * 2**i: (stage, width * 2**i) for i, stage in enumerate(stages)}
    return Network(("conv1", "bn1", "relu", "maxpool", *stages), taps)


def _mobilenet(taps: dict[int, tuple[int, int]]) -> Network:
    """`taps`: stride -> (index in `features`, channels). The last 1x1 conv, which feeds the classifier, is left out."""
    last = max(index for index, _ in taps.values())
    steps = tuple(f"features.{i}" for i in range(last + 1))
    return Network(steps, {stride: (f"features.{i}", channels) for stride, (i, channels) in taps.items()})


def _shufflenet(widths: tuple[int, int, int]) -> Network:
    stages = ("stage2", "stage3", "stage4")
    taps = {8 * 2**i: (stage, width) for i, (stage, width) in enumerate(zip(stages, widths))}
    return Network(("conv1", "maxpool", *stages), {4: ("maxpool", 24)} | taps)


NETWORKS = {
    "resnet18": _resnet(64),
    "resnet34": _resnet(64),
    "resnet50": _resnet(256),
    "mobilenet_v2": _mobilenet({4: (3, 24), 8: (6, 32), 16: (13, 96), 32: (17, 320)}),
    "mobilenet_v3_small": _mobilenet({4: (1, 16), 8: (3, 24), 16: (8, 48), 32: (11, 96)}),
    "mobilenet_v3_large": _mobilenet({4: (3, 24), 8: (6, 40), 16: (12, 112), 32: (15, 160)}),
    "shufflenet_v2_x0_5": _shufflenet((48, 96, 192)),
    "shufflenet_v2_x1_0": _shufflenet((116, 232, 464)),
}


@BLOCKS.register("Backbone")
class Backbone(nn.Module):
    """A classifier's layers up to the coarsest requested stride: `[-1, 1, Backbone, [resnet18, [8, 16, 32]]]`.

    A row of several outputs: `Level` picks one, and blocks that read a pyramid (`FPN`, `HKN`) take them all. Tensors
    have torchvision's names, so that ImageNet weights given as a file (`--weights resnet18.pth`) fit.

    Shapes: (B, 3, H, W) -> [(B, C_i, H / s_i, W / s_i) per stride s_i], sides rounded up.
    """

    @staticmethod
    def rule(site: Site) -> Plan:
        required(site.args, 1, "network, strides")
        name, strides = site.args[0], site.args[1] if len(site.args) > 1 else [8, 16, 32]
        if one_input(site) != 3 or site.strides[0] != 1:
            got = f"{site.channels[0]} channels, stride {site.strides[0]}"
            raise UserError(f"expected colour images (3 channels, stride 1), got {got}; make this the first row")
        if name not in NETWORKS:
            raise UserError(f"unknown network '{name}'{nearest(name, NETWORKS)} (known: {', '.join(NETWORKS)})")
        taps = NETWORKS[name].taps
        if not isinstance(strides, list) or len(strides) < 2 or strides != sorted(set(strides) & set(taps)):
            raise UserError(f"expected at least two strides of {list(taps)} in rising order, got {strides!r}")
        return Plan(tuple(taps[s][1] for s in strides), (name, tuple(strides)))

    def __init__(self, name: str, strides: tuple[int, ...]) -> None:
        super().__init__()
        from torchvision.models import get_model  # late: models without such a row need not wait for it

        network = NETWORKS[name]
        self.taps = tuple(network.taps[s][0] for s in strides)
        self.steps = network.steps[: network.steps.index(self.taps[-1]) + 1]
        classifier = get_model(name, weights=None)
        for child in dict.fromkeys(step.partition(".")[0] for step in self.steps):
            module = classifier.get_submodule(child)
            inside = sum(step.startswith(f"{child}.") for step in self.steps)
            self.add_module(child, module[:inside] if inside else module)
        self.norms = tuple((m.eps, m.momentum) for m in self.modules() if isinstance(m, nn.BatchNorm2d))

    def restore_norms(self) -> None:
        """Give BatchNorm torchvision's eps and momentum again, with which ImageNet weights were trained.

        ultralytics sets every BatchNorm of a new model to 1e-3 and 0.03.
        """
        layers = (m for m in self.modules() if isinstance(m, nn.BatchNorm2d))
        for layer, (eps, momentum) in zip(layers, self.norms, strict=True):
            layer.eps, layer.momentum = eps, momentum

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        features, levels = images, []
        for step in self.steps:
            features = self.get_submodule(step)(features)
            if step in self.taps:
                levels.append(features)
        return levels
