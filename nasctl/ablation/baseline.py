"""Layer 4: the settings of an arm, and the network that they describe."""

from __future__ import annotations

import copy
import dataclasses
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasctl.arch import Architecture, Block, Opaque, Shape
from nasctl.errors import ConfigError, SpecError, unknown
from nasctl.plugins import Registry, call_factory
from nasctl.records import RunRecords, find_run
from search_spaces.reference import NETWORKS, reference_network

Settings = dict[str, Any]
"""`baseline`, `recipe` and `data` of one arm, as plain values."""


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> Settings:
    """A copy with other values at dotted keys; parts of lists are numbered from 0.

    Args:
        settings: of the baseline.
        changes: dotted key to value.
        where: the key of the factor, for messages.

    Raises:
        ConfigError: a key that leads nowhere; names the nearest at that place.
    """
    made = copy.deepcopy(dict(settings))
    for key, value in changes.items():
        at: Any = made
        *path, last = key.split(".")
        for part in path:
            at = _step(at, part, f"{where}: {key}")
        if isinstance(at, list):
            at[_position(at, last, f"{where}: {key}")] = copy.deepcopy(value)
        elif isinstance(at, dict) and (last in at or _is_open(path)):
            at[last] = copy.deepcopy(value)
        else:
            known = list(at) if isinstance(at, dict) else []
            raise ConfigError(f"{where}: {key}: {unknown('key', last, known)}")
    return made


def _is_open(path: Sequence[str]) -> bool:
    """Whether a mapping may get keys that it does not have: its reader checks them."""
    return "options" in path or path[:2] == ["baseline", "blocks"] or path == ["data"]


def _step(at: Any, part: str, where: str) -> Any:
    if isinstance(at, list):
        return at[_position(at, part, where)]
    if isinstance(at, dict) and part in at:
        return at[part]
    raise ConfigError(f"{where}: {unknown('key', part, list(at) if isinstance(at, dict) else [])}")


def _position(values: list[Any], part: str, where: str) -> int:
    if part.isdecimal() and int(part) < len(values):
        return int(part)
    raise ConfigError(f"{where}: {part!r} is no place in a list of {len(values)}, counted from 0")


def build_network(
    baseline: Mapping[str, Any],
    registry: Registry,
    *,
    input_shape: Shape,
    num_classes: int,
    where: str = "baseline",
) -> Architecture:
    """The network of a `baseline` section, in one of its four forms.

    Args:
        baseline: `family` and `options`; or `network` and `width`; or `run` and `arch_id`; or
            `blocks`.
        registry: with the plugins.
        input_shape, num_classes: of the data.
        where: the key that is to blame.

    Raises:
        ConfigError: it names something that does not exist, or cannot be built for this input.
        EnvironmentProblemError: the run that it names cannot be read.
    """
    try:
        if baseline.get("network") is not None:
            return _published(baseline, where, input_shape, num_classes)
        if baseline.get("run") is not None:
            return _trained_before(baseline, where)
        if baseline.get("blocks") is not None:
            blocks = _blocks(baseline["blocks"], registry.blocks)
            return Architecture(input_shape=input_shape, blocks=blocks, num_classes=num_classes)
        return _only_one(baseline, registry, where, input_shape, num_classes)
    except SpecError as error:
        raise ConfigError([f"{where}: {p}" for p in error.problems]) from error


def _published(
    baseline: Mapping[str, Any], where: str, input_shape: Shape, num_classes: int
) -> Architecture:
    name, width = baseline["network"], baseline.get("width") or 1.0
    if name not in NETWORKS:
        raise ConfigError(f"{where}.network: {unknown('network', name, NETWORKS)}")
    if width != 1 and not NETWORKS[name].scalable:
        raise ConfigError(f"{where}.width: {name} has no width multiplier")
    return reference_network(name, input_shape=input_shape, num_classes=num_classes, width=width)


def _trained_before(baseline: Mapping[str, Any], where: str) -> Architecture:
    records = RunRecords(find_run(Path(baseline["run"])))
    wanted = str(baseline.get("arch_id"))
    found = {t.arch_id: t.architecture for t in (*records.trials(), *records.references())}
    if wanted not in found:
        raise ConfigError(f"{where}.arch_id: {unknown('network', wanted, found)}")
    return found[wanted]


