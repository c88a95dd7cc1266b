"""Layer 3: the Markdown description of a search in the tracking store."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from statistics import fmean
from typing import TYPE_CHECKING

from nasctl.tracking.text import TAG_LENGTH, cut, redact, show_number
from nasctl.trial import State, Trial

if TYPE_CHECKING:
    from nasctl.tracking.view import RunRecords

_ROWS = 30


def search_note(records: RunRecords, trials: Sequence[Trial], front: Set[str]) -> str:
    """Markdown: what this is, the front as a table, how to get it again."""
    counts = {state: sum(t.state is state for t in trials) for state in State}
    goals = ", ".join(f"{k} ({v})" for k, v in records.objectives.items())
    shown = ", ".join(
        f"{n} {state.value.lower()}"
        for state, n in counts.items()
        if n and state is not State.REJECTED
    )
    lines = [
        f"**Architecture search `{records.name}`**: {records.status.lower()}; trials: "
        f"{shown or 'none yet'}; {records.rejected_count} candidates over a constraint, "
        "rejected before training.",
        "",
        f"Objectives: {goals}. Members of the front are the child runs tagged `pareto = true`.",
        "",
        *_front_table(records, trials, front),
        *_references(records),
        "Again, or further:",
        "",
        "```",
        redact(records.command),
        "```",
    ]
    return cut("\n".join(lines), TAG_LENGTH)


def _references(records: RunRecords) -> Iterator[str]:
    names = list(records.objectives)
    found = records.references()
    if not found:
        return
    yield "Reference networks (child runs tagged `reference`), which are no part of the search:"
    yield ""
    yield f"| network | state | {' | '.join(names)} |"
    yield f"|---|---|{'---:|' * len(names)}"
    for trial in found:
        metrics = {**trial.cost, **trial.metrics}
        cells = " | ".join(show_number(metrics.get(name)) for name in names)
        yield f"| {trial.label} | {trial.state.value.lower()} | {cells} |"
    yield ""


def _means(group: Sequence[Trial], names: Sequence[str]) -> dict[str, float]:
    """Of the seeds of one network."""
    known = [{**t.cost, **t.metrics} for t in group]
    return {n: fmean(m[n] for m in known) for n in names if all(n in m for m in known)}


def _front_table(records: RunRecords, trials: Sequence[Trial], front: Set[str]) -> Iterator[str]:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.state is State.COMPLETE and trial.arch_id in front:
            groups.setdefault(trial.arch_id, []).append(trial)
    names = list(records.objectives)
    if not groups or not names:
        return
    rows = {
        arch_id: (", ".join(str(t.number) for t in group), _means(group, names))
        for arch_id, group in groups.items()
    }
    sign = -1 if records.objectives[names[0]] == "max" else 1
    order = sorted(rows.items(), key=lambda item: sign * item[1][1].get(names[0], math.inf))
    yield f"| network | trial | {' | '.join(names)} |"
    yield f"|---|---:|{'---:|' * len(names)}"
    for arch_id, (numbers, metrics) in order[:_ROWS]:
        cells = " | ".join(show_number(metrics.get(name)) for name in names)
        yield f"| `{arch_id}` | {numbers} | {cells} |"
    if len(order) > _ROWS:
        yield f"\n{len(order) - _ROWS} more in front.json."
    yield ""
