"""Layer 3: what a search spent: seconds, core- and GPU-hours by purpose, what it avoided, and how
much hypervolume an hour still brought.

Everything is read from the ledger. A training's time is its wall time times the cores (and GPUs)
that it was given; a measurement's, times the threads that it uses. What older versions of nasctl
did not record, and what a killed driver could not, is `None` and said so, never 0.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nasctl.errors import EnvironmentProblemError
from nasctl.ledger import Ledger
from nasctl.resources import (
    MEASURED,
    RESOURCES,
    Events,
    Resources,
    configured_resources,
    resources_at,
)
from nasctl.trial import State, Trial

UNFINISHED = ("lost", "released")
"""Events of attempts that did not end their training, with their `seconds`."""

SMOOTHED = 8  # trials over which the marginal hypervolume is taken

PURPOSES: dict[str, str] = {
    "search": "search trainings",
    "repeats": "more seeds of known networks",
    "halving": "stopped early",
    "failures": "failed trainings",
    "lost": "attempts that were lost",
    "references": "reference networks",
    "latency": "latency measurements",
    "verification": "verification",
}


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


class _Sum:
    """Adds up times."""

    def __init__(self) -> None:
        self.count, self.seconds, self.core_hours, self.gpu_hours = 0, 0.0, 0.0, 0.0

    def add(self, seconds: float, given: Resources, *, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds
        self.core_hours += seconds * given.cores / 3600
        self.gpu_hours += seconds * given.gpus / 3600

    def spent(self, purpose: str, remark: str = "") -> Spent:
        return Spent(
            purpose=purpose,
            count=self.count,
            seconds=self.seconds,
            core_hours=self.core_hours,
            gpu_hours=self.gpu_hours,
            remark=remark,
        )


def _unknown(purpose: str, count: int, remark: str = "not recorded") -> Spent:
    return Spent(
        purpose=purpose, count=count, seconds=None, core_hours=None, gpu_hours=None, remark=remark
    )


def purpose_of(trials: Iterable[Trial]) -> dict[int, str]:
    """What each ended trial was for, by its number."""
    seen: set[str] = set()
    found = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if trial.state is State.PRUNED:
            found[trial.number] = "halving"
        elif trial.state is State.FAILED:
            found[trial.number] = "failures"
        elif trial.state is State.COMPLETE:
            found[trial.number] = "repeats" if trial.arch_id in seen else "search"
            seen.add(trial.arch_id)
    return found


def _lost(
    trials: Iterable[Trial], events: Events, given: Callable[[float], Resources]
) -> tuple[Spent, Counter[int], dict[int, list[Mapping[str, Any]]]]:
    """Attempts that did not end their training: recorded ones, and how many are not."""
    told: dict[int, list[Mapping[str, Any]]] = {}
    for at, kind, data in events:
        if kind in UNFINISHED:
            began = at - data.get("seconds", 0.0)  # what it was given may have changed since
            told.setdefault(data["number"], []).append({**data, "began": began})
    total, silent = _Sum(), Counter[int]()
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
        return _unknown("lost", missing), silent, kept
    remark = f"and {missing} whose time was not recorded" if missing else ""
    return total.spent("lost", remark), silent, kept


def _latency(events: Events, *, has_table: bool, networks: int) -> Spent:
    """Times of measuring blocks, and networks whole."""
    total = _Sum()
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
        return _unknown("latency", networks)
    remark = f"{' and '.join(missing)}: not recorded" if missing else ""
    return total.spent("latency", remark)


def _verification(found: Verification | None, given: Resources) -> Spent:
    total = _Sum()
    if found is None:
        return total.spent("verification")
    if found.problem:
        return _unknown("verification", 0, found.problem)
    at = resources_at(found.events, given)
    for trial in found.trials:
        if trial.state.is_final:
            total.add(trial.seconds, at(trial.started_at))
    for _, kind, data in found.events:
        if kind == MEASURED:
            used = Resources(cores=data["cores"], gpus=data["gpus"])
            total.add(data["seconds"], used, count=0)
    _, silent, unfinished = _lost(found.trials, found.events, at)
    for data in itertools.chain.from_iterable(unfinished.values()):
        total.add(data["seconds"], at(data["began"]), count=0)
    missing = silent.total()
    remark = f"and {missing} attempts whose time was not recorded" if missing else ""
    return total.spent("verification", remark)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The trainings and events in the ledger of a run's verification; `problem`: why there are
    none."""

    trials: Sequence[Trial] = ()
    events: Events = ()
    problem: str = ""


def read_verification(path: Path) -> Verification | None:
    """From its ledger; None where there is none. What the search has found can be read whatever
    became of that."""
    if not path.is_file():
        return None
    try:
        ledger = Ledger(path, {}, readonly=True)
        try:
            return Verification(trials=ledger.trials(), events=ledger.events())
        finally:
            ledger.close()
    except EnvironmentProblemError:
        return Verification(problem="its ledger cannot be read")


