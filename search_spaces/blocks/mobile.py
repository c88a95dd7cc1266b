"""The blocks of MobileNetV1 (arXiv 1704.04861), V2 (1801.04381) and V3 (1905.02244)."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.chain import canonical_chain
from search_spaces.blocks.conv import ConvNormActivation
from search_spaces.blocks.shapes import (
    feature_map,
    make_divisible,
    normalise_activations,
    require_odd,
    require_positive,
    windowed_shape,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class DepthwiseSeparable(Block):
    """Depthwise k x k and pointwise 1x1 convolution, each with batch norm and activation.

    MobileNetV1, figure 3 (right). (channels, h, w) -> (out, ceil(h / stride), ceil(w / stride)).
    The activation is ReLU6, as in the authors' code (the figure says ReLU).

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "depthwise_separable"
    out: int
    kernel_size: int = 3
    stride: int = 1
    activation: str = "relu6"

    def __post_init__(self) -> None:
        normalise_activations(self, "activation")
        super().__post_init__()
        require_positive(self, "out", "kernel_size", "stride")
        require_odd(self, "kernel_size")

    def out_shape(self, in_shape: Shape) -> Shape:
        return windowed_shape(in_shape, self.out, self.kernel_size, self.stride)

    def build(self, in_shape: Shape) -> nn.Module:
        from torch import nn

        return nn.Sequential(
            _mobile_layers(
                in_shape[0],
                in_shape[0],
                self.out,
                kernel_size=self.kernel_size,
                stride=self.stride,
                activation=self.activation,
                last_activation=self.activation,
            )
        )


