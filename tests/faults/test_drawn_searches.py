"""Searches of which everything is drawn: the space, the sampler, the bounds, the early stopping,
the cluster, and the moment at which the driver dies. One history each: F3 and P3.

The clusters are simulated, and a driver that was killed is one whose folder was copied at that
moment: the ledger as far as it was committed, other files as they were.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nasctl import running
from nasctl.engine import Engine, Signal
from nasctl.executors.base import EngineLike, Job
from nasctl.executors.simulated import SimulatedExecutor
from nasctl.history import history_hash
from nasctl.ledger import Ledger
from nasctl.records import LEDGER
from nasctl.trial import Outcome, State, Work
from tests.faults.drive import PLUGIN, Bench

CASES = 40
SAMPLE = 6
"""Of the cases, those that CI tries."""
DEATHS = 2
SAMPLERS = {
    "known_cost": "startup_trials=4",
    "tpe": "startup_trials=5",
    "nsga2": "population_size=5",
    "nsga3": "population_size=5",
    "random": "",
    "grid": "",
}
BOUNDS = {  # of the parameters: about a third of the networks keep it
    "toy.yaml": 12,
    "mbv2_space": 30_000,
    "mbv3_space": 40_000,
    "resnet_space": 60_000,
    "lineage_space": 60_000,
    "macro_skip_space": 60_000,
}


def draw(rng: random.Random) -> tuple[str, ...]:
    """The arguments of a search that takes seconds."""
    space = rng.choice(sorted(BOUNDS))
    # Half of them with the default: of all samplers it remembers most.
    sampler = rng.choice(["known_cost"] * (len(SAMPLERS) - 2) + sorted(SAMPLERS))
    found = [
        *("search", space, *PLUGIN, "name=drawn", "evaluator=drawn", "tracking=none"),
        *(f"sampler={sampler}", f"seed={rng.randrange(100)}", f"trials={rng.choice([14, 22])}"),
        *(f"search.window={rng.choice([1, 2, 4, 8])}", f"search.max_seeds={rng.choice([1, 3])}"),
        f"search.duplicates={rng.choice(['replace', 'repeat'])}",
        *("search.max_failures=0", "executor.retries=9"),
    ]
    if option := SAMPLERS[sampler]:
        found.append(f"sampler.{option}")
    if space == "toy.yaml":
        found.append(f"space.options.size={rng.choice([4, 6, 150])}")
    else:
        found += ["latency=none", "~objectives.latency_ms"]
        found += rng.choice([[], ["objectives.macs=min"]])
    if rng.random() < 0.5:
        found.append(f"constraints.params={BOUNDS[space]}")
    if rng.random() < 0.4:
        found += ["fidelity=halving", "recipe.epochs=9", "fidelity.min_pairs=3"]
        found += [f"fidelity.control_every={rng.choice([0, 5])}", "fidelity.p_stop=0.3"]
    else:
        found.append("recipe.epochs=2")
    if rng.random() < 0.2:
        found += ["stop.marginal_gain=0.02", "stop.window=4"]
    return tuple(found)


@dataclasses.dataclass
class Watched:
    """The engine; before each of its calls `look` is called."""

    engine: Any
    look: Callable[[], None]

    @property
    def stop_requested(self) -> bool:
        return bool(self.engine.stop_requested)

    def prefetch(self) -> None:
        self.engine.prefetch()

    def next(self) -> Work | Signal:
        self.look()
        found: Work | Signal = self.engine.next()
        return found

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        self.look()
        return bool(self.engine.report(work, epoch, metrics))

    def end(self, work: Work, outcome: Outcome) -> None:
        self.look()
        self.engine.end(work, outcome)


class Cluster(SimulatedExecutor):
    """Of any size, with trainings of any length, whose workers die now and then."""

    def __init__(self, rng: random.Random, look: Callable[[], None]) -> None:
        seed = rng.randrange(2**32)

        def seconds(work: Work) -> Mapping[int, float]:
            own = random.Random(f"{seed} {work.number} {work.attempt}")
            return {n: own.choice([0.1, 1.0, 1.0, 1.5, 20.0]) for n in range(1, work.epochs + 1)}

        super().__init__(
            workers=rng.choice([1, 2, 3, 9]),
            seconds=seconds,
            crash_rate=rng.choice([0.0, 0.15]),
            seed=seed,
        )
        self._look = look

    def run(self, engine: EngineLike, job: Job) -> None:
        assert isinstance(engine, Engine)
        super().run(Watched(engine, self._look), job)


@dataclasses.dataclass
class Camera:
    """Keeps what a kill would leave of a run, at one of the moments at which it is asked; each of
    them is as likely."""

    folder: Path
    target: Path
    rng: random.Random
    asked: int = 0

    def look(self) -> None:
        self.asked += 1
        if self.rng.randrange(self.asked):
            return
        directory, copy = (f / "runs" / "drawn" for f in (self.folder, self.target))
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(directory, copy, ignore=shutil.ignore_patterns(f"{LEDGER}*"))
        with (
            closing(sqlite3.connect(f"file:{directory / LEDGER}?mode=ro", uri=True)) as living,
            closing(sqlite3.connect(copy / LEDGER)) as dead,
        ):
            living.backup(dead)


@pytest.mark.parametrize(
    "case", [pytest.param(n, marks=[] if n < SAMPLE else pytest.mark.slow) for n in range(CASES)]
)
def test_f3_one_history_whatever_is_searched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, case: int
) -> None:
    rng = random.Random(f"drawn {case}")
    arguments = draw(rng)
    hashes = []
    for life in range(DEATHS + 1):
        here = Bench(bench.folder / f"life {life}", bench.cache)
        here.folder.mkdir(exist_ok=True)
        shutil.copy(bench.folder / "toy.yaml", here.folder)
        camera = Camera(here.folder, bench.folder / f"life {life + 1}", rng)
        cluster = Cluster(rng, camera.look)
        monkeypatch.setattr(running, "make_executor", lambda *_, c=cluster, **__: c)
        said = here.call(*arguments)
        assert said.code == 0, said.err
        ledger = Ledger(here.folder / "runs" / "drawn" / LEDGER, {}, readonly=True)
        trials, events = ledger.trials(), ledger.events()
        ledger.close()
        assert all(t.state.is_final for t in trials)
        hashes.append(history_hash(trials, events))
        here.assert_sound("drawn")
    assert len(set(hashes)) == 1
    assert any(t.state is State.COMPLETE for t in trials)
