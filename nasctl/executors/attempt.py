"""Layer 4: one training, cut into the messages that an executor passes to the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nasctl.executors.base import Job, failure
from nasctl.trial import EpochMetrics, Outcome, OutcomeKind, Work


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a training says: the metrics of an epoch, the end of the work, or both.

    Attributes:
        epoch: 1, 2, ...; 0 when there is nothing to report.
        metrics: of that epoch.
        outcome: None while there is more to come.
        files: what the worker wrote out of sight of the run's folder; see `executors.travel`.
        node: where it trains, as Ray names it.
    """

    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    files: dict[str, Any] = field(default_factory=dict)
    node: str = ""


class Attempt:
    """Draws the epochs of one work from the job, one per `step()`, and never raises.

    Epochs are counted from 1, unless they say themselves which they are (`EpochMetrics`).

    The last epoch and the end travel together: when the job has yielded `work.epochs` times it
    is run to its end before that epoch is told, which saves a round trip per training.
    """

    def __init__(self, job: Job, work: Work) -> None:
        self._job = job
        self._work = work
        self._epochs: Iterator[Mapping[str, float]] | None = None
        self._epoch = 0
        self._ahead: Mapping[str, float] | None = None

    def step(self) -> Message:
        """Trains one epoch (or the first and the preparation before it)."""
        try:
            return self._step()
        except (Exception, SystemExit) as error:  # one bad training costs only itself
            self._epochs = None
            return Message(outcome=failure(error))

    def close(self) -> None:
        """Gives up the training where it stands and frees what it holds."""
        epochs, self._epochs, self._ahead = self._epochs, None, None
        if isinstance(epochs, Generator):
            with contextlib.suppress(Exception):  # its outcome is decided already
                epochs.close()

    def _step(self) -> Message:
        if self._epochs is None:
            self._epochs = iter(self._job(self._work))
        metrics = self._ahead if self._ahead is not None else next(self._epochs, None)
        self._ahead = None
        complete = Outcome(kind=OutcomeKind.COMPLETE)
        if metrics is None:
            return Message(outcome=complete)
        self._epoch = metrics.epoch if isinstance(metrics, EpochMetrics) else self._epoch + 1
        metrics = {name: float(value) for name, value in metrics.items()}
        if self._epoch >= self._work.epochs:
            self._ahead = next(self._epochs, None)
            if self._ahead is None:
                return Message(epoch=self._epoch, metrics=metrics, outcome=complete)
        return Message(epoch=self._epoch, metrics=metrics)
