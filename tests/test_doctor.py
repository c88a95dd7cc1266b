"""`nasctl doctor`: every invariant is broken once on a copy of a run, and seen to be."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nasctl import records as records_module
from nasctl.doctor import examine
from nasctl.environment import RUN_MARK
from nasctl.executors.scratch import PREFIX
from nasctl.ledger import Ledger
from nasctl.tracking import TrackingSettings, sync
from tests.doctor_bench import check, edit_front, sql, violated
from tests.faults.drive import INLINE, SEARCH, TOY, Bench

SQL = Callable[..., None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A finished run of twelve trials, a repeat and a failure among them."""
    bench = Bench(tmp_path_factory.mktemp("original"), tmp_path_factory.mktemp("cache"))
    bench.write("toy.yaml", TOY)
    said = bench.call(*SEARCH, INLINE, "constraints.latency_ms=5", "evaluator=lookup")
    assert said.code == 0, said.err
    return bench


@pytest.fixture
def bench(original: Bench, tmp_path: Path) -> Bench:
    return original.copy(tmp_path / "copy")


def test_a_finished_run_is_sound(bench: Bench) -> None:
    said = bench.call("doctor", "runs/toy")
    lines = said.out.splitlines()
    assert said.code == 0
    assert [line[:2] for line in lines] == [f"I{n}" for n in range(10)]
    assert [line.split()[1] for line in lines if not line.startswith("I7")] == ["ok"] * 9
    assert lines[7].startswith("I7  not checked")
    assert lines[7].endswith(": tracking=none")


def test_it_changes_nothing(bench: Bench) -> None:
    def content() -> dict[str, bytes]:
        # What SQLite itself keeps beside a database while somebody reads it.
        own = ("-shm", "-wal")
        files = [p for p in bench.run_dir.rglob("*") if p.is_file() and not p.name.endswith(own)]
        return {p.name: p.read_bytes() for p in files}

    before = content()
    examine(bench.run_dir)
    assert content() == before


def test_json_has_the_same_and_the_exit_code_says_it_in_short(bench: Bench) -> None:
    (bench.run_dir / "front.json").unlink()
    said = bench.call("doctor", "runs/toy", "--json")
    found = json.loads(said.out)
    assert said.code == 1
    assert found["ok"] is False
    assert found["status"] == "FINISHED"
    assert {c["id"]: c["state"] for c in found["checks"]} == {
        **{f"I{n}": "ok" for n in range(10)},
        "I5": "violated",
        "I6": "violated",
        "I7": "not_checked",
    }


def test_what_is_no_run_at_all(bench: Bench) -> None:
    said = bench.call("doctor", "runs/tyo")
    assert said.code == 4
    assert "did you mean runs/toy?" in said.error


# -- I0: the ledger -------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"this is not a database" * 1000, b"\0" * 8192])
def test_i0_a_foreign_file_is_one_line(bench: Bench, content: bytes) -> None:
    for path in bench.run_dir.glob("ledger.sqlite*"):
        path.unlink()
    (bench.run_dir / "ledger.sqlite").write_bytes(content)
    said = bench.call("doctor", "runs/toy")
    first, *others = said.out.splitlines()
    assert said.code == 1
    assert said.err == ""
    assert first.startswith("I0  VIOLATED")
    assert {line.split("  ")[1] for line in others} == {"not checked"}
    assert (bench.run_dir / "ledger.sqlite").read_bytes() == content


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE meta SET value='{' WHERE key='config'",
        "UPDATE trials SET metrics='[1' WHERE number=3",
        "UPDATE trials SET state='LOST' WHERE number=3",
        "UPDATE trials SET cost_intervals='{\"params\": 3}' WHERE number=3",
        "UPDATE architectures SET data='{}'",
        "DROP TABLE measurements",
        "DELETE FROM meta WHERE key='config'",
        "UPDATE meta SET value='[1, 2]'",
        "PRAGMA user_version=99",
    ],
)
def test_i0_rows_that_nobody_of_us_wrote_never_end_in_a_traceback(bench: Bench, edit: str) -> None:
    with closing(sqlite3.connect(bench.run_dir / "ledger.sqlite")) as db:
        db.execute(edit)
        db.commit()
    said = bench.call("doctor", "runs/toy")
    assert said.code == 1
    assert said.err == ""
    assert "VIOLATED" in said.out
    for command in (("front", "runs/toy"), (*SEARCH, INLINE)):
        again = bench.call(*command)
        assert again.code in (2, 4), again
        assert "Traceback" not in again.err
        assert "bug in nasctl" not in again.err