def _blocks(given: Sequence[Any], known: Mapping[str, type[Block]]) -> tuple[Block, ...]:
    problems, made = [], []
    for place, data in enumerate(given):
        if not isinstance(data, Mapping) or "op" not in data:
            problems.append(f"blocks.{place}: expected {{op: ..., field: value}}, got {data!r}")
        elif data["op"] not in known:
            problems.append(f"blocks.{place}.op: {unknown('block', data['op'], known)}")
        else:
            try:
                made.append(known[data["op"]].from_json(data))
            except SpecError as error:
                problems += [f"blocks.{place}: {p}" for p in error.problems]
    if problems:
        raise SpecError(problems)
    return tuple(made)


def _only_one(
    baseline: Mapping[str, Any],
    registry: Registry,
    where: str,
    input_shape: Shape,
    num_classes: int,
) -> Architecture:
    name = baseline.get("family") or "staged"
    factory = registry.lookup("families", f"{where}.family", name)
    extras = {
        "input_shape": input_shape,
        "num_classes": num_classes,
        "user_blocks": registry.user_blocks,
    }
    options = dict(baseline.get("options") or {})
    try:
        family = call_factory(factory, options, key=f"{where}.options", extras=extras)
    except ConfigError as error:
        whole = [p if p.startswith(where) else f"{where}.options.{p}" for p in error.problems]
        raise ConfigError(whole) from error
    if family.build is not None:
        raise ConfigError(
            f"{where}.family: {name} builds its networks itself, which a study cannot vary; give "
            "`blocks`, or a family of blocks"
        )
    open_ = [d.name for d in family.space.decisions if len(d.choices) > 1]
    if open_:
        raise ConfigError(
            f"{where}: a baseline is one network, but {', '.join(open_[:3])} "
            f"{'has' if len(open_) == 1 else 'have'} several choices; give each one value"
        )
    architecture: Architecture = family.sample(random.Random(0))[1]
    return architecture


# -- fields of blocks -----------------------------------------------------------------------------


def with_field(
    architecture: Architecture, name: str, value: Any, scope: str, where: str
) -> Architecture:
    """The network with a field of its blocks set, wherever a block in `scope` has it.

    Args:
        scope: `all`, `stage N` (blocks with one resolution; the first stage is 1), `block N` or
            `blocks N-M`, as `nasctl profile` numbers them.
        where: the key of the factor, for messages.

    Raises:
        ConfigError: no block in scope has the field, or does not take the value.
    """
    places = _places(architecture, scope, where)
    having = [i for i in places if name in _fields(architecture.blocks[i])]
    if not having:
        known = sorted({f for i in places for f in _fields(architecture.blocks[i])})
        raise ConfigError(f"{where}: {unknown('field of the blocks', name, known)}")
    blocks = list(architecture.blocks)
    try:
        for i in having:
            fields: Any = blocks[i]
            blocks[i] = dataclasses.replace(fields, **{name: value})
        return dataclasses.replace(architecture, blocks=tuple(blocks))
    except SpecError as error:
        raise ConfigError([f"{where}: {p}" for p in error.problems]) from error


def _fields(block: Block) -> list[str]:
    if isinstance(block, Opaque):
        return []  # of a table: varied by the options of its family
    fields: Any = block
    return [f.name for f in dataclasses.fields(fields)]


def _places(architecture: Architecture, scope: str, where: str) -> list[int]:
    everything = list(range(len(architecture.blocks)))
    if scope == "all":
        return everything
    if found := re.fullmatch(r"stage (\d+)", scope):
        stages = _stages(architecture)
        number = int(found[1])
        if not 1 <= number <= len(stages):
            raise ConfigError(f"{where}.scope: there are stages 1 to {len(stages)}, got {scope!r}")
        return stages[number - 1]
    if found := re.fullmatch(r"blocks? (\d+)(?:-(\d+))?", scope):
        low, high = int(found[1]), int(found[2] or found[1])
        if not 1 <= low <= high <= len(everything):
            raise ConfigError(
                f"{where}.scope: there are blocks 1 to {len(everything)}, got {scope!r}"
            )
        return everything[low - 1 : high]
    raise ConfigError(
        f"{where}.scope: expected all, `stage N`, `block N` or `blocks N-M`, got {scope!r}"
    )


def _stages(architecture: Architecture) -> list[list[int]]:
    """Blocks that put out maps of one size follow each other in a stage."""
    stages: list[list[int]] = []
    size: Shape | None = None
    for place, shape in enumerate(architecture.shapes[1:]):
        if shape[1:] != size:
            stages.append([])
            size = shape[1:]
        stages[-1].append(place)
    return stages
