"""Layer 4: what the fresh trainings say: who is on the front, how surely, how much was luck.

Members are those that nothing dominates by mean validation accuracy over the fresh seeds, measured
latency and exact costs; or, with `verify.front=int8`, by those of the int8 files. Test accuracies
are not looked at here at all.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nasctl import pareto, stats
from nasctl.kept_files import INT8
from nasctl.membership import Membership, Repeats, Scale, membership
from nasctl.stats import Interval
from nasctl.trial import Objectives, State, Trial
from nasctl.verification.finalists import Finalist
from nasctl.verification.fronts import Front
from nasctl.verification.settings import VerifySettings
from nasctl.verification.single import SingleLatency, searched_latency
from nasctl.verification.timing import FEWEST_DRIFTING, without_common_drift

LATENCY = "latency_ms"
Measured = Mapping[str, Mapping[str, Any]]
"""Latencies by architecture id, as `timing.combined` has them."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One finalist after its fresh trainings.

    Attributes:
        trials: that are COMPLETE, in order.
        values: by metric that trainings report, one value per training.
        decisive: by objective, the value that ranks it; None where something is missing.
    """

    finalist: Finalist
    trials: tuple[Trial, ...]
    values: Mapping[str, tuple[float, ...]]
    decisive: Mapping[str, float] | None

    @property
    def arch_id(self) -> str:
        return self.finalist.arch_id


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All finalists, and the front among the contenders that have a result.

    Attributes:
        finalists: in their order.
        ranked: the contenders with a result.
        front: their ids that are on the front.
        sure: of `ranked`; None where nothing is known of the spread.
    """

    finalists: tuple[Judged, ...]
    ranked: tuple[Judged, ...]
    front: frozenset[str]
    sure: Membership | None

    @functools.cached_property
    def probability(self) -> dict[str, float]:
        """By architecture id."""
        if self.sure is None:
            return {}
        return dict(zip((j.arch_id for j in self.ranked), self.sure.probability, strict=True))

    def open_ids(self, settings: VerifySettings) -> set[str]:
        """Contenders whose place more seeds could decide."""
        return {i for i, p in self.probability.items() if settings.is_open(p)}


def judge(
    finalists: Sequence[Finalist],
    trials: Sequence[Trial],
    measured: Measured,
    *,
    objectives: Objectives,
    settings: VerifySettings,
    seed: int,
    files: Measured | None = None,
) -> Judgement:
    """The front among the finalists, from finished trainings.

    Args:
        trials: of the verification.
        measured: latencies of the verification by architecture id.
        seed: of the posterior's draws.
        files: of finalists in int8 (`nasctl.verification.int8`), where those are judged.
    """
    found = tuple(_judged(f, trials, measured.get(f.arch_id), objectives) for f in finalists)
    timed = measured
    if settings.front == "int8":
        timed = files or {}
        found = tuple(_in_int8(j, timed.get(j.arch_id, {})) for j in found)
    ranked = tuple(j for j in found if j.finalist.is_contender and j.decisive is not None)
    if not ranked:
        return Judgement(finalists=found, ranked=(), front=frozenset(), sure=None)
    places = pareto.front([j.decisive or {} for j in ranked], objectives)
    repeats = _repeats(ranked, timed, objectives, settings)
    uncertain = [r for r in repeats.values() if r.scale != "exact" and r.errors is None]
    sure = None
    if all(max(map(len, r.values)) > 1 for r in uncertain):
        sure = membership(repeats, objectives, confidence=settings.confidence, seed=seed)
    return Judgement(
        finalists=found,
        ranked=ranked,
        front=frozenset(ranked[i].arch_id for i in places),
        sure=sure,
    )


def _judged(
    finalist: Finalist,
    trials: Sequence[Trial],
    measured: Mapping[str, Any] | None,
    objectives: Objectives,
) -> Judged:
    done = tuple(t for t in trials if t.arch_id == finalist.arch_id and t.state is State.COMPLETE)
    names = dict.fromkeys(n for t in done for n in t.evaluations[-1].metrics)
    values = {
        n: tuple(t.metrics[n] for t in done)
        for n in names
        if n not in finalist.cost and all(n in t.metrics for t in done)
    }
    decisive = {**finalist.cost, **{n: fmean(v) for n, v in values.items()}}
    if LATENCY in finalist.cost:
        searched = finalist.searched
        kept = searched.get("latency_ms_measured", searched.get(LATENCY, finalist.cost[LATENCY]))
        decisive[LATENCY] = measured["p50_ms"] if measured else kept
    is_known = bool(done) and all(m in decisive for m in objectives)
    return Judged(
        finalist=finalist,
        trials=done,
        values=values,
        decisive={m: decisive[m] for m in objectives} if is_known else None,
    )


