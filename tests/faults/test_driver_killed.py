"""The driver is killed at a random moment and started again: F3, with P1, P2 and P3 on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import signal
import time

import pytest

from nasctl.doctor import examine
from nasctl.history import history_hash
from nasctl.ledger import Ledger
from nasctl.records import LEDGER
from nasctl.trial import State, Trial
from tests.faults.drive import INLINE, PLUGIN, SEARCH, TOY, Bench, kill

ARGUMENTS = (*SEARCH, "sampler=tpe", "sampler.startup_trials=4", "trials=14")
MOMENTS = 20
SAMPLE = 6
"""Of the 20 moments, those that CI tries; others for each commit would hide a regression."""


def moments(count: int) -> list[object]:
    return [pytest.param(n, marks=[] if n < count else pytest.mark.slow) for n in range(MOMENTS)]


@dataclasses.dataclass(frozen=True)
class Calm:
    """What an undisturbed run gave, and how long it took."""

    hash: str
    seconds: float


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    folder = tmp_path_factory.mktemp("calm")
    bench = Bench(folder, folder)
    bench.write("toy.yaml", TOY)
    bench.run(*ARGUMENTS, INLINE)  # what imports and caches there are, are warm now
    first = history_hash(bench.toy.trials())
    began = time.monotonic()
    bench.run(*ARGUMENTS, INLINE, "name=again", FAULT_SECONDS="0.05")
    seconds = time.monotonic() - began
    assert history_hash(bench.trials("again")) == first  # another timing, the same history
    return Calm(first, seconds)


def kept(bench: Bench) -> list[Trial]:
    if not (bench.run_dir / LEDGER).exists() or not (bench.run_dir / LEDGER).stat().st_size:
        return []
    ledger = Ledger(bench.run_dir / LEDGER, {})  # also brings an empty one to its schema
    try:
        return [t for t in ledger.trials() if t.state.is_final]
    finally:
        ledger.close()


def check_damage(bench: Bench) -> None:
    """What a kill may leave for the next driver to mend: nothing else is out of order."""
    if (bench.run_dir / LEDGER).exists():
        found = [c for c in examine(bench.run_dir).checks if c.state == "violated"]
        assert {c.id for c in found} <= {"I4", "I5", "I6", "I9"}, [c.to_line() for c in found]


def check_again(bench: Bench, calm: Calm, before: list[Trial], *, seconds: float = 0) -> None:
    """The history is that of the undisturbed run, and nothing that was final was done again."""
    trials = bench.toy.trials()
    assert history_hash(trials) == calm.hash
    for trial in before:
        now = trials[trial.number]
        assert (now.started_at, now.attempts, now.metrics) == (
            trial.started_at, trial.attempts, trial.metrics
        )  # fmt: skip
    bench.assert_sound(seconds=seconds)


@pytest.mark.parametrize("moment", moments(SAMPLE))
def test_f3_inline(bench: Bench, calm: Calm, moment: int) -> None:
    when = random.Random(f"inline {moment}").uniform(0, calm.seconds)
    process = bench.start_warm(*ARGUMENTS, INLINE, FAULT_SECONDS="0.05")
    with contextlib.suppress(TimeoutError):
        process.communicate(when)
    kill(process)
    before = kept(bench)
    check_damage(bench)
    bench.run(*ARGUMENTS, INLINE)
    check_again(bench, calm, before)
    log = bench.finished()
    done_twice = len(log) - len(set(log))
    assert done_twice <= 2 + len([t for t in bench.toy.trials() if t.attempts > 1]), log


@pytest.mark.slow  # two of the drawn searches fail, too, where this one does
def test_f3_inline_with_the_default_sampler_in_a_large_space(bench: Bench) -> None:
    """Its candidates are relatives of the front, which come back from the ledger."""
    arguments = (
        *("search", "mbv2_space", *PLUGIN, "evaluator=mortal", "tracking=none", "latency=none"),
        *("~objectives.latency_ms", "trials=20", INLINE),
    )
    process = bench.start_warm(*arguments, "name=toy", FAULT_AFTER="10")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert len(kept(bench)) == 10
    bench.run(*arguments, "name=toy")
    bench.run(*arguments, "name=calm")
    assert history_hash(bench.toy.trials()) == history_hash(bench.trials("calm"))


@pytest.mark.parametrize("moment", moments(0))
def test_f3_ray(bench: Bench, calm: Calm, moment: int) -> None:
    """In the second of the two runs nothing of the first may be in the way."""
    random_ = random.Random(f"ray {moment}")
    target = random_.randrange(0, 12)
    arguments = (*ARGUMENTS, "executor.workers=2")
    process = bench.start(*arguments, FAULT_SECONDS="0.2")
    bench.wait_for("toy", process, lambda trials: sum(t.state.is_final for t in trials) >= target)
    time.sleep(random_.uniform(0, 0.3))
    kill(process)
    before = kept(bench)
    assert len(before) >= target
    check_damage(bench)
    bench.run(*arguments, FAULT_SECONDS="0.02")
    assert [t.state for t in bench.toy.trials()] == [State.COMPLETE] * 14
    check_again(bench, calm, before, seconds=20)
