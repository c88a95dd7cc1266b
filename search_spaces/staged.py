"""The staged space that YAML describes: stem, stages of blocks, head, and five dimensions.

A network is a stem convolution, stages whose first block strides, an optional 1x1 convolution, and
a global average pool with a linear layer. Of every block may be chosen, for the whole network, per
stage or per block: `width_multiplier`, `block_type`, `expand_ratio`, `kernel_size` and
`bottleneck_activation`; also `depth` per stage and the input `resolution`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from nasctl.arch import Architecture, Block, Scalar, Shape
from nasctl.space import Choices, Family
from search_spaces.blocks import (
    ConvNormActivation,
    DepthwiseSeparable,
    GlobalPoolLinear,
    InvertedResidual,
    ResidualBottleneck,
    Skip,
)
from search_spaces.blocks.shapes import make_divisible
from search_spaces.staged_count import count_networks
from search_spaces.staged_decisions import staged_decisions, variable_name
from search_spaces.staged_options import (
    DEFAULTS,
    TYPE_DIMENSIONS,
    StagedOptions,
    read_options,
)
from search_spaces.staged_reach import reachable_blocks, walk

NETWORK_NAMES = ("resolution", *DEFAULTS)
MEMO_ENTRIES = 100_000


def staged(*, input_shape: Shape, num_classes: int, **options: Any) -> Family:
    """A family of staged networks.

    Args:
        input_shape: (channels, height, width) of the data.
        num_classes: of the data.
        options: as in `conf/mbv2_space.yaml`:
            `stem` {channels 16, kernel_size 3, stride 1, activation relu6}; `stages`, each
            {channels, depth 1, stride 1} and its own value of any dimension; `head` {channels 0,
            dropout 0}; `resolution` (default: the data's size); the dimensions
            `width_multiplier` 1, `block_type` inverted_residual, `expand_ratio` 6,
            `kernel_size` 3 and `bottleneck_activation` linear. A dimension, like `depth` and
            `resolution`, is a value or a list of choices; or {choices, scope}, scope being
            network, stage or block. The scope of a plain list is network for
            `width_multiplier` and `bottleneck_activation`, stage for the others. With any other
            scope of `width_multiplier`, stem and head keep their width.

    Channels, hidden ones included, are rounded to multiples of 8 by `make_divisible`; the final
    1x1 convolution is widened by multipliers above 1 and not narrowed by those below (as
    MobileNetV2 does it).

    Raises:
        ConfigError: every problem with the options, or a network in it that cannot exist.
    """
    space = StagedSpace(read_options(input_shape, num_classes, options))
    walk(space)  # raises for a block that does not fit
    return Family(
        space=space.space,
        decode=space.decode,
        blocks=lambda: reachable_blocks(space),
        count_networks=lambda: count_networks(space),
    )


class Placed(NamedTuple):
    """A block (None: an identity) that was placed on an input shape, and its output shape."""

    block: Block | None
    shape: Shape


class _Part(NamedTuple):
    """A piece of the chain, with what its decisions were."""

    blocks: tuple[Block, ...]
    shapes: tuple[Shape, ...]  # after each block
    shape: Shape  # after the piece, also where it is empty
    network_names: int  # bit set of the network's decisions: used (stages) or given (stem)
    num_choices: int  # of the piece itself


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """One stage, prepared for decoding."""

    index: int
    names: tuple[str, ...]  # of every decision of the stage
    choices: Mapping[str, tuple[Scalar, ...]]
    memo: dict[Any, _Part] = field(default_factory=dict)


class StagedSpace:
    """Decodes choices; what was computed once for a piece of a network is kept."""

    def __init__(self, options: StagedOptions) -> None:
        self.options = options
        self.space = staged_decisions(options)
        self._blocks: dict[Block, Block] = {}
        self._placed: dict[tuple[Any, ...], Placed] = {}
        self._stems: dict[tuple[Scalar | None, ...], _Part] = {}
        self._heads: dict[tuple[Any, ...], _Part] = {}
        choices = {d.name: d.choices for d in self.space.decisions}
        self._network = {n: choices[n] for n in NETWORK_NAMES if n in choices}
        self._plans = []
        for i in range(len(options.stages)):
            names = tuple(n for n in choices if n.startswith(f"stage{i + 1}."))
            self._plans.append(_Plan(index=i, names=names, choices={n: choices[n] for n in names}))

    # Placing single blocks

    def base_width(self, network_width: Scalar | None) -> float:
        """The multiplier of stem and head."""
        width = self.options.dimensions["width_multiplier"]
        if width.fixed:
            return cast(float, width.choices[0])
        return 1 if network_width is None else cast(float, network_width)

    def place(
        self, index: int, first: bool, in_shape: Shape, values: tuple[Scalar | None, ...]
    ) -> Placed:
        """A block of a stage, canonical.

        Args:
            index: of the stage, from 0.
            first: whether it is the one that strides.
            in_shape: what it is fed.
            values: of the dimensions in the order of `DEFAULTS`; None where the type has none.

        Raises:
            SpecError: it does not fit.
        """
        key = (index, first, in_shape, values)
        placed = self._placed.get(key)
        if placed is None:
            stage = self.options.stages[index]
            out = make_divisible(stage.channels * cast(float, values[0]))
            block = _make_block(out, stage.stride if first else 1, in_shape[0], values[1:])
            chain = block.canonical(in_shape)
            shape = block.out_shape(in_shape)
            last = self._blocks.setdefault(chain[0], chain[0]) if chain else None
            placed = self._placed[key] = Placed(last, shape)
        return placed

    def stem(self, input_shape: Shape, width: float) -> Placed:
        """The first convolution, for a width multiplier."""
        options = self.options
        block = ConvNormActivation(
            out=make_divisible(options.stem_channels * width),
            kernel_size=options.stem_kernel_size,
            stride=options.stem_stride,
            activation=options.stem_activation,
        )
        return Placed(block.canonical(input_shape)[0], block.out_shape(input_shape))

    def head(self, in_shape: Shape, width: float) -> list[Placed]:
        """The optional 1x1 convolution and the classifier, for a width multiplier."""
        chain: list[Placed] = []
        if self.options.head_channels:
            convolution = ConvNormActivation(
                out=make_divisible(self.options.head_channels * max(1, width)),
                kernel_size=1,
                activation="relu6",
            )
            in_shape = convolution.out_shape(in_shape)
            chain.append(Placed(convolution, in_shape))
        pool = GlobalPoolLinear(out=self.options.num_classes, dropout=self.options.dropout)
        return [*chain, Placed(pool, pool.out_shape(in_shape))]

    # Decoding

    def decode(self, choices: Choices) -> Architecture:
        """The network of a configuration.

        Raises:
            SpecError: a decision is missing, unknown or inactive, or has no such choice.
        """
        get = choices.get
        network = tuple(map(get, NETWORK_NAMES))
        part = self._stems.get(network)
        if part is None:
            part = self._stem_part(network, choices)
        blocks, shapes, shape, given, num_choices = part
        used = 0
        for plan in self._plans:
            key = (shape, network, tuple(map(get, plan.names)))
            part = plan.memo.get(key)
            if part is None:
                part = self._stage_part(plan, key, choices)
            blocks += part.blocks
            shapes += part.shapes
            shape = part.shape
            used |= part.network_names
            num_choices += part.num_choices
        if used != given or num_choices != len(choices):
            self._refuse(choices)
        part = self._heads.get((shape, network[1]))
        if part is None:
            chain = self.head(shape, self.base_width(network[1]))
            part = self._heads[shape, network[1]] = _part(chain, shape, 0, 0)
        return Architecture.of_canonical(
            blocks=blocks + part.blocks,
            shapes=shapes + part.shapes,
            num_classes=self.options.num_classes,
        )

    def _refuse(self, choices: Choices) -> None:
        self.space.validate(choices)  # says what is wrong
        raise AssertionError(f"decisions and decoding disagree about {choices}")

    def _stem_part(self, network: tuple[Scalar | None, ...], choices: Choices) -> _Part:
        given = {n: v for n, v in zip(NETWORK_NAMES, network, strict=True) if v is not None}
        always = [n for n in ("resolution", "width_multiplier") if n in self._network]
        if any(n not in given for n in always) or any(
            v not in self._network.get(n, ()) for n, v in given.items()
        ):
            self._refuse(choices)
        shapes = self.options.input_shapes
        input_shape = shapes[0]
        if network[0] is not None:
            input_shape = next(s for s in shapes if s[1] == network[0])
        stem = self.stem(input_shape, self.base_width(network[1]))
        mask = sum(1 << NETWORK_NAMES.index(n) for n in given if n not in always)
        part = _part([stem], input_shape, mask, len(given))
        part = part._replace(shapes=(input_shape, *part.shapes))
        return _remember(self._stems, network, part)

    def _stage_part(self, plan: _Plan, key: tuple[Any, ...], choices: Choices) -> _Part:
        in_shape, network, values = key
        i = plan.index
        stage = self.options.stages[i]
        given = {n: v for n, v in zip(plan.names, values, strict=True) if v is not None}
        if any(v not in plan.choices[n] for n, v in given.items()):
            self._refuse(choices)
        given_network = dict(zip(NETWORK_NAMES, network, strict=True))
        read: set[str] = set()

        def value(name: str | None, fixed: Scalar) -> Scalar:
            if name is None:
                return fixed
            read.add(name)
            found = given.get(name, given_network.get(name))
            if found is None:
                self._refuse(choices)
            return cast(Scalar, found)

        chain: list[Placed] = []
        shape: Shape = in_shape
        depth_name = f"stage{i + 1}.depth" if len(stage.depths) > 1 else None
        for j in range(1, cast(int, value(depth_name, stage.depths[0])) + 1):

            def read_dimension(name: str, block: int = j) -> Scalar:
                dimension = stage.dimensions[name]
                return value(variable_name(name, dimension, i, block), dimension.choices[0])

            block_type = cast(str, read_dimension("block_type"))
            placed = self.place(
                i,
                j == 1,
                shape,
                tuple(
                    block_type
                    if n == "block_type"
                    else read_dimension(n)
                    if n == "width_multiplier" or n in TYPE_DIMENSIONS[block_type]
                    else None
                    for n in DEFAULTS
                ),
            )
            shape = placed.shape
            chain.append(placed)
        if not given.keys() <= read:
            self._refuse(choices)
        mask = sum(1 << NETWORK_NAMES.index(n) for n in read if n in NETWORK_NAMES[2:])
        return _remember(plan.memo, key, _part(chain, in_shape, mask, len(given)))


def _make_block(out: int, stride: int, channels: int, values: tuple[Scalar | None, ...]) -> Block:
    block_type, expand_ratio, kernel, bottleneck_activation = values
    kernel_size = cast(int, kernel)
    if block_type == "inverted_residual":
        return InvertedResidual(
            out=out,
            kernel_size=kernel_size,
            stride=stride,
            expand_ratio=make_divisible(channels * cast(float, expand_ratio)) / channels,
            bottleneck_activation=cast(str, bottleneck_activation),
        )
    if block_type == "depthwise_separable":
        return DepthwiseSeparable(out=out, kernel_size=kernel_size, stride=stride)
    if block_type == "residual_bottleneck":
        return ResidualBottleneck(
            out=out,
            kernel_size=kernel_size,
            stride=stride,
            reduction=out / make_divisible(out / 4),
        )
    return Skip(out=out, stride=stride)


def _part(chain: list[Placed], shape: Shape, network_names: int, num_choices: int) -> _Part:
    return _Part(
        tuple(p.block for p in chain if p.block is not None),
        tuple(p.shape for p in chain if p.block is not None),
        chain[-1].shape if chain else shape,
        network_names,
        num_choices,
    )


def _remember(memo: dict[Any, _Part], key: Any, part: _Part) -> _Part:
    if len(memo) >= MEMO_ENTRIES:  # a huge space: forgetting is cheaper than eviction
        memo.clear()
    memo[key] = part
    return part
