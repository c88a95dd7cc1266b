"""The torch modules of networks that branch. Imported by `Block.build` alone: slow to load."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from search_spaces.blocks.modules import activation_module, conv_norm_activation
from search_spaces.blocks.shapes import same_padding


class Branches(nn.Module):
    """The outputs of all branches on the same input, one after the other in their order."""

    def __init__(self, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, sum of the branches' channels, H', W')."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class DenseConcat(nn.Sequential):
    """x followed by f(x), where f is the sequence; its parameters are named as without x."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + growth, H, W)."""
        inside: Tensor = super().forward(x)  # type: ignore[no-untyped-call]  # torch's own lacks types
        return torch.cat([x, inside], dim=1)


class AuxiliaryHead(nn.Sequential):
    """A classifier aside: in training it keeps its class scores; it always returns its input.

    Attributes:
        weight: of its loss in the sum that is trained.
        logits: (N, classes) of the last forward pass in training mode; None before.
    """

    training_only = True

    def __init__(self, layers: OrderedDict[str, nn.Module], *, weight: float) -> None:
        super().__init__(layers)
        self.weight = weight
        self.logits: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same tensor."""
        if self.training:
            self.logits = super().forward(x)  # type: ignore[no-untyped-call]  # torch's own lacks types
        return x


def googlenet_head(channels: int, classes: int) -> OrderedDict[str, nn.Module]:
    """(N, channels, H, W) -> (N, classes); the average of any map is 4x4."""
    return OrderedDict(
        pool=nn.AdaptiveAvgPool2d(4),
        reduce=conv_norm_activation(channels, 128, activation="relu"),
        flatten=nn.Flatten(),
        hidden=nn.Linear(128 * 4 * 4, 1024),
        activation=nn.ReLU(inplace=True),
        dropout=nn.Dropout(0.7),
        linear=nn.Linear(1024, classes),
    )


def inception_v3_head(
    channels: int, classes: int, *, published: bool
) -> OrderedDict[str, nn.Module]:
    """(N, channels, H, W) -> (N, classes); with `published` the pool of the paper, which needs a
    map of 17x17, else one to 5x5, the smallest that its next convolution takes."""
    return OrderedDict(
        pool=nn.AvgPool2d(5, stride=3) if published else nn.AdaptiveAvgPool2d(5),
        reduce=conv_norm_activation(channels, 128, activation="relu"),
        spatial=conv_norm_activation(128, 768, kernel_size=5, padding=0, activation="relu"),
        global_pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(768, classes),
    )


def separable(
    channels: int,
    out: int,
    *,
    kernel_size: int,
    stride: int,
    activation: str,
    depthwise_activation: str,
    order: str,
) -> nn.Sequential:
    """Depthwise and pointwise convolution without biases, one norm, the activation in an order."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if order == "act_conv_norm" and activation != "linear":
        # Its input is not its own to change.
        layers["activation"] = activation_module(activation, in_place=False)
    layers["depthwise"] = nn.Conv2d(
        channels,
        channels,
        kernel_size,
        stride=stride,
        padding=same_padding(kernel_size),
        groups=channels,
        bias=False,
    )
    if depthwise_activation != "linear":
        layers["depthwise_activation"] = activation_module(depthwise_activation)
    layers["pointwise"] = nn.Conv2d(channels, out, 1, bias=False)
    layers["norm"] = nn.BatchNorm2d(out)
    if order == "conv_norm_act" and activation != "linear":
        layers["activation"] = activation_module(activation)
    return nn.Sequential(layers)
