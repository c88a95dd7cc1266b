"""Chains of plain convolutions under one name: VGG's stack, NIN's mlpconv, the factorised k x k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.chain import build_chain, canonical_chain, chain_shape
from search_spaces.blocks.conv import ConvNormActivation
from search_spaces.blocks.norm import BatchNormActivation
from search_spaces.blocks.pool import MaxPool
from search_spaces.blocks.shapes import normalise_activations, require_odd, require_positive

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class _Chain(Block):
    """A block that is nothing but the chain of its `parts`; canonically it is that chain."""

    out: int
    kernel_size: int = 3
    stride: int = 1
    activation: str = "relu"
    norm: Literal["batch", "none"] = "batch"

    def __post_init__(self) -> None:
        normalise_activations(self, "activation")
        super().__post_init__()
        require_positive(self, "out", "kernel_size", "stride")

    def parts(self) -> tuple[Block, ...]:
        """The simple blocks, in order."""
        raise NotImplementedError

    def out_shape(self, in_shape: Shape) -> Shape:
        return chain_shape(self.parts(), in_shape)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        return canonical_chain(self.parts(), in_shape)

    def build(self, in_shape: Shape) -> nn.Module:
        from torch import nn

        named = {str(index): part for index, part in enumerate(self.parts())}
        return nn.Sequential(build_chain(named, in_shape))


@dataclass(frozen=True, kw_only=True)
class ConvStack(_Chain):
    """`layers` k x k convolutions, each with norm and activation, then a max pool of `stride`.

    VGG (arXiv 1409.1556, section 2.3): n stacked 3x3 see 2n + 1 pixels, as one convolution of that
    size, with fewer weights and more nonlinearities. (out, h // stride, w // stride); where
    `stride` is 1 there is no pool. `bias`: the convolutions have one also before a norm, as in
    torchvision's VGG-BN.

    Raises:
        SpecError: values that cannot be built; a stride larger than the map.
    """

    op: ClassVar[str] = "conv_stack"
    layers: int = 2
    bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "layers")
        require_odd(self, "kernel_size")

    def parts(self) -> tuple[Block, ...]:
        biased = self.norm == "batch" and self.bias
        layer: list[Block] = [
            ConvNormActivation(
                out=self.out,
                kernel_size=self.kernel_size,
                norm="none" if biased else self.norm,
                activation="linear" if biased else self.activation,
            )
        ]
        if biased:
            layer.append(BatchNormActivation(activation=self.activation))
        pool = [MaxPool(kernel_size=self.stride, stride=self.stride, padding=0)]
        return (*layer * self.layers, *(pool if self.stride > 1 else ()))


@dataclass(frozen=True, kw_only=True)
class MlpConv(_Chain):
    """A k x k convolution and `layers` 1x1 ones, with norm and activation after each.

    NIN (arXiv 1312.4400, section 3.1, equation 2: "cascaded cross channel parametric pooling").
    (channels, h, w) -> (out, h', w'), h' = (h + 2 padding - kernel_size) // stride + 1. Without
    `padding` it is (kernel_size - 1) // 2.

    Raises:
        SpecError: values that cannot be built; a kernel or stride larger than the map.
    """

    op: ClassVar[str] = "mlpconv"
    layers: int = 2
    padding: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "layers")
        if self.padding is not None and self.padding < 0:
            raise SpecError(f"{self.op}.padding: must be at least 0, got {self.padding}")

    def parts(self) -> tuple[Block, ...]:
        first = ConvNormActivation(
            out=self.out,
            kernel_size=self.kernel_size,
            stride=self.stride,
            activation=self.activation,
            norm=self.norm,
            padding=self.padding,
        )
        pointwise = ConvNormActivation(
            out=self.out, kernel_size=1, activation=self.activation, norm=self.norm
        )
        return (first, *(pointwise,) * self.layers)


@dataclass(frozen=True, kw_only=True)
class FactorisedConv(_Chain):
    """1 x n, then n x 1, norm and activation after each; Inception-v3 (arXiv 1512.00567, 3.2).

    It sees n x n with 2n instead of n^2 weights per channel pair. (channels, h, w) ->
    (out, ceil(h / stride), ceil(w / stride)); both directions stride at the second convolution.

    Raises:
        SpecError: values that cannot be built; a stride larger than the map.
    """

    op: ClassVar[str] = "factorised_conv"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_odd(self, "kernel_size")

    def parts(self) -> tuple[Block, ...]:
        return tuple(
            ConvNormActivation(
                out=self.out,
                kernel_size=kernel_size,
                stride=stride,
                activation=self.activation,
                norm=self.norm,
            )
            for kernel_size, stride in (
                ((1, self.kernel_size), 1),
                ((self.kernel_size, 1), self.stride),
            )
        )
