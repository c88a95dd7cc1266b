"""The driver is killed at a random moment and started again: F3, with P1, P2 and P3 on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasctl.doctor import examine
from nasctl.history import history_hash
from nasctl.ledger import Ledger
from nasctl.records import LEDGER
from nasctl.trial import State, Trial
from tests.faults.drive import INLINE, ROOT, SEARCH, TOY, Bench, kill, until

ARGUMENTS = (*SEARCH, "sampler=tpe", "sampler.startup_trials=4", "trials=14")
MOMENTS = 20
SAMPLE = 6
"""Of the 20 moments, those that CI tries; others for each commit would hide a regression."""


def moments(count: int) -> list[object]:
    return [pytest.param(n, marks=[] if n < count else pytest.mark.slow) for n in range(MOMENTS)]


@dataclasses.dataclass
class Zygote:
    """Starts drivers on the inline executor within milliseconds."""

    process: subprocess.Popen[str]

    def start(self, bench: Bench, *arguments: str, seconds: float) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        environment = {**bench.environment, "FAULT_SECONDS": str(seconds)}
        job = {"folder": str(bench.folder), "arguments": arguments, "environment": environment}
        (bench.folder / "exit").unlink(missing_ok=True)
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def run(self, bench: Bench, *arguments: str, seconds: float) -> None:
        self.start(bench, *arguments, seconds=seconds)
        until((bench.folder / "exit").exists)
        until((bench.folder / "exit").read_text)
        assert (bench.folder / "exit").read_text() == "0", (bench.folder / "said").read_text()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.zygote"],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Zygote(process)
    process.communicate()


@dataclasses.dataclass(frozen=True)
class Calm:
    """What an undisturbed run gave, and how long it took."""

    hash: str
    seconds: float


@pytest.fixture(scope="module")
def calm(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    folder = tmp_path_factory.mktemp("calm")
    bench = Bench(folder, folder)
    bench.write("toy.yaml", TOY)
    zygote.run(bench, *ARGUMENTS, INLINE, seconds=0.0)  # caches of the file system are warm now
    first = history_hash(bench.toy.trials())
    began = time.monotonic()
    zygote.run(bench, *ARGUMENTS, INLINE, "name=again", seconds=0.05)
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
def test_f3_inline(bench: Bench, zygote: Zygote, calm: Calm, moment: int) -> None:
    when = random.Random(f"inline {moment}").uniform(0, calm.seconds)
    pid = zygote.start(bench, *ARGUMENTS, INLINE, seconds=0.05)
    time.sleep(when)
    if not (bench.folder / "exit").exists():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())
    before = kept(bench)
    check_damage(bench)
    zygote.run(bench, *ARGUMENTS, INLINE, seconds=0.0)
    check_again(bench, calm, before)
    log = bench.finished()
    done_twice = len(log) - len(set(log))
    assert done_twice <= 2 + len([t for t in bench.toy.trials() if t.attempts > 1]), log


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
