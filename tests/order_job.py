"""A job whose results say nothing about when they came: a table with random delays.

Also a search's driver as a program of its own, to be killed: `LEDGER EXECUTOR SECONDS`. It prints a
line for every call of the engine that has returned, that is, is durable.
"""

from __future__ import annotations

import dataclasses
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.engine import Engine, Signal
from nasctl.executors.inline import InlineExecutor
from nasctl.executors.ray import RayExecutor
from nasctl.samplers import derive_seed
from nasctl.trial import Outcome, Work
from tests import toy

SEARCH: Mapping[str, Any] = {
    "sampler": "tpe",
    "options": {"startup_trials": 5},
    "trials": 24,
    "constraints": {"params": 3000.0},
    "source": {"max_seeds": 3, "repeat_duplicates": True},
}
"""Rejections, repeats and a sampler that learns: everything that order could change."""


def result(work: Work) -> float:
    """The accuracy of the table, with noise that only the network and the seed decide."""
    noise = derive_seed(work.architecture.id, work.seed, bits=32) / 2**32 - 0.5
    return toy.accuracy(work.architecture) + 0.1 * noise


@dataclass(frozen=True)
class DelayedTable:
    """Takes up to `seconds` per epoch."""

    seconds: float
    payload: Any = None

    def with_payload(self, payload: Any) -> DelayedTable:
        return dataclasses.replace(self, payload=payload)

    def prepare(self) -> None:
        """Nothing."""

    def __call__(self, work: Work) -> Iterator[dict[str, float]]:
        rng = random.SystemRandom()
        for epoch in range(1, work.epochs + 1):
            delay = self.seconds * rng.random()
            time.sleep(delay)
            yield {"accuracy": result(work) * epoch / work.epochs, "seconds": delay}


class _Announcing:
    """The engine, saying on stdout what it has done."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def stop_requested(self) -> bool:
        return self._engine.stop_requested

    def prefetch(self) -> None:
        self._engine.prefetch()

    def next(self) -> Work | Signal:
        found = self._engine.next()
        if isinstance(found, Work):
            print(f"next {found.number}", flush=True)
        return found

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        goes_on = self._engine.report(work, epoch, metrics)
        print(f"report {work.number}", flush=True)
        return goes_on

    def end(self, work: Work, outcome: Outcome) -> None:
        self._engine.end(work, outcome)
        print(f"end {work.number}", flush=True)


def main() -> None:
    path, name, seconds = sys.argv[1:]
    engine = toy.make_engine(Path(path), **SEARCH)
    executor = InlineExecutor() if name == "inline" else RayExecutor(workers=2, cpus=0.5)
    executor.run(_Announcing(engine), DelayedTable(seconds=float(seconds)))


if __name__ == "__main__":
    main()
