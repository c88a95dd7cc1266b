"""Layer 4: the engine as Ray Tune sees it. Imports Ray; itself imported by `executors.ray` alone.

Tune asks our `Searcher` for trials and tells our `TrialScheduler` everything that happens. Both
talk to one `Flights`, so nothing reaches the engine twice: Tune calls the scheduler before the
searcher, and skips the searcher when a trial is stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.tune import Stopper, Trainable
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from nasctl.engine import Signal
from nasctl.executors.attempt import Attempt, Message
from nasctl.executors.base import EngineLike, Job, failure
from nasctl.trial import Outcome, OutcomeKind, Work

RELEASED = Outcome(kind=OutcomeKind.RELEASED)


@dataclass(kw_only=True)
class _Flight:
    work: Work
    since: float | None = None  # when its worker began, monotonic
    outcome: Outcome | None = None  # decided; the engine hears it when Tune lets the trial go


class Flights:
    """Work that is out, by Tune's trial id; the only caller of the engine.

    An error of the engine (a full disk, a bug) must not pass through Tune, which would wrap it:
    it is kept in `error`, ends the run, and is raised by the executor.
    """

    def __init__(
        self,
        *,
        engine: EngineLike,
        workers: int,
        timeout_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._workers = workers
        self._timeout_s = timeout_s
        self._clock = clock
        self._flights: dict[str, _Flight] = {}
        self.error: Exception | None = None
        self.ending = False

    def __getstate__(self) -> dict[str, object]:
        # Tune pickles its stopper into a folder that nobody reads; an engine holds a database.
        return {}

    def take(self, trial_id: str) -> Work | Signal:
        """Work for a free worker. Never more than workers: proposals are made when they start."""
        if self._should_end():
            return Signal.DONE
        try:
            if len(self._flights) >= self._workers:
                # Not before all of them train: Tune starts workers after it has asked for work.
                if all(flight.since is not None for flight in self._flights.values()):
                    self._engine.prefetch()
                return Signal.WAIT
            answer = self._engine.next()
        except Exception as error:  # see the class
            self.error = error
            return Signal.DONE
        if isinstance(answer, Work):
            self._flights[trial_id] = _Flight(work=answer)
        elif answer is Signal.DONE:
            self.ending = True
        return answer

    def told(self, trial_id: str, message: Message) -> bool:
        """Passes an epoch on; True: the trial goes on."""
        flight = self._flights.get(trial_id)
        if flight is None or flight.outcome is not None or self.error is not None:
            return False
        outcome = message.outcome
        if message.epoch:
            try:
                wanted = self._engine.report(flight.work, message.epoch, message.metrics)
            except Exception as error:  # see the class
                self.error = error
                return False
            if not wanted:
                outcome = Outcome(kind=OutcomeKind.STOPPED)
        flight.outcome = outcome
        return outcome is None

    def gone(self, trial_id: str, outcome: Outcome) -> None:
        """The trial is over: as decided before, else with `outcome`."""
        flight = self._flights.pop(trial_id, None)
        if flight is None:
            return
        try:
            self._engine.end(flight.work, flight.outcome or outcome)
        except Exception as error:  # see the class
            self.error = self.error or error

    def overdue(self, running: set[str]) -> list[str]:
        """Trials among the running ones that have just exceeded their time: to be killed."""
        now = self._clock()
        late = []
        for trial_id in running & self._flights.keys():
            flight = self._flights[trial_id]
            if flight.since is None:
                flight.since = now
            if self._timeout_s is None or flight.outcome is not None:
                continue
            if now - flight.since > self._timeout_s:
                error = f"timed out after {self._timeout_s:g} s"
                flight.outcome = Outcome(kind=OutcomeKind.FAILED, error=error)
                late.append(trial_id)
        return late

    def release_if_ending(self) -> bool:
        """True once the run has to end; then all work has been handed back."""
        if not self._should_end():
            return False
        self.release()
        return True

    def release(self) -> None:
        """Hands everything that is out back to the engine and takes nothing more."""
        self.ending = self.ending or bool(self._flights) or self._should_end()
        for trial_id in list(self._flights):
            self.gone(trial_id, RELEASED)

    def _should_end(self) -> bool:
        return self.ending or self.error is not None or self._engine.stop_requested


class Parcel(bytes):
    """Work on its way to a worker, which unpacks it after the plugins have been imported."""

    def __repr__(self) -> str:  # Tune writes it into names
        return "work"


class EngineSearcher(Searcher):  # type: ignore[misc]  # Ray is not typed
    """Hands out `engine.next()`; learns nothing and saves nothing."""

    def __init__(self, flights: Flights) -> None:
        super().__init__()
        self._flights = flights

    def suggest(self, trial_id: str) -> Any:
        work = self._flights.take(trial_id)
        if isinstance(work, Work):
            return {"work": Parcel(cloudpickle.dumps(work))}
        return Searcher.FINISHED if work is Signal.DONE else None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: the scheduler was told."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the truth."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the ledger is the truth."""


