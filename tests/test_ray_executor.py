"""The executor on Ray Tune: faults, signals, and what it leaves behind (nothing)."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.executors import ray
from nasctl.executors.attempt import Attempt
from nasctl.executors.ray import RayExecutor
from nasctl.executors.reaper import children, reaper
from nasctl.executors.scratch import LONGEST, PREFIX, scratch_dir
from nasctl.trial import OutcomeKind
from tests.executor_jobs import RecordingEngine, ScriptedJob, work

ROOT = Path(__file__).parent.parent
DATA = np.arange(1_000_000, dtype=np.float32)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
MARK = "NASCTL_TEST_MARK"


def _marked(mark: str) -> list[int]:
    """Processes that inherited the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # gone meanwhile, or somebody else's
    return found


def _until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


@contextmanager
def _terminal(path: Path) -> Iterator[None]:
    """Sends file descriptors 1 and 2 to a file: everything that a user would see."""
    kept = os.dup(1), os.dup(2)
    with path.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)


# -- one run with every fault ---------------------------------------------------------------------


class _Run:
    """A run on two workers with everything that can happen to a trial, and what it changed."""

    def __init__(self, folder: Path) -> None:
        pairs = [["meet", "meet"]] * 3 + [["killed_once", "hang"], ["fine", "exit"]]
        behaviours = [behaviour for pair in pairs for behaviour in pair]
        self.engine = RecordingEngine(behaviours, barrier=2)
        self.folder = folder
        self.mark = secrets.token_hex(8)
        os.environ[MARK] = self.mark
        self.before = self.state()
        (folder / "workers").mkdir()
        job = ScriptedJob(payload=DATA, folder=str(folder / "workers"))
        with _terminal(folder / "terminal"):
            RayExecutor(workers=2, cpus=0.5, timeout_s=8.0).run(self.engine, job)
        self.after = self.state()
        del os.environ[MARK]
        files = (folder / "workers").iterdir()
        self.pids = {f.name: int(f.read_text()) for f in files}  # by "number.attempt"

    def state(self) -> dict[str, object]:
        logger = logging.getLogger("ray")
        return {
            "environment": dict(os.environ),
            "handlers": [signal.getsignal(s) for s in SIGNALS],
            "logger": (logger.level, logger.disabled),
            "folder": os.getcwd(),
        }

    def facts(self, name: str) -> set[float]:
        return {m[name] for r in self.engine.reports.values() for _, m in r}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> _Run:
    return _Run(tmp_path_factory.mktemp("run"))


def test_every_work_ends_as_it_should(run: _Run) -> None:
    kinds = {key: outcome.kind.name for key, outcome in run.engine.outcomes.items()}
    fine = {(n, 1): "COMPLETE" for n in (0, 1, 2, 3, 4, 5, 8)}
    faults = {(6, 1): "LOST", (6, 2): "COMPLETE", (7, 1): "FAILED", (9, 1): "FAILED"}
    assert kinds == fine | faults
    assert run.engine.outcomes[6, 1].error == "the worker process died"
    assert run.engine.outcomes[7, 1].error == "timed out after 8 s"
    assert run.engine.outcomes[9, 1].error == "SystemExit: 3"


def test_nothing_is_reported_twice_and_a_lost_attempt_starts_again(run: _Run) -> None:
    assert [epoch for epoch, _ in run.engine.reports[6, 1]] == [1]
    for key, reports in run.engine.reports.items():
        assert [epoch for epoch, _ in reports] == list(range(1, len(reports) + 1)), key
    assert run.engine.calls.count("end") == run.engine.calls.count("next") == 11


def test_never_more_work_is_out_than_there_are_workers(run: _Run) -> None:
    assert run.engine.most_flying == 2


def test_workers_stay_warm_while_the_engine_waits_and_are_prepared_once(run: _Run) -> None:
    """The pairs train at the same time, and between them nobody does: two workers, the same."""
    assert len({run.pids[f"{number}.1"] for number in range(6)}) == 2
    assert run.facts("prepared") == {1.0}


def test_the_payload_is_shared_not_copied(run: _Run) -> None:
    assert run.facts("sum") == {float(DATA.sum())}
    assert run.facts("writeable") == run.facts("owns_data") == {0.0}


def test_nothing_is_left_behind_and_nothing_printed(run: _Run) -> None:
    _until(lambda: not _marked(run.mark), 15)
    assert run.before == run.after
    assert (run.folder / "terminal").read_text() == ""


# -- signals and kills ----------------------------------------------------------------------------


