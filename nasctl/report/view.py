"""Layer 5: everything a report shows, as plain values, and the points that it draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

from nasctl.arch import Architecture, Shape
from nasctl.report import text
from nasctl.trial import Direction, State, Trial, reference_label

_CHARTED_COSTS = ("latency_ms", "params", "macs")
_TABLED_COSTS = ("latency_ms", "params", "macs", "model_bytes")

Member = Mapping[str, Any]
"""A front member as front.json has it: arch_id, architecture, choices, metrics, uncertainty."""


@dataclass(frozen=True, kw_only=True)
class BlockRow:
    """What one block of a network costs; shapes without the batch, None where it is not known."""

    op: str
    in_shape: Shape
    out_shape: Shape
    params: float | None = None
    macs: float | None = None
    latency_ms: float | None = None


BlockCosts = Callable[[Architecture], Sequence[BlockRow]]
"""The cost of every block of an architecture, in order: one row per `architecture.blocks`."""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as its report shows it; finished or not.

    Attributes:
        name: of the run.
        command: what a person types to run or continue it.
        run_dir: the folder of the run, as the user knows it.
        config: the resolved configuration, plain values.
        trials: every started trial, in order of number.
        front: the object of front.json (DESIGN section 4): `objectives`, `reference_point`,
            `hypervolume`, `trials` (a count for every state), `members`, `references`,
            `trainings_avoided` (by reason) and `seed_spread` (of the accuracy).
        near_front: candidates measured whole because their intervals reach the front, in the
            shape of a front member (`arch_id`, `metrics`, `uncertainty`; the rest is not needed).
        hypervolume_history: (trial number, hypervolume after it), during the search.
        rejections: how many candidates were rejected for each reason.
        environment: versions, machine, git commit: shown as they are.
        latency: facts about the latency table, device and runtime first (fractions under keys
            that end in `_error` read as percent, a mapping as `median 1.4 %, worst 7 %`); None
            where latency is not part of the search.
        space_size: `configurations`, `networks`, `networks_exact` as --dry-run reports them.
        seconds: wall time of the whole search, all sessions together.
        block_costs: costs block by block for the drawings, or None.
        unfinished: whether the same command would go on.
        compute: the compute ledger (`nasctl.compute`), or None.
        verified: the object of verified.json (`nasctl.verification`), or None.
    """

    name: str
    command: str
    run_dir: str
    config: Mapping[str, Any]
    trials: tuple[Trial, ...]
    front: Mapping[str, Any]
    near_front: tuple[Member, ...] = ()
    hypervolume_history: Sequence[tuple[int, float]] = ()
    rejections: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    latency: Mapping[str, Any] | None = None
    space_size: Mapping[str, float] | None = None
    seconds: float = 0.0
    block_costs: BlockCosts | None = None
    unfinished: bool = False
    compute: Mapping[str, Any] | None = None
    verified: Mapping[str, Any] | None = None

    @property
    def objectives(self) -> Mapping[str, Direction]:
        return self.front["objectives"]  # type: ignore[no-any-return]  # our JSON

    @property
    def reference_point(self) -> Mapping[str, float]:
        return self.front["reference_point"]  # type: ignore[no-any-return]  # our JSON

    @property
    def counts(self) -> Mapping[str, int]:
        return self.front["trials"]  # type: ignore[no-any-return]  # our JSON

    @property
    def members(self) -> Sequence[Member]:
        return self.front["members"]  # type: ignore[no-any-return]  # our JSON

    @property
    def references(self) -> Sequence[Mapping[str, Any]]:
        """The reference networks as front.json has them (see `nasctl.references`)."""
        return self.front.get("references", ())  # type: ignore[no-any-return]  # our JSON


def avoided(front: Mapping[str, Any]) -> str:
    """What was not trained and why, in one line, or nothing.

    Args:
        front: the object of front.json.
    """
    counts = front.get("trainings_avoided") or {}
    rejected, duplicates = counts.get("rejected", 0), counts.get("duplicates", 0)
    if not rejected + duplicates:
        return ""
    parts = [f"{rejected:,} rejected by constraints"] if rejected else []
    parts += [f"{text.plural(duplicates, 'proposal')} of known networks"] if duplicates else []
    return f"{text.plural(rejected + duplicates, 'training')} avoided: {', '.join(parts)}"