class EngineScheduler(TrialScheduler):  # type: ignore[misc]  # Ray is not typed
    """The one inlet of results, and the clock: Tune calls `choose_trial_to_run` in every step."""

    def __init__(
        self, flights: Flights, *, workers: int, check_cluster: Callable[[], None]
    ) -> None:
        super().__init__()
        self._flights = flights
        self._workers = workers
        self._check_cluster = check_cluster
        self._ready = False

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Lets Tune keep every worker warm; on its own it keeps one while nothing is pending."""
        if not self._ready:
            self._ready = True
            cache = tune_controller._tune_controller._actor_cache
            cache.increase_max(trial.placement_group_factory, by=self._workers)

    def on_trial_result(self, _controller: Any, trial: TuneTrial, result: Any) -> str:
        goes_on = self._flights.told(trial.trial_id, result["message"])
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, _controller: Any, trial: TuneTrial, _result: Any) -> None:
        self._flights.gone(trial.trial_id, RELEASED)

    def on_trial_remove(self, _controller: Any, trial: TuneTrial) -> None:
        self._flights.gone(trial.trial_id, RELEASED)

    def on_trial_error(self, _controller: Any, trial: TuneTrial) -> None:
        self._flights.gone(trial.trial_id, _lost(trial))

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        self._check_cluster()
        live = {t.trial_id: t for t in tune_controller.get_live_trials()}
        running = {i for i, t in live.items() if t.status == TuneTrial.RUNNING}
        late = self._flights.overdue(running)
        if self._flights.release_if_ending():
            late = list(live)
        for trial_id in late:
            worker = live[trial_id].temporary_state.ray_actor
            if worker is not None:
                ray.kill(worker)

    def debug_string(self) -> str:
        return type(self).__name__


class EngineStopper(Stopper):  # type: ignore[misc]  # Ray is not typed
    """Ends the experiment once the flights are released."""

    def __init__(self, flights: Flights) -> None:
        self._flights = flights

    def __call__(self, _trial_id: str, _result: Any) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._flights.release_if_ending()


class JobTrainable(Trainable):  # type: ignore[misc]  # Ray is not typed
    """A warm worker: one process that trains one work after the other; a step is an epoch."""

    job_ref: Any  # set by `trainable`

    def setup(self, config: dict[str, Any]) -> None:
        self._broken: Outcome | None = None
        try:
            shell, payload = ray.get(self.job_ref)
            self._job: Job = shell.with_payload(payload)
            self._job.prepare()
        except Exception as error:  # told as the failure of the work, not as a dead worker
            self._broken = failure(error)
        self._attempt: Attempt | None = None
        self.reset_config(config)

    def step(self) -> dict[str, Any]:
        if self._attempt is None:
            return {"message": Message(outcome=self._broken)}
        return {"message": self._attempt.step()}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if self._attempt is not None:
            self._attempt.close()
        self._attempt = None
        if self._broken is None:
            self._attempt = Attempt(self._job, cloudpickle.loads(new_config["work"]))
        return True


def trainable(job: Job) -> type[JobTrainable]:
    """The worker class with its job and data, which go into the object store once."""
    ref = ray.put((job.with_payload(None), job.payload))
    return type("Worker", (JobTrainable,), {"job_ref": ref})


def _lost(trial: TuneTrial) -> Outcome:
    reason = "the worker process died"
    with contextlib.suppress(OSError, AttributeError):
        error = trial.get_pickled_error()
        if isinstance(error, RayActorError):
            cause = " ".join(str(error).split())
            if "memory" in cause:
                reason = f"out of memory: {reason} ({cause[:200]})"
    return Outcome(kind=OutcomeKind.LOST, error=reason)
