"""Layer 3: when a run is projected: `Tracker` beside its search, `sync` in the foreground.

Everything is found again by tags, so each of them may be run at any time, any number of times.
"""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nasctl.tracking.project import ProjectionResult, TrackingSettings, project
from nasctl.tracking.store import ProjectionState
from nasctl.tracking.view import RunRecords

RESTART_S = 30.0
"""Least time between two starts of the outbox process."""


def sync(records: RunRecords, settings: TrackingSettings) -> ProjectionResult:
    """Writes a run into the store, here and now, until it is complete or the store fails.

    Args:
        records: a snapshot of the run.
        settings: the store.

    Returns:
        `sent` is 0 if everything was there already; `problem` names the cause of a failure.
    """
    return project(records, settings, ProjectionState())


class Tracker:
    """Keeps the store up to date while a search runs, from a process of its own.

    Args:
        records_factory: gives a fresh snapshot of the run: an importable function, or a
            `functools.partial` of one with JSON arguments, since another process calls it.
        settings: the store; with kind `none` nothing is ever started.
        on_problem: called at most once, from a thread of the tracker, with one line.
        run: the run's folder, for messages.

    Raises:
        ValueError: `records_factory` cannot be called from another process.
    """

    def __init__(
        self,
        records_factory: Callable[[], RunRecords],
        settings: TrackingSettings,
        on_problem: Callable[[str], None],
        *,
        run: Path | str = "RUN",
    ) -> None:
        self._job = _job(records_factory, settings)
        self._settings = settings
        self._on_problem = on_problem
        self._run = run
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._answered = threading.Condition()
        self._started_at = float("-inf")
        self._open = False
        self._poked = False  # a poke is on its way; more would say nothing new
        self._warned = False
        self._paused = False
        self._ended = False
        self._complete = False

    def start(self) -> None:
        """Allows work to begin; costs nothing until the first `poke`."""
        self._open = self._settings.kind != "none"

    def poke(self) -> None:
        """Says that the ledger has something new; returns at once."""
        with self._lock:
            if self._open and not self._poked and self._ensure_process():
                self._poked = self._tell("poke")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the outbox still, for a measurement that must be alone on the machine.

        Waits at most a second for the call that is just being made.
        """
        with self._lock:
            alive = self._process is not None and self._tell("pause")
        if alive:
            with self._answered:
                self._answered.wait_for(lambda: self._paused or self._ended, timeout=1.0)
        try:
            yield
        finally:
            with self._lock:
                self._paused = False
                if self._process is not None:
                    self._tell("resume")

    def close(self, flush_seconds: float) -> bool:
        """Sends what is left, for at most `flush_seconds`, and ends the process.

        Returns:
            True if the store now has everything; if not, `nasctl sync` completes it later.
        """
        with self._lock:
            if not self._open:
                return True
            self._open = False
            alive = self._ensure_process() and self._tell("close")
            process = self._process
        try:
            if alive:
                with self._answered:
                    self._answered.wait_for(lambda: self._ended, timeout=flush_seconds)
        finally:
            if process is not None:
                _end(process)
        return self._complete

    # -- the process --------------------------------------------------------------------------

    def _ensure_process(self) -> bool:
        if self._process is not None:
            return True
        if time.monotonic() - self._started_at < RESTART_S:
            return False
        self._started_at = time.monotonic()
        # What stops a job of a cluster sends SIGTERM to every process below it, of any group. The
        # outbox ignores it; until it has come to that, the signal waits, as its mask is ours.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            self._process = subprocess.Popen(
                # -P: a file of the user's folder must not pass for a library.
                [sys.executable, "-P", "-m", "nasctl.tracking.outbox"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
                # Out of reach of Ctrl-C; not a session of its own, whose niceness would be its own.
                process_group=0,
            )
        except OSError as error:
            self._warn(f"MLflow is not written to: its process did not start: {error}")
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        listener = threading.Thread(
            target=self._listen, args=(self._process,), name="nasctl-tracker", daemon=True
        )
        listener.start()
        return self._write(json.dumps(self._job))

    def _tell(self, command: str) -> bool:
        return self._write(json.dumps({"do": command}))

    def _write(self, line: str) -> bool:
        try:
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # it has died; `_listen` says so
            return False
        return True

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        closed = False
        with contextlib.suppress(ValueError):  # the pipe was closed by `close`
            for line in process.stdout:
                event = json.loads(line)
                kind = event["event"]
                if kind == "started":
                    self._poked = False
                elif kind in ("done", "closed") and event["problem"]:
                    self._warn(event["problem"])
                with self._answered:
                    self._paused = self._paused or kind == "paused"
                    closed = closed or kind == "closed"
                    self._complete = kind == "closed" and not event["pending"]
                    self._ended = self._ended or closed
                    self._answered.notify_all()
        with self._answered:
            self._ended = True
            self._answered.notify_all()
        with self._lock:
            unexpected = self._open and self._process is process
            if unexpected:
                _end(process)
                self._process, self._poked, self._ended = None, False, False
        if unexpected:
            self._warn(
                f"MLflow is behind: its process ended (status {process.returncode}); "
                f"nasctl sync {self._run}, or the same command, completes it"
            )

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            self._on_problem(problem)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _job(factory: Callable[[], RunRecords], settings: TrackingSettings) -> dict[str, Any]:
    function: Any = factory
    arguments: tuple[Any, ...] = ()
    if isinstance(factory, functools.partial):
        function, arguments = factory.func, factory.args
        if factory.keywords:
            raise ValueError("records_factory: only positional arguments travel")
    name = getattr(function, "__qualname__", "<>")
    if "<" in name:
        raise ValueError(f"records_factory: {name} cannot be imported by another process")
    values = asdict(settings)
    return {
        "open": f"{function.__module__}:{name}",
        "arguments": [str(a) if isinstance(a, Path) else a for a in arguments],
        "output_dir": str(values.pop("output_dir")),
        "settings": values,
    }
