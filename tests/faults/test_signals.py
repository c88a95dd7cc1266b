"""Ctrl-C and SIGTERM, and what the doctor says of a run that was stopped: F14 and P7.

Both executors, with process groups, are in tests/e2e/test_search.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from nasctl import rundir, search
from nasctl.history import history_hash
from nasctl.interrupt import handling_signals
from nasctl.runflow import RunRequest
from nasctl.trial import State
from tests.faults.drive import INLINE, SEARCH, Bench


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_f14_a_stopped_run_is_sound_and_continues(bench: Bench, number: int, code: int) -> None:
    process = bench.start(*SEARCH, INLINE, FAULT_SECONDS="1")
    bench.wait_for("toy", process, lambda trials: len(trials) > 2)
    during = bench.diagnosis()
    assert during.sound
    assert during.driver == str(process.pid)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err.count("stopping: what is finished is kept") == 1
    found = bench.assert_sound()
    assert (found.status, found.driver) == ("INTERRUPTED", None)
    (running,) = [t for t in bench.toy.trials() if t.state is State.RUNNING]
    (owned,) = [c for c in found.checks if c.id == "I4"]
    assert owned.details == (
        f"#{running.number} given back when the search stopped, to be done again",
    )
    assert bench.call(*SEARCH, INLINE).code == 0
    assert bench.call(*SEARCH, INLINE, "name=calm").code == 0
    assert history_hash(bench.toy.trials()) == history_hash(bench.trials("calm"))
    bench.assert_sound()


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2])
def test_f14_a_stop_while_the_report_is_written(bench: Bench, delay: float) -> None:
    """An import of matplotlib that is cut short can never be made good in its process."""
    process = bench.start(*SEARCH, INLINE, "--progress", "plain")
    assert process.stderr is not None
    said = ""
    while "writing the report" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, said + rest
    assert "stopping: what is finished is kept" in rest
    assert "bug in nasctl" not in rest
    assert "Error: stopped; there was nothing left to do\n" in rest
    assert bench.assert_sound().status == "FINISHED"
    assert (bench.run_dir / "report.html").exists()
    assert bench.call(*SEARCH, INLINE).code == 0
    assert bench.assert_sound().status == "FINISHED"


def test_f14_a_second_ctrl_c_ends_at_once_and_loses_nothing(bench: Bench) -> None:
    process = bench.start(*SEARCH, INLINE, FAULT_SECONDS="300")  # no epoch will ever end
    bench.wait_for("toy", process, bool)
    process.send_signal(signal.SIGINT)
    # Python handles a signal between two instructions: two at once may be taken for one.
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    process.communicate()
    assert process.returncode == 130
    assert [c.id for c in bench.diagnosis().checks if c.state == "violated"] == ["I4"]
    assert bench.call(*SEARCH, INLINE).code == 0
    bench.assert_sound()


def test_f14_a_stop_while_the_run_is_created(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    written = rundir.write_text

    def interrupted(path: Path, text: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        written(path, text)

    monkeypatch.setattr(rundir, "write_text", interrupted)
    said = bench.call(*SEARCH, INLINE)
    assert said.code == 143
    assert said.error.startswith("Error: stopped; everything finished is kept. To continue: nasctl")
    monkeypatch.undo()
    assert bench.call(*SEARCH, INLINE).code == 0
    bench.assert_sound()


def test_f14_a_stop_after_the_end_leaves_the_reason_of_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Untold:
        """A tracking store that takes long."""

        def start(self) -> None: ...
        def poke(self) -> None: ...
        def close(self, flush_seconds: float) -> bool:
            del flush_seconds
            os.kill(os.getpid(), signal.SIGTERM)
            return True

    carry_out = search.carry_out

    def untold(request: RunRequest, *args: Any, **more: Any) -> Any:
        return carry_out(dataclasses.replace(request, track=lambda _: Untold()), *args, **more)

    monkeypatch.setattr(search, "carry_out", untold)
    said = bench.call(*SEARCH, INLINE, "evaluator=odd_values", "search.max_failures=2")
    assert said.code == 3
    assert "trials in a row failed" in said.error
    assert bench.diagnosis().status == "FAILED"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_f14_a_stop_that_nobody_can_be_told_of(bench: Bench, number: int, code: int) -> None:
    """`nasctl search ... 2>&1 | tee log`: Ctrl-C ends tee, too, and its pipe."""
    ours = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored, if nohup runs the tests
    try:
        process = bench.start(*SEARCH, INLINE, "--progress", "plain", FAULT_SECONDS="0.5")
    finally:
        signal.signal(signal.SIGHUP, ours)
    bench.wait_for("toy", process, lambda trials: len(trials) > 1)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        pass
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    states = [t.state for t in bench.toy.trials()]
    assert State.FAILED not in states
    assert 0 < states.count(State.COMPLETE) < 12
    assert bench.assert_sound().status == "INTERRUPTED"


@pytest.mark.parametrize("mode", ["plain", "live"])
def test_a_reader_that_has_gone_costs_no_result(bench: Bench, mode: str) -> None:
    process = bench.start(*SEARCH, INLINE, "--progress", mode, FAULT_SECONDS="0.1")
    bench.wait_for("toy", process, lambda trials: len(trials) > 1)
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdout is not None
    with process.stdout:
        out = process.stdout.read()
    assert process.wait(timeout=60) == 0
    assert "accuracy" in out
    assert [t.state for t in bench.toy.trials()] == [State.COMPLETE] * 12
    assert bench.assert_sound().status == "FINISHED"


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.exit_code == 0
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(KeyboardInterrupt), handling_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.exit_code == 129
    finally:
        signal.signal(signal.SIGHUP, before)