def test_i0_a_network_under_another_name(bench: Bench) -> None:
    first, second = (t.arch_id for t in bench.toy.trials()[:2])
    sql(
        bench,
        f"UPDATE architectures SET data=(SELECT data FROM architectures WHERE arch_id='{second}') "
        f"WHERE arch_id='{first}'",
    )
    assert violated(bench)["I0"] == f"network {first} is stored as another one, {second}"


def test_i0_flipped_bytes(bench: Bench) -> None:
    ledger = bench.run_dir / "ledger.sqlite"
    content = bytearray(ledger.read_bytes())
    content[4096 * 4 : 4096 * 9] = bytes(4096 * 5)
    ledger.write_bytes(content)
    assert "ledger.sqlite" in violated(bench)["I0"]


# -- I1 to I4: the trials -------------------------------------------------------------------------


def test_i1_a_gap(bench: Bench) -> None:
    sql(bench, "DELETE FROM evaluations WHERE number=4", "DELETE FROM trials WHERE number=4")
    assert violated(bench)["I1"] == "trial 4 is missing"


def twice(bench: Bench) -> None:
    """Trial 5 becomes a copy of trial 3, past the table's own constraint."""
    columns = "arch_id, seed, epochs, state, attempts, choices, cost, cost_intervals, metrics, "
    columns += "error, sampler_state, started_at, seconds"
    with closing(sqlite3.connect(bench.run_dir / "ledger.sqlite")) as db:
        db.executescript(
            "DROP INDEX trials_once; DELETE FROM trials WHERE number=5;"
            f"INSERT INTO trials (number, {columns}) SELECT 5, {columns} FROM trials "
            "WHERE number=3;"
        )


def test_i2_a_network_twice(bench: Bench) -> None:
    twice(bench)
    arch_id = bench.toy.trials()[3].arch_id
    assert violated(bench)["I2"] == (f"trials 3 and 5 are both {arch_id} with seed 0 for 2 epochs")


def test_i2_a_failure_and_another_seed_do_not_count(bench: Bench) -> None:
    twice(bench)
    sql(bench, "UPDATE trials SET state='FAILED', error='out of memory' WHERE number=5")
    assert "I2" not in violated(bench)
    sql(bench, "UPDATE trials SET state='COMPLETE', seed=1 WHERE number=5")
    assert check(examine(bench.run_dir), "I2").details == ("1 repeats with seeds of their own",)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ("metrics='{}'", "#2 is COMPLETE, but its accuracy is None"),
        ("metrics=replace(metrics, '\"latency_ms\":', '\"latency_ms\":1e999, \"x\":')",
         "#2 is COMPLETE, but its latency_ms is inf"),
        ("metrics=replace(metrics, '\"accuracy\":', '\"accuracy\":93.1, \"x\":')",
         "#2 has an accuracy of 93.1"),
        ("metrics=replace(metrics, '\"accuracy\":', '\"accuracy\":0.125, \"x\":')",
         "#2 has accuracy 0.125, but its last epoch and its costs say 0."),
        ("metrics=replace(metrics, '\"params\":', '\"params\":7, \"x\":')",
         "#2 has params 7, but its last epoch and its costs say "),
        ("cost='{\"latency_ms\":7.0,\"params\":11.0}'", "#2 breaks constraints.latency_ms=5"),
        ("state='FAILED'", "#2 FAILED without a reason"),
    ],
)  # fmt: skip
def test_i3_results_that_cannot_be(bench: Bench, edit: str, says: str) -> None:
    sql(bench, f"UPDATE trials SET {edit} WHERE number=2")
    assert says in violated(bench)["I3"]


def test_i4_running_without_a_driver(bench: Bench) -> None:
    sql(bench, "UPDATE trials SET state='RUNNING' WHERE number=2")
    assert violated(bench)["I4"].startswith("#2 RUNNING, but the run is finished")
    sql(bench, "UPDATE meta SET value='\"RUNNING\"' WHERE key='status'")
    found = violated(bench)["I4"]
    assert found.startswith("#2 RUNNING, but its driver died; the same command continues: nasctl ")
    # A driver that was stopped gives its work back, and says so.
    sql(bench, "UPDATE meta SET value='\"INTERRUPTED\"' WHERE key='status'")
    assert check(examine(bench.run_dir), "I4").state == "ok"


