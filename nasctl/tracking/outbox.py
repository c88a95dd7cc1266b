"""Layer 3: the outbox: a low-priority process beside the driver that projects the ledger.

A process and not a thread: MLflow costs seconds of CPU to import and would hold the interpreter
that drives the workers, a hanging store can be killed, and its log lines cannot reach a terminal.

It reads commands from stdin, one JSON object a line, and answers on stdout the same way. The end
of stdin means that the driver is gone: it leaves at once, the ledger has everything.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from nasctl.tracking.project import ProjectionResult, TrackingSettings, explain, project
from nasctl.tracking.store import ProjectionState

INTERVAL_S = 5.0
"""Least time between two projections."""

BACK_OFF_S = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Waiting times after the first, second, ... failure in a row."""


class Outbox:
    """The loop of the process.

    Args:
        open_records: gives a fresh snapshot of the run.
        settings: the store.
        say: passes one event to the driver.
    """

    def __init__(
        self,
        open_records: Callable[[], Any],
        settings: TrackingSettings,
        say: Callable[..., None],
    ) -> None:
        self._open_records = open_records
        self._settings = settings
        self._say = say
        self._state = ProjectionState()
        self._changed = threading.Condition()
        self._dirty = False
        self._paused = False
        self._closing = False
        self._busy = False

    def command(self, name: str) -> None:
        """Takes one command: poke, pause, resume or close."""
        with self._changed:
            if name == "poke":
                self._dirty = True
            elif name == "close":
                self._dirty = self._closing = True
            elif name in ("pause", "resume"):
                self._paused = name == "pause"
                if self._paused and not self._busy:
                    self._say(event="paused")
            self._changed.notify()

    def run(self) -> None:
        """Projects when there is something new, not too often, until closed."""
        failures = 0
        ready_at = 0.0
        first = True
        while True:
            closing = self._wait(ready_at)
            started, cpu_started = time.monotonic(), time.process_time()
            result = self._round(closing)
            failures = failures + 1 if result.problem else 0
            if result.pending or result.problem:
                self._dirty = True
            if closing:
                return
            wait = BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1] if failures else INTERVAL_S
            if not first:  # reading a large ledger costs, too: stay below a tenth of a core
                wait = max(wait, min(10 * (time.process_time() - cpu_started), BACK_OFF_S[-1]))
            first = False  # that one paid for the import
            ready_at = started + wait

    def _wait(self, ready_at: float) -> bool:
        with self._changed:
            while not self._closing:
                if self._dirty and not self._paused:
                    left = ready_at - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                else:
                    self._changed.wait()
            self._dirty, self._busy = False, True
            return self._closing

    def _round(self, closing: bool) -> ProjectionResult:
        self._say(event="started")
        try:
            records = self._open_records()
            result = project(
                records,
                self._settings,
                self._state,
                # A search that closes while we wait wants the latest state: begin again.
                interrupted=lambda: not closing and (self._paused or self._closing),
            )
        except Exception as error:
            result = ProjectionResult(sent=0, pending=1, problem=explain(error, self._settings))
        with self._changed:
            self._busy = False
            if self._paused:
                self._say(event="paused")
        self._say(
            event="closed" if closing else "done",
            sent=result.sent,
            pending=result.pending,
            problem=result.problem,
        )
        return result


def _find(reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    opener: Callable[..., Any] = found
    return opener


def main() -> None:
    """Entry point of `python -m nasctl.tracking.outbox`; the first line says what to do."""
    # The driver's to answer; we end with it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # see `Tracker`
    os.nice(19)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    lock = threading.Lock()

    def say(**event: Any) -> None:
        _write_line(answers, lock, event)

    job = json.loads(sys.stdin.readline())
    settings = TrackingSettings(**{**job["settings"], "output_dir": Path(job["output_dir"])})
    opener = _find(job["open"])
    outbox = Outbox(lambda: opener(*job["arguments"]), settings, say)

    def listen() -> None:
        for line in sys.stdin:
            outbox.command(json.loads(line)["do"])
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    outbox.run()
    os._exit(0)  # MLflow's own threads have nothing left to say


def _write_line(answers: IO[str], lock: threading.Lock, event: dict[str, Any]) -> None:
    try:
        with lock:
            answers.write(json.dumps(event) + "\n")
    except BrokenPipeError:  # the driver was killed
        os._exit(0)


if __name__ == "__main__":
    main()
