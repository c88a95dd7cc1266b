"""Plain convolutions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.shapes import (
    Size,
    feature_map,
    normalise_activations,
    pair,
    require_positive,
    same_padding,
    smallest_stride,
    windowed_shape,
)

if TYPE_CHECKING:
    from torch import nn

Order = Literal["conv_norm_act", "conv_act_norm", "norm_act_conv"]


@dataclass(frozen=True, kw_only=True)
class ConvNormActivation(Block):
    """Convolution, batch norm and activation; with norm `none` the convolution has a bias.

    (channels, h, w) -> (out, h', w'), h' = (h + 2 padding - kernel_size) // stride + 1. A size may
    be a pair (along the height, along the width): Inception-v3's 1x7. Without `padding` it is
    (kernel_size - 1) // 2: odd kernels keep the size at stride 1. `order`: Ioffe & Szegedy
    (arXiv 1502.03167) put the norm before the activation; `conv_act_norm` has it after;
    `norm_act_conv` is the pre-activation of ResNet-v2 (arXiv 1603.05027) and DenseNet.

    Raises:
        SpecError: values that cannot be built; `groups` that do not divide the channels.
    """

    op: ClassVar[str] = "conv_norm_act"
    out: int
    kernel_size: int | tuple[int, int] = 3
    stride: int = 1
    activation: str = "relu"
    groups: int = 1
    norm: Literal["batch", "none"] = "batch"
    padding: int | tuple[int, int] | None = None
    order: Order = "conv_norm_act"

    def __post_init__(self) -> None:
        normalise_activations(self, "activation")
        super().__post_init__()
        require_positive(self, "out", "kernel_size", "stride", "groups")
        if self.padding is not None and min(pair(self.padding)) < 0:
            raise SpecError(f"{self.op}.padding: must be at least 0, got {self.padding}")
        if self.out % self.groups:
            raise SpecError(f"{self.op}.groups: {self.groups} does not divide out={self.out}")

    def out_shape(self, in_shape: Shape) -> Shape:
        channels, *_ = feature_map(in_shape)
        if channels % self.groups:
            raise SpecError(f"groups={self.groups} does not divide the {channels} input channels")
        return windowed_shape(
            in_shape, self.out, self.kernel_size, self.stride, padding=self.padding
        )

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        self.out_shape(in_shape)
        own: dict[str, Any] = {
            "stride": smallest_stride(in_shape, self.kernel_size, self.stride, self.padding),
            "kernel_size": _one(self.kernel_size),
        }
        if self.padding is not None:
            same = pair(self.padding) == same_padding(self.kernel_size)
            own["padding"] = None if same else _one(self.padding)
        order_matters = {
            "conv_norm_act": False,
            "conv_act_norm": self.norm != "none" and self.activation != "linear",
            "norm_act_conv": self.norm != "none" or self.activation != "linear",
        }
        if not order_matters[self.order]:
            own["order"] = "conv_norm_act"
        changed = {name: value for name, value in own.items() if value != getattr(self, name)}
        return (dataclasses.replace(self, **changed) if changed else self,)

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
            padding=self.padding,
            order=self.order,
        )


def _one(size: Size) -> Size:
    """A pair of equal numbers as one."""
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size
