"""Layer 4: what a candidate costs before it is trained: exact counts, and measured latency."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.arch import Architecture, Block, Cost, Shape
from nasctl.blocktable import BlockTable
from nasctl.candidates import Priced
from nasctl.environment import cache_directory
from nasctl.errors import ConfigError
from nasctl.executors.base import Announce, Executor
from nasctl.executors.place import ExecutorPlace
from nasctl.fields import canonical_json
from nasctl.latency import LatencySettings, LatencyTable, extend_table, measure_table
from nasctl.latency_place import HERE, Place
from nasctl.plugins import Registry, call_factory, load_plugins
from nasctl.prepare import Problem
from nasctl.space import Family

if TYPE_CHECKING:
    from torch import nn

    from nasctl.config.ablation import AblationConfig
    from nasctl.config.schema import SearchConfig

__all__ = [
    "Announce",
    "FamilyBuilder",
    "Pricer",
    "Tables",
    "latency_place",
    "latency_settings",
    "make_pricer",
    "network_builder",
    "reachable_blocks",
]


def latency_settings(config: SearchConfig | AblationConfig) -> LatencySettings:
    """How latency is measured, from the configuration."""
    return LatencySettings(**config.latency.model_dump(exclude={"name", "node"}))


def latency_place(
    config: SearchConfig | AblationConfig, executor: Executor, registry: Registry
) -> ExecutorPlace:
    """Where latency is measured, from the configuration."""
    return ExecutorPlace(executor=executor, node=config.latency.node, plugins=registry.sources)


class Pricer:
    """Prices architectures before training: exact costs, and latency where there is a table.

    Args:
        family: its own `cost`, if it has one, replaces both tables.
        blocks: the block table; None for tables of known results without a `cost`.
        latency: the calibrated latency table, or None.
    """

    def __init__(
        self, family: Family, blocks: BlockTable | None, latency: LatencyTable | None
    ) -> None:
        self._family = family
        self.blocks = blocks
        self.latency = latency

    def __call__(self, architecture: Architecture) -> Priced:
        if self._family.cost is not None:
            return Priced(cost=self._family.cost(architecture))
        if self.blocks is None:
            return Priced(cost=Cost())
        cost = self.blocks.price(architecture)
        if self.latency is None:
            return Priced(cost=cost)
        estimate = self.latency.predict(architecture)
        return Priced(
            cost=Cost(**cost, latency_ms=estimate.ms),
            intervals={"latency_ms": (estimate.low, estimate.high)},
        )


def reachable_blocks(family: Family, sample: Iterable[Architecture]) -> list[tuple[Block, Shape]]:
    """Every (block, input shape) the family says it can reach; else those of the sample."""
    pairs = (
        family.blocks()
        if family.blocks is not None
        else itertools.chain.from_iterable(a.placed() for a in sample)
    )
    return list(dict.fromkeys(pairs))


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The measured and counted costs of a run, as its ledger keeps them (plain JSON), or None."""

    block_costs: Mapping[str, Any] | None = None
    latency_table: Mapping[str, Any] | None = None


def make_pricer(
    config: SearchConfig,
    problem: Problem,
    sample: list[Architecture],
    registry: Registry,
    *,
    stored: Tables,
    announce: Announce,
    place: Place = HERE,
) -> Pricer:
    """Everything that prices candidates: from the ledger where it is there, else from the cache,
    else counted and measured now, in `place`.

    Raises:
        ConfigError: a node is to measure latency, and the family's costs are its own.
        EnvironmentProblemError: the node, the runtime or the device's program failed.
        NasctlError: a block has an operation that cannot be counted.
    """
    family = problem.family
    if family.cost is not None or not problem.has_modules:
        if place.node is not None and problem.recording is None:
            raise ConfigError(
                f"latency.node: {place.node}: space.family={config.space.family} has costs of its "
                "own, nothing is measured; use latency.node=null"
            )
        return Pricer(family, None, None)
    pairs = reachable_blocks(family, sample)
    more = _reference_blocks(problem, pairs)
    if stored.block_costs is not None:
        blocks = BlockTable.from_json(stored.block_costs, registry.blocks)
    else:
        announce(f"pricing {len(pairs) + len(more)} blocks")
        blocks = BlockTable(cache_directory() / "blocks.json")
        blocks.warm([*pairs, *more])
    latency: LatencyTable | None = None
    if stored.latency_table is not None:
        latency = LatencyTable.from_json(stored.latency_table)
    elif config.latency.name != "none":
        latency = _measure_latency(
            pairs,
            sample,
            _reference_blocks(problem, pairs),
            config=config,
            build_network=network_builder(config, problem, registry),
            announce=announce,
            place=place,
        )
    return Pricer(family, blocks, latency)


