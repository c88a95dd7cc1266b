"""The blocks of LeNet-5 as published (LeCun et al. 1998, section II.B) that nothing else has."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.shapes import feature_map, require_positive, windowed_shape

if TYPE_CHECKING:
    from torch import nn

CONNECTIONS: tuple[tuple[int, ...], ...] = (
    *(tuple(sorted((first + i) % 6 for i in range(3))) for first in range(6)),
    *(tuple(sorted((first + i) % 6 for i in range(4))) for first in range(6)),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)
"""Table I: for each of C3's 16 maps the maps of S2 that it sees, 60 of 96 pairs."""


@dataclass(frozen=True, kw_only=True)
class LeNetC3(Block):
    """A k x k convolution from 6 to 16 maps by the connection table of LeNet-5; table I.

    (6, h, w) -> (16, h - k + 1, w - k + 1). 60 k^2 weights and 16 biases.

    Raises:
        SpecError: an input without 6 channels, or smaller than the kernel.
    """

    op: ClassVar[str] = "lenet_c3"
    kernel_size: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "kernel_size")

    def out_shape(self, in_shape: Shape) -> Shape:
        channels, *_ = feature_map(in_shape)
        if channels != 6:
            raise SpecError(f"the connection table is for 6 input channels, got {channels}")
        return windowed_shape(in_shape, len(CONNECTIONS), self.kernel_size, 1, padding=0)

    def build(self, in_shape: Shape) -> nn.Module:
        del in_shape
        from search_spaces.blocks.modules_classic import PartialConv

        return PartialConv(CONNECTIONS, self.kernel_size)


@dataclass(frozen=True, kw_only=True)
class TrainableSubsampling(Block):
    """The sum of each k x k window times a coefficient, plus a bias, both per channel; S2 and S4.

    (c, h, w) -> (c, h // k, w // k). Pooling by the conventions of costs: no multiply-accumulates.

    Raises:
        SpecError: a kernel larger than the map.
    """

    op: ClassVar[str] = "trainable_subsampling"
    kernel_size: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "kernel_size")

    def out_shape(self, in_shape: Shape) -> Shape:
        channels, *_ = feature_map(in_shape)
        return windowed_shape(in_shape, channels, self.kernel_size, self.kernel_size, padding=0)

    def build(self, in_shape: Shape) -> nn.Module:
        from search_spaces.blocks.modules_classic import Subsampling

        return Subsampling(in_shape[0], self.kernel_size)


@dataclass(frozen=True, kw_only=True)
class ScaledTanh(Block):
    """1.7159 tanh(2 x / 3), the squashing function of LeNet-5 (equation 6, appendix A)."""

    op: ClassVar[str] = "scaled_tanh"

    def out_shape(self, in_shape: Shape) -> Shape:
        return in_shape

    def build(self, in_shape: Shape) -> nn.Module:
        del in_shape
        from search_spaces.blocks import modules_classic

        return modules_classic.ScaledTanh()


@dataclass(frozen=True, kw_only=True)
class RbfOutput(Block):
    """One Euclidean radial basis function per class; (features,) -> (out,). Equation 7.

    The score of a class is minus the squared distance of the input to its code of +-1, so that
    cross entropy is the paper's discriminative criterion (equation 9), over sqrt(features), so
    that it begins near that of equal scores. The paper draws its codes by hand and allows random
    ones: these are `code_words`. No parameters; (features x out) multiply-accumulates.

    Raises:
        SpecError: an input that is no vector, or too short for so many classes.
    """

    op: ClassVar[str] = "rbf_output"
    out: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "out")

    def out_shape(self, in_shape: Shape) -> Shape:
        if len(in_shape) != 1:
            raise SpecError(f"needs a vector (features,), got shape {in_shape}")
        if self.out > 2 ** in_shape[0]:
            raise SpecError(f"codes of {in_shape[0]} bits cannot tell {self.out} classes apart")
        return (self.out,)

    def build(self, in_shape: Shape) -> nn.Module:
        from search_spaces.blocks.modules_classic import EuclideanRbf

        return EuclideanRbf(code_words(self.out, in_shape[0]))


def code_words(classes: int, width: int) -> list[tuple[int, ...]]:
    """Different words of +-1, the same for ever: bits of shake_256 of "0", "1", ..., less repeats.

    The first words do not depend on how many are asked for.
    """
    words: dict[tuple[int, ...], None] = {}
    number = 0
    while len(words) < classes:
        digest = hashlib.shake_256(str(number).encode()).digest(-(-width // 8))
        bits = f"{int.from_bytes(digest, 'big'):0{8 * len(digest)}b}"[:width]
        words[tuple(1 if bit == "1" else -1 for bit in bits)] = None
        number += 1
    return list(words)
