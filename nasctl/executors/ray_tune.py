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
from ray.exceptions import RayActorError, RayTaskError
from ray.tune import Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from nasctl.engine import Signal
from nasctl.errors import EnvironmentProblemError
from nasctl.executors.attempt import Message
from nasctl.executors.base import EngineLike, failure
from nasctl.executors.ray_cluster import CONTINUE, last_line
from nasctl.executors.ray_membership import Membership
from nasctl.executors.ray_worker import Sent
from nasctl.executors.travel import Inbox, RefusedFileError
from nasctl.trial import Outcome, OutcomeKind, Work

RELEASED = Outcome(kind=OutcomeKind.RELEASED)


@dataclass(kw_only=True)
class _Flight:
    work: Work
    since: float | None = None  # when its worker began, monotonic
    sent: Sent | None = None
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
        inbox: Inbox | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self.workers = workers
        self._inbox = inbox or Inbox({})
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
            is_full = len(self._flights) >= self.workers
            answer = Signal.WAIT if is_full else self._engine.next()
            # Not before all of them train: Tune starts workers after it has asked for work.
            if answer is Signal.WAIT and all(f.since is not None for f in self._flights.values()):
                self._engine.prefetch()
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
        if flight is not None and flight.sent is not None:  # its worker has unpacked it
            flight.sent.forget()
        if flight is None or flight.outcome is not None or self.error is not None:
            return False
        outcome = message.outcome
        try:
            self._inbox.store(flight.work.number, message.files)
        except RefusedFileError as error:
            flight.outcome = failure(error)
            return False
        except Exception as error:  # see the class
            self.error = error
            return False
        message.files.clear()  # Tune keeps the last result of every trial
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
        if flight.sent is not None:
            flight.sent.forget()
        try:
            self._engine.end(flight.work, flight.outcome or outcome)
        except Exception as error:  # see the class
            self.error = self.error or error

    def send(self, trial_id: str) -> Sent | None:
        """What an earlier attempt left for this one."""
        flight = self._flights[trial_id]
        files = self._inbox.pack(flight.work.number) if flight.work.known_epochs else {}
        flight.sent = Sent(files) if files else None
        return flight.sent

    def fail(self, error: Exception) -> None:
        """Ends the run."""
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
            config: dict[str, Any] = {"work": Parcel(cloudpickle.dumps(work))}
            if (sent := self._flights.send(trial_id)) is not None:
                # Not in the parcel: what is in there Ray would keep for ever.
                config["files"] = sent
            return config
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
    """The one inlet of results, and the clock: Tune calls `choose_trial_to_run` in every step.

    Args:
        flights: what is out.
        check_cluster: raises once the cluster is gone.
        membership: of the cluster's nodes; None: nothing joins or leaves.
    """

    def __init__(
        self,
        flights: Flights,
        *,
        check_cluster: Callable[[], None],
        membership: Membership | None = None,
    ) -> None:
        super().__init__()
        self._flights = flights
        self._check_cluster = check_cluster
        self._membership = membership
        self._resources: Any = None  # of a training, once one is there
        self._kept_warm = 0
        self._nodes: dict[str, str] = {}  # of trials and of workers, by their ids

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Lets Tune keep every worker warm; on its own it keeps one while nothing is pending."""
        if self._resources is None:
            self._resources = trial.placement_group_factory
            self._resize(tune_controller)
            _count_as_lost_workers(tune_controller)

    def on_trial_result(self, _controller: Any, trial: TuneTrial, result: Any) -> str:
        message = result["message"]
        worker = trial.temporary_state.ray_actor
        if worker is not None:
            self._nodes[trial.trial_id] = self._nodes[worker._actor_id.hex()] = message.node
        goes_on = self._flights.told(trial.trial_id, message)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, _controller: Any, trial: TuneTrial, _result: Any) -> None:
        self._flights.gone(trial.trial_id, RELEASED)

    def on_trial_remove(self, _controller: Any, trial: TuneTrial) -> None:
        self._flights.gone(trial.trial_id, RELEASED)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        node_died = None
        if self._membership is not None:
            self._membership.recount(now=True)
            worker = trial.temporary_state.ray_actor
            keys = (trial.trial_id, "" if worker is None else worker._actor_id.hex())
            node_died = any(self._node_died(key) for key in keys)
        outcome = _lost(trial, node_died)
        if outcome.kind is OutcomeKind.NODE_LOST:
            self._drop_workers_of_lost_nodes(tune_controller)
        self._flights.gone(trial.trial_id, outcome)

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        self._check_cluster()
        live = {t.trial_id: t for t in tune_controller.get_live_trials()}
        running = {i for i, t in live.items() if t.status == TuneTrial.RUNNING}
        if self._membership is not None:
            self._follow(self._membership, tune_controller, len(live), bool(running))
        late = self._flights.overdue(running)
        if self._flights.release_if_ending():
            late = list(live)
        for trial_id in late:
            worker = live[trial_id].temporary_state.ray_actor
            if worker is not None:
                ray.kill(worker)

    def debug_string(self) -> str:
        return type(self).__name__

    def _follow(
        self, membership: Membership, tune_controller: Any, live: int, any_runs: bool
    ) -> None:
        if membership.recount():
            self._drop_workers_of_lost_nodes(tune_controller)
        if membership.problem is not None:
            self._flights.fail(EnvironmentProblemError(membership.problem + CONTINUE))
        pending = _behind(tune_controller)._actor_manager.num_pending_actors
        membership.note_waiting(bool(live) and not any_runs and pending >= live)
        if membership.workers != self._flights.workers:
            self._flights.workers = membership.workers
            self._resize(tune_controller)

    def _resize(self, tune_controller: Any) -> None:
        """Makes Tune start and keep as many workers as there are to be."""
        workers = self._flights.workers
        controller = _behind(tune_controller)
        controller.update_max_pending_trials(workers)
        if self._resources is not None:
            controller._actor_cache.increase_max(self._resources, by=workers - self._kept_warm)
            self._kept_warm = workers

    def _node_is_gone(self, key: str) -> bool:
        node = self._nodes.get(key)
        return self._membership is not None and node is not None and not self._membership.has(node)

    def _node_died(self, key: str) -> bool:
        """Asks the node itself, too: a worker is seen to die before its machine is."""
        node = self._nodes.get(key)
        return (
            self._membership is not None and node is not None and not self._membership.lives(node)
        )

    def _drop_workers_of_lost_nodes(self, tune_controller: Any) -> None:
        """Warm workers that died with their node: the next trial to get one would be lost too."""
        if self._resources is None:
            return
        controller = _behind(tune_controller)
        manager, cache = controller._actor_manager, controller._actor_cache
        for tracked in list(cache._cached_objects[self._resources]):
            actor, _ = manager._live_actors_to_ray_actors_resources[tracked]
            if self._node_is_gone(actor._actor_id.hex()):
                cache._cached_objects[self._resources].remove(tracked)
                cache._num_cached_objects -= 1
                controller._remove_actor(tracked_actor=tracked)


class EngineStopper(Stopper):  # type: ignore[misc]  # Ray is not typed
    """Ends the experiment once the flights are released."""

    def __init__(self, flights: Flights) -> None:
        self._flights = flights

    def __call__(self, _trial_id: str, _result: Any) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._flights.release_if_ending()


def _behind(tune_controller: Any) -> Any:
    """Tune's controller: some calls get a restricted view of it, `on_trial_error` itself."""
    return getattr(tune_controller, "_tune_controller", tune_controller)


