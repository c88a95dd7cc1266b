"""Layer 2: the latency of a network on a named device, before it is trained.

Every reachable (block, input shape) and about ten whole networks are timed together in interleaved
rounds (`latency_rounds`); a network's latency is the corrected sum over its blocks
(`latency_fit`), with a prediction interval. Values are milliseconds at the stored reference time
of a canary network, and so are whole networks measured later: the two can be compared, however the
machine's speed has changed in between.

Measuring happens before workers start, in the driver or on the device that a `Place` stands for;
the cache is the driver's. With a full cache neither torch nor a runtime is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasctl.arch import Architecture, Block, Shape
from nasctl.errors import NasctlError
from nasctl.latency_bench import Bench, Progress, silent
from nasctl.latency_cache import (
    DeviceRecord,
    device_key,
    locked,
    pair_key,
    read_record,
    write_record,
)
from nasctl.latency_place import HERE, Place
from nasctl.latency_runtimes import Runtime, device_fingerprint, open_runtime
from nasctl.latency_settings import LatencySettings, Timer
from nasctl.latency_table import LatencyEstimate, LatencyTable, WholeLatency

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "LatencyEstimate",
    "LatencySettings",
    "LatencyTable",
    "WholeLatency",
    "device_fingerprint",
    "extend_table",
    "measure_graphs",
    "measure_networks",
    "measure_table",
    "prepared_ahead",
]

Pair = tuple[Block, Shape]
BuildBlock = Callable[[Block, Shape], "nn.Module"]
BuildNetwork = Callable[[Architecture], "nn.Module"]


def measure_table(
    pairs: Iterable[Pair],
    calibration: Sequence[Architecture],
    settings: LatencySettings,
    *,
    build_block: BuildBlock,
    build_network: BuildNetwork,
    cache_path: Path | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    place: Place = HERE,
) -> LatencyTable:
    """Measures what the cache does not have, and calibrates.

    Args:
        pairs: every (block, input shape) that may be asked for.
        calibration: candidates for calibration; `settings.calibration_networks` of them are
            chosen, spread evenly over the range of summed block latencies.
        settings: what latency means.
        build_block: the module of a block for an input shape (any weights: they are replaced).
        build_network: the module of a network.
        cache_path: the JSON file of earlier measurements; None: no cache.
        progress: told in words what happens.
        seed: of the order of measurements.
        runtime: instead of the one that `settings` names (tests).
        place: where to measure; for a node of a cluster everything must be picklable.

    Raises:
        NasctlError: no calibration network was given.
        EnvironmentProblemError: a block cannot be exported, the command or the disk fails.
        ConfigError: the command or the device does not exist.
    """
    if not calibration:
        raise NasctlError("latency: no network to calibrate the table with")
    wanted = {
        pair_key(*p): p
        for p in (*pairs, *(p for architecture in calibration for p in architecture.deployed()))
        if not p[0].training_only
    }
    device = place.device(settings, progress or silent)
    key = device_key(device.fingerprint, {type(block) for block, _ in wanted.values()})
    choice = _choice_key(calibration, settings.calibration_networks)
    record = read_record(cache_path, key)
    if choice not in record.corrections or not record.blocks.keys() >= wanted.keys():
        with locked(cache_path, progress or silent):
            record = place.measure(
                functools.partial(
                    _filled,
                    read_record(cache_path, key),  # another process may have measured meanwhile
                    wanted,
                    settings,
                    calibration=(calibration, choice, build_network),
                    build_block=build_block,
                    seed=seed,
                    runtime=runtime,
                ),
                settings=settings,
                device=device.fingerprint,
                progress=progress or silent,
            )
            write_record(cache_path, key, record)
    assert record.canary_ms is not None
    return LatencyTable(
        device=device.fingerprint,
        runtime=device.runtime,
        node=place.node,
        settings=json.loads(json.dumps(dataclasses.asdict(settings))),
        canary_ms=record.canary_ms,
        drift=record.drift,
        blocks={k: record.blocks[k] for k in sorted(wanted)},
        correction=record.corrections[choice],
    )


def extend_table(
    table: LatencyTable,
    pairs: Iterable[Pair],
    settings: LatencySettings,
    *,
    build_block: BuildBlock,
    cache_path: Path | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    place: Place = HERE,
) -> LatencyTable:
    """The table with more blocks, on its scale; its own values and its correction stay as they are.

    What the correction says of networks of these blocks is extrapolated.

    Args:
        table: measured with the same `settings` in the same `place`.
        pairs: every (block, input shape) that may be asked for besides; those it has are skipped.
        build_block, cache_path, progress, seed, runtime, place: see `measure_table`.

    Raises:
        EnvironmentProblemError: a block cannot be exported, the command or the disk fails.
    """
    wanted = {
        k: p for p in pairs if not p[0].training_only and (k := pair_key(*p)) not in table.blocks
    }
    if not wanted:
        return table
    key = device_key(table.device, {type(block) for block, _ in wanted.values()})
    record = read_record(cache_path, key)
    if not record.blocks.keys() >= wanted.keys():
        with locked(cache_path, progress or silent):
            record = read_record(cache_path, key)
            if record.canary_ms is None:
                record.canary_ms = table.canary_ms
            record = place.measure(
                functools.partial(
                    _filled,
                    record,
                    wanted,
                    settings,
                    calibration=None,
                    build_block=build_block,
                    seed=seed,
                    runtime=runtime,
                ),
                settings=settings,
                device=table.device,
                progress=progress or silent,
            )
            write_record(cache_path, key, record)
    assert record.canary_ms is not None
    scale = table.canary_ms / record.canary_ms
    blocks = {**table.blocks, **{k: record.blocks[k] * scale for k in wanted}}
    return dataclasses.replace(table, blocks={k: blocks[k] for k in sorted(blocks)})


def _filled(
    record: DeviceRecord,
    wanted: Mapping[str, Pair],
    settings: LatencySettings,
    progress: Progress,
    *,
    calibration: tuple[Sequence[Architecture], str, BuildNetwork] | None,
    build_block: BuildBlock,
    seed: int,
    runtime: Runtime | None,
) -> DeviceRecord:
    """The record with everything that is wanted, measured by the process that calls.

    Args:
        calibration: candidates, the key of their correction, and the module of a network; None: no
            correction is wanted.
    """
    with _runtime(runtime, settings) as opened:
        bench = Bench(opened, settings, progress=progress, seed=seed)
        if calibration is None:
            bench.fill_blocks(record, wanted, build_block)
        else:
            candidates, choice, build_network = calibration
            bench.fill(
                record,
                wanted,
                candidates,
                choice,
                build_block=build_block,
                build_network=build_network,
            )
    return record


def _choice_key(candidates: Sequence[Architecture], count: int) -> str:
    text = json.dumps([sorted({a.id for a in candidates}), count])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def measure_networks(
    architectures: Sequence[Architecture],
    settings: LatencySettings,
    *,
    build_network: BuildNetwork,
    canary_ms: float | None,
    progress: Progress | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    place: Place = HERE,
    device: str | None = None,
    ready: Mapping[str, Timer] | None = None,
) -> dict[str, WholeLatency]:
    """Measures whole networks against each other in interleaved rounds.

    Nothing else should run on the machine meanwhile.

    Args:
        architectures: the networks; equal ones are measured once.
        settings: what latency means: the same as for the table.
        build_network: the module of a network (any weights: they are replaced).
        canary_ms: `LatencyTable.canary_ms`, so that these figures are on the table's scale; None:
            the canary's time now.
        progress: told in words what happens.
        seed: of the order of measurements.
        runtime: instead of the one that `settings` names (tests).
        place: where to measure; for a node of a cluster everything must be picklable.
        device: the fingerprint that a node must have: `LatencyTable.device`; None: any.
        ready: timers by architecture id, from `prepared_ahead`; of this machine only.

    Returns:
        By architecture id.

    Raises:
        EnvironmentProblemError: a network cannot be exported, or the command fails.
        ConfigError: the command or the device does not exist.
    """
    distinct = list({a.id: a for a in architectures}.values())
    if not distinct:
        return {}
    measure = functools.partial(
        _whole,
        distinct,
        settings,
        build_network=build_network,
        canary_ms=canary_ms,
        ready=ready or {},
        seed=seed,
        runtime=runtime,
    )
    return place.measure(measure, settings=settings, device=device, progress=progress or silent)


def prepared_ahead(
    architectures: Sequence[Architecture],
    settings: LatencySettings,
    *,
    build_network: BuildNetwork,
) -> Iterator[tuple[str, Timer]]:
    """What `measure_networks` need not prepare when it is given it, one network a step: its id and
    its timer.

    Nothing where a runtime has files for the time of measuring only, or takes the device.

    Raises:
        EnvironmentProblemError: a network cannot be exported.
    """
    if settings.runtime != "onnxruntime":
        return
    with open_runtime(settings) as runtime:
        bench = Bench(runtime, settings)
        for architecture in architectures:
            yield architecture.id, bench.timer(architecture, build_network)


def measure_graphs(
    models: Mapping[str, bytes],
    settings: LatencySettings,
    *,
    canary_ms: float | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    place: Place = HERE,
    device: str | None = None,
) -> dict[str, WholeLatency]:
    """Measures networks that are ONNX files, such as quantised ones, as `measure_networks` does.

    Args:
        models: by name, serialised, with an open batch dimension.
        settings, canary_ms, progress, seed, runtime, place, device: see `measure_networks`.

    Returns:
        By name.

    Raises:
        EnvironmentProblemError: an operator that the runtime lacks, or the command fails.
        ConfigError: the command does not exist, or the runtime is torch, which runs no such files.
    """
    if not models:
        return {}
    measure = functools.partial(
        _graphs, dict(models), settings, canary_ms=canary_ms, seed=seed, runtime=runtime
    )
    return place.measure(measure, settings=settings, device=device, progress=progress or silent)


def _graphs(
    models: Mapping[str, bytes],
    settings: LatencySettings,
    progress: Progress,
    *,
    canary_ms: float | None,
    seed: int,
    runtime: Runtime | None,
) -> dict[str, WholeLatency]:
    with _runtime(runtime, settings) as opened:
        return Bench(opened, settings, progress=progress, seed=seed).graphs(models, canary_ms)


def _whole(
    distinct: Sequence[Architecture],
    settings: LatencySettings,
    progress: Progress,
    *,
    build_network: BuildNetwork,
    canary_ms: float | None,
    ready: Mapping[str, Timer],
    seed: int,
    runtime: Runtime | None,
) -> dict[str, WholeLatency]:
    with _runtime(runtime, settings) as opened:
        bench = Bench(opened, settings, progress=progress, seed=seed)
        return bench.whole(distinct, build_network, canary_ms, ready)


def _runtime(
    given: Runtime | None, settings: LatencySettings
) -> contextlib.AbstractContextManager[Runtime]:
    return open_runtime(settings) if given is None else contextlib.nullcontext(given)
