"""Calls that follow each other fast are committed in groups; nothing is shown before its commit."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nasctl.errors import EnvironmentProblemError
from nasctl.executors.inline import InlineExecutor
from nasctl.ledger import Ledger
from nasctl.ledger_commits import GROUP_S, SLOW_S, Commits
from nasctl.trial import Evaluation, State, Trial
from tests.e2e.command import Desk, history
from tests.executor_jobs import ScriptedJob
from tests.toy import Recorder, make_engine


class Notes:
    """A database of notes with a clock that only moves when it is told to."""

    def __init__(self, path: Path, patience: float = 3600.0) -> None:
        self.now = 100.0
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("CREATE TABLE notes (text)")
        self.reader = sqlite3.connect(path, isolation_level=None)
        self.undone = 0
        self.commits = Commits(
            self.db, path, on_rollback=self._undo, clock=lambda: self.now, patience=patience
        )

    def _undo(self) -> None:
        self.undone += 1

    def write(self, text: str, then: Callable[[], None] = lambda: None) -> None:
        with self.commits:
            self.db.execute("INSERT INTO notes VALUES (?)", (text,))
            then()

    @property
    def durable(self) -> str:
        return "".join(t for (t,) in self.reader.execute("SELECT text FROM notes ORDER BY rowid"))


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    made = Notes(tmp_path / "notes.sqlite")
    made.write("-")  # the first call comes after a long time
    return made


def test_without_a_group_every_call_is_durable_on_return(notes: Notes) -> None:
    seen: list[str] = []
    for text in "abc":
        notes.write(text)
        notes.commits.after_commit(lambda: seen.append(notes.durable))
    assert seen == ["-a", "-ab", "-abc"]


def test_fast_calls_become_durable_together_and_are_told_then(notes: Notes) -> None:
    seen: list[str] = []
    durable: list[str] = []
    with notes.commits.grouped():
        notes.now += 1.0  # slow: for a moment the calls are committed one by one
        for text in "abcdefghi":
            notes.write(text)
            notes.commits.after_commit(lambda t=text: seen.append(f"{t}{notes.durable}"))  # type: ignore[misc]
            durable.append(notes.durable)
            notes.now += 0.03  # SLOW_S is 0.05, GROUP_S 0.1
    assert durable == ["-a", "-ab", "-ab", "-ab", "-ab", "-ab", "-abcdefg", "-abcdefg", "-abcdefg"]
    told = ["a-a", "b-ab", *(f"{t}-abcdefg" for t in "cdef"), "g-abcdefg"]
    assert seen == [*told, "h-abcdefghi", "i-abcdefghi"]


def test_a_group_lasts_a_tenth_of_a_second(notes: Notes) -> None:
    with notes.commits.grouped():
        for i in range(40):
            notes.now += GROUP_S / 8
            notes.write("x")
            behind = i + 2 - len(notes.durable)
            assert behind <= 9
        assert behind > 0


def test_calls_after_slow_work_are_committed_one_by_one(notes: Notes) -> None:
    with notes.commits.grouped():
        for i in range(5):
            notes.now += SLOW_S * 1.1  # a training
            notes.write("r")  # its report, its end, the next trial
            notes.write("e")
            notes.write("n")
            assert notes.durable == "-" + "ren" * (i + 1)


def test_a_call_that_fails_is_undone_alone(notes: Notes) -> None:
    def fail() -> None:
        raise KeyError("no")

    def three_calls() -> None:
        with notes.commits.grouped():
            notes.now += SLOW_S
            notes.write("a")
            notes.write("b")
            notes.write("c", fail)

    with pytest.raises(KeyError):
        three_calls()
    assert notes.durable == "-ab"
    assert notes.undone == 1
    notes.write("d")
    assert notes.durable == "-abd"


def test_calls_inside_a_call_are_part_of_it(notes: Notes) -> None:
    def fail() -> None:
        raise KeyError("no")

    notes.write("a", lambda: notes.write("b"))
    with pytest.raises(KeyError):
        notes.write("c", lambda: notes.write("d", fail))
    assert notes.durable == "-ab"


def test_what_a_full_disk_swallows_is_never_told(notes: Notes) -> None:
    pages = notes.db.execute("PRAGMA page_count").fetchone()[0]
    notes.db.execute(f"PRAGMA max_page_count={pages + 2}")
    told: list[int] = []

    def fill() -> None:
        with notes.commits.grouped():
            for i in range(100):
                notes.now += 0.001
                notes.write("x" * 1000)
                notes.commits.after_commit(lambda i=i: told.append(i))  # type: ignore[misc]

    with pytest.raises(EnvironmentProblemError, match=r"full.*free some space"):
        fill()
    assert len(told) == notes.durable.count("x") // 1000 > 0
    notes.db.execute("PRAGMA max_page_count=100000")
    notes.write("z")
    assert notes.durable.endswith("z")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_group_that_nobody_adds_to_is_committed_beside_a_slow_training(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.sqlite", patience=0.005)
    notes.write("-")
    told: list[str] = []
    with notes.commits.grouped():
        for text in "ab":  # fast work: only what comes soon after the start is committed at once
            notes.now += 0.9 * SLOW_S
            notes.write(text)
            notes.commits.after_commit(lambda t=text: told.append(t))  # type: ignore[misc]
        assert notes.durable == "-a"
        notes.now += 2 * GROUP_S
        until(lambda: notes.durable == "-ab")  # while this thread would train
        assert told == ["a"]  # a display is for the thread of the calls
        notes.reader.execute("INSERT INTO notes VALUES ('+')")  # nothing is locked
        notes.write("c", lambda: told.append("c"))
        assert told == ["a", "b", "c"]
    assert notes.durable == "-ab+c"


class Unreliable:
    """A connection whose next COMMIT fails."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db, self.fails = db, 0

    def execute(self, statement: str) -> object:
        if statement == "COMMIT" and self.fails:
            self.fails -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return self._db.execute(statement)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction


