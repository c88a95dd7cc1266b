"""Layer 3: one training's way from RUNNING to its end: attempts, epochs, retries, failures.

The same for candidates and for reference networks; the engine decides which comes when, and what
an end means for the search.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from nasctl.ledger import Ledger
from nasctl.trial import Evaluation, Objectives, Outcome, OutcomeKind, State, Trial, Work

if TYPE_CHECKING:
    from nasctl.engine import Observer


class Trainings:
    """Every training of a run by its number; each change is in the ledger before it is told.

    Args:
        ledger: open for writing; what it holds is continued.
        objectives: all must be reported for a training to be COMPLETE.
        retries: how often one whose worker died is given out again.
        observer: told after each commit.
        clock: monotonic seconds, for durations.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        objectives: Objectives,
        retries: int,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._objectives = objectives
        self._retries = retries
        self._observer = observer
        self._clock = clock
        self.candidates: dict[int, Trial] = {t.number: t for t in ledger.trials()}
        self.references: dict[int, Trial] = {t.number: t for t in ledger.references()}
        self._flying: dict[int, Work] = {}
        self._began: dict[int, float] = {}
        self._reasons: dict[int, str] = {}
        self._losses: dict[int, int] = {}  # workers that died on a training
        self._queue = [  # RUNNING, and nobody works on it
            t.number for t in self._all() if t.state is State.RUNNING
        ]
        for _, kind, data in ledger.events():
            if kind == "lost":
                self._losses[data["number"]] = self._losses.get(data["number"], 0) + 1

    def _all(self) -> Iterable[Trial]:
        return (*self.references.values(), *self.candidates.values())

    def _keep(self, trial: Trial) -> None:
        kind = self.references if trial.is_reference else self.candidates
        kind[trial.number] = trial

    def _of(self, number: int) -> Trial:
        return (self.references if number < 0 else self.candidates)[number]

    @property
    def are_running(self) -> bool:
        """Whether any work is out."""
        return bool(self._flying)

    @property
    def are_waiting(self) -> bool:
        """Whether something that was begun has to be done again."""
        return bool(self._queue)

    def again(self) -> Work:
        """Begins what has waited longest anew."""
        return self.start(self._of(self._queue.pop(0)))

    def start(self, trial: Trial) -> Work:
        """Begins an attempt; epochs of an earlier one are forgotten."""
        trial = dataclasses.replace(
            trial, attempts=trial.attempts + 1, evaluations=(), started_at=time.time()
        )
        with self._ledger.transaction():
            self._ledger.clear_evaluations(trial.number)
            self._ledger.put_trial(trial)
        self._keep(trial)
        work = Work(
            number=trial.number,
            attempt=trial.attempts,
            architecture=trial.architecture,
            seed=trial.seed,
            epochs=trial.epochs,
        )
        self._flying[trial.number] = work
        self._began[trial.number] = self._clock()
        self._observer.trial_started(trial)
        return work

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Stores one epoch; False: stop this training, it has diverged."""
        if not self._is_current(work):
            return False
        bad = [f"{k} is {v}" for k, v in metrics.items() if not math.isfinite(v)]
        if bad:
            self._reasons[work.number] = f"epoch {epoch}: {', '.join(bad)}"
            return False
        evaluation = Evaluation(epoch=epoch, metrics=dict(metrics))
        self._ledger.put_evaluation(work.number, evaluation)
        trial = self._of(work.number)
        trial = dataclasses.replace(trial, evaluations=(*trial.evaluations, evaluation))
        self._keep(trial)
        self._observer.epoch(trial, evaluation)
        return True

    def end(self, work: Work, outcome: Outcome) -> Trial | None:
        """Closes a piece of work. None: the end is old news, or the work waits to be done again."""
        if not self._is_current(work):
            return None
        del self._flying[work.number]
        trial = self._of(work.number)
        reason = self._reasons.pop(work.number, None)
        if outcome.kind is OutcomeKind.RELEASED:
            self._queue.append(work.number)
            return None
        if outcome.kind is OutcomeKind.LOST:
            losses = self._losses[work.number] = self._losses.get(work.number, 0) + 1
            self._ledger.add_event("lost", number=work.number, attempt=work.attempt)
            if losses <= self._retries:
                self._queue.append(work.number)
                return None
        error = reason or outcome.error
        metrics: Mapping[str, float] = {}
        if outcome.kind is OutcomeKind.COMPLETE and error is None:
            metrics, error = self._final_metrics(trial)
        elif error is None:
            error = {
                OutcomeKind.LOST: f"its worker died {self._losses.get(work.number, 0)} times",
                OutcomeKind.STOPPED: "stopped",
            }.get(outcome.kind, "failed without a reason")
        trial = dataclasses.replace(
            trial,
            state=State.FAILED if error else State.COMPLETE,
            metrics=metrics,
            error=error,
            seconds=self._clock() - self._began[work.number],
        )
        self._ledger.put_trial(trial)
        self._keep(trial)
        return trial

    def _is_current(self, work: Work) -> bool:
        current = self._flying.get(work.number)
        return current is not None and current.attempt == work.attempt

    def _final_metrics(self, trial: Trial) -> tuple[Mapping[str, float], str | None]:
        if not trial.evaluations:
            return {}, "ended without reporting anything"
        metrics = {**trial.evaluations[-1].metrics, **trial.cost}
        missing = [m for m in self._objectives if m not in metrics]
        if missing:
            return {}, f"did not report {', '.join(missing)}"
        return metrics, None