@contextmanager
def _driver(
    tmp_path: Path, *behaviours: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`tests.executor_driver` in a session of its own, once both workers have reported."""
    mark = secrets.token_hex(8)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.executor_driver", str(tmp_path), *behaviours],
        env={**os.environ, "PYTHONPATH": path, MARK: mark, **environment},
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        _until(lambda: (tmp_path / "ready").exists() or process.poll() is not None, 90)
        yield process, mark
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        _until(lambda: not _marked(mark), 15)


def test_ctrl_c_in_a_terminal_releases_the_running_work(tmp_path: Path) -> None:
    """SIGINT to the whole process group; with paths that are too long for a socket."""
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    with _driver(deep, "slow", "slow", "slow", TMPDIR=str(deep)) as (process, _):
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert (output.decode(), process.returncode) == ("", 130)
    assert (deep / "outcomes").read_text() == "0 1 RELEASED None\n1 1 RELEASED None"


@pytest.mark.slow  # through the command: tests/e2e/test_search.py
def test_sigterm_to_the_driver_alone_does_the_same(tmp_path: Path) -> None:
    with _driver(tmp_path, "slow", "slow") as (process, _):
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert (output.decode(), process.returncode) == ("", 143)
    assert (tmp_path / "outcomes").read_text() == "0 1 RELEASED None\n1 1 RELEASED None"


def test_a_cluster_that_dies_is_an_environment_problem_and_work_is_released(
    tmp_path: Path,
) -> None:
    with _driver(tmp_path, "slow", "slow") as (process, mark):
        (head,) = (
            p for p in _marked(mark) if Path(f"/proc/{p}/exe").resolve().name == "gcs_server"
        )
        os.kill(head, signal.SIGKILL)
        output, _ = process.communicate(timeout=50)
    assert output.decode().startswith("Ray's gcs_server died; every finished trial is kept")
    assert process.returncode == 4
    assert (tmp_path / "outcomes").read_text() == "0 1 RELEASED None\n1 1 RELEASED None"


def test_what_a_stop_keeps_from_starting_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = RecordingEngine(["fine"])

    def interrupted(*_: object, **__: object) -> None:
        engine.stop_requested = stops
        raise RuntimeError("the node did not start")

    monkeypatch.setattr(ray, "start_here", interrupted)
    for stops in (True, False):
        problem = pytest.raises(EnvironmentProblemError, match=r"^Ray does not start: the node")
        with nullcontext() if stops else problem:
            RayExecutor(workers=1).run(engine, ScriptedJob())
    assert engine.calls == []


def test_no_process_outlives_a_killed_driver_and_its_folder_goes_with_the_next_run(
    tmp_path: Path,
) -> None:
    temp = Path("/tmp", f"h{secrets.token_hex(4)}")  # short enough for sockets
    temp.mkdir()
    try:
        with _driver(tmp_path, "slow", "slow", TMPDIR=str(temp)) as (process, mark):
            assert len(_marked(mark)) > 3
            process.kill()
            process.wait()
            _until(lambda: not _marked(mark), 15)
        (left,) = temp.iterdir()
        os.utime(left, (0, 0))
        with scratch_dir([str(temp)]) as folder:
            assert list(temp.iterdir()) == [Path(folder)]
        assert not list(temp.iterdir())
    finally:
        shutil.rmtree(temp)


# -- without Ray ----------------------------------------------------------------------------------


def test_the_last_epoch_waits_for_the_end_of_the_job() -> None:
    done = []

    class Saving(ScriptedJob):
        def __call__(self, work):  # type: ignore[no-untyped-def]
            yield from super().__call__(work)
            done.append(work.number)

    attempt = Attempt(Saving(), work("fine", number=7))
    first, last = attempt.step(), attempt.step()
    assert (first.epoch, first.outcome) == (1, None)
    assert (last.epoch, last.metrics["accuracy"]) == (2, 0.5)
    assert last.outcome is not None
    assert last.outcome.kind is OutcomeKind.COMPLETE
    assert done == [7]


@pytest.mark.parametrize(("yields", "epochs"), [(1, 3), (3, 1), (0, 1)])
def test_a_job_may_yield_fewer_or_more_epochs_than_asked_for(yields: int, epochs: int) -> None:
    class Counting(ScriptedJob):
        def __call__(self, work):  # type: ignore[no-untyped-def]
            for n in range(yields):
                yield {"accuracy": float(n)}

    attempt = Attempt(Counting(), work("fine", epochs=epochs))
    told = []
    while True:
        message = attempt.step()
        if message.epoch:
            told.append(message.epoch)
        if message.outcome is not None:
            break
    assert told == list(range(1, yields + 1))
    assert message.outcome.kind is OutcomeKind.COMPLETE


def test_what_is_not_a_number_is_a_failure_of_the_job() -> None:
    class Wrong(ScriptedJob):
        def __call__(self, work):  # type: ignore[no-untyped-def]
            yield {"accuracy": "high"}

    outcome = Attempt(Wrong(), work("fine")).step().outcome
    assert outcome is not None
    assert outcome.error == "ValueError: could not convert string to float: 'high'"


def test_bad_settings_are_named_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RayExecutor(
            workers=0, cpus=-1, gpus=1.5, timeout_s=0, wait_s=-1, address="ray://head:10001"
        )
    assert [p.split(":")[0] for p in caught.value.problems] == [
        "executor.workers",
        "executor.cpus",
        "executor.gpus",
        "executor.timeout_s",
        "executor.wait_s",
        "executor.address",
    ]


def test_a_scratch_folder_is_private_short_and_temporary(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * LONGEST)
    deep.mkdir()
    with scratch_dir([str(deep), "/nowhere", str(tmp_path)[:1] + "tmp"]) as folder:
        assert Path(folder).parent == Path("/tmp")
        assert Path(folder).stat().st_mode & 0o777 == 0o700
        assert len(folder) <= LONGEST
    assert not Path(folder).exists()
    with (
        pytest.raises(EnvironmentProblemError, match="no temporary folder"),
        scratch_dir([str(deep), "/nowhere"]),
    ):
        pass


def test_a_reaper_leaves_the_living_alone() -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        with reaper([sleeper.pid]):
            assert sleeper.pid in children(os.getpid())
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_only_dead_folders_are_removed(tmp_path: Path) -> None:
    place = Path("/tmp", f"h{secrets.token_hex(4)}")
    place.mkdir()
    try:
        folders = {n: place / f"{PREFIX}{n}" for n in ("alive", "young", "dead")}
        for folder in folders.values():
            folder.mkdir()
            (folder / "lock").touch()
        for name in ("alive", "dead"):
            os.utime(folders[name], (0, 0))
        killed = place / f"{PREFIX}killed"
        killed.mkdir()
        (killed / "lock").write_text("a run")  # was held, and is free: dead, however young
        with (folders["alive"] / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with scratch_dir([str(place)]):
                assert {n for n, f in folders.items() if f.exists()} == {"alive", "young"}
    finally:
        shutil.rmtree(place)
