"""Layer 5: what `nasctl doctor` checks outside the ledger: files, the tracking store, processes."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nasctl.environment import RUN_MARK
from nasctl.errors import EnvironmentProblemError
from nasctl.evaluate import CHECKPOINTS
from nasctl.executors.scratch import left_behind
from nasctl.files import sha256
from nasctl.outputs import tracking_settings
from nasctl.records import RunRecords
from nasctl.tracking import StoreUnreachableError, stored_statuses
from nasctl.tracking.view import view_run

REPORTS = ("report.html", "report.png", "report.csv", "report.md")


class NotCheckedError(Exception):
    """An invariant does not apply to the run as it is, or cannot be seen from here; says why."""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A run under examination.

    Attributes:
        driver: pid of the process that drives it now, or None.
    """

    directory: Path
    records: RunRecords
    driver: str | None

    def stored(self, name: str) -> Any:
        """What a JSON file of the run holds.

        Raises:
            EnvironmentProblemError: it is missing or damaged.
        """
        try:
            return json.loads((self.directory / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            text = f"{name} is missing; run the same command again"
            raise EnvironmentProblemError(text) from None
        except (OSError, ValueError) as error:
            raise EnvironmentProblemError(f"{name} cannot be read: {error}") from None

    def needs_an_end(self, why: str) -> None:
        """Goes on only if the last driver came to an end that it chose.

        Raises:
            NotCheckedError: it is at work, or died.
        """
        if self.driver is not None:
            raise NotCheckedError(f"the run is going on; {why}")
        if self.records.status == "RUNNING":
            raise NotCheckedError(f"the run was cut short; {why}")


def artifacts(patient: Patient, remark: Callable[[str], None]) -> Iterator[str]:
    """I6: weights always, the rest when nobody can be writing it."""
    noted: dict[str, str] = patient.records.meta("artifacts") or {}
    ended = patient.driver is None and patient.records.status != "RUNNING"
    count, replaceable = 0, False
    for name, digest in noted.items():
        if not (ended or name.startswith("weights/")):
            continue
        path = patient.directory / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            yield f"{name} is not in the run's folder"
        elif (lost := not path.is_file()) or sha256(path) != digest:
            finding = f"{name} is {'missing' if lost else 'not what was written'}"
            yield f"{finding}; only a copy of it helps" if _is_weights(name) else finding
            replaceable |= not _is_weights(name)
        count += 1
    if replaceable:
        yield f"to write it again, the same command: {patient.records.command}"
    has_report = not patient.records.is_verification  # it is a section in that of its search
    if ended and has_report and patient.records.finished and patient.records.trials():
        for name in REPORTS:
            path = patient.directory / name
            if not path.is_file() or not path.stat().st_size:
                yield f"{name} is missing; nasctl report {patient.directory} makes it"
    if not count:
        raise NotCheckedError("nothing is noted yet: it is when a search ends")
    remark(f"{count} files")


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def tracked(patient: Patient, remark: Callable[[str], None]) -> Iterator[str]:
    """I7."""
    records = patient.records
    settings = tracking_settings(
        records.config.get("tracking") or {}, records.home.absolute().parent
    )
    if settings.kind == "none":
        raise NotCheckedError("tracking=none")
    patient.needs_an_end("MLflow is brought up to date when it is continued")
    if records.status == "INTERRUPTED":
        raise NotCheckedError("the run was interrupted; MLflow gets the rest when it is continued")
    try:
        found = stored_statuses(settings, records.uid)
    except StoreUnreachableError as error:
        raise NotCheckedError(str(error)) from None
    sync = f"nasctl sync {patient.directory} mends it"
    views = {v.key: v for v in view_run(records)} if records.trials() else {}
    for key, view in views.items():
        there = found.get(key, [])
        if len(there) != 1:
            count = "no run" if not there else f"{len(there)} runs"
            yield f"{count} there for {view.name!r}; {sync}"
        elif there[0] != view.status:
            yield f"{view.name!r} is {there[0]} there, not {view.status}; {sync}"
    for key in sorted(found.keys() - views.keys()):
        if set(found[key]) != {"KILLED"}:
            yield f"a run there for {key}, which is not in the ledger; {sync}"
    remark(f"{len(views)} runs")


def leftovers(patient: Patient, remark: Callable[[str], None]) -> Iterator[str]:
    """I9: on this machine."""
    if patient.driver is not None:
        raise NotCheckedError("the run is going on")
    for path in sorted(patient.directory.rglob(".*.tmp")):
        yield f"temporary file {path.relative_to(patient.directory)}"
    final = {str(t.number) for t in patient.records.trials() if t.state.is_final}
    for path in sorted((patient.directory / CHECKPOINTS).glob("*")):
        if path.name in final:
            yield f"checkpoints of trial {path.name}, which is over"
    uid = patient.records.uid
    for folder in left_behind(uid):
        yield f"folder {folder} with sockets; the next search on this machine removes it"
    if not Path("/proc/self/environ").exists():
        remark("processes cannot be seen on this system")
        return
    for name, count in Counter(_processes(f"{RUN_MARK}={uid}".encode())).items():
        yield f"{count} x process {name}" if count > 1 else f"process {name}"


def _processes(mark: bytes) -> Iterator[str]:
    """Names of living processes with the mark in their environment, ourselves aside."""
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                yield (entry / "comm").read_text().strip()