def test_i4_with_a_driver_all_is_well_and_files_at_work_are_left_alone(bench: Bench) -> None:
    sql(
        bench,
        "UPDATE trials SET state='RUNNING' WHERE number=2",
        "UPDATE meta SET value='\"RUNNING\"' WHERE key='status'",
    )
    (bench.run_dir / "front.json").write_text("half")
    (bench.run_dir / ".front.json.x.tmp").touch()
    with open(bench.run_dir / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = examine(bench.run_dir)
    assert found.sound
    pid = (bench.run_dir / ".lock").read_text()
    assert check(found, "I4").details == (f"1 running, driven by process {pid}",)
    assert {c.id for c in found.checks if c.state == "not_checked"} == {"I5", "I7", "I9"}


# -- I5 to I8: what was made of them --------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda f: f["members"].pop(), "belongs to the front and is not in front.json"),
        (lambda f: f["members"][0].update(arch_id="0" * 12), "does not belong to the front"),
        (lambda f: f["members"][0]["metrics"].update(accuracy=1), "has other metrics"),
        (lambda f: f["trials"].update(COMPLETE=11), "front.json counts {"),
        (lambda f: f.update(hypervolume=1.0), "front.json has hypervolume 1.0, its members"),
        (lambda f: f.update(members="all"), "front.json is not a front"),
    ],
)
def test_i5_another_front(
    bench: Bench, edit: Callable[[dict[str, Any]], object], says: str
) -> None:
    edit_front(bench, edit)
    assert says in violated(bench)["I5"]


def test_i5_a_better_network_in_the_ledger(bench: Bench) -> None:
    sql(
        bench,
        'UPDATE trials SET metrics=replace(metrics, \'"accuracy":\', \'"accuracy":0.99, "x":\') '
        "WHERE number=3",
    )
    assert set(violated(bench)) >= {"I5"}


def test_i6_artifacts(bench: Bench) -> None:
    weights = sorted((bench.run_dir / "weights").iterdir())
    weights[0].write_text(weights[0].read_text() + " ")
    weights[1].unlink()
    (bench.run_dir / "report.png").write_bytes(b"")
    found = violated(bench)["I6"]
    assert f"weights/{weights[0].name} is not what was written" in found
    assert f"weights/{weights[1].name} is missing" in found
    assert found.count("to write it again, the same command: nasctl") == 1
    assert "report.png is missing; nasctl report " in found
    # A report may be made anew at any time: it says the same, in other bytes.
    assert bench.call("report", "runs/toy").code == 0
    assert "report" not in violated(bench)["I6"]


def test_i6_a_list_that_leads_out_of_the_folder(bench: Bench) -> None:
    sql(bench, """UPDATE meta SET value='{"../../toy.yaml": "0"}' WHERE key='artifacts'""")
    assert violated(bench)["I6"] == "../../toy.yaml is not in the run's folder"


