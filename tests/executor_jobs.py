"""An engine that writes down what it is told, and a job that follows a script; for executors."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasctl.arch import Architecture, Opaque
from nasctl.engine import Signal
from nasctl.errors import NasctlError
from nasctl.trial import Outcome, OutcomeKind, Work


def work(behaviour: str, *, number: int = 0, attempt: int = 1, epochs: int = 2) -> Work:
    """Work that `ScriptedJob` recognises by the op of its only block."""
    blocks = (Opaque(behaviour),)
    architecture = Architecture(input_shape=(1, 8, 8), blocks=blocks, num_classes=2)
    return Work(
        number=number, attempt=attempt, architecture=architecture, seed=number, epochs=epochs
    )


@dataclass
class RecordingEngine:
    """Hands out one work per behaviour, `barrier` at a time at most; lost work once more.

    Attributes:
        reports: (number, attempt) to the (epoch, metrics) that were reported.
        outcomes: (number, attempt) to how it ended.
        calls: names of all calls in order, without refused `next()`.
        stop_at: number of the work whose reports are answered with stop.
        break_at: number of the work whose report raises `error`.
        interrupt_at: number of the work whose report asks the whole run to stop.
    """

    behaviours: list[str]
    epochs: int = 2
    barrier: int = 1000
    stop_at: int | None = None
    break_at: int | None = None
    interrupt_at: int | None = None
    error: Exception = dataclasses.field(default_factory=lambda: NasctlError("disk full"))
    stop_requested: bool = False

    def __post_init__(self) -> None:
        self.reports: dict[tuple[int, int], list[tuple[int, Mapping[str, float]]]] = {}
        self.outcomes: dict[tuple[int, int], Outcome] = {}
        self.calls: list[str] = []
        self.flying: dict[int, Work] = {}
        self.most_flying = 0
        self._given = 0
        self._lost: list[Work] = []

    def next(self) -> Work | Signal:
        if self.stop_requested:
            return Signal.DONE
        given: Work | None = None
        if self._lost:
            lost = self._lost.pop(0)
            given = dataclasses.replace(lost, attempt=lost.attempt + 1)
        elif self._given < len(self.behaviours):
            if self._given % self.barrier == 0 and self.flying:
                return Signal.WAIT
            given = work(self.behaviours[self._given], number=self._given, epochs=self.epochs)
            self._given += 1
        if given is None:
            return Signal.WAIT if self.flying else Signal.DONE
        self.calls.append("next")
        self.flying[given.number] = given
        self.most_flying = max(self.most_flying, len(self.flying))
        return given

    def prefetch(self) -> None:
        assert self.flying, "nobody is busy"

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        assert self.flying[work.number] == work
        self.calls.append("report")
        self.reports.setdefault((work.number, work.attempt), []).append((epoch, metrics))
        if work.number == self.break_at:
            raise self.error
        if work.number == self.interrupt_at:
            self.stop_requested = True
        return work.number != self.stop_at

    def end(self, work: Work, outcome: Outcome) -> None:
        assert self.flying.pop(work.number) == work
        self.calls.append("end")
        self.outcomes[work.number, work.attempt] = outcome
        if outcome.kind is OutcomeKind.LOST and work.attempt == 1:
            self._lost.append(work)


_PREPARED: list[int] = []  # in each worker process, one entry for each call of `prepare`


@dataclass(frozen=True)
class ScriptedJob:
    """Does what the op of the architecture's block says, and reports who and where it is."""

    payload: Any = None
    folder: str | None = None

    def with_payload(self, payload: Any) -> ScriptedJob:
        return dataclasses.replace(self, payload=payload)

    def prepare(self) -> None:
        _PREPARED.append(os.getpid())

    def __call__(self, work: Work) -> Iterator[dict[str, float]]:
        behaviour = work.architecture.blocks[0].op
        if self.folder is not None:
            Path(self.folder, f"{work.number}.{work.attempt}").write_text(str(os.getpid()))
        for epoch in range(1, work.epochs + 1):
            if epoch == 2:
                _misbehave(behaviour, work.attempt)
            if behaviour == "meet" and self.folder is not None:  # with the other of its pair
                while not Path(self.folder, f"{work.number ^ 1}.1").exists():
                    time.sleep(0.02)
            yield (
                {"accuracy": 0.25 * epoch, **self._facts()}
                if behaviour != "nan"
                else {"accuracy": float("nan")}
            )

    def _facts(self) -> dict[str, float]:
        facts = {
            "pid": float(os.getpid()),
            "prepared": float(len(_PREPARED)),
        }
        if isinstance(self.payload, np.ndarray):
            facts["writeable"] = float(self.payload.flags.writeable)
            facts["owns_data"] = float(self.payload.flags.owndata)
            facts["sum"] = float(self.payload.sum())
        return facts


def _misbehave(behaviour: str, attempt: int) -> None:
    if behaviour == "raise":
        raise ValueError("no good\nat all")
    if behaviour == "explain":
        raise NasctlError("loss is NaN in epoch 2")
    if behaviour == "memory":
        raise MemoryError
    if behaviour == "exit":
        sys.exit(3)
    if behaviour == "killed_once" and attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "hang":
        time.sleep(600)
    if behaviour == "slow":
        time.sleep(0.5)