def _in_int8(judged: Judged, file: Mapping[str, Any]) -> Judged:
    """The same, ranked by what its int8 file delivers: of no network without such a value."""
    if judged.decisive is None:
        return judged
    seen = judged.values.get(INT8)
    own = {
        "accuracy": fmean(seen) if seen else None,
        LATENCY: file.get("p50_ms"),
        "model_bytes": file.get("bytes"),
    }
    values = {m: own.get(m, value) for m, value in judged.decisive.items()}
    known = {m: float(v) for m, v in values.items() if v is not None}
    return dataclasses.replace(judged, decisive=known if known.keys() == values.keys() else None)


def _repeats(
    ranked: Sequence[Judged],
    timed: Measured,
    objectives: Objectives,
    settings: VerifySettings,
) -> dict[str, Repeats]:
    """What is known of each objective; latencies without repeats come with their own errors."""
    found = {}
    for metric in objectives:
        reported = reported_name(metric, settings.front)
        if all(reported in j.values for j in ranked):
            values = [list(j.values[reported]) for j in ranked]
            found[metric] = Repeats(values=values, scale=_scale(values))
            continue
        sessions = [timed.get(j.arch_id, {}).get("sessions_ms", ()) for j in ranked]
        if metric == LATENCY and min(map(len, sessions)) > 1:
            # A mean of each session less one is taken out, where it is.
            lost = len(sessions[0]) - 1 if len(sessions) >= FEWEST_DRIFTING else 0
            values = without_common_drift(sessions)
            found[metric] = Repeats(values=values, scale="positive", lost=lost)
            continue
        exact = [[(j.decisive or {})[metric]] for j in ranked]
        singles = [_single(j, timed.get(j.arch_id), settings) for j in ranked]
        known = [s for s in singles if s is not None]
        if metric == LATENCY and len(known) == len(ranked):
            found[metric] = Repeats(
                values=exact,
                scale="positive",
                errors=[s.error for s in known],
                degrees=[s.degrees for s in known],
            )
            continue
        found[metric] = Repeats(values=exact, scale="exact")
    return found


def reported_name(metric: str, front: Front) -> str:
    """The metric of trainings that decides about an objective."""
    return INT8 if front == "int8" and metric == "accuracy" else metric


def _single(
    judged: Judged, timed: Mapping[str, Any] | None, settings: VerifySettings
) -> SingleLatency | None:
    """A latency of one session, or of the search; None where it is exact, or there is none."""
    if timed is None or "interval" not in timed:
        return searched_latency(judged.finalist)
    low, high = timed["interval"]
    return SingleLatency(
        value=timed["p50_ms"],
        interval=(low, high),
        confidence=settings.confidence,
        n=1,
        source="measured",
    )


def _scale(values: Sequence[Sequence[float]]) -> Scale:
    flat = [v for group in values for v in group]
    if all(0 <= v <= 1 for v in flat):
        return "fraction"
    return "positive" if all(v > 0 for v in flat) else "real"


# -- what luck had added --------------------------------------------------------------------------


def shrinkage(
    judged: Sequence[Judged], metric: str, fresh: str, confidence: float
) -> dict[str, Any]:
    """Searched values less fresh ones: the winner's curse, if the recipe is the same.

    One number for each network, its searched value less the mean of its fresh seeds; mean and
    Student's t interval over networks. Seeds are inside those numbers, not units of their own: ten
    seeds of two networks are two units.

    Args:
        judged: with a result.
        metric: of the search.
        fresh: the metric of the fresh trainings to compare with.

    Returns:
        See `difference`.
    """
    each = {
        j.arch_id: j.finalist.searched[metric] - fmean(j.values[fresh])
        for j in judged
        if metric in j.finalist.searched and j.values.get(fresh)
    }
    return difference(each, confidence)


def difference(each: Mapping[str, float], confidence: float) -> dict[str, Any]:
    """The mean of one difference for each network, with Student's t interval over networks.

    Returns:
        `mean`, `interval` (None of fewer than two networks), `n`, `networks`: what was given.
    """
    values = list(each.values())
    ends: Interval | None = None
    if len(values) > 1:
        ends = stats.t_interval(values, confidence)
    return {
        "mean": fmean(values) if values else None,
        "interval": list(ends) if ends else None,
        "n": len(values),
        "networks": dict(each),
    }
