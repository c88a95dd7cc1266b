"""Layer 3: from trials to the Pareto front, with how sure every number is.

Repeated seeds of one network are one entry: the mean of what was seen. Latency is the predicted
one until a network has been measured whole; from then on the measured one decides.

The interval of an accuracy has two sources, which are independent and add up in quadrature: the
validation images (Wilson's interval) and the seeds. Of n seeds with mean m, the ends are

    m - sqrt((m - wilson_low)^2 + w^2)  and  m + sqrt((wilson_high - m)^2 + w^2),
    w = t(0.975, df) * s / sqrt(n),      cut to what an accuracy can be,

with s the standard deviation within networks, pooled over all networks of the run that were
trained more than once, and df its degrees of freedom. (Adding intervals like this: Zou and Donner,
Statistics in Medicine 27, 2008.) A network that was trained once has a w too, as soon as df is 3:
the spread is that of the others. Before that its interval is that of the images alone.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nasctl import pareto, stats
from nasctl.arch import Architecture
from nasctl.space import Choices
from nasctl.trial import EXACT_METRICS, Objectives, State, Trial, Uncertainty


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network of a run.

    Attributes:
        metrics: the values used in the search, and `latency_ms_measured` where there is one.
        decisive: by objective, the value that ranks it: the measured latency replaces the
            predicted one.
        uncertainty: by metric.
    """

    architecture: Architecture
    choices: Choices
    metrics: Mapping[str, float]
    decisive: Mapping[str, float]
    uncertainty: Mapping[str, Uncertainty]

    @property
    def arch_id(self) -> str:
        return self.architecture.id

    def to_json(self) -> dict[str, Any]:
        """A member as `front.json` has it."""
        return {
            "arch_id": self.arch_id,
            "architecture": self.architecture.to_json(),
            "choices": dict(self.choices),
            "metrics": dict(self.metrics),
            "uncertainty": {
                k: {**asdict(u), "interval": list(u.interval)} for k, u in self.uncertainty.items()
            },
        }


def collect_entries(
    trials: Iterable[Trial],
    *,
    measured: Mapping[str, Mapping[str, Any]],
    validation_images: int | None,
    calibration_networks: int = 0,
) -> list[Entry]:
    """One entry per architecture with a COMPLETE trial, in order of its first one.

    Args:
        trials: of the run.
        measured: whole-network latency by architecture id: `p50_ms`, `interval`, `n`.
        validation_images: size of the validation split; None where an evaluator has its own.
        calibration_networks: how many whole networks predicted latencies rest on.
    """
    groups = _by_network(trials)
    spread = seed_spread(t for group in groups for t in group)
    return [
        make_entry(g, measured.get(g[0].arch_id), validation_images, calibration_networks, spread)
        for g in groups
    ]


def _by_network(trials: Iterable[Trial]) -> list[list[Trial]]:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.state is State.COMPLETE:
            groups.setdefault(trial.arch_id, []).append(trial)
    return list(groups.values())


def seed_spread(trials: Iterable[Trial]) -> stats.PooledSpread | None:
    """How far accuracies of one network lie apart from seed to seed, from all networks with more
    than one; None where there is none."""
    return stats.pooled_spread(
        [t.metrics["accuracy"] for t in group if "accuracy" in t.metrics]
        for group in _by_network(trials)
    )


def make_entry(
    group: Sequence[Trial],
    measured: Mapping[str, Any] | None,
    images: int | None,
    calibration_networks: int,
    spread: stats.PooledSpread | None = None,
) -> Entry:
    """The trainings of one network as one entry; see `collect_entries`.

    Args:
        spread: between seeds, from the whole run.
    """
    first = group[0]
    metrics = {
        name: statistics.fmean(t.metrics[name] for t in group)
        for name in first.metrics
        if all(name in t.metrics for t in group)
    }
    uncertainty: dict[str, Uncertainty] = {}
    for name, value in metrics.items():
        if name in first.cost_intervals:
            uncertainty[name] = Uncertainty(
                interval=first.cost_intervals[name],
                n=calibration_networks,
                split=None,
                source="predicted",
            )
        elif name in EXACT_METRICS or name in first.cost:
            uncertainty[name] = Uncertainty(
                interval=(value, value), n=1, split=None, source="exact"
            )
        elif name == "accuracy":
            seen = [t.metrics[name] for t in group]
            uncertainty[name] = Uncertainty(
                interval=accuracy_interval(seen, images, spread),
                n=len(seen),
                split="val",
                source="measured",
            )
    decisive = dict(metrics)
    if measured is not None:
        metrics["latency_ms_measured"] = decisive["latency_ms"] = measured["p50_ms"]
        low, high = measured["interval"]
        uncertainty["latency_ms_measured"] = Uncertainty(
            interval=(low, high), n=measured["n"], split=None, source="measured"
        )
    return Entry(
        architecture=first.architecture,
        choices=first.choices,
        metrics=metrics,
        decisive=decisive,
        uncertainty=uncertainty,
    )


MIN_DF = 3
"""Degrees of freedom from which on the spread of others says something about a single training:
with 1 or 2 Student's t is 12.7 or 4.3, and the interval would be wider than anything known."""


