"""The blocks of ResNet (arXiv 1512.03385) and ResNeXt, and the skip of a searched chain."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.chain import build_chain, canonical_chain
from search_spaces.blocks.conv import ConvNormActivation
from search_spaces.blocks.shapes import (
    feature_map,
    normalise_activations,
    require_odd,
    require_positive,
    windowed_shape,
)

if TYPE_CHECKING:
    from torch import nn

ShortcutType = Literal["A", "B", "C", "none"]
"""ResNet, section 4.1. A: the identity, strided, new channels zero. B: the identity, or a strided
1x1 conv-BN where stride or channels change. C: a 1x1 conv-BN everywhere. none: the plain twin."""


@dataclass(frozen=True, kw_only=True)
class _Residual(Block):
    """What the two residual blocks share: a branch of convolutions and a kind of shortcut."""

    out: int
    kernel_size: int = 3
    stride: int = 1
    activation: str = "relu"
    shortcut: ShortcutType = "B"

    def __post_init__(self) -> None:
        normalise_activations(self, "activation")
        super().__post_init__()
        require_positive(self, "out", "kernel_size", "stride")
        require_odd(self, "kernel_size")

    def branch(self) -> dict[str, ConvNormActivation]:
        """The convolutions of the plain twin, by name; the last one is activated."""
        raise NotImplementedError

    def out_shape(self, in_shape: Shape) -> Shape:
        channels, *_ = feature_map(in_shape)
        if self.shortcut == "A" and channels > self.out:
            raise SpecError(
                f"shortcut A adds zero channels, it cannot go from {channels} to {self.out}"
            )
        return windowed_shape(in_shape, self.out, self.kernel_size, self.stride)

    def changes_shape(self, in_shape: Shape) -> bool:
        """Whether the identity does not fit around the block."""
        return self.stride != 1 or in_shape[0] != self.out

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """The plain twin is the chain of its convolutions; the rest has the simplest shortcut."""
        self.out_shape(in_shape)
        if self.shortcut == "none":
            return canonical_chain(self.branch().values(), in_shape)
        equal_to_b = {"A": not self.changes_shape(in_shape), "C": self.changes_shape(in_shape)}
        if equal_to_b.get(self.shortcut, False):
            return (dataclasses.replace(self, shortcut="B"),)
        return (self,)

    def build(self, in_shape: Shape) -> nn.Module:
        from torch import nn

        from search_spaces.blocks.modules import (
            Bottleneck,
            ZeroPadShortcut,
            conv_norm_activation,
        )

        branch = self.branch()
        if self.shortcut == "none":
            return nn.Sequential(build_chain(branch, in_shape))
        last, convolution = list(branch.items())[-1]
        branch[last] = dataclasses.replace(convolution, activation="linear")
        around: nn.Module | None = None
        if self.shortcut == "A" and self.changes_shape(in_shape):
            around = ZeroPadShortcut(self.out - in_shape[0], self.stride)
        elif self.shortcut == "C" or self.changes_shape(in_shape):
            around = conv_norm_activation(in_shape[0], self.out, stride=self.stride)
        layers = nn.Sequential(build_chain(branch, in_shape))
        return Bottleneck(layers, around, self.activation)


@dataclass(frozen=True, kw_only=True)
class ResidualBasic(_Residual):
    """Two k x k convolutions and a shortcut; ResNet, figure 5 (left).

    (channels, h, w) -> (out, ceil(h / stride), ceil(w / stride)). Each convolution has a batch
    norm; the activation follows the first, and the addition. The first one strides.

    Raises:
        SpecError: values that cannot be built; shortcut A where channels would be lost.
    """

    op: ClassVar[str] = "residual_basic"

    def branch(self) -> dict[str, ConvNormActivation]:
        return {
            name: ConvNormActivation(
                out=self.out,
                kernel_size=self.kernel_size,
                stride=stride,
                activation=self.activation,
            )
            for name, stride in (("first", self.stride), ("second", 1))
        }


@dataclass(frozen=True, kw_only=True)
class ResidualBottleneck(_Residual):
    """1x1 reduction, k x k, 1x1 restoration, plus a shortcut, then the activation.

    ResNet, figure 5 (right). (channels, h, w) -> (out, ceil(h / stride), ceil(w / stride)). The
    inner layers have round(out / reduction) channels. Every convolution has a batch norm; all but
    the last are followed by the activation, the last by it after the addition. The stride is on
    the k x k convolution, as torchvision has it; `stride_at: reduce` puts it on the first, as the
    paper. With `groups`, the cardinality, the k x k convolution is ResNeXt's (arXiv 1611.05431,
    figure 3c).

    Raises:
        SpecError: values that cannot be built; `groups` that do not divide the inner channels.
    """

    op: ClassVar[str] = "residual_bottleneck"
    reduction: float = 4.0
    groups: int = 1
    stride_at: Literal["spatial", "reduce"] = "spatial"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "groups")
        if self.reduction <= 0 or self.hidden_channels < 1:
            raise SpecError(
                f"{self.op}.reduction: {self.reduction} leaves no inner channel of out={self.out}"
            )
        if self.hidden_channels % self.groups:
            raise SpecError(
                f"{self.op}.groups: {self.groups} does not divide the {self.hidden_channels} "
                "inner channels"
            )

    @property
    def hidden_channels(self) -> int:
        """The width of the inner layers."""
        return round(self.out / self.reduction)

    def branch(self) -> dict[str, ConvNormActivation]:
        first = self.stride if self.stride_at == "reduce" else 1
        hidden, activation = self.hidden_channels, self.activation
        return {
            "reduce": ConvNormActivation(
                out=hidden, kernel_size=1, stride=first, activation=activation
            ),
            "spatial": ConvNormActivation(
                out=hidden,
                kernel_size=self.kernel_size,
                stride=self.stride // first,
                groups=self.groups,
                activation=activation,
            ),
            "restore": ConvNormActivation(out=self.out, kernel_size=1, activation=activation),
        }

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        chain = super().canonical(in_shape)
        if self.shortcut == "none":
            return chain
        return tuple(
            dataclasses.replace(
                block,
                reduction=self.out / self.hidden_channels,
                stride_at="spatial" if self.stride == 1 else self.stride_at,
            )
            for block in chain
            if isinstance(block, ResidualBottleneck)
        )


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
