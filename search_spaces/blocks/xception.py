"""The blocks of Xception (arXiv 1610.02357)."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nasctl.arch import Block, Shape
from search_spaces.blocks.chain import build_chain, canonical_chain
from search_spaces.blocks.pool import MaxPool
from search_spaces.blocks.shapes import (
    feature_map,
    normalise_activations,
    require_odd,
    require_positive,
    windowed_shape,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class _Separable(Block):
    """What one separable convolution and a module of several share."""

    out: int
    kernel_size: int = 3
    stride: int = 1
    activation: str = "relu"
    depthwise_activation: str = "linear"

    def __post_init__(self) -> None:
        normalise_activations(self, "activation", "depthwise_activation")
        super().__post_init__()
        require_positive(self, "out", "kernel_size", "stride")
        require_odd(self, "kernel_size")

    def out_shape(self, in_shape: Shape) -> Shape:
        return windowed_shape(in_shape, self.out, self.kernel_size, self.stride)


@dataclass(frozen=True, kw_only=True)
class SeparableConv(_Separable):
    """Depthwise k x k, pointwise 1x1, batch norm and activation; Xception, figure 4 and section 2.

    (channels, h, w) -> (out, ceil(h / stride), ceil(w / stride)); the depthwise convolution
    strides. Unlike MobileNet's it has one norm, and nothing between the convolutions unless
    `depthwise_activation` names an activation (figure 10 compares). `order`: the activation comes
    last, or before the convolutions.

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "separable_conv"
    order: Literal["conv_norm_act", "act_conv_norm"] = "conv_norm_act"

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        self.out_shape(in_shape)
        if self.activation == "linear":
            return (dataclasses.replace(self, order="conv_norm_act"),)
        return (self,)

    def build(self, in_shape: Shape) -> nn.Module:
        from search_spaces.blocks.modules_branches import separable

        return separable(
            in_shape[0],
            self.out,
            kernel_size=self.kernel_size,
            stride=self.stride,
            activation=self.activation,
            depthwise_activation=self.depthwise_activation,
            order=self.order,
        )


@dataclass(frozen=True, kw_only=True)
class XceptionModule(_Separable):
    """`layers` separable convolutions, each after the activation, and a shortcut around them all.

    Xception, figure 5. (channels, h, w) -> (out, ceil(h / stride), ceil(w / stride)). With a
    stride a 3x3 max pool ends the branch. The shortcut is the identity, or a strided 1x1 conv-BN
    where stride or channels change; without `residual` there is none. The channels grow in the
    `first` convolution (entry flow) or in the `last` (exit flow). The module after the stem has no
    `first_activation`.

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "xception"
    layers: int = 2
    first_activation: bool = True
    grow: Literal["first", "last"] = "first"
    residual: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "layers")

    def out_shape(self, in_shape: Shape) -> Shape:
        windowed_shape(in_shape, self.out, self.kernel_size, 1)
        return windowed_shape(in_shape, self.out, 3, self.stride)

    def branch(self, channels: int) -> OrderedDict[str, Block]:
        """The separable convolutions and the pool, by name."""
        blocks: OrderedDict[str, Block] = OrderedDict()
        for index in range(self.layers):
            grown = self.grow == "first" or index == self.layers - 1
            active = self.first_activation or index > 0
            blocks[f"separable{index}"] = SeparableConv(
                out=self.out if grown else channels,
                kernel_size=self.kernel_size,
                activation=self.activation if active else "linear",
                depthwise_activation=self.depthwise_activation,
                order="act_conv_norm",
            )
        if self.stride > 1:
            blocks["pool"] = MaxPool(kernel_size=3, stride=self.stride)
        return blocks

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """Without a shortcut it is the chain of its convolutions; else without idle settings."""
        self.out_shape(in_shape)
        channels, *_ = feature_map(in_shape)
        if not self.residual:
            return canonical_chain(self.branch(channels).values(), in_shape)
        own: dict[str, Any] = {}
        if self.layers == 1 and not self.first_activation:
            own["activation"] = "linear"
        if own or self.activation == "linear":
            own["first_activation"] = True
        if self.layers == 1 or channels == self.out:
            own["grow"] = "first"
        return (dataclasses.replace(self, **own),)

    def build(self, in_shape: Shape) -> nn.Module:
        from torch import nn

        from search_spaces.blocks.modules import Bottleneck, conv_norm_activation

        branch = nn.Sequential(build_chain(self.branch(in_shape[0]), in_shape))
        if not self.residual:
            return branch
        around: nn.Module | None = None
        if self.stride != 1 or in_shape[0] != self.out:
            around = conv_norm_activation(in_shape[0], self.out, stride=self.stride)
        return Bottleneck(branch, around, "linear")
