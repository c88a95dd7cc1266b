"""The block types of a staged space: what each is made of, and the dimensions that it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nasctl.arch import Block, Scalar
from search_spaces.blocks import (
    ConvNormActivation,
    ConvStack,
    Dense,
    DepthwiseSeparable,
    ExpansionResidual,
    FactorisedConv,
    Inception,
    InvertedResidual,
    MlpConv,
    ResidualBasic,
    ResidualBottleneck,
    SeparableConv,
    Skip,
    XceptionModule,
)
from search_spaces.blocks.shapes import make_divisible


class Slot(NamedTuple):
    """Where a block of a stage stands."""

    out: int  # channels, rounded
    stride: int
    channels: int  # of its input


Values = Mapping[str, Any]
"""Of every dimension that the type has, by name."""


@dataclass(frozen=True, kw_only=True)
class BlockType:
    """A kind of block that stages are made of.

    Attributes:
        dimensions: what may be chosen of it, with the value where nothing else is said.
        make: the block for a slot and its values.
    """

    dimensions: Mapping[str, Scalar]
    make: Callable[[Slot, Values], Block]


def _inverted_residual(slot: Slot, values: Values) -> Block:
    ratio = make_divisible(slot.channels * values["expand_ratio"]) / slot.channels
    return InvertedResidual(out=slot.out, stride=slot.stride, **{**values, "expand_ratio": ratio})


def _expansion_residual(slot: Slot, values: Values) -> Block:
    own = {name: value for name, value in values.items() if name != "expand_ratio"}
    expanded = make_divisible(slot.out * values["expand_ratio"])
    return ExpansionResidual(out=expanded, bottleneck=slot.out, stride=slot.stride, **own)


def _residual_bottleneck(slot: Slot, values: Values) -> Block:
    hidden = make_divisible(slot.out / values["reduction"])
    own = {k: v for k, v in values.items() if k != "cardinality"}
    return ResidualBottleneck(
        out=slot.out,
        stride=slot.stride,
        **{**own, "reduction": slot.out / hidden, "groups": values["cardinality"]},
    )


def _inception(slot: Slot, values: Values) -> Block:
    """Shares of the channels as in GoogLeNet's 3a: 64, 128, 32 and 32 of 256."""
    eighth = slot.out // 8
    return Inception(
        out1=2 * eighth,
        reduce3=3 * eighth if values["reduce"] else 0,
        out3=4 * eighth,
        reduce5=make_divisible(slot.out / 16, 4) if values["reduce"] else 0,
        out5=eighth,
        pool_proj=eighth,
        kernel5=values["kernel_size"],
        stride=slot.stride,
        activation=values["activation"],
    )


def _plainly(block: Callable[..., Block]) -> Callable[[Slot, Values], Block]:
    """For blocks whose fields are named as the dimensions are."""

    def make(slot: Slot, values: Values) -> Block:
        return block(out=slot.out, stride=slot.stride, **values)

    return make


