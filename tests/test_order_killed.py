"""The order of decisions on real executors: random delays, and drivers killed at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasctl.executors.inline import InlineExecutor
from nasctl.executors.ray import RayExecutor
from nasctl.history import history_hash
from nasctl.ledger import Ledger
from nasctl.trial import State
from tests.order_history import hash_of
from tests.order_job import SEARCH, DelayedTable
from tests.toy import make_engine

ROOT = Path(__file__).parent.parent


# -- executors, delays, kills ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the search without delays, in this process."""
    path = tmp_path_factory.mktemp("undisturbed") / "l"
    engine = make_engine(path, **SEARCH)
    InlineExecutor().run(engine, DelayedTable(seconds=0.0))
    numbers = [t.choices for t in engine.trials]
    assert len(numbers) == 24
    assert len({t.arch_id for t in engine.trials}) < 24, "no repeat would be tested"
    assert engine._ledger.rejections(), "no rejection would be tested"
    return hash_of(engine)


def test_two_ray_workers_with_random_delays_give_the_history_of_one_process(
    tmp_path: Path, undisturbed: str
) -> None:
    engine = make_engine(tmp_path / "l", **SEARCH)
    RayExecutor(workers=2, cpus=0.5).run(engine, DelayedTable(seconds=0.1))
    assert hash_of(engine) == undisturbed


def test_the_async_order_finishes_on_ray(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l", order="async", **SEARCH)
    RayExecutor(workers=2, cpus=0.5).run(engine, DelayedTable(seconds=0.1))
    assert {t.state for t in engine.trials} == {State.COMPLETE}
    assert len(engine.trials) == 24


@contextlib.contextmanager
def driver(path: Path, executor: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """`tests.order_job` in a process group of its own, of which nothing is left afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.order_job", str(path), executor, str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def kill_and_continue(path: Path, executor: str, kills: int, seed: int) -> tuple[str, int]:
    """Kills the driver after random numbers of calls; the hash in the end, and how often it died
    before that."""
    rng = random.Random(seed)
    died = 0
    while True:
        with driver(path, executor, 0.02) as process:
            assert process.stdout is not None
            if died < kills:
                for _ in range(rng.randrange(12)):
                    process.stdout.readline()
                process.kill()
                died += 1
            process.stdout.read()
            if process.wait() == 0:
                break
    ledger = Ledger(path, {})
    trials = ledger.trials()
    ledger.close()
    assert all(t.state is State.COMPLETE for t in trials)
    return history_hash(trials), died


@pytest.mark.parametrize(
    ("executor", "kills"),
    [
        ("inline", 4),
        ("ray", 1),
        pytest.param("inline", 20, marks=pytest.mark.slow),
        pytest.param("ray", 20, marks=pytest.mark.slow),
    ],
)
def test_a_driver_that_is_killed_at_any_moment_continues_the_same_history(
    tmp_path: Path, undisturbed: str, executor: str, kills: int
) -> None:
    found, died = kill_and_continue(tmp_path / "l", executor, kills, seed=kills)
    assert died == kills
    assert found == undisturbed
