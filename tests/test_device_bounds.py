"""References and candidates under bounds that count now; what measures is tried before all else."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

from nasctl import device_front as module
from nasctl.config import load_config
from nasctl.config.device import device_latency
from nasctl.device_bounds import excess
from nasctl.device_front import FrontRequest, device_front
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.executors import create_executor
from nasctl.front import collect_entries
from nasctl.latency_settings import LatencySettings
from nasctl.latency_try import try_runtime
from nasctl.plugins import load_plugins
from nasctl.records import RunRecords
from nasctl.references import references_json
from tests.test_compute import records, trial

OBJECTIVES = {"accuracy": "max", "latency_ms": "min"}
MEASURED = {"p50_ms": 2.0, "interval": [1.9, 2.1], "n": 64}


def timed(number: int, depth: int, accuracy: float, **changes: Any) -> Any:
    made = trial(number, depth, **changes)
    cost = {**made.cost, "latency_ms": 2.2}
    return trial(
        number,
        depth,
        cost=cost,
        cost_intervals={"latency_ms": (1.5, 3.0)},
        metrics={**cost, "accuracy": accuracy},
        **changes,
    )


def entries(measured: dict[str, Any]) -> list[Any]:
    return collect_entries([timed(0, 1, 0.8)], measured=measured, validation_images=100)


class TestExcess:
    def test_a_prediction_counts_with_its_upper_end(self) -> None:
        (entry,) = entries({})
        assert excess(entry, {"latency_ms": 2.5}) == {"latency_ms": pytest.approx(0.2)}
        assert excess(entry, {"latency_ms": 2.5}, hopeful=True) == {}
        assert excess(entry, {"latency_ms": 1.0}, hopeful=True) == {"latency_ms": 0.5}
        assert excess(entry, {"latency_ms": 3.0, "macs": 1.0}) == {}

    def test_a_measurement_counts_as_it_is(self) -> None:
        (entry,) = entries({timed(0, 1, 0.8).arch_id: MEASURED})
        assert excess(entry, {"latency_ms": 2.0}) == {}
        assert excess(entry, {"latency_ms": 1.0}) == {"latency_ms": 1.0}


def test_a_reference_is_judged_as_candidates_are() -> None:
    reference = timed(-1, 6, 0.9, choices={"reference": "lenet5", "width": 1.0})
    known = functools.partial(
        references_json,
        [reference],
        entries({}),
        objectives=OBJECTIVES,
        constraints={"latency_ms": 2.5},
        measured={reference.arch_id: MEASURED},
        validation_images=100,
        calibration_networks=10,
    )
    (before,) = known()
    assert before["violations"] == {"latency_ms": pytest.approx(0.2)}
    assert before["on_front"] is False
    (now,) = known(violations=functools.partial(excess, bounds={"latency_ms": 2.5}))
    assert now["violations"] == {}
    assert now["on_front"] is True
    (over,) = known(violations=functools.partial(excess, bounds={"latency_ms": 1.0}))
    assert over["violations"] == {"latency_ms": 1.0}
    assert over["on_front"] is False


class TestTrying:
    def test_a_program_is_asked_once(self, tmp_path: Path) -> None:
        program = tmp_path / "device.py"
        program.write_text(
            "import sys\n"
            "with open(sys.argv[2], 'a') as file: file.write(sys.argv[1] + '\\n')\n"
            "print('{\"latency_ms\": 1.0}')\n"
        )
        calls = tmp_path / "calls"
        command = (sys.executable, str(program), "{model}", str(calls))
        said: list[str] = []
        try_runtime(LatencySettings(runtime="command", command=command), said.append)
        assert len(calls.read_text().splitlines()) == 1
        assert said == [f"trying {sys.executable} on one small network"]

    def test_what_does_not_answer_is_an_error(self) -> None:
        with pytest.raises(
            EnvironmentProblemError, match=r"^latency.command false: exit status 1$"
        ):
            try_runtime(LatencySettings(runtime="command", command=("false",)))
        with pytest.raises(ConfigError, match="no such program: /no/such"):
            try_runtime(LatencySettings(runtime="command", command=("/no/such",)))
        try_runtime(LatencySettings())

    def test_it_comes_before_the_data_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*_: object, **__: object) -> None:
            raise AssertionError("too early")

        monkeypatch.setattr(module.prepare, "load_problem", never)
        run = records(tmp_path / "run").directory
        with pytest.raises(EnvironmentProblemError, match="false: exit status 1"):
            device_front(RunRecords(run), request("['false']"))
        assert not (run / "devices").exists()

    def test_a_bound_on_what_is_no_cost_comes_before_measuring(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*_: object, **__: object) -> None:
            raise AssertionError("too early")

        monkeypatch.setattr(module._Asked, "_pricer", never)
        run = records(tmp_path / "run").directory
        program = tmp_path / "bench.py"
        program.write_text("print('{\"latency_ms\": 1.0}')\n")
        answering = f"['{sys.executable}', '{program}']"
        with pytest.raises(ConfigError, match=r"--constraint parms=3: unknown cost 'parms'; did y"):
            device_front(RunRecords(run), request(answering, parms=3.0))


def request(command: str, **constraints: float) -> FrontRequest:
    config = load_config("mbv2_space", ["data=digits"]).config
    given = ["runtime=command", f"command={command}"]
    latency = device_latency(config.latency, "board", given)
    return FrontRequest(
        config=config.model_copy(update={"latency": latency}),
        device="board",
        constraints=constraints,
        limit=1,
        proposals=0,
        executor=create_executor("inline"),
        registry=load_plugins([]),
        announce=lambda text: None,
    )
