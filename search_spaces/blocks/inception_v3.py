"""The modules of Inception-v3 (arXiv 1512.00567), as torchvision's InceptionA to InceptionE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nasctl.arch import Block
from search_spaces.blocks.conv import ConvNormActivation
from search_spaces.blocks.inception import Branching
from search_spaces.blocks.pool import AvgPool, MaxPool
from search_spaces.blocks.shapes import Size, normalise_activations, require_positive


@dataclass(frozen=True, kw_only=True)
class _InceptionV3(Branching):
    """What the modules share. Averages leave the padding out, as the authors' code does
    (torchvision's count it)."""

    activation: str = "relu"

    def __post_init__(self) -> None:
        normalise_activations(self, "activation")
        super().__post_init__()

    def conv(
        self, out: int, kernel_size: Size = 1, *, stride: int = 1, valid: bool = False
    ) -> ConvNormActivation:
        """Of the module; `valid` is without padding."""
        return ConvNormActivation(
            out=out,
            kernel_size=kernel_size,
            stride=stride,
            activation=self.activation,
            padding=0 if valid else None,
        )

    def pooled(self, out: int) -> tuple[Block, ...]:
        """The branch of the average pool."""
        return AvgPool(kernel_size=3, stride=1), self.conv(out)


REDUCING_POOL = MaxPool(kernel_size=3, stride=2, padding=0)


@dataclass(frozen=True, kw_only=True)
class InceptionA(_InceptionV3):
    """1x1; 5x5; two 3x3 in the place of a 5x5; average pool; figure 5.

    (channels, h, w) -> (224 + pool_features, h, w).

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "inception_a"
    pool_features: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "pool_features")

    def branches(self) -> Mapping[str, tuple[Block, ...]]:
        return {
            "branch1": (self.conv(64),),
            "branch5": (self.conv(48), self.conv(64, 5)),
            "branch3_twice": (self.conv(64), self.conv(96, 3), self.conv(96, 3)),
            "branch_pool": self.pooled(self.pool_features),
        }


@dataclass(frozen=True, kw_only=True)
class InceptionB(_InceptionV3):
    """The reduction of the grid from 35 to 17, two branches and a max pool; figure 10.

    (channels, h, w) -> (480 + channels, (h - 3) // 2 + 1, (w - 3) // 2 + 1).

    Raises:
        SpecError: a map below 3x3.
    """

    op: ClassVar[str] = "inception_b"

    def branches(self) -> Mapping[str, tuple[Block, ...]]:
        return {
            "branch3": (self.conv(384, 3, stride=2, valid=True),),
            "branch3_twice": (
                self.conv(64),
                self.conv(96, 3),
                self.conv(96, 3, stride=2, valid=True),
            ),
            "branch_pool": (REDUCING_POOL,),
        }


@dataclass(frozen=True, kw_only=True)
class InceptionC(_InceptionV3):
    """1x1; 7x7 as 1x7 and 7x1; the same twice; average pool; figure 6 with n = 7.

    (channels, h, w) -> (768, h, w). The inner convolutions have `channels_7x7` channels.

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "inception_c"
    channels_7x7: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "channels_7x7")

    def branches(self) -> Mapping[str, tuple[Block, ...]]:
        inner = self.channels_7x7
        return {
            "branch1": (self.conv(192),),
            "branch7": (self.conv(inner), self.conv(inner, (1, 7)), self.conv(192, (7, 1))),
            "branch7_twice": (
                self.conv(inner),
                self.conv(inner, (7, 1)),
                self.conv(inner, (1, 7)),
                self.conv(inner, (7, 1)),
                self.conv(192, (1, 7)),
            ),
            "branch_pool": self.pooled(192),
        }


@dataclass(frozen=True, kw_only=True)
class InceptionD(_InceptionV3):
    """The reduction of the grid from 17 to 8, two branches and a max pool; as figure 10.

    (channels, h, w) -> (512 + channels, (h - 3) // 2 + 1, (w - 3) // 2 + 1).

    Raises:
        SpecError: a map below 3x3.
    """

    op: ClassVar[str] = "inception_d"

    def branches(self) -> Mapping[str, tuple[Block, ...]]:
        return {
            "branch3": (self.conv(192), self.conv(320, 3, stride=2, valid=True)),
            "branch7": (
                self.conv(192),
                self.conv(192, (1, 7)),
                self.conv(192, (7, 1)),
                self.conv(192, 3, stride=2, valid=True),
            ),
            "branch_pool": (REDUCING_POOL,),
        }


@dataclass(frozen=True, kw_only=True)
class _Expanded(_InceptionV3):
    """1x3 and 3x1 side by side on the same input, each to 384 channels; a part of InceptionE."""

    op: ClassVar[str] = "inception_e_pair"

    def branches(self) -> Mapping[str, tuple[Block, ...]]:
        return {"wide": (self.conv(384, (1, 3)),), "high": (self.conv(384, (3, 1)),)}


@dataclass(frozen=True, kw_only=True)
class InceptionE(_InceptionV3):
    """The expanded filter bank: 1x3 and 3x1 side by side, after a 1x1 and after a 3x3; figure 7.

    (channels, h, w) -> (2048, h, w).

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "inception_e"

    def branches(self) -> Mapping[str, tuple[Block, ...]]:
        pair = _Expanded(activation=self.activation)
        return {
            "branch1": (self.conv(320),),
            "branch3": (self.conv(384), pair),
            "branch3_twice": (self.conv(448), self.conv(384, 3), pair),
            "branch_pool": self.pooled(192),
        }
