"""Several searches at once, on one run and beside each other, and locks without an owner: F16,
F17."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from nasctl.history import history_hash
from tests.faults.drive import INLINE, SEARCH, Bench, kill


def test_f16_four_at_once_two_of_them_on_one_run(bench: Bench) -> None:
    """All start on an empty folder: one ledger is fought over, one MLflow store is new to three."""
    names = ("one", "one", "two", "three")
    arguments = (*SEARCH, INLINE, "tracking=mlflow", "trials=4")
    processes = [bench.start(*arguments, f"name={name}", FAULT_SECONDS="0.5") for name in names]
    said = [process.communicate(timeout=240) for process in processes]
    codes = [process.returncode for process in processes]
    assert codes[2:] == [0, 0], said
    winner = codes.index(0)
    loser = 1 - winner
    assert codes[loser] == 4, said
    (line,) = [x for x in said[loser][1].splitlines() if x.startswith("Error: ")]
    assert f"driven by another process (pid {processes[winner].pid})" in line
    assert "Traceback" not in "".join(err for _, err in said)
    hashes = {history_hash(bench.trials(name)) for name in names}
    assert len(hashes) == 1  # the same search under three names
    for name in ("one", "two", "three"):
        # What a busy store did not take in time, `sync` brings.
        bench.call("sync", f"runs/{name}")
        (tracked,) = [c for c in bench.assert_sound(name).checks if c.id == "I7"]
        assert tracked.state == "ok"
    with closing(sqlite3.connect(bench.folder / "runs" / "mlflow.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_f17_what_a_killed_driver_leaves_is_in_nobodys_way(bench: Bench) -> None:
    process = bench.start(*SEARCH, INLINE, FAULT_SECONDS="0.3")
    bench.wait_for("toy", process, lambda trials: len(trials) > 2)
    kill(process)
    assert (bench.run_dir / ".lock").read_text() == str(process.pid)
    assert (bench.run_dir / "ledger.sqlite-wal").exists()
    (died,) = [c for c in bench.diagnosis().checks if c.state == "violated"]
    assert died.id == "I4"
    assert "its driver died; the same command continues: nasctl search toy.yaml" in died.details[0]
    assert bench.call(*SEARCH, INLINE).code == 0
    bench.assert_sound()


def test_f17_the_pid_of_somebody_else_in_the_lock_means_nothing(bench: Bench) -> None:
    bench.run_dir.mkdir(parents=True)
    (bench.run_dir / ".lock").write_text("1")
    assert bench.call(*SEARCH, INLINE, "trials=2").code == 0
    bench.assert_sound()
