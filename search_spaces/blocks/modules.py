"""The torch modules behind the blocks. Imported by `Block.build` alone: it is slow to load."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from search_spaces.blocks.shapes import ACTIVATIONS, Size, same_padding


def activation_module(name: str, *, in_place: bool = True) -> nn.Module:
    """The module of an activation of `ACTIVATIONS`, in place where torch can."""
    cls = getattr(nn, ACTIVATIONS[name])
    able = name in ("relu", "relu6", "leaky_relu", "hard_swish", "swish")
    module: nn.Module = cls(inplace=True) if able and in_place else cls()
    return module


def conv_norm_activation(
    channels: int,
    out: int,
    *,
    kernel_size: Size = 1,
    stride: int = 1,
    groups: int = 1,
    norm: str = "batch",
    activation: str = "linear",
    padding: Size | None = None,
    order: str = "conv_norm_act",
) -> nn.Sequential:
    """Convolution, norm (else a bias) and activation in an order; padded as `same_padding`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for kind in order.split("_"):
        if kind == "conv":
            layers["conv"] = nn.Conv2d(
                channels,
                out,
                kernel_size,
                stride=stride,
                padding=same_padding(kernel_size) if padding is None else padding,
                groups=groups,
                bias=norm == "none",
            )
        elif kind == "norm" and norm == "batch":
            layers["norm"] = nn.BatchNorm2d(out if "conv" in layers else channels)
        elif kind == "act" and activation != "linear":
            # Where the block begins with it, its input is not its own to change.
            layers["activation"] = activation_module(activation, in_place=bool(layers))
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


class ZeroPadShortcut(nn.Module):
    """ResNet's shortcut A: every `stride`-th pixel, then `extra` channels of zeros."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + extra, ceil(H / stride), ceil(W / stride))."""
        strided = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(strided, (0, 0, 0, 0, 0, self.extra))


class Pointwise(nn.Linear):
    """A 1x1 convolution of a 1x1 map: begins as a convolution does, and costs what it costs."""

    is_convolution = True


class SqueezeExcite(nn.Sequential):
    """x times a gate per channel from its global averages, as in MobileNetV3 (arXiv 1905.02244).

    Average, `squeeze` channels, ReLU, back, hard sigmoid; both layers have biases.
    """

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                squeeze=Pointwise(channels, squeeze),
                activation=nn.ReLU(inplace=True),
                excite=Pointwise(squeeze, channels),
                gate=nn.Hardsigmoid(),
                unflatten=nn.Unflatten(1, (channels, 1, 1)),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        gate: Tensor = super().forward(x)  # type: ignore[no-untyped-call]  # torch's own lacks types
        return x * gate
