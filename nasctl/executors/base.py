"""Layer 4: what an executor is, and what it runs.

An executor is a thin adapter between the engine, which decides, and the workers, which train:
it asks `engine.next()`, runs the job, and hands every result to `engine.report` and every end to
`engine.end`, all from the thread that called `run`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from nasctl.engine import Signal
from nasctl.errors import FULL, ConfigError, EnvironmentProblemError, NasctlError
from nasctl.trial import Outcome, OutcomeKind, Work

T = TypeVar("T")

Announce = Callable[[str], None]
"""Told in a few words what is being done."""

DEVICE_PREFIX = "latency_device:"
"""Of the Ray resource by which a node offers itself to be measured on; the rest is its name."""


def silent(text: str) -> None:
    """Tells nobody."""
    del text


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


@runtime_checkable
class WritingJob(Protocol):
    """A job that writes files; where the run's folder is out of sight, they travel to it."""

    @property
    def folders(self) -> Mapping[str, str]:
        """What it writes into, absolute, by name; `NAME/TRIAL/` is of that trial alone."""

    def with_folders(self, folders: Mapping[str, str]) -> Self:
        """The same job, writing into others of the same names."""


class EngineLike(Protocol):
    """The part of `nasctl.engine.Engine` that executors use; every call is durable on return.

    `next` says DONE only when no work is out, except to end the run early: then whatever still
    runs is ended as RELEASED.
    """

    stop_requested: bool

    def next(self) -> Work | Signal: ...

    def prefetch(self) -> None:
        """To be called while every worker is busy, or has nothing to wait for but others: what
        takes time before the next `next`, or after the last."""

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool: ...

    def end(self, work: Work, outcome: Outcome) -> None: ...


class Executor(Protocol):
    """Runs a search's work somewhere."""

    def preflight(self) -> None:
        """What can be known at once of whether it will run at all, before anything takes time.

        Raises:
            EnvironmentProblemError: it will not.
        """

    def run(self, engine: EngineLike, job: Job) -> None:
        """Works until the engine says DONE or its `stop_requested` is set.

        On return nothing runs any more and every work that `next()` gave out was ended. An
        error of the engine itself (a full disk) propagates as it is, and nothing runs any more.
        """

    def run_exclusive(
        self,
        fn: Callable[[Announce], T],
        resource: str | None = None,
        *,
        announce: Announce = silent,
        alone: bool = True,
    ) -> T:
        """Calls `fn` while nothing of this search trains. Not to be called during `run`.

        Args:
            fn: given what to tell in words what happens; with a `resource` picklable, and its
                result too.
            resource: of the cluster (a device), on whose node to run; None: this process.
            announce: told what is waited for, and what `fn` tells.
            alone: on that node nothing else may run meanwhile, neither of this search nor of
                others; False: trainings may, but no other `run_exclusive` of the resource.

        Raises:
            ConfigError: there is no cluster that could have the resource.
        """


def check_no_resource(resource: str | None) -> None:
    """Of executors without a cluster: a measurement that is asked for elsewhere is not made here.

    Raises:
        ConfigError: there is a resource.
    """
    if resource is not None:
        name = resource.removeprefix(DEVICE_PREFIX)
        raise ConfigError(
            f"latency.node: {name} is looked for on a cluster; give executor.address=HOST:PORT"
        )


def failure(error: BaseException) -> Outcome:
    """How work ends whose job raised `error`: FAILED, with the reason in one line.

    BROKEN, if it is not the training that failed but the machine, as with a full disk: whatever
    came next would fail too. Our own errors explain themselves; others are named, and without a
    message only named.
    """
    text = "".join(c for c in " ".join(str(error).split()) if c.isprintable())
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
    return isinstance(error, OSError) and error.errno in (*FULL, errno.EROFS)
