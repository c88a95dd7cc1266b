"""Latency: the arithmetic on synthetic devices whose truth is known, caching, external programs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nasctl import latency_cache, latency_runtimes
from nasctl.errors import ConfigError, EnvironmentProblemError, NasctlError
from nasctl.latency import (
    LatencySettings,
    LatencyTable,
    extend_table,
    measure_networks,
    measure_table,
)
from nasctl.latency_bench import spread
from nasctl.latency_cache import pair_key
from nasctl.latency_runtimes import run_command
from nasctl.latency_settings import Timing
from tests.latency_device import (
    CALL_MS,
    CANARY_MS,
    PAIRS,
    SETTINGS,
    Device,
    SideHead,
    Work,
    build_block,
    build_network,
    measure,
    network_of,
    random_networks,
    truth,
)


def sawtooth() -> Iterator[float]:
    """The machine slows down by 40 % over 400 calls, again and again."""
    for step in itertools.count():
        yield 1 + 0.4 * (step % 400) / 400


class TestTable:
    def test_blocks_and_networks_of_a_steady_device(self) -> None:
        table = measure(Device())
        assert table.canary_ms == pytest.approx(CANARY_MS)
        assert table.block_ms(Work(us=35), (7,)) == pytest.approx(CALL_MS + 0.035)
        for architecture in random_networks(50, 2):
            assert table.predict(architecture).ms == pytest.approx(truth(architecture), rel=0.04)

    def test_what_is_there_in_training_only_takes_no_time(self) -> None:
        device = Device()
        plain, plain_timers = measure(device), device.prepared
        heads = [(SideHead(us=500), (7,))]
        device = Device()
        table = measure_table(
            [*PAIRS, *heads],
            random_networks(60, 1),
            SETTINGS,
            build_block=build_block,
            build_network=build_network,
            runtime=device,
        )
        assert device.prepared == plain_timers
        assert extend_table(table, heads, SETTINGS, build_block=build_block) is table
        deployed = network_of(10, 35, 60)
        trained = dataclasses.replace(
            deployed, blocks=(*deployed.blocks[:1], SideHead(us=500), *deployed.blocks[1:])
        )
        assert table.predict(trained) == plain.predict(deployed)

    def test_drift_of_the_machine_cancels(self) -> None:
        steady, drifting = measure(Device()), measure(Device(sawtooth()))
        ratio = drifting.canary_ms / steady.canary_ms  # the scale is the canary's low quantile
        assert 1.0 < ratio < 1.2
        for block, shape in PAIRS:
            value = drifting.block_ms(block, shape) / ratio
            assert value == pytest.approx(steady.block_ms(block, shape), rel=0.02)
        assert drifting.summary["machine_drift"]["p90"] > 1.1
        assert steady.summary["machine_drift"] == {"p50": 1.0, "p90": 1.0}

    def test_whole_networks_are_on_the_scale_of_the_table(self) -> None:
        table = measure(Device())
        networks = random_networks(5, 3)
        # Later the whole machine is 30 % slower: the canary says so.
        found = measure_networks(
            networks,
            SETTINGS,
            build_network=build_network,
            canary_ms=table.canary_ms,
            runtime=Device(itertools.repeat(1.3)),
        )
        for a in networks:
            assert found[a.id].p50_ms == pytest.approx(truth(a))
            assert found[a.id].p90_ms == pytest.approx(truth(a))

    def test_interval_covers_networks_that_were_not_seen(self) -> None:
        inside = []
        for seed in range(5):
            device = Device(noise=0.1)
            device.rng = random.Random(seed)
            table = measure(device, seed=seed)
            scale = table.canary_ms / CANARY_MS  # the low quantile of a noisy canary
            for a in random_networks(60, 10 + seed):
                estimate = table.predict(a)
                assert estimate.low < estimate.ms < estimate.high
                inside.append(estimate.low <= truth(a) * scale <= estimate.high)
        assert np.mean(inside) > 0.9

    def test_predict_is_the_sum_by_hand(self) -> None:
        table = LatencyTable(
            device="d",
            runtime="r",
            settings={"batch": 1},
            canary_ms=0.2,
            drift=(1.0, 1.0),
            blocks={pair_key(Work(us=10), (7,)): 0.5, pair_key(Work(us=20), (7,)): 0.25},
            correction={
                "scale": 0.8,
                "per_block": -0.01,
                "per_element": -0.001,
                "intercept": 0.03,
                "relative_error": 0.1,
                "leave_one_out": [0.1, -0.2],
            },
        )
        estimate = table.predict(network_of(10, 20, 10))
        expected = 0.8 * (0.5 + 0.25 + 0.5) - 3 * 0.01 - 3 * 7 * 0.001 + 0.03
        assert estimate.ms == pytest.approx(expected)
        assert estimate.low == pytest.approx(0.9 * expected)
        assert estimate.high == pytest.approx(1.1 * expected)
        with pytest.raises(NasctlError, match=r"work on input \(7,\) was never measured.*30"):
            table.predict(network_of(10, 30))

    def test_json_round_trip(self) -> None:
        table = measure(Device(sawtooth()))
        again = LatencyTable.from_json(json.loads(json.dumps(table.to_json())))
        assert again == table
        a = network_of(10, 60, 100)
        assert again.predict(a) == table.predict(a)
        assert again.summary == table.summary
        assert again.summary["blocks"] == 5
        assert again.summary["calibration_networks"] == 10

    def test_no_calibration_network(self) -> None:
        with pytest.raises(NasctlError, match="no network to calibrate"):
            measure_table(PAIRS, [], SETTINGS, build_block=build_block, build_network=build_network)

    def test_blocks_of_calibration_networks_are_measured_too(self) -> None:
        table = measure_table(
            [],
            random_networks(3, 1),
            SETTINGS,
            build_block=build_block,
            build_network=build_network,
            runtime=Device(),
        )
        assert len(table.blocks) == 5
        assert table.summary["calibration_networks"] == 3

    def test_calibration_networks_span_the_range(self) -> None:
        networks = [network_of(*[10] * n) for n in range(1, 101)]
        chosen = spread(networks, {pair_key(Work(us=10), (7,)): 1.0}, 10)
        assert [len(a.blocks) for a in chosen] == [3, 14, 24, 35, 45, 56, 66, 77, 87, 98]
        assert spread(networks[:1] * 3, {pair_key(Work(us=10), (7,)): 1.0}, 10) == networks[:1]


class TestCache:
    def test_a_second_search_measures_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "latency.json"
        first = measure(Device(sawtooth()), path)
        again = Device()
        assert measure(again, path) == first
        assert (again.prepared, again.calls) == (0, 0)

    def test_only_what_is_missing_is_measured(self, tmp_path: Path) -> None:
        path = tmp_path / "latency.json"
        measure(Device(), path)
        slower = Device(itertools.repeat(1.4))
        table = measure_table(
            [*PAIRS, (Work(us=77), (7,))],
            random_networks(60, 1),
            SETTINGS,
            build_block=build_block,
            build_network=build_network,
            cache_path=path,
            runtime=slower,
        )
        assert slower.prepared == 3  # the block, the canary, the empty call
        assert table.block_ms(Work(us=77), (7,)) == pytest.approx(CALL_MS + 0.077)
        assert table.canary_ms == pytest.approx(CANARY_MS)

    @pytest.mark.parametrize("change", [{"batch": 2}, {"threads": 2}])
    def test_other_settings_are_other_measurements(
        self, tmp_path: Path, change: dict[str, int]
    ) -> None:
        path = tmp_path / "latency.json"
        measure(Device(), path)
        device = Device()
        measure(device, path, settings=dataclasses.replace(SETTINGS, **change))
        assert device.prepared > 0

    def test_another_runtime_version_is_another_measurement(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "latency.json"
        measure(Device(), path)
        monkeypatch.setattr(latency_runtimes, "runtime_version", lambda s: "onnxruntime 99")
        device = Device()
        assert "onnxruntime 99" in measure(device, path).device
        assert device.prepared > 0

    def test_edited_blocks_are_measured_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, source = tmp_path / "latency.json", tmp_path / "blocks.py"
        monkeypatch.setattr(latency_cache, "_source_file", lambda block_type: source)
        source.write_text("before")
        measure(Device(), path)
        source.write_text("after")
        device = Device()
        measure(device, path)
        assert device.prepared > 0

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 0, "devices": {}}', "\xff"])
    def test_an_unreadable_cache_is_replaced(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "latency.json"
        path.write_text(text, encoding="latin-1")
        measure(Device(), path)
        device = Device()
        measure(device, path)
        assert device.prepared == 0

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(EnvironmentProblemError, match="cannot be written"):
            measure(Device(), tmp_path / "file" / "latency.json")

    def test_a_warm_table_imports_no_runtime(self, tmp_path: Path) -> None:
        program = textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from nasctl.arch import Architecture
            from nasctl.latency import LatencySettings, measure_table
            from search_spaces.blocks import GlobalPoolLinear
            block = GlobalPoolLinear(out=10)
            a = Architecture(input_shape=(8, 4, 4), blocks=(block,), num_classes=10)
            from search_spaces import network
            table = measure_table([], [a], LatencySettings(rounds=8, budget_s=0.1),
                build_block=lambda b, s: b.build(s), build_network=network.build,
                cache_path=Path(sys.argv[1]))
            print(table.predict(a).ms > 0, sorted({"torch", "onnxruntime"} & set(sys.modules)))
            """
        )
        said = [
            subprocess.run(
                [sys.executable, "-c", program, str(tmp_path / "latency.json")],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for _ in range(2)
        ]
        assert said == ["True ['onnxruntime', 'torch']", "True []"]


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


class TestCommand:
    model = Path("model.onnx")

    def run(self, code: str, timeout_s: float = 20.0) -> Timing:
        return run_command(python(code), self.model, timeout_s)

    def test_reads_the_last_line(self) -> None:
        found = self.run(
            "import sys; print('log'); print('{\"latency_ms\": 2, \"p90_ms\": 2.5}')"
            "; assert sys.argv[1] == 'model.onnx'"
        )
        assert found == Timing(calls_ms=(2.0,), p90_ms=2.5)

    def test_placeholder(self) -> None:
        code = "import sys; assert sys.argv[1:] == ['-m=model.onnx', 'x']"
        command = (*python(code + "; print('{\"latency_ms\": 1}')"), "-m={model}", "x")
        assert run_command(command, self.model, 20.0) == Timing(calls_ms=(1.0,))

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("print('hello')", "expected .*latency_ms.* got 'hello'"),
            ("pass", "expected .*latency_ms.* got ''"),
            ("print('[1]')", "expected .*latency_ms"),
            ("print('{\"p90_ms\": 1}')", "has no 'latency_ms'"),
            ("print('{\"latency_ms\": NaN}')", "must be finite and above 0: nan"),
            ("print('{\"latency_ms\": 0}')", "must be finite and above 0: 0"),
            ('print(\'{"latency_ms": 1, "p90_ms": Infinity}\')', "p90_ms must be finite"),
            ('print(\'{"latency_ms": "1"}\')', "latency_ms is not a number"),
            ("import sys; sys.exit('no board')", "exit status 1: no board"),
        ],
    )
    def test_bad_answers(self, code: str, said: str) -> None:
        with pytest.raises(EnvironmentProblemError, match=said) as caught:
            self.run(code)
        assert "\n" not in str(caught.value)

    def test_hang(self, tmp_path: Path) -> None:
        # A grandchild holds the pipe open, as ssh would; it must not outlive the attempt.
        code = (
            "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', "
            f"'import time; time.sleep(60)']); open({str(tmp_path / 'pid')!r}, 'w')"
            ".write(str(p.pid)); time.sleep(60)"
        )
        with pytest.raises(EnvironmentProblemError, match=r"no answer in 2 s"):
            self.run(code, timeout_s=2.0)
        pid = int((tmp_path / "pid").read_text())
        deadline = time.monotonic() + 30.0  # it was signalled; a busy machine takes its time
        while is_running(pid):
            assert time.monotonic() < deadline, "the grandchild survived"
            time.sleep(0.05)

    def test_a_program_that_does_not_exist(self) -> None:
        settings = LatencySettings(runtime="command", command=("no-such-program",))
        with pytest.raises(ConfigError, match="no such program: no-such-program"):
            measure(None, settings=settings)
        with pytest.raises(EnvironmentProblemError, match="cannot be started"):
            run_command(("/no/such/program",), self.model, 1.0)

    def test_a_device_that_is_asked_once(self) -> None:
        device = Device()
        device.passes = 1
        table = measure(device)
        assert table.predict(network_of(10, 20, 60)).ms == pytest.approx(
            truth(network_of(10, 20, 60)), rel=0.02
        )
        # Canary visits aside, each block, network and the empty call once, no warm-up.
        assert device.prepared == 1 + 1 + 5 + 10
        assert device.calls < 3 * (5 + 2 * 2 + 10 + 10)