def test_a_late_commit_that_fails_is_told_by_the_next_call(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.sqlite", patience=0.005)
    db = Unreliable(notes.db)
    notes.commits._db = db  # type: ignore[assignment]
    notes.write("-")
    told: list[str] = []

    def two_calls() -> None:
        with notes.commits.grouped():
            notes.now += 1.1 * SLOW_S / 2
            notes.write("a")
            notes.now += 1.1 * SLOW_S / 2
            notes.write("b")
            notes.commits.after_commit(lambda: told.append("b"))
            db.fails = 1
            notes.now += 2 * GROUP_S
            until(lambda: db.fails == 0)
            notes.write("c")

    with pytest.raises(EnvironmentProblemError, match=r"I/O.*free some space"):
        two_calls()
    assert (told, notes.durable, notes.undone) == ([], "-a", 1)
    notes.write("d")
    assert notes.durable == "-ad"


class Witness(Recorder):
    """Looks into the ledger, as another process would, whenever it is told something."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def _stored(self, trial: Trial) -> Trial:
        ledger = Ledger(self._path, {}, readonly=True)
        try:
            return {t.number: t for t in ledger.trials()}[trial.number]
        finally:
            ledger.close()

    def trial_started(self, trial: Trial) -> None:
        super().trial_started(trial)
        assert self._stored(trial).arch_id == trial.arch_id

    def epoch(self, trial: Trial, evaluation: Evaluation) -> None:
        super().epoch(trial, evaluation)
        assert self._stored(trial).evaluations[: evaluation.epoch][-1] == evaluation

    def trial_ended(self, trial: Trial) -> None:
        super().trial_ended(trial)
        assert self._stored(trial).state is State.COMPLETE


def test_a_search_shows_only_what_is_durable_and_all_of_it(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "l.sqlite")
    engine = make_engine(tmp_path / "l.sqlite", trials=20, observer=witness)
    with engine._ledger.grouped():
        InlineExecutor().run(engine, ScriptedJob())
        # A read in the middle of a group sees it whole.
        assert len(engine._ledger.trials()) == 20
    assert [t.number for t in witness.started] == [t.number for t in witness.ended]
    assert len(witness.ended) == 20
    assert witness.epochs == [(n, e) for n in range(20) for e in (1, 2)]


BIG = """\
defaults: [search, _self_, override tracking: none, override sampler: random]
name: big
trials: 1500
objectives: {accuracy: max, params: min}
space: {family: table, options: {file: big.csv, decisions: [depth, width], costs: [params]}}
evaluator: mortal
executor: {name: inline}
"""
MORTAL = """\
import os, signal
from pathlib import Path

done = 0


def mortal(architecture, *, budget, seed):
    global done
    done += 1
    if Path("dies_after").exists() and done > int(Path("dies_after").read_text()):
        os.kill(os.getpid(), signal.SIGKILL)
    found = dict(architecture.blocks[0].values)
    return {"accuracy": 1 - 1 / (2 + found["depth"] + found["width"])}


EVALUATORS = {"mortal": mortal}
"""


def test_a_kill_among_grouped_commits_does_not_change_the_history(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [f"{d},{w},{d * w},{1 - 1 / (2 + d + w)}" for d in range(50) for w in range(50)]
    desks = [Desk(tmp_path / n, tmp_path_factory.mktemp("cache")) for n in ("whole", "killed")]
    for desk in desks:
        desk.folder.mkdir()
        desk.write("big.csv", "\n".join(["depth,width,params,accuracy", *rows]))
        desk.write("big.yaml", BIG)
        desk.write("mortals.py", MORTAL)
    arguments = ("search", "big.yaml", "--plugin", "mortals", "--progress", "none")
    desks[0].run(*arguments)
    durable = 0
    for done in (300, 500):
        desks[1].write("dies_after", str(done))
        process = desks[1].start(*arguments)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        before, durable = durable, len(desks[1].trials("big"))
        assert before < durable <= before + done + 1  # the group that was open is lost
    (desks[1].folder / "dies_after").unlink()
    desks[1].run(*arguments)
    assert history(desks[1].trials("big")) == history(desks[0].trials("big"))
    assert [e.epoch for t in desks[1].trials("big") for e in t.evaluations] == [
        e.epoch for t in desks[0].trials("big") for e in t.evaluations
    ]


def test_what_waits_while_the_other_thread_commits_is_told(notes: Notes) -> None:
    """Between its COMMIT and what it notes of that, nothing looks as if it were undone."""
    committed = threading.Event()
    seen: list[str] = []

    def other() -> None:
        with notes.commits._in_call:
            notes.db.execute("COMMIT")
            committed.set()
            time.sleep(0.2)
            notes.commits._is_open = False

    with notes.commits.grouped():
        notes.now += 1.0
        notes.write("a")
        notes.now += SLOW_S
        notes.write("b")
        notes.write("c")
        notes.commits.after_commit(lambda: seen.append(f"c, of {notes.durable}"))
        thread = threading.Thread(target=other)
        thread.start()
        committed.wait()
        notes.commits.after_commit(lambda: seen.append("later"))
        thread.join()
    assert seen == ["c, of -abc", "later"]
    assert notes.undone == 0


def test_the_first_calls_are_told_at_once_however_fast_they_come(notes: Notes) -> None:
    """A training may follow them that takes an hour, with nobody to tell of its begin."""
    seen: list[str] = []
    for text in "ab":
        notes.now += 0.8 * SLOW_S
        notes.write(text)
    with notes.commits.grouped():
        notes.write("c")
        notes.commits.after_commit(lambda: seen.append(notes.durable))
        assert seen == ["-abc"]
