"""Layer 3: what a search spent: seconds, core- and GPU-hours by purpose, what it avoided, and how
much hypervolume an hour still brought.

Everything is read from the ledger. A training's time is its wall time times the cores (and GPUs)
that it was given; a measurement's, times the threads that it uses. What older versions of nasctl
did not record, and what a killed driver could not, is `None` and said so, never 0.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.compute_sums import Price, Spent, Sum, latency_row, lost_attempts, summed, unknown_row
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
    # of ablation studies (`nasctl.compute_study`):
    "arms": "trainings of the arms",
    "controls": "trainings of the controls",
    "learning_rate": "learning-rate search",
}


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


def _verification(found: Verification | None, given: Resources) -> Spent:
    total = Sum()
    if found is None:
        return total.spent("verification")
    if found.problem:
        return unknown_row("verification", 0, found.problem)
    at = resources_at(found.events, given)
    for trial in found.trials:
        if trial.state.is_final:
            total.add(trial.seconds, at(trial.started_at))
    for _, kind, data in found.events:
        if kind == MEASURED:
            used = Resources(cores=data["cores"], gpus=data["gpus"])
            total.add(data["seconds"], used, count=0)
    _, silent, unfinished = lost_attempts(found.trials, found.events, at)
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
    lost, _, unfinished = lost_attempts([*trials, *references], events, given)
    sums = {name: Sum() for name in ("search", "repeats", "halving", "failures", "references")}
    purposes = purpose_of(trials)
    hours: dict[int, Sum] = {}
    for trial in trials:
        own = hours.setdefault(trial.number, Sum())
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
        latency_row(events, has_table=has_table, networks=measured),
        _verification(verification, otherwise),
    ]
    unit = "gpu" if any(s.gpu_hours for s in hours.values()) else "core"
    by_trial = {n: s.gpu_hours if unit == "gpu" else s.core_hours for n, s in hours.items()}
    return {
        **summed(rows, price),
        "currency": price.currency,
        "wall_seconds": wall_seconds,
        "avoided": _avoided(trials, avoided, halving),
        "unit": f"{unit}_hour",
        "smoothed_over": SMOOTHED,
        "marginal": marginal(trials, history, by_trial),
        "simulated": config.get("evaluator") == "replay",
        "resources_recorded": any(kind == RESOURCES for _, kind, _ in events),
    }
