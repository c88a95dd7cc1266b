"""Layer 4: what every run of trainings goes through: opened, driven, ended, whatever ends it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nasctl.arch import Architecture
from nasctl.engine import Engine
from nasctl.environment import RUN_MARK, describe_environment
from nasctl.errors import InterruptedSearchError, NasctlError, TooManyFailuresError
from nasctl.executors.base import Executor, Job
from nasctl.executors.place import ExecutorPlace
from nasctl.executors.surroundings import environ
from nasctl.interrupt import StopRequest, handling_signals
from nasctl.latency import LatencySettings, measure_networks
from nasctl.latency_settings import Timer
from nasctl.ledger import Ledger
from nasctl.observer import Observer
from nasctl.plugins import Registry
from nasctl.records import RunRecords
from nasctl.resources import note_measuring
from nasctl.rundir import CHANGED, Differences, OpenRun, open_run, record_artifacts
from nasctl.running import are_grouped
from nasctl.trial import Evaluation, State, Trial

if TYPE_CHECKING:
    from torch import nn

STOPPING = "stopping: what is finished is kept (Ctrl-C again ends at once)"


class Display(Observer, Protocol):
    """What a run tells its user, besides the trials."""

    def phase(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...
    def front(self, size: int, hypervolume: float) -> None: ...
    def started(self, total: int, trials: Iterable[Trial], *, at_most: bool = False) -> None: ...


class Tracking(Protocol):
    """The projection of a run into a tracking store."""

    def start(self) -> None: ...
    def poke(self) -> None: ...
    def paused(self) -> contextlib.AbstractContextManager[None]: ...
    def close(self, flush_seconds: float) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """One call of a command that trains.

    Attributes:
        resolved: the configuration as plain values; `config_text` is the same as YAML.
        command: as typed, for the record.
        differences: see `rundir.open_run`.
        track: makes the projection of the run in a folder into its tracking store.
        remedy: see `rundir.open_run`.
    """

    resolved: Mapping[str, Any]
    config_text: str
    command: str
    fresh: bool
    registry: Registry
    differences: Differences
    display: Display
    track: Callable[[Path], Tracking]
    remedy: str = "--fresh moves it aside, name=... starts another"


@contextlib.contextmanager
def opened(
    request: RunRequest, directory: Path, meta: Mapping[str, Any], *, same_code: bool = False
) -> Iterator[tuple[OpenRun, StopRequest]]:
    """The run in its folder, created or continued, and what its signals ask for.

    Args:
        meta: what is stored when the run is created, besides what all runs have; `environment` is
            added to.
        same_code: results of other code of a plugin may not be mixed with those there are.
    """
    everything = {
        "command": request.command,
        "plugins": dict(request.registry.sources),
        "status": "RUNNING",
        "seconds": 0.0,
        **meta,
        "environment": {**describe_environment(), **meta.get("environment", {})},
    }
    with (
        handling_signals(lambda: request.display.phase(STOPPING)) as stop,
        stops_explained(stop, request.command),
        open_run(
            directory,
            config=request.resolved,
            config_text=request.config_text,
            meta=everything,
            block_types=request.registry.blocks,
            differences=request.differences,
            fresh=request.fresh,
            same_code=same_code,
            remedy=request.remedy,
        ) as run,
        # What it starts can be found by this, should it ever be left behind.
        environ({RUN_MARK: run.ledger.meta("uid")}),
    ):
        if run.moved is not None:
            request.display.warning(f"the old run was moved to {run.moved}")
        for name in run.changed_plugins:
            request.display.warning(f"--plugin {name}: {CHANGED}; what follows is of the new code")
        yield run, stop


class _AfterTheEndError(InterruptedSearchError):
    """A signal that came when all results were there."""


def carry_out(
    request: RunRequest,
    run: OpenRun,
    stop: StopRequest,
    *,
    work: Callable[[Tracking], None],
    write: Callable[[RunRecords], None],
    publish: Callable[[RunRecords], object],
    flush_s: float,
) -> RunRecords:
    """Does the work of a run, and leaves what it has come to, also after an interrupt or an error.

    Args:
        work: everything up to the last result; starts the tracking itself.
        write: results into the run's folder; not called if no trial was begun.
        publish: the report, after that.
        flush_s: how long the tracking store may take at the end, in seconds.

    Raises:
        InterruptedSearchError: a signal stopped it.
        NasctlError: what `work` raises.
    """
    began, before = time.monotonic(), float(run.ledger.meta("seconds", 0.0))
    display, directory = request.display, run.directory
    run.ledger.set_meta(status="RUNNING")
    tracking = request.track(directory)

    def finish(status: str) -> RunRecords:
        run.ledger.set_meta(status=status, seconds=before + time.monotonic() - began)
        records = RunRecords(directory)
        if records.trials():
            with stop.held():  # a report that was cut short would be written again at once
                write(records)
                if status == "FINISHED":
                    display.phase("writing the report")
                publish(records)
                record_artifacts(run, records.sealed())
        try:
            sent = tracking.close(flush_s if status == "FINISHED" and not stop.exit_code else 3.0)
        except KeyboardInterrupt:
            if status != "FINISHED":
                raise
            sent = False
        if status == "FINISHED" and stop.exit_code:
            rest = "" if sent else f"; for MLflow: nasctl sync {directory}"
            raise _AfterTheEndError(
                f"stopped; there was nothing left to do{rest}", exit_code=stop.exit_code
            )
        # An interrupted run sends the rest when it is continued: no word about it now.
        if not sent and status != "INTERRUPTED" and records.trials():
            display.warning(
                f"not everything reached the tracking store; later: nasctl sync {directory}"
            )
        return records

    try:
        with stops_explained(stop, request.command):
            work(tracking)
            return finish("FINISHED")
    except _AfterTheEndError:
        raise
    except NasctlError as error:
        stopped = isinstance(error, InterruptedSearchError)
        # A signal now cuts short what is left to do; why the run ended stays what is said.
        with contextlib.suppress(KeyboardInterrupt):
            finish("INTERRUPTED" if stopped else "FAILED")
        raise


@contextlib.contextmanager
def stops_explained(stop: StopRequest, command: str) -> Iterator[None]:
    """What a signal raises within, as the end of a run that `command` continues."""
    try:
        yield
    except (KeyboardInterrupt, ImportError) as error:
        # Within an import of compiled code a signal becomes an ImportError.
        if isinstance(error, ImportError) and not stop.exit_code:
            raise
        raise interrupted(stop, command) from None


def interrupted(stop: StopRequest, command: str) -> InterruptedSearchError:
    """What a run that a signal stopped ends with."""
    return InterruptedSearchError(
        f"stopped; everything finished is kept. To continue: {command}",
        exit_code=stop.exit_code or 130,
    )


def drive(
    engine: Engine,
    executor: Executor,
    job: Job,
    *,
    ledger: Ledger,
    checkpoints: Path,
    stop: StopRequest,
) -> None:
    """Trains until the engine is done, or a signal asks for the end.

    Args:
        checkpoints: folder of those that workers keep; removed where none is left.
    """

    def request_stop() -> None:
        engine.stop_requested = True

    checkpoints.mkdir(exist_ok=True)
    stop.on_stop(request_stop)
    try:
        with ledger.grouped() if are_grouped(executor) else contextlib.nullcontext():
            executor.run(engine, job)
    finally:
        stop.on_stop(None)
        with contextlib.suppress(OSError):  # of trials that are not over there are some
            checkpoints.rmdir()


def check_end(engine: Engine, stop: StopRequest, command: str) -> None:
    """Raises why the trainings ended, if they did not come to their end."""
    if engine.fatal is not None:
        raise engine.fatal
    if stop.exit_code:
        raise interrupted(stop, command)
    trials = engine.trials
    if trials and all(t.state is State.FAILED for t in trials):
        raise TooManyFailuresError(
            f"nothing came of it: {len(trials)} of {len(trials)} trials failed; the last one: "
            f"{trials[-1].error}"
        )


def measure_whole(
    architectures: Sequence[Architecture],
    settings: LatencySettings,
    *,
    canary_ms: float | None,
    build_network: Callable[[Architecture], nn.Module],
    place: ExecutorPlace,
    device: str | None,
    ledger: Ledger,
    display: Display,
    ready: Mapping[str, Timer] | None = None,
) -> None:
    """The latency of networks, one by one and alone on the machine, into the ledger.

    Args:
        place: where; for a node of a cluster `build_network` is picklable.
        device: the fingerprint that a node must have; None: any.
        ready: see `measure_networks`.
    """
    where = "the machine" if place.node is None else place.node
    display.phase(f"measuring {len(architectures)} networks whole, alone on {where}")
    began = time.monotonic()
    found = measure_networks(
        architectures,
        settings,
        canary_ms=canary_ms,
        build_network=build_network,
        progress=display.phase,
        place=place,
        device=device,
        ready=ready,
    )
    with ledger.transaction():
        ledger.put_measurements({k: v.to_json() for k, v in found.items()})
        note_measuring(ledger, settings, "networks", len(found), time.monotonic() - began)


def settled_device(
    place: ExecutorPlace, settings: LatencySettings, ledger: Ledger, display: Display
) -> str | None:
    """The fingerprint of the node that latencies of a run without a table are of: the first that
    was asked, from then on; None: there is no node.

    Raises:
        EnvironmentProblemError: there is no such node, or it is another device by now.
    """
    if place.node is None:
        return None
    known: dict[str, str] | None = ledger.meta("latency_summary")
    if known is None:
        found = place.device(settings, display.phase)
        known = {"node": place.node, "device": found.fingerprint, "runtime": found.runtime}
        ledger.set_meta(latency_summary=known)
    else:
        place.check(settings, known["device"], display.phase)
    return known["device"]


class Announcer:
    """Tells the display what happens to trials, and the tracking that there is something new.

    Args:
        before_end: called with a trial that has ended before the display is.
    """

    def __init__(
        self,
        display: Display,
        tracking: Tracking,
        before_end: Callable[[Trial], None] = lambda _: None,
    ) -> None:
        self._display = display
        self._tracking = tracking
        self._before_end = before_end

    def trial_started(self, trial: Trial) -> None:
        self._display.trial_started(trial)
        self._tracking.poke()

    def epoch(self, trial: Trial, evaluation: Evaluation) -> None:
        self._display.epoch(trial, evaluation)
        self._tracking.poke()

    def trial_ended(self, trial: Trial) -> None:
        self._before_end(trial)
        self._display.trial_ended(trial)
        self._tracking.poke()

    def rejected(self, count: int) -> None:
        self._display.rejected(count)
