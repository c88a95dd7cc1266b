"""Layer 2: one session of measurements: prepares what is to be timed, times it, calibrates."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from nasctl.arch import Architecture, Block, Shape
from nasctl.latency_cache import DeviceRecord, pair_key
from nasctl.latency_runtimes import Runtime
from nasctl.latency_settings import LatencySettings, Timer
from nasctl.latency_table import WholeLatency

if TYPE_CHECKING:
    from torch import nn

    from nasctl.latency_rounds import Rounds

Progress = Callable[[str], None]

CANARY_SHAPE: Shape = (3, 32, 32)
CHOICE_ROUNDS = 3  # of the quick pass that orders the candidates for calibration
LEAST_ROUNDS = 16
P90_QUERIES = 64  # what MLPerf's early stopping needs before it can state a 90th percentile


EMPTY_SHAPE: Shape = (1,)


def canary_network() -> nn.Module:
    """The fixed reference: dense, depthwise and pointwise convolutions, about 0.2 ms on a core.

    Its time is the unit of every cached latency: a change needs a new `latency_cache.VERSION`.
    """
    from torch import nn

    layers: list[nn.Module] = []
    for channels, out, kernel, stride, groups in (
        (3, 16, 3, 2, 1),
        (16, 64, 1, 1, 1),
        (64, 64, 3, 2, 64),
        (64, 32, 1, 1, 1),
        (32, 128, 1, 1, 1),
        (128, 128, 5, 1, 128),
        (128, 32, 1, 1, 1),
        (32, 64, 3, 2, 1),
    ):
        layers += [
            nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU6(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def empty_network() -> nn.Module:
    """One operation on one number: its time is what a call costs without any work."""
    from torch import nn

    return nn.ReLU()


class Bench:
    """Times blocks and networks in one runtime.

    Args:
        runtime: open.
        settings: what latency means, and how long to measure.
        progress: told in words what happens.
        seed: of the order of measurements.
    """

    def __init__(
        self,
        runtime: Runtime,
        settings: LatencySettings,
        *,
        progress: Progress | None = None,
        seed: int = 0,
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._say: Progress = progress or silent
        self._seed = seed

    def fill(
        self,
        record: DeviceRecord,
        wanted: Mapping[str, tuple[Block, Shape]],
        candidates: Sequence[Architecture],
        choice: str,
        *,
        build_block: Callable[[Block, Shape], nn.Module],
        build_network: Callable[[Architecture], nn.Module],
    ) -> None:
        """Adds to `record` whatever it lacks: blocks, and the correction under the key `choice`."""
        if choice in record.corrections:
            self.fill_blocks(record, wanted, build_block)
            return
        missing, timers, canary = self._prepare_blocks(record, wanted, build_block)
        if self._runtime.passes is not None:  # asked once: nothing to gain from a quick pass
            self._time(record, list(missing), [], timers, canary)
            missing, timers = {}, timers[:1]
        sums = dict(record.blocks)
        if missing:
            quick = self._rounds(timers, canary, least=CHOICE_ROUNDS, most=CHOICE_ROUNDS)
            scale = record.canary_ms or quick.canary_ms
            sums |= {k: r * scale for k, r in zip(missing, quick.ratio[1:], strict=True)}
        networks = spread(candidates, sums, self._settings.calibration_networks)
        fresh = [a for a in networks if a.id not in record.networks]
        for done, architecture in enumerate(fresh):
            self._say(f"preparing networks for calibration {done}/{len(fresh)}")
            timers.append(self.timer(architecture, build_network))
        self._time(record, list(missing), fresh, timers, canary)
        record.corrections[choice] = _calibrate(record, networks)

    def fill_blocks(
        self,
        record: DeviceRecord,
        wanted: Mapping[str, tuple[Block, Shape]],
        build_block: Callable[[Block, Shape], nn.Module],
    ) -> None:
        """Adds to `record` the blocks that it lacks."""
        missing, timers, canary = self._prepare_blocks(record, wanted, build_block)
        self._time(record, list(missing), [], timers, canary)

    def _prepare_blocks(
        self,
        record: DeviceRecord,
        wanted: Mapping[str, tuple[Block, Shape]],
        build_block: Callable[[Block, Shape], nn.Module],
    ) -> tuple[dict[str, tuple[Block, Shape]], list[Timer], Timer]:
        """What `record` lacks; the timers of an empty call and of each of those; the canary's."""
        missing = {k: p for k, p in wanted.items() if k not in record.blocks}
        canary = self._prepare(canary_network(), CANARY_SHAPE)
        timers = [self._prepare(empty_network(), EMPTY_SHAPE)]
        for done, (block, shape) in enumerate(missing.values()):
            if done % 25 == 0:
                self._say(f"preparing blocks for timing {done}/{len(missing)}")
            timers.append(self._prepare(build_block(block, shape), shape))
        return missing, timers, canary

    def whole(
        self,
        architectures: Sequence[Architecture],
        build_network: Callable[[Architecture], nn.Module],
        canary_ms: float | None,
        ready: Mapping[str, Timer],
    ) -> dict[str, WholeLatency]:
        """Measures distinct networks; see `nasctl.latency.measure_networks`."""
        timers: dict[str, Timer] = {}
        for architecture in architectures:
            timer = ready.get(architecture.id)
            if timer is None:
                self._say(f"preparing networks for timing {len(timers)}/{len(architectures)}")
                timer = self.timer(architecture, build_network)
            timers[architecture.id] = timer
        return self._whole(timers, canary_ms)

    def timer(
        self, architecture: Architecture, build_network: Callable[[Architecture], nn.Module]
    ) -> Timer:
        """What times a whole network."""
        return self._prepare(build_network(architecture), architecture.input_shape)

    def graphs(
        self, models: Mapping[str, bytes], canary_ms: float | None
    ) -> dict[str, WholeLatency]:
        """Measures ONNX graphs; see `nasctl.latency.measure_graphs`."""
        timers: dict[str, Timer] = {}
        for name, model in models.items():
            self._say(f"preparing networks for timing {len(timers)}/{len(models)}")
            timers[name] = self._runtime.prepare_graph(model)
        return self._whole(timers, canary_ms)

    def _whole(
        self, timers: Mapping[str, Timer], canary_ms: float | None
    ) -> dict[str, WholeLatency]:
        import numpy as np

        from nasctl.latency_fit import order_statistic_interval

        canary = self._prepare(canary_network(), CANARY_SHAPE)
        self._say(f"timing {len(timers)} networks")
        enough = math.ceil(P90_QUERIES / self._settings.calls)
        most = max(enough, self._settings.rounds)
        rounds = self._rounds(list(timers.values()), canary, least=enough, most=most)
        scale = canary_ms or rounds.canary_ms
        found = {}
        for i, name in enumerate(timers):
            per_round = [v * scale for v in rounds.rounds[i]]
            calls = [v * scale for v in rounds.calls[i]]
            told = rounds.p90[i]
            p50 = rounds.ratio[i] * scale
            p90 = max(p50, float(np.quantile(calls, 0.9)) if told is None else told * scale)
            found[name] = WholeLatency(
                p50_ms=p50,
                p90_ms=p90,
                interval=order_statistic_interval(per_round, 0.5),
                p90_interval=(order_statistic_interval(calls, 0.9) if told is None else (p90, p90)),
                n=len(calls),
                rounds=len(per_round),
            )
        return found

    def _time(
        self,
        record: DeviceRecord,
        blocks: Sequence[str],
        networks: Sequence[Architecture],
        timers: Sequence[Timer],
        canary: Timer,
    ) -> None:
        self._say(f"timing {len(blocks)} blocks and {len(networks)} networks")
        rounds = self._rounds(timers, canary, least=LEAST_ROUNDS, most=self._settings.rounds)
        if record.canary_ms is None:
            record.canary_ms = rounds.canary_ms
        record.call_ms, *values = (ratio * record.canary_ms for ratio in rounds.ratio)
        record.blocks |= dict(zip(blocks, values, strict=False))
        found = values[len(blocks) :]
        record.networks |= {a.id: ms for a, ms in zip(networks, found, strict=True)}
        speeds = sorted(d * rounds.canary_ms / record.canary_ms for d in rounds.drift)
        record.drift = (speeds[len(speeds) // 2], speeds[int(0.9 * (len(speeds) - 1))])

    def _prepare(self, module: nn.Module, shape: Shape) -> Timer:
        randomise(module)
        return self._runtime.prepare(module, shape)

    def _rounds(self, timers: Sequence[Timer], canary: Timer, *, least: int, most: int) -> Rounds:
        from nasctl.latency_rounds import RoundPlan, measure_rounds

        passes = self._runtime.passes
        plan = RoundPlan(
            calls=self._settings.calls,
            most=most if passes is None else passes,
            least=least if passes is None else passes,
            precision=self._settings.precision,
            budget_s=self._settings.budget_s,
        )
        return measure_rounds(timers, canary, plan, seed=self._seed)


def warm_up() -> None:
    """Imports and prepares what the first measurement in a process would wait for: seconds."""
    from nasctl.onnx_runtime import export_onnx

    export_onnx(canary_network(), CANARY_SHAPE)


def silent(text: str) -> None:
    """Tells nobody."""
    del text


def randomise(module: nn.Module) -> None:
    """He initialisation of every matrix and kernel, so that signals neither vanish nor explode.

    Latency does not depend on weights, except through denormal numbers: with torch's default
    initialisation the signal of a deep network can shrink into them, which no trained network has.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)


def spread(
    candidates: Sequence[Architecture], block_ms: Mapping[str, float], count: int
) -> list[Architecture]:
    """`count` of the candidates at even ranks of their summed block latency.

    The outermost 2 % are left to extrapolation: a freak network at the end has more leverage on
    the fit, and on its interval, than all the networks it would help.
    """
    distinct = list({a.id: a for a in candidates}.values())
    distinct.sort(key=lambda a: (math.fsum(block_ms[pair_key(*p)] for p in a.deployed()), a.id))
    last = len(distinct) - 1
    ranks = {round(last * (0.02 + 0.96 * i / max(1, count - 1))) for i in range(count)}
    return [distinct[rank] for rank in sorted(ranks)]


def _calibrate(record: DeviceRecord, networks: Sequence[Architecture]) -> dict[str, object]:
    from nasctl.latency_fit import Features, fit_correction

    features = [
        Features(
            blocks_ms=math.fsum(record.blocks[pair_key(*p)] for p in a.deployed()),
            num_blocks=len(list(a.deployed())),
            elements=sum(math.prod(shape) for _, shape in a.deployed()),
        )
        for a in networks
    ]
    measured = [record.networks[a.id] for a in networks]
    fitted = fit_correction(features, measured, call_ms=record.call_ms)
    plain: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(fitted)))
    return plain
