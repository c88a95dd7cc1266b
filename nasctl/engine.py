"""Layer 3: the state machine of a search.

`next() -> Work | WAIT | DONE`, `report(work, epoch, metrics)`, `end(work, outcome)`. Order,
retries, seeds, duplicates and failures are decided here, so they are the same on every executor;
each call is in the ledger before it returns.

Reproducible order: the proposal for trial n uses the results of trials before n - window only,
told in the order of their numbers. The history is then a function of the configuration, the seed
and the costs, whatever the timing; a worker waits only when one trial takes longer than `window`
others.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from nasctl.candidates import CandidateSource, rejection_observation
from nasctl.errors import NasctlError, NothingFeasibleError, TooManyFailuresError
from nasctl.ledger import Ledger
from nasctl.samplers.base import Observation, Sampler
from nasctl.space import Choices
from nasctl.trial import Evaluation, Objectives, Outcome, OutcomeKind, State, Trial, Work


class Signal(enum.Enum):
    """What `next()` says when it has no work: ask again later, or never."""

    WAIT = "wait"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the engine needs to know of the configuration.

    Attributes:
        objectives: metric to direction; all must be finite for a trial to be COMPLETE.
        constraints: upper bounds by cost metric.
        trials: how many evaluations to start.
        seed: training seed of every first evaluation.
        epochs: budget of one evaluation.
        order: `deterministic` (see module) or `async` (each result is used at once).
        window: of the deterministic order.
        retries: how often a trial whose worker died is given out again.
        max_failures: consecutive failed trials after which the search stops; 0 is never.
    """

    objectives: Objectives
    constraints: Mapping[str, float]
    trials: int
    seed: int
    epochs: int
    order: Literal["deterministic", "async"] = "deterministic"
    window: int = 4
    retries: int = 1
    max_failures: int = 10


class Observer(Protocol):
    """Is told after the ledger: progress display and tracking."""

    def trial_started(self, trial: Trial) -> None: ...
    def epoch(self, trial: Trial, evaluation: Evaluation) -> None: ...
    def trial_ended(self, trial: Trial) -> None: ...
    def rejected(self, count: int) -> None: ...


