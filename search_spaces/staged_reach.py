"""What a staged space can reach, found by walking states instead of configurations."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from nasctl.arch import Block, Scalar, Shape
from nasctl.errors import ConfigError, SpecError
from search_spaces.staged_options import Stage, StagedOptions

if TYPE_CHECKING:
    from search_spaces.staged import Placed, StagedSpace


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
            raise ConfigError(error.problems) from None
        stems.append((input_shape, base))
        for index, stage in enumerate(options.stages):
            exits: set[Shape] = set()
            for widths in _width_groups(stage, width):
                reached = shapes
                for block in range(1, stage.depths[-1] + 1):
                    now = [(block == 1, s, w) for s in sorted(reached) for w in widths]
                    reached = set()
                    for first, in_shape, w in now:
                        places[index, first, in_shape, w] = None
                        reached |= _exits(space, index, first, in_shape, w)
                    if block in stage.depths:
                        exits |= reached
            shapes = exits
        ends.update(dict.fromkeys((shape, base) for shape in sorted(shapes)))
    return Reached(stems=tuple(stems), places=tuple(places), ends=tuple(ends))


def reachable_blocks(space: StagedSpace) -> list[tuple[Block, Shape]]:
    """Every (block, input shape) of every network, each once, in the order of the chain."""
    reached = walk(space)
    found: dict[tuple[Block, Shape], None] = {}

    def add(placed: Placed, in_shape: Shape) -> None:
        found.update(dict.fromkeys(zip(placed.blocks, (in_shape, *placed.shapes), strict=False)))

    for input_shape, base in reached.stems:
        add(space.stem(input_shape, base), input_shape)
    for index, first, in_shape, width in reached.places:
        for values in _values(space.options, space.options.stages[index], width):
            add(space.place(index, first, in_shape, values), in_shape)
    for end, base in reached.ends:
        add(space.head(end, base), end)
    return list(found)


def _width_groups(stage: Stage, network_width: Scalar | None) -> list[tuple[float, ...]]:
    """The widths that blocks of the stage may have, in groups that they have to agree on."""
    dimension = stage.dimensions["width_multiplier"]
    choices = cast(tuple[float, ...], dimension.choices)
    if dimension.scope == "network" and not dimension.fixed:
        return [(cast(float, network_width),)]
    return [choices] if dimension.scope == "block" else [(w,) for w in choices]


def _exits(
    space: StagedSpace, index: int, first: bool, in_shape: Shape, width: float
) -> set[Shape]:
    """The shapes after a block of a stage, whatever is chosen of it.

    Raises:
        ConfigError: one of the choices cannot exist there.
    """
    stage = space.options.stages[index]
    found: set[Shape] = set()
    for values in _values(space.options, stage, width):
        try:
            found.add(space.place(index, first, in_shape, values).shape)
        except SpecError as error:
            size = "x".join(map(str, in_shape))
            where = f"{values[1]} cannot stand in stage{index + 1} on a {size} map"
            raise ConfigError(
                [f"{_key(space, index, str(values[1]), p)}: {where}: {p}" for p in error.problems]
            ) from None
    return found


def _key(space: StagedSpace, index: int, block_type: str, problem: str) -> str:
    """The option that a problem with a block is about, as far as its words say so."""
    stage, options = space.options.stages[index], space.options
    said = re.match(r"(?:\w+\.)?(\w+)", problem)
    name = said[1] if said else ""
    own = options.alternatives[block_type].kind.dimensions
    if name == "groups" and "groups" not in own:
        name = "cardinality"
    if name == "stride":
        return f"stages.{index}.stride"
    if name not in own:
        return f"stages.{index}"
    shared = stage.dimensions[name] is options.dimensions[name]
    return (
        name if shared and options.dimensions[name].choices != (None,) else f"stages.{index}.{name}"
    )


def _values(
    options: StagedOptions, stage: Stage, width: float
) -> Iterator[tuple[Scalar | None, ...]]:
    """Every combination of the dimensions that a block of the stage has, in their order."""
    for block_type in stage.dimensions["block_type"].choices:
        own = options.alternatives[cast(str, block_type)].dimensions
        choices: list[tuple[Scalar | None, ...]] = [
            stage.dimensions[n].choices if n in own else (None,) for n in options.names
        ]
        choices[:2] = [(width,), (block_type,)]
        yield from itertools.product(*choices)
