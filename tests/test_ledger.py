"""The ledger: what it has acknowledged is there, and damage is named, not repaired by loss."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from nasctl.arch import Cost
from nasctl.errors import EnvironmentProblemError
from nasctl.ledger import Ledger
from nasctl.runlock import RunLock, driver
from nasctl.trial import Evaluation, Rejection, State, Trial
from tests import toy


def trial(number: int = 0, **changes: object) -> Trial:
    choices = {"depth": number % 8, "width": 1}
    architecture = toy.decode(choices)
    made = Trial(
        number=number,
        state=State.RUNNING,
        choices=choices,
        architecture=architecture,
        seed=7,
        epochs=2,
        cost=Cost(params=10.0, latency_ms=1.5),
        cost_intervals={"latency_ms": (1.0, 2.0)},
        sampler_state={"generation": 3},
        started_at=12.5,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_everything_comes_back_equal(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", {})
    done = trial(1, state=State.COMPLETE, metrics={"accuracy": 0.5}, attempts=2, seconds=3.0)
    failed = trial(2, state=State.FAILED, error="loss is nan: 'é'")
    rejection = Rejection(
        before=2,
        choices={"depth": 7, "width": 7},
        architecture=toy.decode({"depth": 7, "width": 7}),
        cost=Cost(params=99.0),
        violations={"params": 0.5},
        reason="params 99 is over 66",
        attempt=3,
        sampler_state={"a": [1, None]},
    )
    for t in (trial(0), done, failed):
        ledger.put_trial(t)
    ledger.put_evaluation(1, Evaluation(epoch=1, metrics={"accuracy": 0.25}))
    ledger.put_evaluation(1, Evaluation(epoch=1, metrics={"accuracy": 0.26}))
    ledger.add_rejections([rejection, dataclasses.replace(rejection, architecture=None)])
    ledger.put_measurements({done.arch_id: {"p50_ms": 1.25}})
    ledger.set_meta(config={"name": "x"}, seconds=1.5)
    ledger.add_event("lost", number=3)
    ledger.close()
    with_evaluation = dataclasses.replace(
        done, evaluations=(Evaluation(epoch=1, metrics={"accuracy": 0.26}),)
    )
    again = Ledger(tmp_path / "l.sqlite", {}, readonly=True)
    assert again.trials() == [trial(0), with_evaluation, failed]
    assert again.rejections() == [rejection, dataclasses.replace(rejection, architecture=None)]
    assert again.count_rejections() == 2
    assert again.measurements() == {done.arch_id: {"p50_ms": 1.25}}
    assert again.meta("config") == {"name": "x"}
    assert again.meta("nothing") is None
    assert [(kind, data) for _, kind, data in again.events()] == [("lost", {"number": 3})]


def test_a_network_is_trained_once_per_seed_and_budget(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", {})
    ledger.put_trial(trial(0))
    with pytest.raises(sqlite3.IntegrityError):
        ledger.put_trial(dataclasses.replace(trial(0), number=1))
    ledger.put_trial(dataclasses.replace(trial(0), number=1, seed=8))


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", {})

    def half() -> None:
        with ledger.transaction():
            ledger.put_trial(trial(0))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        half()
    assert ledger.trials() == []
    ledger.put_trial(trial(0))
    assert len(ledger.trials()) == 1


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from nasctl.ledger import Ledger
        from tests.test_ledger import trial
        ledger = Ledger(Path(sys.argv[1]), {})
        for number in range(8):
            ledger.put_trial(trial(number))
            print(number, flush=True)
        import time; time.sleep(60)
        """
    )
    path = tmp_path / "l.sqlite"
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            if line.strip() == "5":
                break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert len(Ledger(path, {}).trials()) >= 6


def test_a_reader_does_not_block_the_driver(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", {})
    ledger.put_trial(trial(0))
    reader = Ledger(tmp_path / "l.sqlite", {}, readonly=True)
    assert len(reader.trials()) == 1
    ledger.put_trial(trial(1))
    assert len(reader.trials()) == 2
    with pytest.raises(EnvironmentProblemError, match="readonly"):
        reader.set_meta(x=1)


def test_missing_damaged_and_newer_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblemError, match="no such ledger"):
        Ledger(tmp_path / "none.sqlite", {}, readonly=True)
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(b"this is not a database" * 100)
    before = garbage.read_bytes()
    with pytest.raises(EnvironmentProblemError, match=r"not a database.*left untouched"):
        Ledger(garbage, {})
    assert garbage.read_bytes() == before
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(EnvironmentProblemError, match="there is nothing in it"):
        Ledger(tmp_path / "empty.sqlite", {}, readonly=True)
    newer = tmp_path / "newer.sqlite"
    Ledger(newer, {}).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(EnvironmentProblemError, match="ledger version 99, this nasctl reads"):
        Ledger(newer, {})


def test_a_flipped_page_is_found_when_the_run_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path, {})
    for number in range(8):
        ledger.put_trial(trial(number, error="x" * 3000))
    ledger.close()
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 6] = os.urandom(4096 * 3)
    path.write_bytes(content)
    with pytest.raises(EnvironmentProblemError, match="malformed"):
        Ledger(path, {})


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from nasctl.runlock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "held\n"
    with pytest.raises(EnvironmentProblemError, match=rf"pid {child.pid}\b"):
        RunLock(tmp_path)
    assert driver(tmp_path) == str(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert driver(tmp_path) is None
    RunLock(tmp_path).release()


def test_a_look_at_the_driver_does_not_turn_one_away(tmp_path: Path) -> None:
    """Doctors take the lock, shared, while they look; whoever starts meanwhile waits for them."""
    (tmp_path / ".lock").touch()
    with open(tmp_path / ".lock") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        RunLock(tmp_path).release()
