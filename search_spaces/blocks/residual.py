"""The bottleneck block of ResNet (arXiv 1512.03385) and the skip of a searched chain."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.conv import (
    ConvNormActivation,
    normal_activation,
    require_odd,
    require_positive,
    windowed_shape,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ResidualBottleneck(Block):
    """1x1 reduction, k x k, 1x1 restoration, plus a shortcut, then the activation.

    ResNet, figure 5 (right). (channels, h, w) -> (out, ceil(h / stride), ceil(w / stride)). The
    inner layers have round(out / reduction) channels. Every convolution has a batch norm; all but
    the last are followed by the activation, the last by it after the addition. The stride is on
    the k x k convolution (as torchvision has it; the paper puts it on the first). The shortcut is
    the identity, or a strided 1x1 conv-BN where stride or channels change (option B).

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "residual_bottleneck"
    out: int
    kernel_size: int = 3
    stride: int = 1
    reduction: float = 4.0
    activation: str = "relu"

    def __post_init__(self) -> None:
        name = normal_activation(self.op, "activation", self.activation)
        object.__setattr__(self, "activation", name)
        super().__post_init__()
        require_positive(self, "out", "kernel_size", "stride")
        require_odd(self, "kernel_size")
        if self.reduction <= 0 or self.hidden_channels < 1:
            raise SpecError(
                f"{self.op}.reduction: {self.reduction} leaves no inner channel of out={self.out}"
            )

    @property
    def hidden_channels(self) -> int:
        """The width of the inner layers."""
        return round(self.out / self.reduction)

    def out_shape(self, in_shape: Shape) -> Shape:
        return windowed_shape(in_shape, self.out, self.kernel_size, self.stride)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        del in_shape
        reduction = self.out / self.hidden_channels
        if reduction == self.reduction:
            return (self,)
        return (dataclasses.replace(self, reduction=reduction),)

    def build(self, in_shape: Shape) -> nn.Module:
        from torch import nn

        from search_spaces.blocks.modules import Bottleneck, conv_norm_activation

        channels, hidden = in_shape[0], self.hidden_channels
        branch: OrderedDict[str, nn.Module] = OrderedDict()
        branch["reduce"] = conv_norm_activation(channels, hidden, activation=self.activation)
        branch["spatial"] = conv_norm_activation(
            hidden,
            hidden,
            kernel_size=self.kernel_size,
            stride=self.stride,
            activation=self.activation,
        )
        branch["restore"] = conv_norm_activation(hidden, self.out)
        projection = None
        if self.stride != 1 or channels != self.out:
            projection = conv_norm_activation(channels, self.out, stride=self.stride)
        return Bottleneck(nn.Sequential(branch), projection, self.activation)


@dataclass(frozen=True, kw_only=True)
class Skip(Block):
    """The identity where stride is 1 and the channels agree, else a strided 1x1 conv-BN.

    Canonically it is therefore nothing, or a `ConvNormActivation`; it never stays itself.
    """

    op: ClassVar[str] = "skip"
    out: int
    stride: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "out", "stride")

    def _convolution(self) -> ConvNormActivation:
        return ConvNormActivation(
            out=self.out, kernel_size=1, stride=self.stride, activation="linear"
        )

    def out_shape(self, in_shape: Shape) -> Shape:
        return windowed_shape(in_shape, self.out, 1, self.stride)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        self.out_shape(in_shape)
        if self.stride == 1 and in_shape[0] == self.out:
            return ()
        return self._convolution().canonical(in_shape)

    def build(self, in_shape: Shape) -> nn.Module:
        if self.stride == 1 and in_shape[0] == self.out:
            from torch import nn

            return nn.Identity()
        return self._convolution().build(in_shape)
