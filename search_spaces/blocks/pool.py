"""Pooling over windows."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.shapes import feature_map, require_positive, windowed_shape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class _Pool(Block):
    """Windows over the map; (c, h, w) -> (c, h', w').

    h' = (h + 2 padding - kernel_size) / stride + 1, rounded down, or up with `ceil` (Caffe's rule,
    for GoogLeNet and NIN). Without `padding` it is (kernel_size - 1) // 2. Windows overlap where
    the stride is smaller than the kernel (AlexNet, section 3.4).

    Raises:
        SpecError: values that cannot be built; more padding than half the kernel.
    """

    kernel_size: int
    stride: int
    padding: int | None = None
    ceil: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "kernel_size", "stride")
        if self.padding is not None and not 0 <= self.padding <= self.kernel_size // 2:
            raise SpecError(
                f"{self.op}.padding: expected 0 to half the kernel ({self.kernel_size // 2}), "
                f"got {self.padding}"
            )

    @property
    def pad(self) -> int:
        """The padding on each side."""
        return (self.kernel_size - 1) // 2 if self.padding is None else self.padding

    def out_shape(self, in_shape: Shape) -> Shape:
        channels, *_ = feature_map(in_shape)
        return windowed_shape(
            in_shape, channels, self.kernel_size, self.stride, padding=self.pad, ceil=self.ceil
        )

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """The smallest kernel and stride with the same windows; at the rim of small maps several
        have the same, and where every window is one pixel there is nothing to do."""
        out = self.out_shape(in_shape)[1:]
        own = _windows(in_shape[1:], out, self.kernel_size, self.stride, self.pad)
        kernels = range(1, self.kernel_size + 1)
        if any(stop - start == self.kernel_size for axis in own for start, stop in axis):
            kernels = range(self.kernel_size, self.kernel_size + 1)
        for kernel_size, stride in itertools.product(kernels, range(1, min(in_shape[1:]) + 1)):
            for padding, ceil in itertools.product(
                (None, *range(kernel_size // 2 + 1)), (False, True)
            ):
                pool = dataclasses.replace(
                    self, kernel_size=kernel_size, stride=stride, padding=padding, ceil=ceil
                )
                if pool.has_windows(in_shape, out, own):
                    return () if kernel_size == stride == 1 else (pool,)
        raise AssertionError(f"{self} has not even its own windows on {in_shape}")

    def has_windows(
        self, in_shape: Shape, out: Shape, windows: list[list[tuple[int, int]]]
    ) -> bool:
        """Whether these are its windows on a map, `out` along each side."""
        try:
            if self.out_shape(in_shape)[1:] != out:
                return False
        except SpecError:
            return False
        return _windows(in_shape[1:], out, self.kernel_size, self.stride, self.pad) == windows


@dataclass(frozen=True, kw_only=True)
class MaxPool(_Pool):
    __doc__ = "Maximum over windows. " + (_Pool.__doc__ or "")

    op: ClassVar[str] = "max_pool"

    def build(self, in_shape: Shape) -> nn.Module:
        del in_shape
        from torch import nn

        return nn.MaxPool2d(self.kernel_size, self.stride, padding=self.pad, ceil_mode=self.ceil)


def _windows(
    sides: Shape, out: Shape, kernel_size: int, stride: int, padding: int
) -> list[list[tuple[int, int]]]:
    """For each axis the (start, stop) of its windows on the map, without the padding."""
    return [
        [
            (max(0, start), min(side, start + kernel_size))
            for start in range(-padding, -padding + n * stride, stride)
        ]
        for side, n in zip(sides, out, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class AvgPool(_Pool):
    __doc__ = "Average over windows, without the padding. " + (_Pool.__doc__ or "")

    op: ClassVar[str] = "avg_pool"

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """As of every pool; the average of one pixel is its maximum."""
        chain = super().canonical(in_shape)
        out = self.out_shape(in_shape)[1:]
        windows = _windows(in_shape[1:], out, self.kernel_size, self.stride, self.pad)
        if all(stop - start == 1 for axis in windows for start, stop in axis):
            return tuple(MaxPool(**pool.fields()) for pool in chain)
        return chain

    def build(self, in_shape: Shape) -> nn.Module:
        del in_shape
        from torch import nn

        return nn.AvgPool2d(
            self.kernel_size,
            self.stride,
            padding=self.pad,
            ceil_mode=self.ceil,
            count_include_pad=False,
        )