Shown = tuple[float | None, tuple[float, float] | None]
"""A value and its interval."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network in the charts.

    Attributes:
        role: `member` of the front, `near` it (measured whole as well) or `dominated`; or a
            `reference` network, of which `name` says which.
        numbers: of its trials: more than one where it was trained with several seeds.
        values: the value shown for each metric: the measured one where there is one.
        intervals: 95 % intervals of those.
        sources: `exact`, `measured` or `predicted`, where that is known.
        predicted: what the search had believed, for metrics that were measured afterwards.
    """

    arch_id: str
    role: Literal["member", "near", "dominated", "reference"]
    numbers: tuple[int, ...]
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    sources: Mapping[str, str]
    predicted: Mapping[str, float]
    predicted_intervals: Mapping[str, tuple[float, float]]
    choices: Mapping[str, Any]
    uncertainty: Mapping[str, Mapping[str, Any]]
    name: str = ""

    @property
    def seeds(self) -> int:
        """How many trainings its values are the means of."""
        known = [int(u["n"]) for u in self.uncertainty.values() if u.get("split")]
        return max([1, len(self.numbers), *known])

    def measured(self, metric: str) -> Shown:
        """What was measured after the search, with its interval; (None, None) where nothing was."""
        if metric not in self.predicted:
            return None, None
        return self.values.get(metric), self.intervals.get(metric)

    def searched(self, metric: str) -> Shown:
        """What the search went by, with its interval."""
        if metric in self.predicted:
            return self.predicted[metric], self.predicted_intervals.get(metric)
        return self.values.get(metric), self.intervals.get(metric)


def primary(objectives: Mapping[str, Direction]) -> str:
    """The metric on the vertical axis: accuracy, else the first to maximise, else the first."""
    if "accuracy" in objectives:
        return "accuracy"
    return next((m for m, d in objectives.items() if d == "max"), next(iter(objectives)))


def charted(view: RunView) -> list[str]:
    """Metrics for the horizontal axes: the other objectives, then the built-in costs known here."""
    y = primary(view.objectives)
    known = _known_metrics(view)
    wanted = [m for m in view.objectives if m != y]
    return wanted + [m for m in _CHARTED_COSTS if m in known and m not in wanted and m != y]


def tabled(view: RunView) -> list[str]:
    """Metrics with a column in the table of members: the vertical one, then the costs."""
    y = primary(view.objectives)
    known = _known_metrics(view)
    wanted = [y, *(m for m in view.objectives if m != y)]
    return wanted + [m for m in _TABLED_COSTS if m in known and m not in wanted]


def direction(view: RunView, metric: str) -> Direction:
    """Whether more or less of it is better; costs that are no objective are better small."""
    return view.objectives.get(metric, "min")


def _known_metrics(view: RunView) -> set[str]:
    names = {n for known in (*view.members, *view.references) for n in known["metrics"]}
    for trial in view.trials:
        if trial.state is State.COMPLETE:
            names.update(trial.cost, trial.metrics)
    return names


def points(view: RunView) -> list[Point]:
    """Every network with a final result: members by their first cost, near ones, dominated ones."""
    numbers: dict[str, list[Trial]] = {}
    for trial in view.trials:
        if trial.state is State.COMPLETE:
            numbers.setdefault(trial.arch_id, []).append(trial)
    result = [_from_member(m, "member", numbers.get(m["arch_id"], [])) for m in view.members]
    taken = {p.arch_id for p in result}
    for near in view.near_front:
        if near["arch_id"] not in taken:
            result.append(_from_member(near, "near", numbers.get(near["arch_id"], [])))
            taken.add(near["arch_id"])
    result += [_from_trials(a, ts) for a, ts in numbers.items() if a not in taken]
    order = charted(view)[:1] or [primary(view.objectives)]
    roles = ("member", "near", "dominated")
    return sorted(result, key=lambda p: (roles.index(p.role), p.values.get(order[0], math.inf)))


def reference_points(view: RunView) -> list[Point]:
    """The reference networks, in the order of the configuration, finished or not."""
    return [
        replace(_from_member(r, "reference", ()), name=reference_label(r["name"], r["width"]))
        for r in view.references
    ]


def remark(reference: Mapping[str, Any]) -> str:
    """What there is to say about a reference network beside its figures, or nothing.

    Args:
        reference: as front.json has it.
    """
    begins = f"began with {reference['weights']}" if "weights" in reference else ""
    return "; ".join(part for part in (begins, _result_of(reference)) if part)


