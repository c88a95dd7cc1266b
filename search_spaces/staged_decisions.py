"""The decisions of a staged space, each active only where it can matter."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from nasctl.arch import Scalar
from nasctl.space import Decision, SearchSpace
from search_spaces.staged_options import Dimension, StagedOptions

Condition = Mapping[str, tuple[Scalar, ...]]
Choices = tuple[Scalar, ...]


def variable_name(name: str, dimension: Dimension, index: int, block: int) -> str | None:
    """The decision that sets a dimension for a block; None where the value is fixed.

    Args:
        name: of the dimension.
        dimension: its choices and scope.
        index: of the stage, from 0.
        block: its number in the stage, from 1.
    """
    if dimension.fixed:
        return None
    if dimension.scope == "network":
        return name
    if dimension.scope == "stage":
        return f"stage{index + 1}.{name}"
    return f"stage{index + 1}.block{block}.{name}"


def staged_decisions(options: StagedOptions) -> SearchSpace:
    """The search space: from the network to its blocks, but each decision after those it needs.

    A decision is active if some block that it applies to exists (depth) and has the dimension
    (block type). `when` says so where one block or one earlier decision settles it, else `any_of`.
    """
    decisions = list(_declared(options))
    ordered: list[Decision] = []
    names: set[str] = set()
    declared = {d.name for d in decisions}
    while decisions:
        ready = next(d for d in decisions if _needs(d) & declared <= names)
        decisions.remove(ready)
        ordered.append(ready)
        names.add(ready.name)
    return SearchSpace(tuple(ordered))


def _needs(decision: Decision) -> set[str]:
    return {name for condition in decision.conditions() for name in condition}


def _declared(options: StagedOptions) -> Iterator[Decision]:
    """In natural order: network, then stage by stage and block by block."""
    choices = dict(_variables(options))
    conditions: dict[str, list[Condition]] = {name: [] for name in choices}
    for name in choices:
        if name in ("resolution", "width_multiplier") or name.endswith(".depth"):
            conditions[name] = [{}]  # stem and head always have the network's width
    for index, block, name in _dimensions_of_blocks(options):
        variable = variable_name(name, options.stages[index].dimensions[name], index, block)
        condition = _matters(options, name, index, block)
        if variable is not None and condition is not None:
            conditions[variable].append(condition)
    for variable, listed in conditions.items():
        alternatives = _simplified(listed)
        if len(alternatives) == 1:
            yield Decision(variable, choices[variable], when=alternatives[0])
        elif alternatives:
            yield Decision(variable, choices[variable], any_of=alternatives)


def _dimensions_of_blocks(options: StagedOptions) -> Iterator[tuple[int, int, str]]:
    for index, stage in enumerate(options.stages):
        for block in range(1, stage.depths[-1] + 1):
            for name in options.names:
                yield index, block, name


def _variables(options: StagedOptions) -> Iterator[tuple[str, tuple[Scalar, ...]]]:
    """(name, choices) of everything that is not fixed; some names come more than once."""
    if len(options.input_shapes) > 1:
        yield "resolution", tuple(shape[1] for shape in options.input_shapes)
    for name, dimension in options.dimensions.items():
        if dimension.scope == "network" and not dimension.fixed:
            yield name, cast(Choices, dimension.choices)
    for index, stage in enumerate(options.stages):
        if len(stage.depths) > 1:
            yield f"stage{index + 1}.depth", stage.depths
        blocks = range(1, stage.depths[-1] + 1)
        for scope, numbers in (("stage", range(1, 2)), ("block", blocks)):
            for block, (name, dimension) in itertools.product(numbers, stage.dimensions.items()):
                variable = variable_name(name, dimension, index, block)
                if variable is not None and dimension.scope == scope:
                    yield variable, cast(Choices, dimension.choices)


def _matters(options: StagedOptions, name: str, index: int, block: int) -> Condition | None:
    """When a dimension matters for one block; None for never."""
    stage = options.stages[index]
    exists: Condition = {}
    if block > stage.depths[0]:
        depths = tuple(depth for depth in stage.depths if depth >= block)
        exists = {f"stage{index + 1}.depth": depths}
    if name in ("width_multiplier", "block_type"):
        return exists
    types = stage.dimensions["block_type"]
    labels = cast(tuple[str, ...], types.choices)
    users = tuple(t for t in labels if name in options.alternatives[t].dimensions)
    if not users:
        return None
    type_name = variable_name("block_type", types, index, block)
    if type_name is None or users == types.choices:
        return exists
    if types.scope == "block":  # chosen only for blocks that exist
        return {type_name: users}
    return {type_name: users, **exists}


def _simplified(conditions: Iterable[Condition]) -> list[Condition]:
    """Without the alternatives that another one covers."""
    kept: list[Condition] = []
    for condition in conditions:
        if any(_covers(other, condition) for other in kept):
            continue
        kept = [other for other in kept if not _covers(condition, other)]
        kept.append(condition)
    return kept


def _covers(general: Condition, special: Condition) -> bool:
    return all(
        name in special and set(special[name]) <= set(values) for name, values in general.items()
    )