def test_i6_damaged_weights_stay_damaged_when_the_run_goes_on(bench: Bench) -> None:
    weights = sorted((bench.run_dir / "weights").glob("*.json"))[0]
    with closing(Ledger(bench.run_dir / "ledger.sqlite", {})) as ledger:
        noted = ledger.meta("artifacts")
        ledger.set_meta(artifacts={**noted, f"weights/{weights.name}": "0" * 64})
    said = bench.call(*SEARCH, INLINE, "constraints.latency_ms=5", "trials=13")
    assert said.code == 0, said.err
    assert f"weights/{weights.name} is not what was written" in violated(bench)["I6"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's client and SQLAlchemy's
def test_i7_mlflow(original: Bench, tmp_path: Path) -> None:
    bench = original.copy(tmp_path / "copy")
    store = bench.folder / "runs" / "mlflow.db"
    tracking = {**bench.toy.config["tracking"], "name": "mlflow"}
    with closing(Ledger(bench.run_dir / "ledger.sqlite", {})) as ledger:
        ledger.set_meta(config={**bench.toy.config, "tracking": tracking})
    assert check(examine(bench.run_dir), "I7").details == (f"there is no MLflow store {store}",)
    settings = TrackingSettings(output_dir=bench.folder / "runs")
    assert sync(bench.toy, settings).problem is None
    assert check(examine(bench.run_dir), "I7").details == ("13 runs",)

    uid = bench.toy.uid
    with closing(sqlite3.connect(store)) as db:
        runs = dict(db.execute("SELECT value, run_uuid FROM tags WHERE key='nasctl.trial_uid'"))
        db.execute("UPDATE runs SET status='RUNNING' WHERE run_uuid=?", (runs[f"{uid}:1"],))
        db.execute(
            "UPDATE runs SET lifecycle_stage='deleted' WHERE run_uuid=?", (runs[f"{uid}:2"],)
        )
        for number, uuid in ((3, runs[f"{uid}:4"]), (77, runs[f"{uid}:5"])):
            db.execute(
                "UPDATE tags SET value=? WHERE run_uuid=? AND key='nasctl.trial_uid'",
                (f"{uid}:{number}", uuid),
            )
        db.commit()
    found = violated(bench)["I7"]
    names = {t.number: f"'{t.number:03d} {t.arch_id}'" for t in bench.toy.trials()}
    for says in (
        f"{names[1]} is RUNNING there, not FINISHED",
        f"no run there for {names[2]}",
        f"2 runs there for {names[3]}",
        f"no run there for {names[4]}",
        f"a run there for {uid}:77, which is not in the ledger",
    ):
        assert f"{says}; nasctl sync " in found
    assert sync(bench.toy, settings).problem is None
    assert check(examine(bench.run_dir), "I7").state == "ok"
    store.write_bytes(b"x" * 5000)
    assert check(examine(bench.run_dir), "I7").state == "not_checked"


def test_i8_hypervolume(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    history = bench.toy.hypervolume_history()
    (number, best), (later, _) = history[-2:]
    falling = [*history[:-1], (later, best / 2)]
    monkeypatch.setattr(records_module, "hypervolume_history", lambda *_: falling)
    found = violated(bench)["I8"]
    assert f"it falls from {best:.9g} to {best / 2:.9g} at trial {later}" in found
    assert f"it ends at {best / 2:.9g}, the hypervolume of all results is" in found
    assert number < later


def test_i8_a_repeat_may_correct_a_lucky_value_and_says_so(bench: Bench) -> None:
    twice(bench)
    lucky = 'metrics=replace(metrics, \'"accuracy":\', \'"accuracy":{}, "x":\')'
    sql(
        bench,
        f"UPDATE trials SET {lucky.format(0.99)} WHERE number=3",
        f"UPDATE trials SET seed=1, {lucky.format(0.5)} WHERE number=5",
    )
    one = check(examine(bench.run_dir), "I8")
    assert one.state == "ok"
    assert one.details == ("fell at trial 5, where another seed corrected a lucky value",)


# -- I9: leftovers --------------------------------------------------------------------------------


def test_i9_temporary_files(bench: Bench) -> None:
    (bench.run_dir / "weights" / ".x.safetensors.17.tmp").touch()
    assert violated(bench)["I9"] == "temporary file weights/.x.safetensors.17.tmp"


def test_i9_checkpoints_are_kept_for_unfinished_trials_only(bench: Bench) -> None:
    for number in (3, 12):
        (bench.run_dir / "checkpoints" / str(number)).mkdir(parents=True)
    assert violated(bench)["I9"] == "checkpoints of trial 3, which is over"


@pytest.fixture
def sleeper(bench: Bench) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        env={**os.environ, RUN_MARK: bench.toy.uid},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()  # its environment can be seen from now on
    yield
    process.communicate(b"\n")


@pytest.mark.usefixtures("sleeper")
def test_i9_processes(bench: Bench) -> None:
    assert violated(bench)["I9"].startswith("process python")


def test_i9_scratch_folders(bench: Bench, tmp_path: Path) -> None:
    folder = Path("/tmp", f"{PREFIX}{tmp_path.name[-8:]}")
    folder.mkdir()
    try:
        (folder / "lock").write_text(bench.toy.uid)
        assert violated(bench)["I9"].startswith(f"folder {folder} with sockets")
    finally:
        shutil.rmtree(folder)
