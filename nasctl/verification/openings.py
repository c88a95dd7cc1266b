"""Layer 4: how often the test split of a run's data has been opened, and for how much.

Each call of `nasctl verify` that trains anything notes in the ledger of the verification that it
opens the test split, and what had been judged on it before. Ledgers that were moved aside count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nasctl.errors import EnvironmentProblemError
from nasctl.kept_files import TEST, TEST_INT8, VERIFIED
from nasctl.ledger import Ledger
from nasctl.records import LEDGER

OPENED = "test_opened"
"""The event in the ledger: `command`, `before`."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """One call that opened the test split.

    Attributes:
        when: UTC, to the second.
        evaluations: on the test split, of finished trainings and of exported files.
        folder: of the verification, in the run's folder.
    """

    when: str
    command: str
    evaluations: int
    folder: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def note_opening(ledger: Ledger, command: str) -> None:
    """To be called before the first worker gets the test split."""
    ledger.add_event(OPENED, command=command, before=_judged(ledger))


class SealedSplit:
    """The test split in one call: closed until something asks for it, which is noted once.

    Args:
        exists: whether there is one.
    """

    def __init__(self, ledger: Ledger, command: str, *, exists: bool) -> None:
        self._ledger = ledger
        self._command = command
        self._is_closed = exists

    def open(self) -> None:
        """To be called before anything is judged on it."""
        if self._is_closed:
            note_opening(self._ledger, self._command)
            self._is_closed = False


def openings(run: Path) -> list[Opening]:
    """Of all verifications of the run in this folder, those moved aside too, in order of time."""
    found: list[Opening] = []
    for folder in sorted(run.glob(f"{VERIFIED}*")):
        if (folder / LEDGER).is_file():
            found += _of(folder)
    return sorted(found, key=lambda o: o.when)


def _of(folder: Path) -> Iterator[Opening]:
    try:
        ledger = Ledger(folder / LEDGER, {}, readonly=True)
    except EnvironmentProblemError:
        return  # damaged: `nasctl doctor` tells
    try:
        events = [(when, data) for when, kind, data in ledger.events() if kind == OPENED]
        last = _judged(ledger)
    finally:
        ledger.close()
    counts = [int(data["before"]) for _, data in events] + [last]
    for (when, data), (before, after) in zip(events, pairwise(counts), strict=True):
        yield Opening(
            when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)),
            command=str(data["command"]),
            evaluations=after - before,
            folder=folder.name,
        )


def _judged(ledger: Ledger) -> int:
    """Of trainings, in int8 too where that is judged, and of exported files."""
    files = (ledger.meta("verification") or {}).get("exported_evaluations", 0)
    judged = sum(name in t.metrics for t in ledger.trials() for name in (TEST, TEST_INT8))
    return judged + int(files)
