"""Layer 4: what a candidate costs before it is trained: exact counts, and measured latency."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasctl.arch import Architecture, Block, Cost, Shape
from nasctl.blocktable import BlockTable
from nasctl.candidates import Priced
from nasctl.environment import cache_directory
from nasctl.latency import LatencySettings, LatencyTable, extend_table, measure_table
from nasctl.plugins import Registry
from nasctl.prepare import Problem
from nasctl.space import Family

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig

Announce = Callable[[str], None]
"""Told in a few words what is being done."""


def latency_settings(config: SearchConfig) -> LatencySettings:
    """How latency is measured, from the configuration."""
    return LatencySettings(**config.latency.model_dump(exclude={"name"}))


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
) -> Pricer:
    """Everything that prices candidates: from the ledger where it is there, else from the cache,
    else counted and measured now.

    Raises:
        EnvironmentProblemError: the runtime or the device's program failed.
        NasctlError: a block has an operation that cannot be counted.
    """
    family = problem.family
    if family.cost is not None or not problem.has_modules:
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
        latency = _measure_latency(config, problem, pairs, sample, announce)
    return Pricer(family, blocks, latency)


def _reference_blocks(
    problem: Problem, pairs: Iterable[tuple[Block, Shape]]
) -> list[tuple[Block, Shape]]:
    """What the reference networks need besides the blocks of the family."""
    reached = set(pairs)
    placed = itertools.chain.from_iterable(r.architecture.placed() for r in problem.references)
    return [pair for pair in dict.fromkeys(placed) if pair not in reached]


def _measure_latency(
    config: SearchConfig,
    problem: Problem,
    pairs: list[tuple[Block, Shape]],
    sample: list[Architecture],
    announce: Announce,
) -> LatencyTable:
    """Of the family's blocks first: references may not change what candidates are judged by."""
    from search_spaces import network

    table = measure_table(
        pairs,
        sample,
        latency_settings(config),
        build_block=lambda block, shape: block.build(shape),
        build_network=problem.family.build or network.build,
        cache_path=cache_directory() / "latency.json",
        progress=announce,
        seed=config.seed,
    )
    return extend_table(
        table,
        _reference_blocks(problem, pairs),
        latency_settings(config),
        build_block=lambda block, shape: block.build(shape),
        cache_path=cache_directory() / "latency.json",
        progress=announce,
        seed=config.seed,
    )
