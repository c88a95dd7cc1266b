"""The blocks of DenseNet (arXiv 1608.06993) and their additive twins."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.chain import build_chain, canonical_chain, chain_shape
from search_spaces.blocks.conv import ConvNormActivation
from search_spaces.blocks.pool import AvgPool
from search_spaces.blocks.shapes import (
    feature_map,
    normalise_activations,
    require_odd,
    require_positive,
    same_padding,
    windowed_shape,
)

if TYPE_CHECKING:
    from torch import nn

Combine = Literal["concat", "add"]
"""How a layer's output joins its input: DenseNet's concatenation, or ResNet's addition."""


@dataclass(frozen=True, kw_only=True)
class _Dense(Block):
    """What a dense layer and stacks of it share."""

    growth_rate: int
    bottleneck: int = 4
    kernel_size: int = 3
    activation: str = "relu"
    combine: Combine = "concat"

    def __post_init__(self) -> None:
        normalise_activations(self, "activation")
        super().__post_init__()
        require_positive(self, "growth_rate", "kernel_size")
        require_odd(self, "kernel_size")
        if self.bottleneck < 0:
            raise SpecError(f"{self.op}.bottleneck: must be at least 0, got {self.bottleneck}")

    def layer(self) -> DenseLayer:
        """One layer."""
        return DenseLayer(
            growth_rate=self.growth_rate,
            bottleneck=self.bottleneck,
            kernel_size=self.kernel_size,
            activation=self.activation,
            combine=self.combine,
        )


@dataclass(frozen=True, kw_only=True)
class DenseLayer(_Dense):
    """Norm, activation and a k x k convolution to `growth_rate` channels, after the input's own.

    DenseNet, section 3: (c, h, w) -> (c + growth_rate, h, w). Before it comes the bottleneck
    (DenseNet-B): norm, activation, 1x1 convolution to bottleneck * growth_rate channels; 0 is
    none. With combine `add`, the additive twin, the last convolution has c channels and is added to
    the input: (c, h, w) -> (c, h, w).

    Raises:
        SpecError: values that cannot be built; a growth rate of 0.
    """

    op: ClassVar[str] = "dense_layer"

    def branch(self, channels: int) -> OrderedDict[str, Block]:
        """The convolutions."""
        layers: OrderedDict[str, Block] = OrderedDict()
        if self.bottleneck:
            layers["reduce"] = ConvNormActivation(
                out=self.bottleneck * self.growth_rate,
                kernel_size=1,
                activation=self.activation,
                order="norm_act_conv",
            )
        layers["spatial"] = ConvNormActivation(
            out=self.growth_rate if self.combine == "concat" else channels,
            kernel_size=self.kernel_size,
            activation=self.activation,
            order="norm_act_conv",
        )
        return layers

    def out_shape(self, in_shape: Shape) -> Shape:
        channels, *_ = feature_map(in_shape)
        out = channels + self.growth_rate if self.combine == "concat" else channels
        return windowed_shape(in_shape, out, self.kernel_size, 1)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """Of the additive twin only the width of the bottleneck is seen."""
        self.out_shape(in_shape)
        if self.combine == "concat":
            return (self,)
        width = self.bottleneck * self.growth_rate
        simplest = dataclasses.replace(self, growth_rate=max(width, 1), bottleneck=min(width, 1))
        return (simplest,)

    def build(self, in_shape: Shape) -> nn.Module:
        from search_spaces.blocks.modules import Shortcut
        from search_spaces.blocks.modules_branches import DenseConcat

        layers = build_chain(self.branch(in_shape[0]), in_shape)
        return DenseConcat(layers) if self.combine == "concat" else Shortcut(layers)


@dataclass(frozen=True, kw_only=True)
class _Stack(Block):
    """A chain of simpler blocks: canonically it never stays itself."""

    def chain(self) -> OrderedDict[str, Block]:
        """The blocks, by name."""
        raise NotImplementedError

    def out_shape(self, in_shape: Shape) -> Shape:
        return chain_shape(self.chain().values(), in_shape)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        return canonical_chain(self.chain().values(), in_shape)

    def build(self, in_shape: Shape) -> nn.Module:
        from torch import nn

        return nn.Sequential(build_chain(self.chain(), in_shape))


@dataclass(frozen=True, kw_only=True)
class Transition(_Stack):
    """Norm, activation, 1x1 convolution to `out` channels, average pool `stride` x `stride`.

    DenseNet, section 3; `out` below the input's channels is compression (DenseNet-C).
    (c, h, w) -> (out, h // stride, w // stride), or rounded up with `ceil`.

    Raises:
        SpecError: values that cannot be built; a stride larger than the map.
    """

    op: ClassVar[str] = "transition"
    out: int
    stride: int = 2
    activation: str = "relu"
    ceil: bool = False

    def __post_init__(self) -> None:
        normalise_activations(self, "activation")
        super().__post_init__()
        require_positive(self, "out", "stride")

    def chain(self) -> OrderedDict[str, Block]:
        reduce = ConvNormActivation(
            out=self.out, kernel_size=1, activation=self.activation, order="norm_act_conv"
        )
        blocks: OrderedDict[str, Block] = OrderedDict(reduce=reduce)
        if self.stride > 1:
            blocks["pool"] = AvgPool(
                kernel_size=self.stride, stride=self.stride, padding=0, ceil=self.ceil
            )
        return blocks


@dataclass(frozen=True, kw_only=True)
class DenseBlock(_Stack, _Dense):
    """A chain of `layers` dense layers; (c, h, w) -> (c + layers * growth_rate, h, w).

    DenseNet, figure 1. With combine `add` the channels stay.

    Raises:
        SpecError: values that cannot be built; a growth rate of 0.
    """

    op: ClassVar[str] = "dense_block"
    layers: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "layers")

    def chain(self) -> OrderedDict[str, Block]:
        return OrderedDict((f"layer{index}", self.layer()) for index in range(self.layers))


@dataclass(frozen=True, kw_only=True)
class Dense(DenseBlock):
    """A dense block and a transition to `out` channels, as one block of a searched stage.

    (c, h, w) -> (out, ceil(h / stride), ceil(w / stride)): rounded up, as the other blocks that a
    stage can have.

    Raises:
        SpecError: values that cannot be built; a growth rate of 0; a stride larger than the map.
    """

    op: ClassVar[str] = "dense"
    out: int
    stride: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "out", "stride")

    def chain(self) -> OrderedDict[str, Block]:
        blocks = super().chain()
        blocks["transition"] = Transition(
            out=self.out, stride=self.stride, activation=self.activation, ceil=True
        )
        return blocks


@dataclass(frozen=True, kw_only=True)
class PreActivationStem(Block):
    """A bare k x k convolution, without bias, norm or activation: pre-activated layers follow.

    DenseNet on CIFAR begins with it (section 3, implementation details).
    (channels, h, w) -> (out, ceil(h / stride), ceil(w / stride)).

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "pre_activation_stem"
    out: int
    kernel_size: int = 3
    stride: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "out", "kernel_size", "stride")
        require_odd(self, "kernel_size")

    def out_shape(self, in_shape: Shape) -> Shape:
        return windowed_shape(in_shape, self.out, self.kernel_size, self.stride)

    def build(self, in_shape: Shape) -> nn.Module:
        from torch import nn

        return nn.Conv2d(
            in_shape[0],
            self.out,
            self.kernel_size,
            stride=self.stride,
            padding=same_padding(self.kernel_size),
            bias=False,
        )
