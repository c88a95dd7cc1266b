"""Ctrl-C and SIGTERM, and what the doctor says of a run that was stopped: F14 and P7.

Both executors, with process groups, are in tests/e2e/test_search.py.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time

import pytest

from nasctl.history import history_hash
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
    assert bench.assert_sound().status == "INTERRUPTED"
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
