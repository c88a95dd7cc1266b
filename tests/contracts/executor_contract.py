"""What every executor does with an engine and a job. An implementation is a fixture."""

from __future__ import annotations

import os

import numpy as np
import pytest

from nasctl.errors import ConfigError, NasctlError
from nasctl.executors.base import Announce, Executor
from nasctl.trial import Outcome, OutcomeKind
from tests.executor_jobs import RecordingEngine, ScriptedJob

COMPLETE = Outcome(kind=OutcomeKind.COMPLETE)
PAYLOAD = np.arange(1000.0)


class ExecutorContract:
    """Fixture `executor`; the runs are shared, since starting an executor may take seconds."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, executor: Executor) -> RecordingEngine:
        engine = RecordingEngine(
            ["fine", "raise", "explain", "fine", "memory", "fine", "nan"], barrier=2, stop_at=3
        )
        executor.run(engine, ScriptedJob(payload=PAYLOAD))
        return engine

    def test_one_that_can_run_says_nothing_beforehand(self, executor: Executor) -> None:
        executor.preflight()

    def test_every_work_is_ended_once(self, engine: RecordingEngine) -> None:
        assert not engine.flying
        assert sorted(engine.outcomes) == [(n, 1) for n in range(7)]
        assert engine.calls.count("next") == engine.calls.count("end") == 7

    def test_complete_work_reports_each_epoch_once_in_order(self, engine: RecordingEngine) -> None:
        for number in (0, 5):
            assert [epoch for epoch, _ in engine.reports[number, 1]] == [1, 2]
            assert [m["accuracy"] for _, m in engine.reports[number, 1]] == [0.25, 0.5]
            assert engine.outcomes[number, 1] == COMPLETE

    def test_a_failure_is_one_line_and_keeps_what_was_reported(
        self, engine: RecordingEngine
    ) -> None:
        errors = {n: engine.outcomes[n, 1] for n in (1, 2, 4)}
        assert all(o.kind is OutcomeKind.FAILED for o in errors.values())
        assert errors[1].error == "ValueError: no good at all"
        assert errors[2].error == "loss is NaN in epoch 2"
        assert errors[4].error == "out of memory"
        assert all([epoch for epoch, _ in engine.reports[n, 1]] == [1] for n in errors)

    def test_stop_ends_work_after_that_epoch(self, engine: RecordingEngine) -> None:
        assert engine.outcomes[3, 1].kind is OutcomeKind.STOPPED
        assert [epoch for epoch, _ in engine.reports[3, 1]] == [1]

    def test_values_are_passed_on_as_they_are(self, engine: RecordingEngine) -> None:
        assert [str(m["accuracy"]) for _, m in engine.reports[6, 1]] == ["nan", "nan"]

    def test_the_payload_arrives_after_prepare(self, engine: RecordingEngine) -> None:
        facts = [m for r in engine.reports.values() for _, m in r if "pid" in m]
        assert {m["sum"] for m in facts} == {PAYLOAD.sum()}
        assert all(m["prepared"] >= 1 for m in facts)

    def test_an_error_of_the_engine_propagates_and_a_stop_request_releases(
        self, executor: Executor
    ) -> None:
        broken = RecordingEngine(["fine", "fine"], break_at=0)
        with pytest.raises(NasctlError, match="disk full"):
            executor.run(broken, ScriptedJob())
        stopped = RecordingEngine(["slow"] * 8, epochs=50, interrupt_at=1)
        executor.run(stopped, ScriptedJob())
        released = [o for o in stopped.outcomes.values() if o.kind is OutcomeKind.RELEASED]
        assert released
        assert not stopped.flying

    def test_run_exclusive_returns_the_value(self, executor: Executor) -> None:
        told: list[str] = []

        def pid(tell: Announce) -> int:
            tell("measuring")
            return os.getpid()

        assert executor.run_exclusive(pid, announce=told.append) == os.getpid()
        assert told == ["measuring"]
        with pytest.raises(ZeroDivisionError):
            executor.run_exclusive(lambda tell: 1 // 0)

    def test_without_a_cluster_nothing_is_measured_elsewhere(self, executor: Executor) -> None:
        with pytest.raises(ConfigError, match=r"^latency.node: board .* executor.address="):
            executor.run_exclusive(lambda tell: 1, "latency_device:board")
