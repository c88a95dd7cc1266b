"""Layer 3: what compute ledgers add up: times what was given, and what was not recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nasctl.resources import MEASURED, Events, Resources
from nasctl.trial import Trial

UNFINISHED = ("lost", "released")
"""Events of attempts that did not end their training, with their `seconds`."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """Of an hour of one core and of one GPU; None: nobody said."""

    core_hour: float | None = None
    gpu_hour: float | None = None
    currency: str = "EUR"

    def of(self, core_hours: float, gpu_hours: float) -> float | None:
        """What these hours cost; None where no price is known."""
        if self.core_hour is None and self.gpu_hour is None:
            return None
        return core_hours * (self.core_hour or 0.0) + gpu_hours * (self.gpu_hour or 0.0)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What went into one purpose.

    Attributes:
        seconds: of wall time, summed over trainings; None: not recorded.
        remark: what is not counted in, or nothing.
    """

    purpose: str
    count: int
    seconds: float | None
    core_hours: float | None
    gpu_hours: float | None
    remark: str = ""


class Sum:
    """Adds up times."""

    def __init__(self) -> None:
        self.count, self.seconds, self.core_hours, self.gpu_hours = 0, 0.0, 0.0, 0.0

    def add(self, seconds: float, given: Resources, *, count: int = 1) -> None:
        """`count` of something that took so long, together, on what it was given."""
        self.count += count
        self.seconds += seconds
        self.core_hours += seconds * given.cores / 3600
        self.gpu_hours += seconds * given.gpus / 3600

    def spent(self, purpose: str, remark: str = "") -> Spent:
        """All of it, for one purpose."""
        return Spent(
            purpose=purpose,
            count=self.count,
            seconds=self.seconds,
            core_hours=self.core_hours,
            gpu_hours=self.gpu_hours,
            remark=remark,
        )


def unknown_row(purpose: str, count: int, remark: str = "not recorded") -> Spent:
    """A purpose of which nobody knows how long it took."""
    return Spent(
        purpose=purpose, count=count, seconds=None, core_hours=None, gpu_hours=None, remark=remark
    )


def lost_attempts(
    trials: Iterable[Trial], events: Events, given: Callable[[float], Resources]
) -> tuple[Spent, Counter[int], dict[int, list[Mapping[str, Any]]]]:
    """Attempts that did not end their training: recorded ones, and how many are not."""
    told: dict[int, list[Mapping[str, Any]]] = {}
    for at, kind, data in events:
        if kind in UNFINISHED:
            began = at - data.get("seconds", 0.0)  # what it was given may have changed since
            told.setdefault(data["number"], []).append({**data, "began": began})
    total, silent = Sum(), Counter[int]()
    kept: dict[int, list[Mapping[str, Any]]] = {}
    for trial in trials:
        # The last attempt of a trial that ended is the trial's own time, even if it was lost too.
        own = {trial.attempts} if trial.state.is_final else set()
        mine = [d for d in told.get(trial.number, ()) if d["attempt"] not in own]
        timed = [d for d in mine if "seconds" in d]
        for data in timed:
            total.add(data["seconds"], given(data["began"]))
        kept[trial.number] = timed
        silent[trial.number] = max(0, trial.attempts - 1 - len({d["attempt"] for d in timed}))
    missing = silent.total()
    if missing and not total.count:
        return unknown_row("lost", missing), silent, kept
    remark = f"and {missing} whose time was not recorded" if missing else ""
    return total.spent("lost", remark), silent, kept


def latency_row(events: Events, *, has_table: bool, networks: int) -> Spent:
    """Times of measuring blocks, and networks whole."""
    total = Sum()
    kinds: set[str] = set()
    for _, kind, data in events:
        if kind == MEASURED:
            kinds.add(data["what"])
            used = Resources(cores=data["cores"], gpus=data["gpus"])
            total.add(data["seconds"], used, count=data["n"])
    missing = [
        name
        for name, kind, there in (
            ("the table", "table", has_table),
            ("whole networks", "networks", networks > 0),
        )
        if there and kind not in kinds
    ]
    if missing and not kinds:
        return unknown_row("latency", networks)
    remark = f"{' and '.join(missing)}: not recorded" if missing else ""
    return total.spent("latency", remark)


def summed(rows: Sequence[Spent], price: Price) -> dict[str, Any]:
    """`rows`, those with something to say, and `total`, of what is known, as plain JSON."""
    known = [r for r in rows if r.seconds is not None]
    core_hours = sum(r.core_hours or 0.0 for r in known)
    gpu_hours = sum(r.gpu_hours or 0.0 for r in known)
    return {
        "rows": [
            asdict(r) | {"money": None if r.seconds is None else _money(price, r)}
            for r in rows
            if r.count or r.seconds or r.remark
        ],
        "total": {
            "seconds": sum(r.seconds or 0.0 for r in known),
            "core_hours": core_hours,
            "gpu_hours": gpu_hours,
            "money": price.of(core_hours, gpu_hours),
            "complete": all(not r.remark for r in rows),
        },
    }


def _money(price: Price, spent: Spent) -> float | None:
    return price.of(spent.core_hours or 0.0, spent.gpu_hours or 0.0)