class Engine:
    """See the module. All calls come from one thread of the driver.

    Args:
        ledger: open for writing; trials it holds are continued.
        settings: see `EngineSettings`.
        source: finds candidates.
        sampler: fresh; it is told the ledger's history first.
        observer: told after each commit.
        clock: monotonic seconds, for durations.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        settings: EngineSettings,
        source: CandidateSource,
        sampler: Sampler,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._source = source
        self._sampler = sampler
        self._observer = observer
        self._clock = clock
        self.stop_requested = False
        self.fatal: NasctlError | None = None
        """Why the search cannot go on, to be raised once the executor has returned."""
        self.exhausted = False
        """Nothing new was found: fewer trials than asked for."""
        self.duplicates = 0
        """Proposals of networks that were known already: trainings avoided."""
        self._trials: dict[int, Trial] = {}
        self._known: set[str] = set()
        self._rejected = 0
        self._told = 0  # trials are told in order of their numbers: those below are
        self._ended: list[int] = []  # final trials that are not told yet (async)
        self._flying: dict[int, Work] = {}
        self._began: dict[int, float] = {}
        self._reasons: dict[int, str] = {}
        self._queue: list[int] = []  # RUNNING trials that nobody works on
        self._losses: dict[int, int] = {}  # workers that died on a trial
        self._restore()

    # -- what executors call ------------------------------------------------------------------

    def next(self) -> Work | Signal:
        """The next training to do; WAIT while only running trials can bring more; DONE."""
        if self.stop_requested or self.fatal is not None:
            return Signal.DONE
        if self._queue:
            return self._start(self._trials[self._queue.pop(0)])
        number = len(self._trials)
        if number >= self._settings.trials or self.exhausted:
            return Signal.WAIT if self._flying else Signal.DONE
        if not self._may_propose(number):
            return Signal.WAIT
        self._tell_before(number)
        candidate, rejections, duplicates = self._source.find(
            number, self._sampler, pending=self._pending(number), known=self._known
        )
        self.duplicates += duplicates
        trial = None
        if candidate is not None:
            trial = Trial(
                number=number,
                state=State.RUNNING,
                choices=candidate.choices,
                architecture=candidate.architecture,
                seed=self._settings.seed,
                epochs=self._settings.epochs,
                attempts=0,
                cost=candidate.priced.cost,
                cost_intervals=candidate.priced.intervals,
                sampler_state=candidate.sampler_state,
                started_at=time.time(),
            )
        with self._ledger.transaction():
            self._ledger.add_rejections(rejections)
            if trial is not None:
                self._ledger.put_trial(trial)
        self._known |= {r.architecture.id for r in rejections if r.architecture is not None}
        if rejections:
            self._rejected += len(rejections)
            self._observer.rejected(self._rejected)
        if trial is None:
            return self._nothing_new()
        self._trials[number] = trial
        self._known.add(trial.arch_id)
        return self._start(trial)

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Stores one epoch; False: stop this trial, it has diverged."""
        if not self._is_current(work):
            return False
        bad = [f"{k} is {v}" for k, v in metrics.items() if not math.isfinite(v)]
        if bad:
            self._reasons[work.number] = f"epoch {epoch}: {', '.join(bad)}"
            return False
        evaluation = Evaluation(epoch=epoch, metrics=dict(metrics))
        self._ledger.put_evaluation(work.number, evaluation)
        trial = self._trials[work.number]
        trial = dataclasses.replace(trial, evaluations=(*trial.evaluations, evaluation))
        self._trials[work.number] = trial
        self._observer.epoch(trial, evaluation)
        return True

    def end(self, work: Work, outcome: Outcome) -> None:
        """Closes a piece of work; lost work goes back to the queue while retries are left."""
        if not self._is_current(work):
            return
        del self._flying[work.number]
        trial = self._trials[work.number]
        reason = self._reasons.pop(work.number, None)
        if outcome.kind is OutcomeKind.RELEASED:
            self._queue.append(work.number)
            return
        if outcome.kind is OutcomeKind.LOST:
            losses = self._losses[work.number] = self._losses.get(work.number, 0) + 1
            self._ledger.add_event("lost", number=work.number, attempt=work.attempt)
            if losses <= self._settings.retries:
                self._queue.append(work.number)
                return
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
        self._trials[work.number] = trial
        self._ended.append(work.number)
        self._observer.trial_ended(trial)
        self._count_failures()

    # -- what the flow reads ------------------------------------------------------------------

    def has_work(self) -> bool:
        """Whether there may be anything to train: False right away for a finished run."""
        return bool(self._queue) or (
            len(self._trials) < self._settings.trials and not self.exhausted
        )

    @property
    def trials(self) -> list[Trial]:
        """All trials in order of their numbers."""
        return list(self._trials.values())

    @property
    def closest(self) -> str:
        """One line about the rejected candidate that breaks the constraints least."""
        found = self._source.closest
        if found is None:
            return "no candidate could be built"
        choices = " ".join(f"{k}={v}" for k, v in found.choices.items())
        name = found.architecture.id if found.architecture else "?"
        return f"closest: {name} ({found.reason}; {choices})"

    # -- inside -------------------------------------------------------------------------------

    def _restore(self) -> None:
        for trial in self._ledger.trials():
            self._trials[trial.number] = trial
            self._known.add(trial.arch_id)
            if trial.state is State.RUNNING:
                self._queue.append(trial.number)
            else:
                self._ended.append(trial.number)
        for _, kind, data in self._ledger.events():
            if kind == "lost":
                self._losses[data["number"]] = self._losses.get(data["number"], 0) + 1
        rejections = self._ledger.rejections()
        self._rejected = len(rejections)
        for r in rejections:
            self._source.note(r)
            if r.architecture is not None:
                self._known.add(r.architecture.id)
        # Replay: the sampler hears everything in the order in which it heard it the first time.
        by_trial: dict[int, list[Observation]] = {}
        for r in rejections:
            if r.attempt is not None:
                by_trial.setdefault(r.before, []).append(rejection_observation(r))
        for number in range(len(self._trials) + 1):
            if number in by_trial and self._settings.order == "deterministic":
                self._tell_before(number)
            for observation in by_trial.get(number, ()):
                self._sampler.tell(observation)

    def _may_propose(self, number: int) -> bool:
        if self._settings.order == "async":
            return True
        return all(
            self._trials[n].state.is_final
            for n in range(self._told, max(self._told, number - self._settings.window))
        )

    def _tell_before(self, number: int) -> None:
        if self._settings.order == "async":
            for n in self._ended:
                self._sampler.tell(self._observation(self._trials[n]))
            self._ended.clear()
            return
        while self._told < number - self._settings.window:
            self._sampler.tell(self._observation(self._trials[self._told]))
            self._told += 1

    def _pending(self, number: int) -> list[Choices]:
        """Choices of the trials before `number` that the sampler has not been told of."""
        if self._settings.order == "async":
            return [t.choices for t in self._trials.values() if not t.state.is_final]
        return [self._trials[n].choices for n in range(self._told, number)]

    def _observation(self, trial: Trial) -> Observation:
        complete = trial.state is State.COMPLETE
        return Observation(
            number=trial.number,
            choices=trial.choices,
            state=trial.sampler_state,
            values=tuple(trial.metrics[m] for m in self._settings.objectives) if complete else None,
            violations={},
            rejected=False,
        )

    def _start(self, trial: Trial) -> Work:
        trial = dataclasses.replace(
            trial, attempts=trial.attempts + 1, evaluations=(), started_at=time.time()
        )
        with self._ledger.transaction():
            self._ledger.clear_evaluations(trial.number)
            self._ledger.put_trial(trial)
        self._trials[trial.number] = trial
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

    def _is_current(self, work: Work) -> bool:
        current = self._flying.get(work.number)
        return current is not None and current.attempt == work.attempt

    def _final_metrics(self, trial: Trial) -> tuple[Mapping[str, float], str | None]:
        if not trial.evaluations:
            return {}, "ended without reporting anything"
        metrics = {**trial.evaluations[-1].metrics, **trial.cost}
        missing = [m for m in self._settings.objectives if m not in metrics]
        if missing:
            return {}, f"did not report {', '.join(missing)}"
        return metrics, None

    def _count_failures(self) -> None:
        limit = self._settings.max_failures
        final = [t for t in self._trials.values() if t.state.is_final]
        last = final[-limit:] if limit else []
        if len(last) == limit > 0 and all(t.state is State.FAILED for t in last):
            self.fatal = TooManyFailuresError(
                f"{limit} trials in a row failed; the last one: {last[-1].error}"
            )

    def _nothing_new(self) -> Signal:
        self.exhausted = True
        if not self._trials:
            self.fatal = NothingFeasibleError(
                f"no candidate satisfies the constraints; {self.closest}"
            )
        return Signal.WAIT if self._flying else Signal.DONE
