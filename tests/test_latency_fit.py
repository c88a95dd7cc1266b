"""From timings to a table: the fit, the rounds that end, and the settings of a measurement."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from nasctl import latency_runtimes
from nasctl.errors import ConfigError
from nasctl.latency import (
    LatencySettings,
    device_fingerprint,
)
from nasctl.latency_fit import Features, fit_correction, order_statistic_interval, student_t_975
from nasctl.latency_rounds import RoundPlan, measure_rounds
from nasctl.latency_settings import Timing
from tests.latency_device import (
    CONF,
    Device,
)


class TestFit:
    def rows(self, n: int, seed: int = 0) -> tuple[list[Features], Any]:
        rng = np.random.default_rng(seed)
        features = [
            Features(
                blocks_ms=float(rng.uniform(0.2, 2.0)),
                num_blocks=int(rng.integers(5, 20)),
                elements=int(rng.integers(10_000, 60_000)),
            )
            for _ in range(n)
        ]
        truth = np.asarray(
            [0.9 * f.blocks_ms - 0.004 * f.num_blocks - 1e-6 * f.elements + 0.05 for f in features]
        )
        return features, truth

    def test_recovers_a_known_law(self) -> None:
        features, truth = self.rows(10)
        found = fit_correction(features, truth, call_ms=0.005)
        others, expected = self.rows(100, seed=1)
        errors = [abs(found.ms(f) / y - 1) for f, y in zip(others, expected, strict=True)]
        assert np.median(errors) < 0.005
        assert max(errors) < 0.06  # far from the calibrated range
        assert found.scale == pytest.approx(0.9, abs=0.02)
        assert found.n == 10

    def test_one_disturbed_network_does_not_bend_the_fit(self) -> None:
        features, truth = self.rows(10)
        truth[3] *= 1.5
        found = fit_correction(features, truth, call_ms=0.005)
        others, expected = self.rows(100, seed=1)
        errors = [abs(found.ms(f) / y - 1) for f, y in zip(others, expected, strict=True)]
        assert np.median(errors) < 0.03
        assert found.leave_one_out[3] > 0.4
        assert found.relative_error > 0.2  # but it is not hidden either

    def test_interval_is_t_times_press(self) -> None:
        features, truth = self.rows(10)
        noisy = truth * np.exp(np.random.default_rng(2).normal(0, 0.03, 10))
        found = fit_correction(features, noisy, call_ms=0.005)
        press = math.sqrt(np.mean(np.square(found.leave_one_out)) + 0.02**2)
        assert found.relative_error == pytest.approx(2.306 * press, rel=1e-3)
        assert found.median_error == pytest.approx(np.median(np.abs(found.leave_one_out)))

    def test_without_evidence_the_sum_with_one_call_stands(self) -> None:
        features = [Features(blocks_ms=1.0, num_blocks=10, elements=1000)]
        found = fit_correction(features, [0.946], call_ms=0.006)  # 1 - 10 x .006 + .006
        assert found.ms(Features(blocks_ms=0.5, num_blocks=5, elements=0)) == pytest.approx(
            0.476, rel=1e-3
        )
        assert found.relative_error <= 0.9

    def test_needs_a_time_per_network(self) -> None:
        with pytest.raises(ValueError, match="one measured time"):
            fit_correction([], [], call_ms=0.0)

    def test_student(self) -> None:
        assert student_t_975(8) == pytest.approx(2.306, abs=1e-3)

    def test_order_statistics(self) -> None:
        # Ranks from tables of the sign test: n = 20 gives the 6th and 15th value for the median.
        assert order_statistic_interval(range(1, 21), 0.5) == (6, 15)
        assert order_statistic_interval([3.0], 0.5) == (3.0, 3.0)
        assert order_statistic_interval([1.0, 2.0, 3.0], 0.9) == (1.0, 3.0)
        rng = np.random.default_rng(0)
        inside = 0
        for _ in range(400):
            low, high = order_statistic_interval(list(rng.exponential(size=100)), 0.9)
            inside += low <= -math.log(0.1) <= high
        assert 0.94 < inside / 400 < 0.99


class TestRounds:
    plan = RoundPlan(calls=3, most=40, least=8, precision=0.01, budget_s=100.0)

    def timers(self, device: Device, *ms: float) -> list[Any]:
        return [lambda calls, ms=v: device.timing(ms, calls) for v in ms]

    def test_stops_when_precise(self) -> None:
        device = Device()
        canary, *timers = self.timers(device, 0.2, 0.1, 0.4)
        found = measure_rounds(timers, canary, self.plan)
        assert len(found.rounds[0]) == 8
        assert found.ratio == pytest.approx((0.5, 2.0))
        assert found.canary_ms == pytest.approx(0.2)

    def test_goes_on_while_noisy_and_stops_at_the_budget(self) -> None:
        noisy = Device(noise=0.5)
        canary, *timers = self.timers(noisy, 0.2, 0.1, 0.4)
        assert len(measure_rounds(timers, canary, self.plan).rounds[0]) == 40
        clock = itertools.count(0.0, 10.0)
        found = measure_rounds(timers, canary, self.plan, clock=lambda: next(clock))
        assert len(found.rounds[0]) == 8 + 10  # asked from the 8th round on, 10 s apart

    def test_the_order_changes_from_round_to_round_and_follows_the_seed(self) -> None:
        def order(seed: int) -> list[int]:
            visits: list[int] = []

            def timer(i: int) -> Any:
                def visit(calls: int) -> Timing:
                    visits.append(i)
                    return Timing(calls_ms=(1.0,) * calls)

                return visit

            plan = dataclasses.replace(self.plan, most=2, least=2)
            measure_rounds([timer(i) for i in range(6)], timer(99), plan, seed=seed)
            return visits

        assert order(0) == order(0) != order(1)
        rounds = [i for i in order(0)[7:] if i != 99]  # after the warm-up
        assert sorted(rounds[:6]) == sorted(rounds[6:]) == list(range(6))
        assert rounds[:6] != rounds[6:]

    def test_a_spike_in_some_rounds_does_not_matter(self) -> None:
        spikes = (8.0 if step % 11 == 0 else 1.0 for step in itertools.count())
        canary, *timers = self.timers(Device(spikes), 0.2, 0.1, 0.4)
        assert measure_rounds(timers, canary, self.plan).ratio == pytest.approx((0.5, 2.0))


class TestSettings:
    def test_all_problems_at_once(self) -> None:
        with pytest.raises(ConfigError) as caught:
            LatencySettings(runtime="onnxruntme", batch=0, dtype="float33", budget_s=math.nan)  # type: ignore[arg-type]
        text = str(caught.value)
        assert "did you mean 'onnxruntime'" in text
        assert "latency.batch: must be at least 1, got 0" in text
        assert "did you mean 'float32'" in text
        assert "latency.budget_s: must be above 0, got nan" in text

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"runtime": "command"}, "latency.command: missing"),
            ({"command": ("true",)}, "latency.command: given, but latency.runtime=onnxruntime"),
            ({"device": "cuda"}, "latency.device: cuda needs latency.runtime=torch"),
            ({"device": "gpu", "runtime": "torch"}, "unknown device 'gpu'"),
            ({"dtype": "bfloat16"}, "latency.dtype: bfloat16 needs latency.runtime=torch"),
            ({"compile": True}, "latency.compile: True needs latency.runtime=torch"),
        ],
    )
    def test_contradictions(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            LatencySettings(**given)

    def test_the_packaged_config_states_every_default(self) -> None:
        data = yaml.safe_load((CONF / "latency" / "table.yaml").read_text(encoding="utf-8"))
        assert data.pop("name") == "table"
        assert data.pop("node") is None  # where, not what
        assert LatencySettings(**data) == LatencySettings()
        assert set(data) == {f.name for f in dataclasses.fields(LatencySettings)}
        none = yaml.safe_load((CONF / "latency" / "none.yaml").read_text(encoding="utf-8"))
        assert none == {"name": "none"}

    def test_the_fingerprint_names_what_matters(self) -> None:
        text = device_fingerprint(LatencySettings(batch=8, threads=2))
        for part in ("cores", "onnxruntime 1.", "torch 2.", "batch 8", "threads 2", "float32"):
            assert part in text

    def test_a_changed_program_is_another_device(self, tmp_path: Path) -> None:
        program = tmp_path / "bench.sh"
        program.write_text("echo 1")
        settings = LatencySettings(runtime="command", command=("sh", str(program)))
        before = latency_runtimes.runtime_version(settings)
        program.write_text("echo 2")
        assert latency_runtimes.runtime_version(settings) != before