def accuracy_interval(
    seen: Sequence[float],
    images: int | None,
    spread: stats.PooledSpread | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """The interval of an accuracy; see the module.

    Of an evaluator that does not say on how many images it judged, seeds are the only source; with
    neither both ends are the value.

    Args:
        seen: by seed.
        images: of the validation split.
        spread: between seeds, pooled over the run; None: of `seen` alone.
        confidence: coverage aimed at.
    """
    mean = statistics.fmean(seen)
    spread = spread or stats.pooled_spread([seen])
    by_seeds = 0.0
    if spread is not None and (len(seen) > 1 or spread.df >= MIN_DF):
        by_seeds = spread.half_width(len(seen), confidence)
    if images is None or not 0 <= mean <= 1:
        return mean - by_seeds, mean + by_seeds
    low, high = stats.wilson_interval(mean * images, images, confidence)
    low, high = mean - math.hypot(mean - low, by_seeds), mean + math.hypot(high - mean, by_seeds)
    return max(0.0, low), min(1.0, high)


def front_entries(entries: Sequence[Entry], objectives: Objectives) -> list[Entry]:
    """The non-dominated entries, best value of the first objective first."""
    usable = [e for e in entries if all(m in e.decisive for m in objectives)]
    members = [usable[i] for i in pareto.front([e.decisive for e in usable], objectives)]
    first, direction = next(iter(objectives.items()))
    return sorted(members, key=lambda e: e.decisive[first], reverse=direction == "max")


def near_front_entries(
    entries: Sequence[Entry], members: Sequence[Entry], objectives: Objectives
) -> list[Entry]:
    """Entries off the front whose intervals reach it: they may belong to it."""
    usable = [e for e in entries if all(m in e.decisive for m in objectives)]
    ids = {e.arch_id for e in members}
    near = pareto.near_front(
        [e.decisive for e in usable],
        [_intervals(e, objectives) for e in usable],
        objectives,
        [i for i, e in enumerate(usable) if e.arch_id in ids],
    )
    return [usable[i] for i in near]


def _intervals(entry: Entry, objectives: Objectives) -> dict[str, tuple[float, float]]:
    found = {}
    for m in objectives:
        known = entry.uncertainty.get(m)
        if m == "latency_ms":
            known = entry.uncertainty.get("latency_ms_measured", known)
        found[m] = known.interval if known else (entry.decisive[m], entry.decisive[m])
    return found


def count_states(trials: Iterable[Trial], rejected: int) -> dict[str, int]:
    """How many candidates are in every state."""
    counts = Counter(t.state for t in trials)
    return {s.value: counts[s] for s in State} | {State.REJECTED.value: rejected}


def front_json(
    entries: Sequence[Entry],
    *,
    objectives: Objectives,
    reference_point: Mapping[str, float],
    counts: Mapping[str, int],
    references: Sequence[Mapping[str, Any]] = (),
    avoided: Mapping[str, int] | None = None,
    spread: stats.PooledSpread | None = None,
) -> dict[str, Any]:
    """The object that `front.json` holds and `nasctl front --json` prints.

    Args:
        avoided: trainings that were not done, by reason.
        spread: of the accuracy between seeds.
    """
    members = front_entries(entries, objectives)
    return {
        "objectives": dict(objectives),
        "reference_point": dict(reference_point),
        "hypervolume": pareto.hypervolume(
            [e.decisive for e in members], objectives, reference_point
        ),
        "trials": dict(counts),
        "trainings_avoided": dict(avoided or {}),
        "seed_spread": {"accuracy": asdict(spread)} if spread is not None else {},
        "members": [e.to_json() for e in members],
        "references": list(references),
    }


class FrontSoFar:
    """The front of the trials added so far, by the values of the search; cheap to extend.

    A network with several seeds counts with its means, so a repeat may also make the hypervolume
    smaller: the first value was a lucky one.
    """

    def __init__(self, objectives: Objectives, reference_point: Mapping[str, float]) -> None:
        self._objectives = objectives
        self._front = pareto.RunningFront(objectives, reference_point)
        self._seen: dict[str, list[Trial]] = {}

    def add(self, trial: Trial) -> bool:
        """Counts a trial in; False if it has no result to count."""
        if trial.state is not State.COMPLETE or any(
            m not in trial.metrics for m in self._objectives
        ):
            return False
        group = self._seen.setdefault(trial.arch_id, [])
        group.append(trial)
        means = {m: statistics.fmean(t.metrics[m] for t in group) for m in self._objectives}
        self._front.put(trial.arch_id, means)
        return True

    @property
    def size(self) -> int:
        return self._front.size

    @property
    def hypervolume(self) -> float:
        return self._front.hypervolume


def hypervolume_history(
    trials: Sequence[Trial], objectives: Objectives, reference_point: Mapping[str, float]
) -> list[tuple[int, float]]:
    """(trial number, hypervolume of all COMPLETE trials up to it), by the values of the search; it
    falls where a repeat corrects a lucky value."""
    front = FrontSoFar(objectives, reference_point)
    return [(trial.number, front.hypervolume) for trial in trials if front.add(trial)]