def _result_of(reference: Mapping[str, Any]) -> str:
    if reference["state"] == State.FAILED.value:
        return f"failed: {' '.join(str(reference['error']).split())}"
    if reference["state"] != State.COMPLETE.value:
        return "not finished"
    if reference["on_front"]:
        return "would be on the front: no network of the search dominates it"
    over = ", ".join(f"constraints.{metric}" for metric in reference["violations"])
    return f"over {over}" if over else ""


def _from_member(
    member: Member, role: Literal["member", "near", "reference"], trials: Sequence[Trial]
) -> Point:
    merged: dict[str, float] = {}
    if trials:
        merged.update(trials[0].cost)
    merged.update(member["metrics"])
    uncertainty: Mapping[str, Mapping[str, Any]] = member.get("uncertainty") or {}
    ends = {k: _ends(u) for k, u in uncertainty.items()}
    values, intervals, sources = {}, {}, {}
    predicted: dict[str, float] = {}
    predicted_ends: dict[str, tuple[float, float]] = {}
    for metric, raw in merged.items():
        if metric.endswith("_measured"):
            continue
        name = f"{metric}_measured" if f"{metric}_measured" in merged else metric
        if name != metric and raw is not None:
            predicted[metric] = raw
            if metric in ends:
                predicted_ends[metric] = ends[metric]
        value = merged[name]
        if value is None or not math.isfinite(value):
            continue
        values[metric] = value
        if name in ends:
            intervals[metric] = ends[name]
        default = "measured" if name != metric else ""
        sources[metric] = str(uncertainty.get(name, {}).get("source", default))
    return Point(
        arch_id=member["arch_id"],
        role=role,
        numbers=tuple(t.number for t in trials),
        values=values,
        intervals=intervals,
        sources=sources,
        predicted=predicted,
        predicted_intervals=predicted_ends,
        choices=member.get("choices") or (trials[0].choices if trials else {}),
        uncertainty=uncertainty,
    )


def _from_trials(arch_id: str, trials: Sequence[Trial]) -> Point:
    first = trials[0]
    names = {name for t in trials for name in t.metrics}
    values = dict(first.cost)
    values.update({n: fmean(t.metrics[n] for t in trials if n in t.metrics) for n in names})
    return Point(
        arch_id=arch_id,
        role="dominated",
        numbers=tuple(t.number for t in trials),
        values={k: v for k, v in values.items() if math.isfinite(v)},
        intervals=dict(first.cost_intervals),
        sources=dict.fromkeys(first.cost_intervals, "predicted"),
        predicted={},
        predicted_intervals={},
        choices=first.choices,
        uncertainty={},
    )


def _ends(uncertainty: Mapping[str, Any]) -> tuple[float, float]:
    low, high = uncertainty["interval"]
    return float(low), float(high)


def staircase(
    members: Sequence[Point], x: str, y: str, x_direction: str, y_direction: str
) -> list[tuple[float, float]]:
    """Corners of the attainment line of two metrics, from the best end of `x` on.

    Members that another member beats in both metrics are off the line.
    """
    sign_x = 1 if x_direction == "min" else -1
    sign_y = 1 if y_direction == "max" else -1
    ordered = sorted(members, key=lambda p: (sign_x * p.values[x], -sign_y * p.values[y]))
    corners: list[tuple[float, float]] = []
    best: float | None = None
    for p in ordered:
        value = p.values[y]
        if best is not None and sign_y * value <= sign_y * best:
            continue
        if best is not None:
            corners.append((p.values[x], best))
        corners.append((p.values[x], value))
        best = value
    return corners


def median_error(found: Sequence[Point], metric: str) -> tuple[float, float, int] | None:
    """Median and worst |predicted - measured| / measured over the networks measured whole.

    Returns:
        (median, worst, how many networks), or None where none was measured.
    """
    errors = sorted(
        abs(p.predicted[metric] - p.values[metric]) / p.values[metric]
        for p in found
        if metric in p.predicted and p.values.get(metric)
    )
    if not errors:
        return None
    middle = len(errors) // 2
    median = errors[middle] if len(errors) % 2 else (errors[middle - 1] + errors[middle]) / 2
    return median, errors[-1], len(errors)