def _avoided(
    trials: Sequence[Trial],
    avoided: Mapping[str, int],
    halving: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """What was not done. Seconds only where something would have been: a rejected candidate would
    never have been trained by anybody who knows its cost, so it is counted and not timed."""
    times = [t.seconds for t in trials if t.state is State.COMPLETE]
    epochs = [t.seconds / t.epochs for t in trials if t.state is State.COMPLETE]
    found = []
    if n := avoided.get("duplicates", 0):
        each = statistics.median(times) if times else None
        found.append(
            {
                "reason": "duplicates",
                "count": n,
                "seconds": None if each is None else n * each,
                "remark": "at most: proposals of known networks times the median training",
            }
        )
    if n := avoided.get("rejected", 0):
        found.append(
            {"reason": "constraints", "count": n, "seconds": None, "remark": "counted, not timed"}
        )
    if halving and halving["stopped"]:
        each = statistics.median(epochs) if epochs else None
        found.append(
            {
                "reason": "halving",
                "count": halving["stopped"],
                "seconds": None if each is None else halving["epochs_saved"] * each,
                "remark": "epochs not trained, less cool-downs, times the median epoch",
            }
        )
    return found


def marginal(
    trials: Sequence[Trial],
    history: Iterable[tuple[int, float]],
    hours: Mapping[int, float],
    *,
    smoothed: int = SMOOTHED,
) -> list[dict[str, Any]]:
    """The hypervolume and what an hour brought, after each ended trial in order of number.

    Args:
        trials: of the run; from the first one on that has not ended, nothing is shown.
        history: (trial number, hypervolume after it).
        hours: spent on each trial, by number.
        smoothed: the gain per hour is that of so many trials up to this one (of all, before there
            are so many).

    Returns:
        `trial`, `hours` (all up to it), `hypervolume`, and `per_hour`: None where no time passed.
    """
    values = dict(history)
    rows: list[dict[str, Any]] = []
    total, volume = 0.0, 0.0
    for trial in sorted(trials, key=lambda t: t.number):
        if not trial.state.is_final:
            break
        total += hours.get(trial.number, 0.0)
        volume = values.get(trial.number, volume)
        before = rows[-smoothed] if len(rows) >= smoothed else {"hours": 0.0, "hypervolume": 0.0}
        spent = total - before["hours"]
        gained = volume - before["hypervolume"]
        rows.append(
            {
                "trial": trial.number,
                "hours": total,
                "hypervolume": volume,
                "per_hour": gained / spent if spent > 0 else None,
            }
        )
    return rows


def compute_json(
    *,
    config: Mapping[str, Any],
    trials: Sequence[Trial],
    references: Sequence[Trial],
    events: Events,
    history: Iterable[tuple[int, float]],
    avoided: Mapping[str, int],
    halving: Mapping[str, Any] | None,
    has_table: bool,
    measured: int,
    wall_seconds: float,
    verification: Verification | None = None,
) -> dict[str, Any]:
    """The compute ledger of a search as plain JSON: `rows` by purpose, `total`, `avoided`,
    `marginal` and what they are of.

    Args:
        config: resolved.
        events: of the ledger.
        history: (trial number, hypervolume after it).
        avoided: trainings that were not done, by reason.
        halving: `halving_json` of the run.
        has_table: whether a latency table was measured for it.
        measured: networks measured whole.
        wall_seconds: of all sessions.
        verification: of the run, if there was one.
    """
    otherwise = configured_resources(config)
    given = resources_at(events, otherwise)
    price = Price(**(config.get("price") or {}))
    lost, _, unfinished = _lost([*trials, *references], events, given)
    sums = {name: _Sum() for name in ("search", "repeats", "halving", "failures", "references")}
    purposes = purpose_of(trials)
    hours: dict[int, _Sum] = {}
    for trial in trials:
        own = hours.setdefault(trial.number, _Sum())
        for data in unfinished[trial.number]:
            own.add(data["seconds"], given(data["began"]))
        if trial.number in purposes:
            sums[purposes[trial.number]].add(trial.seconds, given(trial.started_at))
            own.add(trial.seconds, given(trial.started_at))
    for trial in references:
        if trial.state.is_final:
            sums["references"].add(trial.seconds, given(trial.started_at))
    rows = [sums[name].spent(name) for name in ("search", "repeats", "halving", "failures")]
    rows += [
        lost,
        sums["references"].spent("references"),
        _latency(events, has_table=has_table, networks=measured),
        _verification(verification, otherwise),
    ]
    known = [r for r in rows if r.seconds is not None]
    core_hours = sum(r.core_hours or 0.0 for r in known)
    gpu_hours = sum(r.gpu_hours or 0.0 for r in known)
    unit = "gpu" if any(s.gpu_hours for s in hours.values()) else "core"
    by_trial = {n: s.gpu_hours if unit == "gpu" else s.core_hours for n, s in hours.items()}
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
        "currency": price.currency,
        "wall_seconds": wall_seconds,
        "avoided": _avoided(trials, avoided, halving),
        "unit": f"{unit}_hour",
        "smoothed_over": SMOOTHED,
        "marginal": marginal(trials, history, by_trial),
        "simulated": config.get("evaluator") == "replay",
        "resources_recorded": any(kind == RESOURCES for _, kind, _ in events),
    }


def _money(price: Price, spent: Spent) -> float | None:
    return price.of(spent.core_hours or 0.0, spent.gpu_hours or 0.0)