def _count_as_lost_workers(tune_controller: Any) -> None:
    """A result that died with its node on the way, and a worker that the memory monitor ended, are
    other errors than `RayActorError`; Tune would end the whole search at one."""
    manager = _behind(tune_controller)._actor_manager
    original = manager._actor_task_failed

    def failed(tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        original(tracked_actor_task, exception)

    manager._actor_task_failed = failed


def _lost(trial: TuneTrial, node_died: bool | None) -> Outcome:
    """How a training ended whose worker is gone.

    Args:
        node_died: its node does not answer any more; None: there are no other nodes.
    """
    reason, cause = "the worker process died", ""
    error = None
    with contextlib.suppress(OSError, AttributeError):
        error = trial.get_pickled_error()  # None where Tune was told by another call of the actor
    if isinstance(error, RayActorError):
        cause = " ".join(str(error).split())
        if node_died is not None and error.actor_init_failed:  # a library is missing there
            broken = f"a worker does not start: {last_line(error)}"
            return Outcome(kind=OutcomeKind.BROKEN, error=broken)
        if node_died is not None:
            node_died = node_died or error.preempted or "node has died" in cause
    if node_died:
        return Outcome(kind=OutcomeKind.NODE_LOST, error="its node left the cluster")
    if "memory" in cause:
        reason = f"out of memory: {reason} ({cause[:200]})"
    return Outcome(kind=OutcomeKind.LOST, error=reason)
