"""Layer 4: a cluster that is only simulated: the clock jumps from event to event.

Trainings take the time that a function says, on as many workers as are asked for, and results reach
the engine in the order of that clock. Nothing waits, so a search of hours is over in seconds.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from nasctl.executors.attempt import Attempt, Message
from nasctl.executors.base import Announce, EngineLike, Job, check_no_resource, silent
from nasctl.samplers.base import derive_seed
from nasctl.trial import Outcome, OutcomeKind, Work

T = TypeVar("T")

CLOCK = "simulated_seconds"
"""The metric of an epoch that says when it was over, on the clock of the simulation."""


@dataclass(kw_only=True)
class _Flight:
    work: Work
    attempt: Attempt
    seconds: Mapping[int, float]
    began: float
    dies_at: float | None
    message: Message


class SimulatedExecutor:
    """See the module.

    Args:
        workers: trainings at a time.
        seconds: of a work, the time of each epoch that its job will report.
        crash_rate: probability that the worker of an attempt dies, at any moment of it; a function
            of the seed, the trial and the attempt, and so independent of the number of workers.
        seed: of the crashes.
        timeout_s: simulated seconds after which an attempt fails; None is never.
        began: what the clock shows at first.

    Attributes:
        clock: simulated seconds.
        busy: simulated seconds in which workers trained, all of them together.
    """

    def __init__(
        self,
        *,
        workers: int,
        seconds: Callable[[Work], Mapping[int, float]],
        crash_rate: float = 0.0,
        seed: int = 0,
        timeout_s: float | None = None,
        began: float = 0.0,
    ) -> None:
        self.workers = workers
        self._seconds = seconds
        self._crash_rate = crash_rate
        self._seed = seed
        self._timeout_s = timeout_s
        self.clock = began
        self.busy = 0.0

    def preflight(self) -> None:
        """Nothing is needed."""

    def run(self, engine: EngineLike, job: Job) -> None:
        """See `Executor.run`."""
        job.prepare()
        flights: dict[int, _Flight] = {}
        events: list[tuple[float, int]] = []  # (time, trial): one for each flight
        while True:
            while len(flights) < self.workers and isinstance(work := engine.next(), Work):
                flights[work.number] = self._start(job, work)
                heapq.heappush(events, (self._due(flights[work.number]), work.number))
            if not events or engine.stop_requested:
                break
            self.clock, number = heapq.heappop(events)
            flight = flights[number]
            if (outcome := self._happens(engine, flight)) is None:
                heapq.heappush(events, (self._due(flight), number))
                continue
            self._close(flights.pop(number))
            engine.end(flight.work, outcome)
        for flight in flights.values():
            self._close(flight)
            engine.end(flight.work, Outcome(kind=OutcomeKind.RELEASED))

    def run_exclusive(
        self,
        fn: Callable[[Announce], T],
        resource: str | None = None,
        *,
        announce: Announce = silent,
        alone: bool = True,
    ) -> T:
        """Nothing runs at all: calls `fn`."""
        del alone
        check_no_resource(resource)
        return fn(announce)

    def _start(self, job: Job, work: Work) -> _Flight:
        seconds = self._seconds(work)
        rng = random.Random(derive_seed("crash", self._seed, work.number, work.attempt))
        dies = rng.random() < self._crash_rate
        attempt = Attempt(job, work)
        return _Flight(
            work=work,
            attempt=attempt,
            seconds=seconds,
            began=self.clock,
            dies_at=self.clock + rng.random() * sum(seconds.values()) if dies else None,
            message=attempt.step(),
        )

    def _due(self, flight: _Flight) -> float:
        """When the next thing happens to a training."""
        due = self.clock + flight.seconds.get(flight.message.epoch, 0.0)
        ends = [flight.dies_at] if flight.dies_at is not None else []
        if self._timeout_s is not None:
            ends.append(flight.began + self._timeout_s)
        return min([due, *ends])

    def _happens(self, engine: EngineLike, flight: _Flight) -> Outcome | None:
        """What is due now; how the training ended by it, or None."""
        if flight.dies_at is not None and self.clock >= flight.dies_at:
            return Outcome(kind=OutcomeKind.LOST)
        if self._timeout_s is not None and self.clock >= flight.began + self._timeout_s:
            text = f"timed out after {self._timeout_s:g} simulated s"
            return Outcome(kind=OutcomeKind.FAILED, error=text)
        told = flight.message
        if told.epoch:
            metrics = {**told.metrics, CLOCK: self.clock}
            if not engine.report(flight.work, told.epoch, metrics):
                return Outcome(kind=OutcomeKind.STOPPED)
        if told.outcome is None:
            flight.message = flight.attempt.step()
        return told.outcome

    def _close(self, flight: _Flight) -> None:
        self.busy += self.clock - flight.began
        flight.attempt.close()
