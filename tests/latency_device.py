"""A device whose latencies are known exactly, for tests."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nasctl.arch import Architecture, Block, Shape
from nasctl.latency import (
    LatencySettings,
    LatencyTable,
    measure_table,
)
from nasctl.latency_settings import Timing

CONF = Path(__file__).parents[1] / "conf"


SETTINGS = LatencySettings(rounds=16, calls=3, budget_s=1000.0)


@dataclass(frozen=True, kw_only=True)
class Work(Block):
    """A block whose only property is how long it takes."""

    op: ClassVar[str] = "work"
    us: int

    def out_shape(self, in_shape: Shape) -> Shape:
        return in_shape

    def build(self, in_shape: Shape) -> Any:
        from torch import nn

        module = nn.Identity()
        module.us = [self.us]
        return module


@dataclass(frozen=True, kw_only=True)
class SideHead(Work):
    """There in training only."""

    op: ClassVar[str] = "side_head"
    training_only: ClassVar[bool] = True


def network_of(*us: int) -> Architecture:
    return Architecture(input_shape=(7,), blocks=tuple(Work(us=u) for u in us), num_classes=7)


def build_network(architecture: Architecture) -> Any:
    from torch import nn

    module = nn.Identity()
    module.us = [b.us for b in architecture.blocks]
    return module


def build_block(block: Block, shape: Shape) -> Any:
    return block.build(shape)


CALL_MS = 0.006


CANARY_MS = 0.2


class Device:
    """A machine with a known law, whose speed drifts from call to call.

    A call takes CALL_MS; blocks in a network cost 1.1 of what they cost alone, minus 0.001 ms each.
    """

    passes: int | None = None

    def __init__(self, drift: Iterator[float] | None = None, noise: float = 0.0) -> None:
        self.drift = drift or itertools.repeat(1.0)
        self.noise = noise
        self.rng = random.Random(0)
        self.prepared = 0
        self.calls = 0

    def prepare(self, module: Any, input_shape: Shape) -> Any:
        self.prepared += 1
        us = getattr(module, "us", None)
        if us is None:
            canary = any(True for _ in module.parameters())
            ms = CANARY_MS if canary else CALL_MS
        elif len(us) == 1:
            ms = CALL_MS + us[0] / 1000
        else:
            ms = CALL_MS + sum(1.1 * u / 1000 - 0.001 for u in us)
        return lambda calls: self.timing(ms, calls)

    def timing(self, ms: float, calls: int) -> Timing:
        self.calls += calls
        spread = [math.exp(self.rng.gauss(0, self.noise)) for _ in range(calls)]
        return Timing(calls_ms=tuple(ms * next(self.drift) * s for s in spread))


def truth(architecture: Architecture) -> float:
    return CALL_MS + sum(1.1 * b.us / 1000 - 0.001 for b in architecture.blocks)


def random_networks(count: int, seed: int) -> list[Architecture]:
    rng = random.Random(seed)
    kinds = (10, 20, 35, 60, 100)
    return [network_of(*rng.choices(kinds, k=rng.randint(4, 16))) for _ in range(count)]


PAIRS = [(Work(us=us), (7,)) for us in (10, 20, 35, 60, 100)]


def measure(device: Any, cache: Path | None = None, **changes: Any) -> LatencyTable:
    arguments: dict[str, Any] = {
        "build_block": build_block,
        "build_network": build_network,
        "cache_path": cache,
        "runtime": device,
    }
    settings = changes.pop("settings", SETTINGS)
    return measure_table(PAIRS, random_networks(60, 1), settings, **(arguments | changes))