@dataclass(frozen=True, kw_only=True)
class InvertedResidual(Block):
    """1x1 expansion, depthwise k x k, 1x1 projection to a linear bottleneck; MobileNetV2, table 1.

    (channels, h, w) -> (out, ceil(h / stride), ceil(w / stride)). The hidden layers have
    round(channels * expand_ratio) channels; where that is `channels` there is no expansion
    convolution. Every convolution is followed by batch norm, then by `activation` or, after the
    projection, by `bottleneck_activation` (figure 6a compares linear with ReLU6). The shortcut
    (figure 6b) goes around all of it, so it is added after the bottleneck's activation; it exists
    where stride is 1 and the channels agree. With `se_ratio`, MobileNetV3's squeeze-and-excite
    follows the depthwise convolution's activation; it squeezes to hidden channels x se_ratio,
    rounded to a multiple of 8.

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "inverted_residual"
    out: int
    kernel_size: int = 3
    stride: int = 1
    expand_ratio: float = 6.0
    activation: str = "relu6"
    bottleneck_activation: str = "linear"
    residual: bool = True
    se_ratio: float = 0.0

    def __post_init__(self) -> None:
        normalise_activations(self, "activation", "bottleneck_activation")
        super().__post_init__()
        require_positive(self, "out", "kernel_size", "stride")
        require_odd(self, "kernel_size")
        if self.expand_ratio <= 0:
            raise SpecError(f"{self.op}.expand_ratio: must be above 0, got {self.expand_ratio}")
        if not 0 <= self.se_ratio <= 1:
            raise SpecError(f"{self.op}.se_ratio: expected 0 to 1, got {self.se_ratio}")

    def hidden_channels(self, channels: int) -> int:
        """The width of the expanded layers.

        Raises:
            SpecError: not even one channel is left.
        """
        hidden = round(channels * self.expand_ratio)
        if hidden < 1:
            raise SpecError(f"expand_ratio {self.expand_ratio} leaves none of {channels} channels")
        return hidden

    def squeeze_channels(self, hidden: int) -> int:
        """Of the squeeze-and-excite; 0 is none."""
        return make_divisible(hidden * self.se_ratio) if self.se_ratio else 0

    def has_shortcut(self, in_shape: Shape) -> bool:
        """Whether the input is added to the output."""
        return self.residual and self.stride == 1 and in_shape[0] == self.out

    def out_shape(self, in_shape: Shape) -> Shape:
        channels, *_ = feature_map(in_shape)
        self.hidden_channels(channels)
        return windowed_shape(in_shape, self.out, self.kernel_size, self.stride)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """Itself with the ratio that its hidden width really is and without idle settings.

        Without expansion and shortcut, and with one activation throughout, it is MobileNetV1's.
        """
        channels, *_ = feature_map(in_shape)
        hidden = self.hidden_channels(channels)
        shortcut = self.has_shortcut(in_shape)
        one_activation = self.bottleneck_activation == self.activation
        if hidden == channels and not shortcut and one_activation and not self.se_ratio:
            return (
                DepthwiseSeparable(
                    out=self.out,
                    kernel_size=self.kernel_size,
                    stride=self.stride,
                    activation=self.activation,
                ),
            )
        own: dict[str, Any] = {
            "expand_ratio": hidden / channels,
            "residual": shortcut or self.stride != 1 or channels != self.out,
            "se_ratio": min(1, self.squeeze_channels(hidden) / hidden),
        }
        if all(getattr(self, name) == value for name, value in own.items()):
            return (self,)
        return (dataclasses.replace(self, **own),)

    def build(self, in_shape: Shape) -> nn.Module:
        from torch import nn

        from search_spaces.blocks.modules import Shortcut

        layers = _mobile_layers(
            in_shape[0],
            self.hidden_channels(in_shape[0]),
            self.out,
            kernel_size=self.kernel_size,
            stride=self.stride,
            activation=self.activation,
            last_activation=self.bottleneck_activation,
            squeeze=self.squeeze_channels(self.hidden_channels(in_shape[0])),
        )
        return Shortcut(layers) if self.has_shortcut(in_shape) else nn.Sequential(layers)


@dataclass(frozen=True, kw_only=True)
class ExpansionResidual(Block):
    """MobileNetV2 cut at its expansions, so that shortcuts go between them; figure 6b's variant.

    Depthwise k x k on the expanded map, 1x1 projection to the linear `bottleneck`, 1x1 expansion to
    `out`: (channels, h, w) -> (out, ceil(h / stride), ceil(w / stride)), expanded on both sides. A
    chain of these between a 1x1 expansion and an inverted residual has the layers of a chain of
    inverted residuals. The shortcut exists where stride is 1 and the channels agree.

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "expansion_residual"
    out: int
    bottleneck: int
    kernel_size: int = 3
    stride: int = 1
    activation: str = "relu6"
    bottleneck_activation: str = "linear"
    residual: bool = True

    def __post_init__(self) -> None:
        normalise_activations(self, "activation", "bottleneck_activation")
        super().__post_init__()
        require_positive(self, "out", "bottleneck", "kernel_size", "stride")
        require_odd(self, "kernel_size")

    def out_shape(self, in_shape: Shape) -> Shape:
        return windowed_shape(in_shape, self.out, self.kernel_size, self.stride)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """Without a shortcut it is MobileNetV1's or V2's layers and a 1x1 convolution."""
        if self.residual and self.stride == 1 and in_shape[0] == self.out:
            return (self,)
        project = InvertedResidual(
            out=self.bottleneck,
            kernel_size=self.kernel_size,
            stride=self.stride,
            expand_ratio=1,
            activation=self.activation,
            bottleneck_activation=self.bottleneck_activation,
            residual=False,
        )
        expand = ConvNormActivation(out=self.out, kernel_size=1, activation=self.activation)
        return canonical_chain((project, expand), in_shape)

    def build(self, in_shape: Shape) -> nn.Module:
        from torch import nn

        from search_spaces.blocks.modules import Shortcut, conv_norm_activation

        layers = _mobile_layers(
            in_shape[0],
            in_shape[0],
            self.bottleneck,
            kernel_size=self.kernel_size,
            stride=self.stride,
            activation=self.activation,
            last_activation=self.bottleneck_activation,
        )
        layers["expand"] = conv_norm_activation(
            self.bottleneck, self.out, activation=self.activation
        )
        shortcut = self.residual and self.stride == 1 and in_shape[0] == self.out
        return Shortcut(layers) if shortcut else nn.Sequential(layers)


def _mobile_layers(
    channels: int,
    hidden: int,
    out: int,
    *,
    kernel_size: int,
    stride: int,
    activation: str,
    last_activation: str,
    squeeze: int = 0,
) -> OrderedDict[str, nn.Module]:
    """One construction for both blocks, so that where they coincide they really are the same."""
    from search_spaces.blocks.modules import SqueezeExcite, conv_norm_activation

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if hidden != channels:
        layers["expand"] = conv_norm_activation(channels, hidden, activation=activation)
    layers["depthwise"] = conv_norm_activation(
        hidden,
        hidden,
        kernel_size=kernel_size,
        stride=stride,
        groups=hidden,
        activation=activation,
    )
    if squeeze:
        layers["squeeze_excite"] = SqueezeExcite(hidden, squeeze)
    layers["pointwise"] = conv_norm_activation(hidden, out, activation=last_activation)
    return layers
