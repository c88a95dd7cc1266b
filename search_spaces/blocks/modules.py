"""The torch modules behind the blocks. Imported by `Block.build` alone: it is slow to load."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from search_spaces.blocks.conv import ACTIVATIONS


def activation_module(name: str) -> nn.Module:
    """The module of an activation of `ACTIVATIONS`, in place where torch can."""
    cls = getattr(nn, ACTIVATIONS[name])
    in_place = name in ("relu", "relu6", "leaky_relu", "hard_swish", "swish")
    module: nn.Module = cls(inplace=True) if in_place else cls()
    return module


def conv_norm_activation(
    channels: int,
    out: int,
    *,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    norm: str = "batch",
    activation: str = "linear",
) -> nn.Sequential:
    """Convolution padded by (kernel_size - 1) // 2, norm (else a bias), activation."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(
        channels,
        out,
        kernel_size,
        stride=stride,
        padding=(kernel_size - 1) // 2,
        groups=groups,
        bias=norm == "none",
    )
    if norm == "batch":
        layers["norm"] = nn.BatchNorm2d(out)
    if activation != "linear":
        layers["activation"] = activation_module(activation)
    return nn.Sequential(layers)


class Shortcut(nn.Sequential):
    """x + f(x), where f is the sequence; its parameters are named as without the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        inside: Tensor = super().forward(x)  # type: ignore[no-untyped-call]  # torch's own lacks types
        return x + inside


class Bottleneck(nn.Module):
    """activation(shortcut(x) + branch(x)); the shortcut is a projection or the identity."""

    def __init__(self, branch: nn.Module, projection: nn.Module | None, activation: str) -> None:
        super().__init__()
        self.branch = branch
        self.projection = projection
        self.activation = activation_module(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = x if self.projection is None else self.projection(x)
        out: Tensor = self.activation(shortcut + self.branch(x))
        return out
