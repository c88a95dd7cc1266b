"""Plain convolution, pooling and the classifier head; shapes and checks that all blocks share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError, unknown

if TYPE_CHECKING:
    from torch import nn

ACTIVATIONS: Mapping[str, str] = {
    "linear": "Identity",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "leaky_relu": "LeakyReLU",
    "hard_swish": "Hardswish",
    "swish": "SiLU",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "gelu": "GELU",
}
"""Name to the class in torch.nn; `linear` is no activation."""

ACTIVATION_ALIASES: Mapping[str, str] = {"identity": "linear", "silu": "swish"}


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, but never below 90 % of it, nor 0.

    The rule of MobileNet's reference code (`_make_divisible` in tensorflow/models, slim).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def normal_activation(op: str, field: str, name: str) -> str:
    """The one name of an activation.

    Raises:
        SpecError: there is no such activation.
    """
    known = ACTIVATION_ALIASES.get(name, name)
    if known not in ACTIVATIONS:
        raise SpecError(f"{op}.{field}: {unknown('activation', name, ACTIVATIONS)}")
    return known


def require_positive(block: Block, *names: str) -> None:
    """Checks fields that count something.

    Raises:
        SpecError: one of them is below 1.
    """
    problems = [
        f"{block.op}.{name}: must be at least 1, got {getattr(block, name)}"
        for name in names
        if getattr(block, name) < 1
    ]
    if problems:
        raise SpecError(problems)


def require_odd(block: Block, name: str) -> None:
    """Checks a kernel size that has to keep the size of the map.

    Raises:
        SpecError: it is even.
    """
    if getattr(block, name) % 2 == 0:
        raise SpecError(f"{block.op}.{name}: must be odd, got {getattr(block, name)}")


def feature_map(in_shape: Shape) -> tuple[int, int, int]:
    """(channels, height, width).

    Raises:
        SpecError: it is no feature map.
    """
    if len(in_shape) != 3:
        raise SpecError(f"needs a feature map (channels, height, width), got shape {in_shape}")
    channels, height, width = in_shape
    return channels, height, width


def windowed_shape(in_shape: Shape, out: int, kernel_size: int, stride: int) -> Shape:
    """The shape after a window slides over the map, padded by (kernel_size - 1) // 2 each side.

    Raises:
        SpecError: the stride is larger than the map, or the kernel than the padded map.
    """
    _, height, width = feature_map(in_shape)
    if stride > min(height, width):
        raise SpecError(f"stride {stride} is larger than the {height}x{width} feature map")
    padding = (kernel_size - 1) // 2
    if kernel_size > min(height, width) + 2 * padding:
        raise SpecError(
            f"kernel_size {kernel_size} is larger than the {height}x{width} feature map "
            f"padded by {padding}"
        )
    padded = 2 * padding - kernel_size
    return (out, (height + padded) // stride + 1, (width + padded) // stride + 1)


def smallest_stride(in_shape: Shape, kernel_size: int, stride: int) -> int:
    """The smallest stride that visits the same positions: where there is one only, many do."""
    _, height, width = feature_map(in_shape)
    positions = max(height, width) + 2 * ((kernel_size - 1) // 2) - kernel_size + 1
    return min(stride, positions)


@dataclass(frozen=True, kw_only=True)
class ConvNormActivation(Block):
    """Convolution, batch norm and activation; with norm `none` the convolution has a bias.

    (channels, h, w) -> (out, h', w'), h' = (h + 2p - kernel_size) // stride + 1 with
    p = (kernel_size - 1) // 2: odd kernels keep the size at stride 1.

    Raises:
        SpecError: values that cannot be built; `groups` that do not divide the channels.
    """

    op: ClassVar[str] = "conv_norm_act"
    out: int
    kernel_size: int = 3
    stride: int = 1
    activation: str = "relu"
    groups: int = 1
    norm: Literal["batch", "none"] = "batch"

    def __post_init__(self) -> None:
        name = normal_activation(self.op, "activation", self.activation)
        object.__setattr__(self, "activation", name)
        super().__post_init__()
        require_positive(self, "out", "kernel_size", "stride", "groups")
        if self.out % self.groups:
            raise SpecError(f"{self.op}.groups: {self.groups} does not divide out={self.out}")

    def out_shape(self, in_shape: Shape) -> Shape:
        channels, *_ = feature_map(in_shape)
        if channels % self.groups:
            raise SpecError(f"groups={self.groups} does not divide the {channels} input channels")
        return windowed_shape(in_shape, self.out, self.kernel_size, self.stride)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        self.out_shape(in_shape)
        stride = smallest_stride(in_shape, self.kernel_size, self.stride)
        return (self if stride == self.stride else dataclasses.replace(self, stride=stride),)

    def build(self, in_shape: Shape) -> nn.Module:
        from search_spaces.blocks.modules import conv_norm_activation

        return conv_norm_activation(
            in_shape[0],
            self.out,
            kernel_size=self.kernel_size,
            stride=self.stride,
            groups=self.groups,
            norm=self.norm,
            activation=self.activation,
        )


@dataclass(frozen=True, kw_only=True)
class MaxPool(Block):
    """Maximum over windows, padded by (kernel_size - 1) // 2; (c, h, w) -> (c, h', w')

    with h' = (h + 2p - kernel_size) // stride + 1.
    """

    op: ClassVar[str] = "max_pool"
    kernel_size: int
    stride: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "kernel_size", "stride")

    def out_shape(self, in_shape: Shape) -> Shape:
        channels, *_ = feature_map(in_shape)
        return windowed_shape(in_shape, channels, self.kernel_size, self.stride)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """The smallest kernel and stride with the same windows; at the rim of small maps several
        have the same, and where every window is one pixel there is nothing to do."""
        self.out_shape(in_shape)
        _, *sides = in_shape
        own = _windows(sides, self.kernel_size, self.stride)
        kernels = range(1, self.kernel_size + 1)
        if any(stop - start == self.kernel_size for axis in own for start, stop in axis):
            kernels = range(self.kernel_size, self.kernel_size + 1)
        kernel_size, stride = next(
            (kernel_size, stride)
            for kernel_size in kernels
            for stride in range(1, min(sides) + 1)
            if _windows(sides, kernel_size, stride) == own
        )
        if kernel_size == stride == 1:
            return ()
        return (MaxPool(kernel_size=kernel_size, stride=stride),)

    def build(self, in_shape: Shape) -> nn.Module:
        del in_shape
        from torch import nn

        return nn.MaxPool2d(self.kernel_size, self.stride, padding=(self.kernel_size - 1) // 2)


def _windows(sides: list[int], kernel_size: int, stride: int) -> list[list[tuple[int, int]]]:
    """For each axis the (start, stop) of its windows on the map, without the padding."""
    padding = (kernel_size - 1) // 2
    return [
        [
            (max(0, start), min(side, start + kernel_size))
            for start in range(-padding, side + padding - kernel_size + 1, stride)
        ]
        for side in sides
    ]


@dataclass(frozen=True, kw_only=True)
class GlobalPoolLinear(Block):
    """Average over the map, dropout (in training), linear layer; (c, h, w) -> (out,)."""

    op: ClassVar[str] = "global_pool_linear"
    out: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "out")
        if not 0 <= self.dropout < 1:
            raise SpecError(f"{self.op}.dropout: must be in [0, 1), got {self.dropout}")

    def out_shape(self, in_shape: Shape) -> Shape:
        feature_map(in_shape)
        return (self.out,)

    def build(self, in_shape: Shape) -> nn.Module:
        from collections import OrderedDict

        from torch import nn

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        if self.dropout > 0:
            layers["dropout"] = nn.Dropout(self.dropout)
        layers["linear"] = nn.Linear(in_shape[0], self.out)
        return nn.Sequential(layers)
