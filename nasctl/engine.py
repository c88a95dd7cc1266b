"""Layer 3: the state machine of a search.

`next() -> Work | WAIT | DONE`, `report(work, epoch, metrics)`, `end(work, outcome)`. Order,
retries, seeds, duplicates and failures are decided here, so they are the same on every executor;
each call is in the ledger before it returns.

Reproducible order: the proposal for trial n uses the results of trials before n - window only,
told in the order of their numbers. The history is then a function of the configuration, the seed
and the costs, whatever the timing; a worker waits only when one trial takes longer than `window`
others.

Reference networks are trained beside the candidates under negative numbers, once the first
candidate is out (a space in which nothing is feasible is known before anything is trained). They
are no proposals: no sampler hears of them, they are neither known networks nor trials nor failures
in a row, so the candidates are the same with and without them.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nasctl.candidates import (
    Candidate,
    Source,
    in_ledger_order,
    rejection_observation,
    training_seed,
)
from nasctl.errors import (
    EnvironmentProblemError,
    NasctlError,
    NothingFeasibleError,
    TooManyFailuresError,
)
from nasctl.halving import Halving
from nasctl.ledger import Ledger
from nasctl.observer import AfterCommit, Observer
from nasctl.samplers.base import Observation, Sampler
from nasctl.space import Choices
from nasctl.stopping import MarginalGain, stopped_json
from nasctl.trainings import Trainings, failed_in_a_row
from nasctl.trial import Objectives, Outcome, OutcomeKind, Rejection, State, Trial, Work


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
        seed: training seed of every first evaluation; see `candidates.training_seed`.
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


class Engine:
    """See the module. All calls come from one thread of the driver.

    Args:
        ledger: open for writing; trials it holds are continued.
        settings: see `EngineSettings`.
        source: finds candidates: a `CandidateSource`, or something with its interface.
        sampler: fresh; it is told the ledger's history first.
        observer: told after each commit.
        references: the reference networks, numbered -1, -2, ...; those that the ledger holds
            have begun.
        stop: ends the search early; None: nothing does.
        halving, checkpoints, warn: see `Trainings`.
        at_last: its steps are taken one by one while the last trainings run: what would take time
            after them.
        clock: monotonic seconds, for durations.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        settings: EngineSettings,
        source: Source,
        sampler: Sampler,
        observer: Observer,
        references: Sequence[Trial] = (),
        halving: Halving | None = None,
        stop: MarginalGain | None = None,
        checkpoints: Path | None = None,
        warn: Callable[[str], None] = lambda _: None,
        at_last: Iterable[None] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._at_last = iter(at_last)
        self._settings = settings
        self._source = source
        self._sampler = sampler
        self._observer = observer = AfterCommit(ledger, observer)
        self._trainings = Trainings(
            ledger=ledger,
            objectives=settings.objectives,
            retries=settings.retries,
            observer=observer,
            clock=clock,
            halving=halving,
            checkpoints=checkpoints,
            warn=warn,
        )
        self._halving = halving
        self._stop = stop
        self.stopped = stop.decided if stop is not None else None  # as `front.json` has it
        self.stop_requested = False
        self.fatal: NasctlError | None = None
        """Why the search cannot go on, to be raised once the executor has returned."""
        self.exhausted = False
        """Nothing new was found: fewer trials than asked for."""
        self.duplicates = int(ledger.meta("duplicates", 0))
        """Proposals of known networks that were turned away before a trial: trainings avoided."""
        self._trials = self._trainings.candidates
        begun = self._trainings.references
        self._references = [t for t in references if t.number not in begun]  # not begun
        self._known: set[str] = set()
        self._numbers: dict[str, list[int]] = {}  # trials by the id of their network
        self._ahead: tuple[Candidate | None, list[Rejection], int] | None = None
        self._rejected = 0
        self._told = 0  # trials are told in order of their numbers: those below are
        self._ended: list[int] = []  # final trials that are not told yet (async)
        self._restore()

    # -- what executors call ------------------------------------------------------------------

    def next(self) -> Work | Signal:
        """The next training to do; WAIT while only running trials can bring more; DONE."""
        if self.stop_requested or self.fatal is not None:
            return Signal.DONE
        if (work := self._decided_before()) is not None:
            return work
        number = len(self._trials)
        if not self._may_begin_another(number):
            return Signal.WAIT if self._trainings.are_running else Signal.DONE
        if not self._may_propose(number):
            return Signal.WAIT
        candidate, rejections, duplicates = self._ahead or self._propose(number)
        self._ahead = None
        trial = self._begun(number, candidate) if candidate is not None else None
        self._known |= {r.architecture.id for r in rejections if r.architecture is not None}
        with self._ledger.transaction():
            self._ledger.add_rejections(rejections)
            if rejections:
                self._rejected += len(rejections)
                self._observer.rejected(self._rejected)
            if trial is None:
                self._ledger.set_meta(exhausted_at=number)
                self._nothing_new()
                return Signal.WAIT if self._trainings.are_running else Signal.DONE
            if duplicates:
                self.duplicates += duplicates
                self._ledger.set_meta(duplicates=self.duplicates)
            work = self._trainings.start(trial)
        self._known.add(trial.arch_id)
        self._numbers.setdefault(trial.arch_id, []).append(number)
        return work

    def _begun(self, number: int, candidate: Candidate) -> Trial:
        settings, seed = self._settings, candidate.seed
        return Trial(
            number=number,
            state=State.RUNNING,
            choices=in_ledger_order(candidate.choices),
            architecture=candidate.architecture,
            seed=training_seed(settings.seed, candidate.repeat) if seed is None else seed,
            epochs=candidate.epochs or settings.epochs,
            attempts=0,
            cost=candidate.priced.cost,
            cost_intervals=candidate.priced.intervals,
            sampler_state=candidate.sampler_state,
            started_at=time.time(),
        )

    def prefetch(self) -> None:
        """Makes the next proposal while all workers are busy, so that none has to wait for it;
        while the last trainings run, what comes after them.

        Nothing is written before it is handed out: after a crash it is made again, and the same.
        In the order `async` there is nothing to gain: the results to come may be used.
        """
        number = len(self._trials)
        if (
            self._ahead is None
            and self._settings.order == "deterministic"
            and not (self.stop_requested or self.fatal)
            and self._may_begin_another(number)
            and self._may_propose(number)
        ):
            self._ahead = self._propose(number)
        elif not self.has_work():
            next(self._at_last, None)

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Stores one epoch; False: stop this trial, it has diverged or is not worth it."""
        return self._trainings.report(work, epoch, metrics)

    def end(self, work: Work, outcome: Outcome) -> None:
        """Closes a piece of work; lost work goes back to the queue while retries are left."""
        trial = self._trainings.end(work, outcome)
        if outcome.kind is OutcomeKind.BROKEN and self.fatal is None:
            self.fatal = EnvironmentProblemError(
                f"{outcome.error}; nothing finished is lost, the same command continues"
            )
        if trial is None:
            return
        if not trial.is_reference:
            self._ended.append(trial.number)
        self._observer.trial_ended(trial)
        if trial.state is State.FAILED and not trial.is_reference:
            self._count_failures(trial.number)

    # -- what the flow reads ------------------------------------------------------------------

    def has_work(self) -> bool:
        """Whether there may be anything to train: False right away for a finished run."""
        waiting = self._trainings.are_waiting or bool(self._references)
        return waiting or self._may_begin_another(len(self._trials))

    def _may_begin_another(self, number: int) -> bool:
        """Whether trial `number` comes, now or once others have ended."""
        if number >= self._settings.trials or self.exhausted:
            return False
        return not (self._may_propose(number) and self._is_enough(number))

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
        for trial in self._trials.values():
            self._known.add(trial.arch_id)
            self._numbers.setdefault(trial.arch_id, []).append(trial.number)
            if trial.state is not State.RUNNING:
                self._ended.append(trial.number)
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
        if self._ledger.meta("exhausted_at") == len(self._trials):
            self._nothing_new()

    def _propose(self, number: int) -> tuple[Candidate | None, list[Rejection], int]:
        self._tell_before(number)
        return self._source.find(
            number,
            self._sampler,
            pending=self._pending(number),
            known=self._known,
            trainings=self._count_trainings,
            begun=(t.choices for t in self._trials.values()),
        )

    def _count_trainings(self, arch_id: str) -> int:
        """Trials of a network; 0 if none can be repeated: it is unknown, or nothing came of it.

        Those that the sampler has not been told of count as good, whatever became of them: that
        depends on timing.
        """
        numbers = self._numbers.get(arch_id, ())
        is_async = self._settings.order == "async"
        for n in numbers:
            state = self._trials[n].state
            untold = not state.is_final if is_async else n >= self._told
            if untold or state is State.COMPLETE:
                return len(numbers)
        return 0

    def _decided_before(self) -> Work | None:
        """Work that needs no proposal: what was begun and lost, then reference networks."""
        if self._trainings.are_waiting:
            return self._trainings.again()
        if self._references and self._trials:
            return self._trainings.start(self._references.pop(0))
        return None

    def _is_enough(self, number: int) -> bool:
        """Whether the search ends before trial `number`, by what its sampler would be told."""
        if self._stop is not None and self.stopped is None:
            self._tell_before(number)
            if self._stop.is_enough:
                self.stopped = stopped_json(self._stop, after=number, of=self._settings.trials)
                self._ledger.set_meta(stopped=self.stopped)
        return self.stopped is not None

    def _may_propose(self, number: int) -> bool:
        if self._settings.order == "async":
            return True
        if not self._source.is_ready(number, self._trials):
            return False
        return all(
            self._trials[n].state.is_final
            for n in range(self._told, max(self._told, number - self._settings.window))
        )

    def _tell_before(self, number: int) -> None:
        while self._ended and self._settings.order == "async":
            self._tell(self._trials[self._ended.pop(0)])
        while self._settings.order != "async" and self._told < number - self._settings.window:
            self._tell(self._trials[self._told])
            self._told += 1

    def _tell(self, trial: Trial) -> None:
        self._sampler.tell(self._observation(trial))
        if self._stop is not None:
            self._stop.tell(trial)

    def _pending(self, number: int) -> list[Choices]:
        """Choices of the trials before `number` that the sampler has not been told of."""
        if self._settings.order == "async":
            return [self._trials[n].choices for n in self._trainings.unfinished]
        return [self._trials[n].choices for n in range(self._told, number)]

    def _observation(self, trial: Trial) -> Observation:
        objectives, complete = self._settings.objectives, trial.state is State.COMPLETE
        return Observation(
            number=trial.number,
            choices=trial.choices,
            state=trial.sampler_state,
            values=tuple(trial.metrics[m] for m in objectives) if complete else None,
            rungs=self._halving.values(trial) if self._halving is not None else {},
            pruned=trial.state is State.PRUNED,
        )

    def _count_failures(self, number: int) -> None:
        limit = self._settings.max_failures
        if limit and len(failed := failed_in_a_row(self._trials, number)) >= limit:
            self.fatal = TooManyFailuresError(
                f"{len(failed)} trials in a row failed; the last one: {failed[-1].error}"
            )

    def _nothing_new(self) -> None:
        self.exhausted = True
        if not self._trials:
            self.fatal = NothingFeasibleError(
                f"no candidate satisfies the constraints; {self.closest}"
            )
