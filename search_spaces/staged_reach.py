"""What a staged space can reach, found by walking states instead of configurations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from nasctl.arch import Block, Scalar, Shape
from nasctl.errors import ConfigError, SpecError
from search_spaces.blocks.shapes import make_divisible, windowed_shape
from search_spaces.staged_options import DEFAULTS, TYPE_DIMENSIONS, Stage, StagedOptions

if TYPE_CHECKING:
    from search_spaces.staged import StagedSpace


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Where blocks can stand.

    Attributes:
        stems: (input shape, multiplier of stem and head).
        places: (stage index, whether it is the first block, input shape, width multiplier).
        ends: (shape before the head, multiplier of stem and head).
    """

    stems: tuple[tuple[Shape, float], ...]
    places: tuple[tuple[int, bool, Shape, float], ...]
    ends: tuple[tuple[Shape, float], ...]


def network_widths(options: StagedOptions) -> tuple[Scalar | None, ...]:
    """The choices of one width for the whole network; (None,) if there is no such choice."""
    width = options.dimensions["width_multiplier"]
    return width.choices if width.scope == "network" and not width.fixed else (None,)


def walk(space: StagedSpace) -> Reached:
    """Every place of a block in some network, each once and in order.

    Of the choices only those that decide shapes are told apart: resolution, widths and depths.

    Raises:
        ConfigError: a block that does not fit, with its stage and the numbers.
    """
    options = space.options
    stems: list[tuple[Shape, float]] = []
    places: dict[tuple[int, bool, Shape, float], None] = {}
    ends: dict[tuple[Shape, float], None] = {}
    for input_shape, width in itertools.product(options.input_shapes, network_widths(options)):
        base = space.base_width(width)
        try:
            shapes = {space.stem(input_shape, base).shape}
        except SpecError as error:
            raise ConfigError([f"stem.stride: {p}" for p in error.problems]) from None
        stems.append((input_shape, base))
        for index, stage in enumerate(options.stages):
            exits: set[Shape] = set()
            for widths in _width_groups(stage, width):
                # Blocks after the first have the same widths to choose from and keep the size, so
                # that every one of them ends in the shapes that the first ends in.
                after: set[Shape] = set()
                for in_shape, w in itertools.product(sorted(shapes), widths):
                    places[index, True, in_shape, w] = None
                    after.add(_after_first(stage, index, in_shape, w))
                if stage.depths[-1] > 1:
                    for in_shape, w in itertools.product(sorted(after), widths):
                        places[index, False, in_shape, w] = None
                exits |= after
            shapes = exits
        ends.update(dict.fromkeys((shape, base) for shape in sorted(shapes)))
    return Reached(stems=tuple(stems), places=tuple(places), ends=tuple(ends))


def reachable_blocks(space: StagedSpace) -> list[tuple[Block, Shape]]:
    """Every (block, input shape) of every network, each once, in the order of the chain."""
    reached = walk(space)
    found: dict[tuple[Block, Shape], None] = {}
    for input_shape, base in reached.stems:
        found[cast(Block, space.stem(input_shape, base).block), input_shape] = None
    for index, first, in_shape, width in reached.places:
        for values in _values(space.options.stages[index], width):
            block = space.place(index, first, in_shape, values).block
            if block is not None:
                found[block, in_shape] = None
    for end, base in reached.ends:
        shape = end
        for placed in space.head(shape, base):
            found[cast(Block, placed.block), shape] = None
            shape = placed.shape
    return list(found)


def _width_groups(stage: Stage, network_width: Scalar | None) -> list[tuple[float, ...]]:
    """The widths that blocks of the stage may have, in groups that they have to agree on."""
    dimension = stage.dimensions["width_multiplier"]
    choices = cast(tuple[float, ...], dimension.choices)
    if dimension.scope == "network" and not dimension.fixed:
        return [(cast(float, network_width),)]
    return [choices] if dimension.scope == "block" else [(w,) for w in choices]


def _after_first(stage: Stage, index: int, in_shape: Shape, width: float) -> Shape:
    kernel_size = max(cast(tuple[int, ...], stage.dimensions["kernel_size"].choices))
    out = make_divisible(stage.channels * width)
    try:
        return windowed_shape(in_shape, out, kernel_size, stage.stride)
    except SpecError as error:
        raise ConfigError(
            [f"stages.{index}.stride: stage {index + 1} cannot exist: {p}" for p in error.problems]
        ) from None


def _values(stage: Stage, width: float) -> Iterator[tuple[Scalar | None, ...]]:
    """Every combination of the dimensions that a block of the stage has, in their order."""
    for block_type in stage.dimensions["block_type"].choices:
        own = TYPE_DIMENSIONS[cast(str, block_type)]
        options: list[tuple[Scalar | None, ...]] = [
            stage.dimensions[n].choices if n in own else (None,) for n in DEFAULTS
        ]
        options[:2] = [(width,), (block_type,)]
        yield from itertools.product(*options)
