"""Layer 5: measured latency of a network and its blocks, beside what the machine could do.

The protocol is that of the latency table (`nasctl.latency`); only the machine's two limits, the
roofline of Williams et al. 2009, are measured here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nasctl.arch import Architecture
from nasctl.environment import cache_directory
from nasctl.latency import (
    LatencySettings,
    LatencyTable,
    WholeLatency,
    measure_networks,
    measure_table,
)

MATRIX = 1024
"""Side of the matrices whose product gives the peak: 4 MB each, as a library multiplies best."""

COPIED = 1 << 26
"""Bytes that are copied, each read once and written once: more than any cache holds."""

SECONDS = 0.3
"""For each of the two limits."""


@dataclass(frozen=True, kw_only=True)
class Roof:
    """What the machine can do with some threads: float32 FLOP/s and bytes/s to and from memory."""

    flops_per_s: float
    bytes_per_s: float
    threads: int

    @property
    def ridge(self) -> float:
        """FLOPs per byte below which memory is the limit."""
        return self.flops_per_s / self.bytes_per_s

    def judge(self, flops: int, moved_bytes: int, latency_ms: float) -> tuple[str, float]:
        """(`memory` or `compute`, the fraction of that limit which was reached)."""
        memory_s, compute_s = moved_bytes / self.bytes_per_s, flops / self.flops_per_s
        least = max(memory_s, compute_s)
        attained = least / (latency_ms / 1e3)
        return ("compute" if compute_s > memory_s else "memory"), attained


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Latencies of one network: its blocks alone, itself whole, and the machine's limits."""

    table: LatencyTable
    whole: WholeLatency
    roof: Roof

    def to_json(self) -> dict[str, Any]:
        """Under `latency` in `--json`."""
        return {
            "device": self.table.device,
            "runtime": self.table.runtime,
            "whole": self.whole.to_json(),
            "peak_flops_per_s": self.roof.flops_per_s,
            "memory_bytes_per_s": self.roof.bytes_per_s,
            "threads": self.roof.threads,
        }


def measure(
    architectures: list[Architecture],
    *,
    settings: LatencySettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Measured]:
    """Measures networks and their blocks; block latencies come from the cache where it has them.

    Raises:
        EnvironmentProblemError: a block cannot be exported, or the cache cannot be written.
    """
    from search_spaces.network import build

    settings = settings or LatencySettings(calibration_networks=len(architectures))
    table = measure_table(
        [],
        architectures,
        settings,
        build_block=lambda block, shape: block.build(shape),
        build_network=build,
        cache_path=cache_directory() / "latency.json",
        progress=progress,
    )
    whole = measure_networks(
        architectures,
        settings,
        build_network=build,
        canary_ms=table.canary_ms,
        progress=progress,
    )
    roof = measure_roof(settings.threads)
    return [Measured(table=table, whole=whole[a.id], roof=roof) for a in architectures]


def measure_roof(threads: int) -> Roof:
    """The best rate of a float32 matrix product and of a copy, with that many threads of torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left, right = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
        product = torch.empty(MATRIX, MATRIX)
        flops = 2 * MATRIX**3 / _fastest(lambda: torch.mm(left, right, out=product))
        source = torch.ones(COPIED // 4)
        copy = torch.empty_like(source)
        moved = 2 * COPIED / _fastest(lambda: copy.copy_(source))
    finally:
        torch.set_num_threads(before)
    return Roof(flops_per_s=flops, bytes_per_s=moved, threads=threads)


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest call; the first one, untimed, brings code and memory in."""
    run()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
