"""Layer 4: what an executor is, and what it runs.

An executor is a thin adapter between the engine, which decides, and the workers, which train:
it asks `engine.next()`, runs the job, and hands every result to `engine.report` and every end to
`engine.end`, all from the thread that called `run`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self, TypeVar

from nasctl.engine import Signal
from nasctl.errors import EnvironmentProblemError, NasctlError
from nasctl.trial import Outcome, OutcomeKind, Work

T = TypeVar("T")


class Job(Protocol):
    """How one piece of work is done. Picklable; everything large is in `payload`.

    Any exception that calling or iterating raises ends that work as FAILED, nothing else.
    """

    @property
    def payload(self) -> Any:
        """Data that every worker reads and none writes; its NumPy arrays are shared, not copied."""

    def with_payload(self, payload: Any) -> Self:
        """The same job with other data; with None it is small enough to be sent around."""

    def prepare(self) -> None:
        """Called once in each worker process before its first work: imports, thread counts."""

    def __call__(self, work: Work) -> Iterator[Mapping[str, float]]:
        """Yields the metrics of epoch 1, 2, ..."""


class EngineLike(Protocol):
    """The part of `nasctl.engine.Engine` that executors use; every call is durable on return.

    `next` says DONE only when no work is out, except to end the run early: then whatever still
    runs is ended as RELEASED.
    """

    stop_requested: bool

    def next(self) -> Work | Signal: ...

    def prefetch(self) -> None:
        """To be called while every worker is busy: what takes time before the next `next`."""

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool: ...

    def end(self, work: Work, outcome: Outcome) -> None: ...


class Executor(Protocol):
    """Runs a search's work somewhere."""

    def run(self, engine: EngineLike, job: Job) -> None:
        """Works until the engine says DONE or its `stop_requested` is set.

        On return nothing runs any more and every work that `next()` gave out was ended. An
        error of the engine itself (a full disk) propagates as it is, and nothing runs any more.
        """

    def run_exclusive(self, fn: Callable[[], T], resource: str | None = None) -> T:
        """Calls `fn` while nothing of this search trains. Not to be called during `run`.

        Args:
            fn: picklable, with a picklable result.
            resource: the cluster resource (a device) to run on; None: this process.
        """


def failure(error: BaseException) -> Outcome:
    """How work ends whose job raised `error`: FAILED, with the reason in one line.

    BROKEN, if it is not the training that failed but the machine, as with a full disk: whatever
    came next would fail too. Our own errors explain themselves; others are named, and without a
    message only named.
    """
    text = " ".join(str(error).split())
    kind = OutcomeKind.FAILED
    if isinstance(error, EnvironmentProblemError) or _is_disk_problem(error):
        kind = OutcomeKind.BROKEN
    if isinstance(error, MemoryError):
        text = f"out of memory: {text}" if text else "out of memory"
    elif not isinstance(error, NasctlError):
        name = type(error).__name__
        text = f"{name}: {text}" if text else name
    return Outcome(kind=kind, error=text[:500])


def _is_disk_problem(error: BaseException) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return isinstance(error, OSError) and error.errno in full
