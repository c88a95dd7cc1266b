"""Layer 3: one training's way from RUNNING to its end: attempts, epochs, retries, failures.

The same for candidates and for reference networks; the engine decides which comes when, and what
an end means for the search.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nasctl import checkpoints
from nasctl.errors import EnvironmentProblemError
from nasctl.halving import DECISION, RAISED, Halving
from nasctl.ledger import Ledger
from nasctl.trial import Evaluation, Objectives, Outcome, OutcomeKind, State, Trial, Work

if TYPE_CHECKING:
    from nasctl.observer import Observer

NODE_LOSSES = 5
"""Machines that a training may lose before it fails: preempted ones do not use up its retries, but
one that brings down every machine it meets has to end."""

LOSSES = (OutcomeKind.LOST, OutcomeKind.NODE_LOST)


class Trainings:
    """Every training of a run by its number; each change is in the ledger before it is told.

    Args:
        ledger: open for writing; what it holds is continued.
        objectives: all must be reported for a training to be COMPLETE.
        retries: how often one whose worker died is given out again; a death of the worker's whole
            machine does not count, see `NODE_LOSSES`.
        observer: told after each commit.
        clock: monotonic seconds, for durations.
        halving: decides at rungs; None: every training is done whole.
        checkpoints: folder of those that workers keep, which is here in order with the ledger;
            None: an attempt that was lost begins anew.
        warn: told of checkpoints that were damaged.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        objectives: Objectives,
        retries: int,
        observer: Observer,
        clock: Callable[[], float],
        halving: Halving | None = None,
        checkpoints: Path | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._objectives = objectives
        self._retries = retries
        self._observer = observer
        self._clock = clock
        self._halving = halving
        self._checkpoints = checkpoints
        self._warn = warn
        self.candidates: dict[int, Trial] = {t.number: t for t in ledger.trials()}
        self.references: dict[int, Trial] = {t.number: t for t in ledger.references()}
        self._flying: dict[int, Work] = {}
        self._began: dict[int, float] = {}
        self._reasons: dict[int, str] = {}
        self._losses: Counter[int] = Counter()  # workers that died on a training
        self._node_losses: Counter[int] = Counter()  # machines that died under it
        self._silent: set[int] = set()  # whose current attempt has not reported anything
        self._finish_stopped()
        self._clean()
        self._queue = [  # RUNNING, and nobody works on it
            t.number for t in self._all() if t.state is State.RUNNING
        ]
        for _, kind, data in ledger.events():
            if kind == "lost":
                self._count_loss(data["number"], node=data.get("node", False))

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

    @property
    def unfinished(self) -> list[int]:
        """Numbers of the candidates that have begun and not ended, in order."""
        return sorted(n for n in (*self._flying, *self._queue) if n >= 0)

    def again(self) -> Work:
        """Begins what has waited longest anew."""
        return self.start(self._of(self._queue.pop(0)))

    def start(self, trial: Trial) -> Work:
        """Begins an attempt; epochs of an earlier one are forgotten, unless there may be a
        checkpoint to go on from: then as soon as the attempt says where it begins."""
        kept = trial.evaluations if self._checkpoints is not None else ()
        trial = dataclasses.replace(
            trial, attempts=trial.attempts + 1, evaluations=kept, started_at=time.time()
        )
        with self._ledger.transaction():
            if trial.attempts > 1 and not kept:
                self._ledger.clear_evaluations(trial.number)
            self._ledger.put_trial(trial)
            if trial.attempts == 1:
                self._begin(trial)
            else:
                self._check_checkpoints(trial)
        self._keep(trial)
        work = Work(
            number=trial.number,
            attempt=trial.attempts,
            architecture=trial.architecture,
            seed=trial.seed,
            epochs=trial.epochs,
            rungs=self._halving.rungs_for(trial) if self._halving is not None else (),
            known_epochs=kept[-1].epoch if kept else 0,
            choices=trial.choices,
        )
        self._silent.add(trial.number)
        self._flying[trial.number] = work
        self._began[trial.number] = self._clock()
        self._observer.trial_started(trial)
        return work

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Stores one epoch; False: stop this training, it has diverged or is not worth it."""
        if not self._is_current(work):
            return False
        bad = [f"{k} is {v}" for k, v in metrics.items() if not math.isfinite(v)]
        if bad or (bad := _not_a_fraction(metrics)):
            self._reasons[work.number] = f"epoch {epoch}: {', '.join(bad)}"
            return False
        goes_on = epoch > 1 and work.number in self._silent and work.known_epochs > 0
        self._silent.discard(work.number)
        evaluation = Evaluation(epoch=epoch, metrics=dict(metrics))
        trial = self._of(work.number)
        before = tuple(e for e in trial.evaluations if e.epoch < epoch)
        decision = None
        with self._ledger.transaction():
            if len(before) < len(trial.evaluations):
                self._ledger.clear_evaluations(work.number, since=epoch)
            self._ledger.put_evaluation(work.number, evaluation)
            trial = dataclasses.replace(trial, evaluations=(*before, evaluation))
            self._keep(trial)
            if goes_on:
                data = {"number": work.number, "attempt": work.attempt, "epoch": epoch}
                self._ledger.add_event("resumed", **data)
            if self._halving is not None and not trial.is_reference and epoch < work.epochs:
                seconds = self._seconds(work.number)
                decision, new = self._halving.judge(trial, evaluation, self.candidates, seconds)
                if decision is not None and new:
                    self._ledger.add_event(DECISION, **dataclasses.asdict(decision))
        self._observer.epoch(trial, evaluation)
        return decision is None or not decision.stops

    def end(self, work: Work, outcome: Outcome) -> Trial | None:
        """Closes a piece of work. None: the end is old news, or the work waits to be done again."""
        if not self._is_current(work):
            return None
        del self._flying[work.number]
        trial = self._of(work.number)
        reason = self._reasons.pop(work.number, None)
        if self._halving is not None and (decision := self._halving.stopped(work.number)):
            return self._finish(trial, State.PRUNED, seconds=decision.seconds)
        if outcome.kind in (OutcomeKind.RELEASED, OutcomeKind.BROKEN):
            self._queue.append(work.number)
            self._note_release(work)
            return None
        if outcome.kind in LOSSES and self._may_go_on_after(work, outcome):
            self._queue.append(work.number)
            return None
        error = reason or outcome.error
        metrics: Mapping[str, float] = {}
        if outcome.kind is OutcomeKind.COMPLETE and error is None:
            metrics, error = self._final_metrics(trial)
        elif outcome.kind in LOSSES and reason is None:
            error = self._explain_losses(work.number, outcome)
        elif error is None:
            error = "stopped" if outcome.kind is OutcomeKind.STOPPED else "failed without a reason"
        return self._finish(
            trial,
            State.FAILED if error else State.COMPLETE,
            seconds=self._seconds(work.number),
            metrics=metrics,
            error=error,
        )

    def _seconds(self, number: int) -> float:
        """Of the present attempt."""
        return self._clock() - self._began[number]

    def _note_release(self, work: Work) -> None:
        """How long an attempt took that did not end its training."""
        data = {"number": work.number, "attempt": work.attempt}
        # Where the disk is full nothing can be noted, and that is what the run ends with.
        with contextlib.suppress(EnvironmentProblemError):
            self._ledger.add_event("released", **data, seconds=self._seconds(work.number))

    def _may_go_on_after(self, work: Work, outcome: Outcome) -> bool:
        """Notes a loss; whether the training is given out again."""
        node = outcome.kind is OutcomeKind.NODE_LOST
        data: dict[str, object] = {"seconds": self._seconds(work.number)}
        if outcome.error:
            data["reason"] = outcome.error
        extra = {"node": True} if node else {}
        self._ledger.add_event("lost", number=work.number, attempt=work.attempt, **data, **extra)
        losses = self._count_loss(work.number, node=node)
        return losses <= (NODE_LOSSES if node else self._retries)

    def _count_loss(self, number: int, *, node: bool) -> int:
        counter = self._node_losses if node else self._losses
        counter[number] += 1
        return counter[number]

    def _explain_losses(self, number: int, outcome: Outcome) -> str:
        node = outcome.kind is OutcomeKind.NODE_LOST
        what = "node" if node else "worker"
        n = (self._node_losses if node else self._losses)[number]
        times = f" {n} times" if n > 1 else ""
        return f"its {what} died{times}" + (f": {outcome.error}" if outcome.error else "")

    def _finish(
        self,
        trial: Trial,
        state: State,
        *,
        seconds: float,
        metrics: Mapping[str, float] | None = None,
        error: str | None = None,
    ) -> Trial:
        trial = dataclasses.replace(
            trial, state=state, metrics=metrics or {}, error=error, seconds=seconds
        )
        self._ledger.put_trial(trial)
        self._keep(trial)
        if self._checkpoints is not None:
            folder = self._checkpoints / str(trial.number)
            self._ledger.after_commit(lambda: checkpoints.remove(folder))
        return trial

    def _finish_stopped(self) -> None:
        """Ends trials whose end was decided just before the driver died."""
        if self._halving is None:
            return
        for trial in list(self.candidates.values()):
            decision = self._halving.stopped(trial.number)
            if trial.state is State.RUNNING and decision is not None:
                self._finish(trial, State.PRUNED, seconds=decision.seconds)

    def _clean(self) -> None:
        """Drops checkpoints of trials that are over, whose driver died before it could."""
        if self._checkpoints is None or not self._checkpoints.is_dir():
            return
        unfinished = {str(t.number) for t in self._all() if t.state is State.RUNNING}
        for folder in self._checkpoints.iterdir():
            if folder.name not in unfinished:
                checkpoints.remove(folder)

    def _begin(self, trial: Trial) -> None:
        if self._halving is None:
            return
        raised = self._halving.begin(trial, self.candidates)
        if raised is not None:
            self._ledger.add_event(RAISED, before=trial.number, **dataclasses.asdict(raised))

    def _check_checkpoints(self, trial: Trial) -> None:
        """Drops those of an earlier attempt that are damaged, and says so."""
        if self._checkpoints is None:
            return
        for problem in checkpoints.damaged(self._checkpoints / str(trial.number)):
            self._ledger.add_event("damaged", number=trial.number, problem=problem)
            self._warn(f"{trial.label}: {problem}; it goes on from the one before, or begins anew")

    def _is_current(self, work: Work) -> bool:
        current = self._flying.get(work.number)
        return current is not None and current.attempt == work.attempt

    def _final_metrics(self, trial: Trial) -> tuple[Mapping[str, float], str | None]:
        if not trial.evaluations or trial.number in self._silent:
            return {}, "ended without reporting anything"
        metrics = {**trial.evaluations[-1].metrics, **trial.cost}
        missing = [m for m in self._objectives if m not in metrics]
        if missing:
            return {}, f"did not report {', '.join(missing)}"
        return metrics, None


def _not_a_fraction(metrics: Mapping[str, float]) -> list[str]:
    """Accuracy is a fraction, wherever it comes from: reference points, intervals and the surrogate
    rest on it. What rounding does to 0 and 1 passes."""
    accuracy = metrics.get("accuracy", 0.0)
    if -1e-6 <= accuracy <= 1 + 1e-6:
        return []
    hint = " (divide percent by 100)" if 1 < accuracy <= 100 else ""
    return [f"accuracy must be a fraction between 0 and 1, got {accuracy:.6g}{hint}"]


def failed_in_a_row(trials: Mapping[int, Trial], number: int) -> list[Trial]:
    """The failed trials around trial `number`, itself among them, in the order of their numbers.

    One that still runs ends the row: it may turn out well, whichever worker is faster.
    """

    def has_failed(n: int) -> bool:
        return n in trials and trials[n].state is State.FAILED

    before = list(itertools.takewhile(has_failed, itertools.count(number - 1, -1)))
    after = itertools.takewhile(has_failed, itertools.count(number))
    return [trials[n] for n in (*reversed(before), *after)]
