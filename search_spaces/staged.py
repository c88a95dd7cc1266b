"""The staged space that YAML describes: stem, stages of blocks, head, and their dimensions.

A network is a stem convolution, stages whose first block strides, an optional 1x1 convolution, and
a global average pool with a linear layer. Of every block may be chosen, for the whole network, per
stage or per block: its `width_multiplier`, its `block_type`, and the dimensions that the type has
(`staged_types`); also `depth` per stage and the input `resolution`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from nasctl.arch import Architecture, Block, Scalar, Shape
from nasctl.errors import SpecError
from nasctl.space import Choices, Family
from search_spaces.blocks import (
    BLOCKS,
    ConvNormActivation,
    GlobalPoolLinear,
    GlobalPoolMlp,
    MaxPool,
)
from search_spaces.blocks.shapes import make_divisible
from search_spaces.staged_count import count_networks
from search_spaces.staged_decisions import staged_decisions, variable_name
from search_spaces.staged_options import StagedOptions, read_options
from search_spaces.staged_reach import reachable_blocks, walk
from search_spaces.staged_types import Slot, block_types

MEMO_ENTRIES = 100_000


def staged(
    *,
    input_shape: Shape,
    num_classes: int,
    user_blocks: Mapping[str, type[Block]] | None = None,
    **options: Any,
) -> Family:
    """A family of staged networks.

    Args:
        input_shape: (channels, height, width) of the data.
        num_classes: of the data.
        user_blocks: op to class, of plugins; those that fit are block types too.
        options: as in `conf/mbv2_space.yaml`:
            `stem` {channels 16, kernel_size 3, stride 1, activation relu6, pool 1: the stride of
            a 3x3 max pool}; `stages`, each {channels, depth 1, stride 1} and its own value of any
            dimension; `head` {channels 0: of a 1x1 convolution, hidden 0: of a linear layer after
            the pooling, activation relu6, dropout 0}; `resolution` (default: the data's size); the
            dimensions `width_multiplier` 1, `block_type` inverted_residual, and those of the block
            types. A dimension, like `depth` and `resolution`, is a value or a list of choices; or
            {choices, scope}, scope being network, stage or block. The scope of a plain list is
            network for `width_multiplier` and `bottleneck_activation`, stage for the others. With
            any other scope of `width_multiplier`, stem and head keep their width. A choice of
            `block_type` may settle dimensions too: {block_type: vgg, layers: 2}.

    Channels, hidden ones included, are rounded to multiples of 8 by `make_divisible`; the final
    1x1 convolution is widened by multipliers above 1 and not narrowed by those below (as
    MobileNetV2 does it).

    Raises:
        ConfigError: every problem with the options, or a network in it that cannot exist.
    """
    types = block_types(user_blocks or {})
    space = StagedSpace(read_options(input_shape, num_classes, options, types))
    walk(space)  # raises for a block that does not fit
    return Family(
        space=space.space,
        decode=space.decode,
        blocks=lambda: reachable_blocks(space),
        count_networks=lambda: count_networks(space),
    )


class Placed(NamedTuple):
    """Canonical blocks that were placed on an input shape; none for an identity.

    Attributes:
        blocks: in order.
        shapes: after each of them.
        shape: after all, also where there are none.
    """

    blocks: tuple[Block, ...]
    shapes: tuple[Shape, ...]
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
        self._names = ("resolution", *options.names)
        self.space = staged_decisions(options)
        self._blocks: dict[Block, Block] = {}
        self._placed: dict[tuple[Any, ...], Placed] = {}
        self._stems: dict[tuple[Scalar | None, ...], _Part] = {}
        self._heads: dict[tuple[Any, ...], _Part] = {}
        choices = {d.name: d.choices for d in self.space.decisions}
        self._network = {n: choices[n] for n in self._names if n in choices}
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
            values: of the dimensions, in order; None for the type's own, or where it has none.

        Raises:
            SpecError: it does not fit.
        """
        key = (index, first, in_shape, values)
        placed = self._placed.get(key)
        if placed is None:
            stage = self.options.stages[index]
            slot = Slot(
                out=make_divisible(stage.channels * cast(float, values[0])),
                stride=stage.stride if first else 1,
                channels=in_shape[0],
            )
            alternative = self.options.alternatives[cast(str, values[1])]
            block = alternative.make(slot, dict(zip(self.options.names, values, strict=True)))
            placed = self._placed[key] = self._place(block, in_shape)
        return placed

    def _keyed(self, key: str, block: Block, in_shape: Shape) -> Placed:
        try:
            return self._place(block, in_shape)
        except SpecError as error:
            raise SpecError([f"{key}: {p}" for p in error.problems]) from None

    def _place(self, block: Block, in_shape: Shape) -> Placed:
        if block.op in BLOCKS:
            return self._chain(block, in_shape)
        try:  # a user's: what it does wrong is told, not shown as our bug
            placed, wanted = self._chain(block, in_shape), block.out_shape(in_shape)
        except SpecError:
            raise
        except Exception as error:
            raise SpecError(
                f"out_shape or canonical of {type(block).__name__} failed: "
                f"{type(error).__name__}: {error}"
            ) from error
        if placed.shape != wanted:
            raise SpecError(
                f"canonical of {type(block).__name__} gives blocks that end in shape "
                f"{placed.shape}, but its out_shape says {wanted}"
            )
        return placed

    def _chain(self, block: Block, in_shape: Shape) -> Placed:
        shape = in_shape
        blocks, shapes = [], []
        for part in block.canonical(in_shape):
            shape = part.out_shape(shape)
            if not isinstance(shape, tuple) or len(shape) != len(in_shape):
                raise SpecError(
                    f"out_shape of {type(part).__name__} gave {shape!r}, expected (channels, "
                    "height, width)"
                )
            blocks.append(self._blocks.setdefault(part, part))
            shapes.append(shape)
        return Placed(tuple(blocks), tuple(shapes), shape)

    def stem(self, input_shape: Shape, width: float) -> Placed:
        """The first convolution, and the pooling after it, for a width multiplier."""
        options = self.options
        block = ConvNormActivation(
            out=make_divisible(options.stem_channels * width),
            kernel_size=options.stem_kernel_size,
            stride=options.stem_stride,
            activation=options.stem_activation,
        )
        placed = self._keyed("stem.stride", block, input_shape)
        if options.stem_pool == 1:
            return placed
        max_pool = MaxPool(kernel_size=3, stride=options.stem_pool)
        pool = self._keyed("stem.pool", max_pool, placed.shape)
        return Placed(placed.blocks + pool.blocks, placed.shapes + pool.shapes, pool.shape)

    def head(self, in_shape: Shape, width: float) -> Placed:
        """The optional 1x1 convolution and the classifier, for a width multiplier."""
        options = self.options
        chain: list[Block] = []
        if options.head_channels:
            out = make_divisible(options.head_channels * max(1, width))
            chain.append(
                ConvNormActivation(out=out, kernel_size=1, activation=options.head_activation)
            )
        if options.head_hidden:
            chain.append(
                GlobalPoolMlp(
                    out=options.num_classes,
                    hidden=make_divisible(options.head_hidden * max(1, width)),
                    activation=options.head_activation,
                    dropout=options.dropout,
                )
            )
        else:
            chain.append(GlobalPoolLinear(out=options.num_classes, dropout=options.dropout))
        shapes = []
        for block in chain:
            in_shape = block.out_shape(in_shape)
            shapes.append(in_shape)
        return Placed(tuple(chain), tuple(shapes), in_shape)

    # Decoding

    def decode(self, choices: Choices) -> Architecture:
        """The network of a configuration.

        Raises:
            SpecError: a decision is missing, unknown or inactive, or has no such choice.
        """
        get = choices.get
        network = tuple(map(get, self._names))
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
            head = self.head(shape, self.base_width(network[1]))
            part = self._heads[shape, network[1]] = _part([head], shape, 0, 0)
        return Architecture.of_canonical(
            blocks=blocks + part.blocks,
            shapes=shapes + part.shapes,
            num_classes=self.options.num_classes,
        )

    def _refuse(self, choices: Choices) -> None:
        self.space.validate(choices)  # says what is wrong
        raise AssertionError(f"decisions and decoding disagree about {choices}")

    def _stem_part(self, network: tuple[Scalar | None, ...], choices: Choices) -> _Part:
        given = {n: v for n, v in zip(self._names, network, strict=True) if v is not None}
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
        mask = sum(1 << self._names.index(n) for n in given if n not in always)
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
        given_network = dict(zip(self._names, network, strict=True))
        read: set[str] = set()

        def value(name: str | None, fixed: Scalar | None) -> Scalar | None:
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

            def read_dimension(name: str, block: int = j) -> Scalar | None:
                dimension = stage.dimensions[name]
                return value(variable_name(name, dimension, i, block), dimension.choices[0])

            block_type = cast(str, read_dimension("block_type"))
            own = self.options.alternatives[block_type].dimensions
            placed = self.place(
                i,
                j == 1,
                shape,
                tuple(
                    block_type
                    if n == "block_type"
                    else read_dimension(n)
                    if n == "width_multiplier" or n in own
                    else None
                    for n in self.options.names
                ),
            )
            shape = placed.shape
            chain.append(placed)
        if not given.keys() <= read:
            self._refuse(choices)
        mask = sum(1 << self._names.index(n) for n in read if n in self._names[2:])
        return _remember(plan.memo, key, _part(chain, in_shape, mask, len(given)))


def _part(chain: list[Placed], shape: Shape, network_names: int, num_choices: int) -> _Part:
    return _Part(
        tuple(itertools.chain.from_iterable(p.blocks for p in chain)),
        tuple(itertools.chain.from_iterable(p.shapes for p in chain)),
        chain[-1].shape if chain else shape,
        network_names,
        num_choices,
    )


def _remember(memo: dict[Any, _Part], key: Any, part: _Part) -> _Part:
    if len(memo) >= MEMO_ENTRIES:  # a huge space: forgetting is cheaper than eviction
        memo.clear()
    memo[key] = part
    return part
