"""Layer 4: runs the engine in this process, one training after the other. For tables, debuggers
and tests; the reference that every other executor must agree with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from nasctl.engine import Signal
from nasctl.executors.attempt import Attempt
from nasctl.executors.base import Announce, EngineLike, Job, check_no_resource, silent
from nasctl.trial import Outcome, OutcomeKind, Work

T = TypeVar("T")


class InlineExecutor:
    """See the module.

    Args:
        timeout_s: seconds after which a training fails, looked at after each epoch; None is never.
    """

    def __init__(self, *, timeout_s: float | None = None) -> None:
        self._timeout_s = timeout_s

    def preflight(self) -> None:
        """This process is there."""

    def run(self, engine: EngineLike, job: Job) -> None:
        """Works until the engine is done or a stop is requested."""
        job.prepare()
        while isinstance(work := engine.next(), Work):
            engine.end(work, self._train(engine, job, work))
        # Alone, this process never has to wait for anybody: there is no running trial left.
        assert work is Signal.DONE, "the engine waits for work that nobody does"

    def run_exclusive(
        self,
        fn: Callable[[Announce], T],
        resource: str | None = None,
        *,
        announce: Announce = silent,
        alone: bool = True,
    ) -> T:
        """Nothing else runs in this process: calls `fn`."""
        del alone
        check_no_resource(resource)
        return fn(announce)

    def _train(self, engine: EngineLike, job: Job, work: Work) -> Outcome:
        began = time.monotonic()
        attempt = Attempt(job, work)
        try:
            while True:
                message = attempt.step()
                if message.epoch and not engine.report(work, message.epoch, message.metrics):
                    return Outcome(kind=OutcomeKind.STOPPED)
                if message.outcome is not None:
                    return message.outcome
                if engine.stop_requested:
                    return Outcome(kind=OutcomeKind.RELEASED)
                if self._timeout_s is not None and time.monotonic() - began > self._timeout_s:
                    return Outcome(
                        kind=OutcomeKind.FAILED, error=f"timed out after {self._timeout_s:g} s"
                    )
        finally:
            attempt.close()