def _reference_blocks(
    problem: Problem, pairs: Iterable[tuple[Block, Shape]]
) -> list[tuple[Block, Shape]]:
    """What the reference networks need besides the blocks of the family."""
    reached = set(pairs)
    placed = itertools.chain.from_iterable(r.architecture.placed() for r in problem.references)
    return [pair for pair in dict.fromkeys(placed) if pair not in reached]


def _measure_latency(
    pairs: list[tuple[Block, Shape]],
    sample: list[Architecture],
    more: list[tuple[Block, Shape]],
    *,
    config: SearchConfig,
    build_network: Callable[[Architecture], nn.Module],
    announce: Announce,
    place: Place,
) -> LatencyTable:
    """Of the family's blocks first: references may not change what candidates are judged by."""
    settings, cache = latency_settings(config), _latency_cache(place)
    table = measure_table(
        pairs,
        sample,
        settings,
        build_block=_build_block,
        build_network=build_network,
        cache_path=cache,
        progress=announce,
        seed=config.seed,
        place=place,
    )
    return extend_table(
        table,
        more,
        settings,
        build_block=_build_block,
        cache_path=cache,
        progress=announce,
        seed=config.seed,
        place=place,
    )


def _latency_cache(place: Place) -> Path:
    """A file for each name of a node: whoever waits for one holds the lock of its file alone."""
    name = "latency" if place.node is None else f"latency-{place.node}"
    return cache_directory() / f"{name}.json"


def _build_block(block: Block, shape: Shape) -> nn.Module:
    return block.build(shape)


def network_builder(
    config: SearchConfig, problem: Problem, registry: Registry, *, with_references: bool = False
) -> Callable[[Architecture], nn.Module]:
    """What makes the module of a network; picklable where a node is to measure.

    Args:
        with_references: reference networks are built as published, whatever the family builds.
    """
    from search_spaces import network

    own = problem.family.build
    published = frozenset(r.architecture.id for r in problem.references if with_references)
    if own is None:
        return network.build
    if config.latency.node is None:
        return lambda a: network.build(a) if a.id in published else own(a)
    options = config.space.options
    added = {k: v for k, v in problem.family_options.items() if k not in options}
    return FamilyBuilder(
        plugins=tuple(registry.sources),
        family=problem.family_name,
        options=canonical_json(options),
        added=canonical_json(added),
        published=published,
    )


@dataclass(frozen=True, kw_only=True)
class FamilyBuilder:
    """Makes the module of a network as its family does, wherever it is sent.

    Attributes:
        plugins: to be imported there.
        family: its name.
        options: of the family, canonical JSON.
        added: what else it was made with, canonical JSON.
        published: ids of reference networks, which are not of the family.
    """

    plugins: tuple[str, ...]
    family: str
    options: str
    added: str
    published: frozenset[str]

    def __call__(self, architecture: Architecture) -> nn.Module:
        from search_spaces import network

        if architecture.id in self.published:
            return network.build(architecture)
        return _own_build(self.plugins, self.family, self.options, self.added)(architecture)


@functools.lru_cache(maxsize=1)
def _own_build(
    plugins: tuple[str, ...], name: str, options: str, added: str
) -> Callable[[Architecture], nn.Module]:
    registry = load_plugins(plugins)
    family: Family = call_factory(
        registry.lookup("families", "space.family", name),
        json.loads(options),
        key="space.options",
        extras={**json.loads(added), "user_blocks": registry.user_blocks},
    )
    assert family.build is not None, "it had one when the configuration was read"
    return family.build