BLOCK_TYPES: Mapping[str, BlockType] = {
    "inverted_residual": BlockType(
        dimensions={
            "expand_ratio": 6,
            "kernel_size": 3,
            "bottleneck_activation": "linear",
            "activation": "relu6",
            "se_ratio": 0,
            "residual": True,
        },
        make=_inverted_residual,
    ),
    "expansion_residual": BlockType(
        dimensions={
            "expand_ratio": 6,
            "kernel_size": 3,
            "bottleneck_activation": "linear",
            "activation": "relu6",
            "residual": True,
        },
        make=_expansion_residual,
    ),
    "depthwise_separable": BlockType(
        dimensions={"kernel_size": 3, "activation": "relu6"}, make=_plainly(DepthwiseSeparable)
    ),
    "residual_basic": BlockType(
        dimensions={"kernel_size": 3, "activation": "relu", "shortcut": "B"},
        make=_plainly(ResidualBasic),
    ),
    "residual_bottleneck": BlockType(
        dimensions={
            "kernel_size": 3,
            "activation": "relu",
            "shortcut": "B",
            "reduction": 4,
            "cardinality": 1,
        },
        make=_residual_bottleneck,
    ),
    "conv": BlockType(
        dimensions={"kernel_size": 3, "activation": "relu", "groups": 1},
        make=_plainly(ConvNormActivation),
    ),
    "vgg": BlockType(
        dimensions={"kernel_size": 3, "layers": 2, "activation": "relu"},
        make=_plainly(ConvStack),
    ),
    "mlpconv": BlockType(
        dimensions={"kernel_size": 3, "layers": 2, "activation": "relu"}, make=_plainly(MlpConv)
    ),
    "factorised_conv": BlockType(
        dimensions={"kernel_size": 3, "activation": "relu"}, make=_plainly(FactorisedConv)
    ),
    "inception": BlockType(
        dimensions={"kernel_size": 5, "reduce": True, "activation": "relu"}, make=_inception
    ),
    "dense": BlockType(
        dimensions={
            "kernel_size": 3,
            "growth_rate": 12,
            "layers": 2,
            "combine": "concat",
            "activation": "relu",
        },
        make=_plainly(Dense),
    ),
    "xception": BlockType(
        dimensions={
            "kernel_size": 3,
            "layers": 2,
            "depthwise_activation": "linear",
            "activation": "relu",
            "residual": True,
        },
        make=_plainly(XceptionModule),
    ),
    "separable_conv": BlockType(
        dimensions={"kernel_size": 3, "depthwise_activation": "linear", "activation": "relu"},
        make=_plainly(SeparableConv),
    ),
    "skip": BlockType(dimensions={}, make=_plainly(Skip)),
}
"""By the names that `block_type` takes."""

DIMENSIONS: tuple[str, ...] = (
    "width_multiplier",
    "block_type",
    "expand_ratio",
    "kernel_size",
    "bottleneck_activation",
    "activation",
    "se_ratio",
    "residual",
    "shortcut",
    "reduction",
    "cardinality",
    "groups",
    "reduce",
    "growth_rate",
    "layers",
    "combine",
    "depthwise_activation",
)
"""What may be chosen of packaged blocks, in the order in which it is decided."""


@dataclass(frozen=True, kw_only=True)
class BlockTypes:
    """What stages can be made of.

    Attributes:
        kinds: by the names that `block_type` takes.
        dimensions: all of them, in the order in which they are decided.
    """

    kinds: Mapping[str, BlockType]
    dimensions: tuple[str, ...]


def block_types(user_blocks: Mapping[str, type[Block]]) -> BlockTypes:
    """The packaged types, and a type for each block of a user that fits into a stage.

    It fits if it has the fields `out` and `stride`, and all others have defaults: those that are
    scalars are its dimensions.
    """
    kinds = dict(BLOCK_TYPES)
    for op, block in user_blocks.items():
        fields: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(block)}
        others = [f for f in fields.values() if f.name not in ("out", "stride")]
        if {"out", "stride"} <= fields.keys() and all(
            f.default is not dataclasses.MISSING for f in others
        ):
            scalars = {
                f.name: f.default for f in others if isinstance(f.default, str | int | float | bool)
            }
            kinds[op] = BlockType(dimensions=scalars, make=_plainly(block))
    added = [n for kind in kinds.values() for n in kind.dimensions if n not in DIMENSIONS]
    return BlockTypes(kinds=kinds, dimensions=(*DIMENSIONS, *dict.fromkeys(added)))


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One choice of `block_type`: a type, with some of its dimensions settled by the choice.

    Attributes:
        block_type: its name.
        kind: the type.
        fixed: dimension to value.
    """

    block_type: str
    kind: BlockType
    fixed: Mapping[str, Scalar]

    @property
    def label(self) -> str:
        """The scalar that stands for it in choices: `inverted_residual(expand_ratio=3)`."""
        named = ",".join(f"{n}={self.fixed[n]}" for n in self.kind.dimensions if n in self.fixed)
        return f"{self.block_type}({named})" if named else self.block_type

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What is still to choose."""
        return tuple(n for n in self.kind.dimensions if n not in self.fixed)

    def make(self, slot: Slot, chosen: Mapping[str, Scalar | None]) -> Block:
        """The block; a dimension that is None, or not there, has the type's own default."""
        values: dict[str, Scalar] = {}
        for name, default in self.kind.dimensions.items():
            value = self.fixed.get(name, chosen.get(name))
            values[name] = default if value is None else value
        return self.kind.make(slot, values)
