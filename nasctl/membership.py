"""Layer 2: which of some measured points are on the true front, and how sure that is.

Each metric of each point is known from a few repeats: accuracy from seeds, latency from visits. The
spread of repeats is taken to be the same for all points on a scale that suits the metric (log-odds
for fractions, logarithms for times); pooled, it has many degrees of freedom even with three seeds
each. The posterior of all means under the usual non-informative prior (Gelman et al., Bayesian Data
Analysis, 3rd edition, section 3.2, with one variance for all groups) is drawn from, and a point's
probability to be on the front is the share of draws in which nothing dominates it. Resampling the
repeats instead (the bootstrap) is overconfident at three seeds: `benchmarks/membership.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nasctl.trial import Objectives

Scale = Literal["fraction", "positive", "real", "exact"]
Values = npt.NDArray[np.float64]

DRAWS = 4000
_CLIP = 1e-6
"""Fractions are kept this far from 0 and 1, where log-odds end."""
_CELLS = 1 << 20
"""Pairs of points that are compared at a time."""
_FAR = 700.0
"""What exp can take: with one degree of freedom draws go very far."""


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """One metric of all points.

    Attributes:
        values: for each point its repeats, one or more.
        scale: `fraction` (in 0 .. 1), `positive`, `real` (as it is), or `exact` (one value each,
            without error).
        lost: degrees of freedom that are in the values no more: of what was taken out of them.
        errors: of each point, where one value of each and its standard error on the scale are what
            is known; None: the repeats say how far they scatter.
        degrees: of each of those standard errors; None: it is known exactly.
    """

    values: Sequence[Sequence[float]]
    scale: Scale
    lost: int = 0
    errors: Sequence[float] | None = None
    degrees: Sequence[int | None] = ()


@dataclass(frozen=True, kw_only=True)
class Membership:
    """How sure the front is.

    Attributes:
        probability: of each point to be on the true front.
        intervals: by metric, of each point's mean, at `confidence`.
        optimistic: points that no other dominates when they are at the good end of their
            intervals and the others at the bad end; `pessimistic`: the other way round.
        draws: by metric, (draws, points): samples of the posterior of the means.
    """

    probability: tuple[float, ...]
    intervals: Mapping[str, tuple[tuple[float, float], ...]]
    confidence: float
    optimistic: tuple[int, ...]
    pessimistic: tuple[int, ...]
    draws: Mapping[str, Values]


def membership(
    metrics: Mapping[str, Repeats],
    objectives: Objectives,
    *,
    confidence: float = 0.9,
    draws: int = DRAWS,
    seed: int = 0,
) -> Membership:
    """The posterior of the front among some points.

    Args:
        metrics: every objective, for the same points in the same order.
        objectives: metric to `max` or `min`.
        confidence: of the intervals.
        draws: Monte Carlo error of a probability is at most .5 / sqrt(draws).

    Raises:
        ValueError: no points, metrics of different lengths, a point without a value, an exact
            metric with several, no repeat of anything that is not exact and has no errors, or
            errors of other points than the values.
    """
    _check(metrics, objectives)
    rng = np.random.default_rng(seed)
    samples = {name: _posterior(repeats, draws, rng) for name, repeats in metrics.items()}
    costs = np.stack(
        [samples[m] * (-1.0 if goal == "max" else 1.0) for m, goal in objectives.items()], axis=2
    )
    on_front = _times_on_front(costs)
    tails = (1 - confidence) / 2
    ends = {m: np.quantile(s, [tails, 1 - tails], axis=0) for m, s in samples.items()}
    good = np.stack([-ends[m][1] if g == "max" else ends[m][0] for m, g in objectives.items()], 1)
    bad = np.stack([-ends[m][0] if g == "max" else ends[m][1] for m, g in objectives.items()], 1)
    return Membership(
        probability=tuple(float(p) for p in on_front / draws),
        intervals={
            m: tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))
            for m, (low, high) in ends.items()
        },
        confidence=confidence,
        optimistic=_alone(good, bad),
        pessimistic=_alone(bad, good),
        draws=samples,
    )


def _check(metrics: Mapping[str, Repeats], objectives: Objectives) -> None:
    missing = [m for m in objectives if m not in metrics]
    if missing:
        raise ValueError(f"no values of {missing[0]}")
    sizes = {len(r.values) for r in metrics.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"metrics of {sorted(sizes)} points")
    for name, repeats in metrics.items():
        counts = [len(v) for v in repeats.values]
        if min(counts) < 1:
            raise ValueError(f"{name}: a point without a value")
        if repeats.scale == "exact" and max(counts) > 1:
            raise ValueError(f"{name}: exact, with several values")
        if repeats.errors is not None:
            if not len(repeats.errors) == len(repeats.degrees) == len(counts) == sum(counts):
                raise ValueError(f"{name}: not one value, error and degree for each point")
        elif repeats.scale != "exact" and max(counts) < 2:
            raise ValueError(f"{name}: one value of each point says nothing about its spread")


def _times_on_front(costs: Values) -> Values:
    """In how many draws each point is dominated by no other, (points,).

    Args:
        costs: (draws, points, objectives), all minimised.
    """
    draws, points, _ = costs.shape
    found = np.zeros(points)
    step = max(1, _CELLS // (points * points))
    for start in range(0, draws, step):
        part = costs[start : start + step]
        shape = (len(part), points, points)  # the first point against the second
        no_worse, better = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
        for values in np.moveaxis(part, 2, 0):
            no_worse &= values[:, :, None] <= values[:, None, :]
            better |= values[:, :, None] < values[:, None, :]
        found += (~(no_worse & better).any(axis=1)).sum(axis=0)
    return found


def _posterior(repeats: Repeats, draws: int, rng: np.random.Generator) -> Values:
    """(draws, points) of the means, on the metric's own scale."""
    if repeats.scale == "exact":
        row = np.array([float(v[0]) for v in repeats.values])
        return np.broadcast_to(row, (draws, len(row)))
    there, back = _SCALES[repeats.scale]
    if repeats.errors is not None:
        centres = there(np.array([float(v[0]) for v in repeats.values]))
        return back(centres + _errors(repeats.errors, repeats.degrees, draws, rng))
    given = [np.asarray(v, dtype=np.float64) for v in repeats.values]
    groups = [there(g) for g in (_inside(given) if repeats.scale == "fraction" else given)]
    counts = np.array([len(g) for g in groups])
    means = np.array([g.mean() for g in groups])
    degrees = max(int((counts - 1).sum()) - repeats.lost, 1)
    squares = sum(float(((g - g.mean()) ** 2).sum()) for g in groups)
    # One variance for all points, drawn once for each sample of all means.
    deviations = np.sqrt(squares / rng.chisquare(degrees, draws))
    errors = rng.standard_normal((draws, len(means))) / np.sqrt(counts)
    return back(means + deviations[:, None] * errors)


def _errors(
    errors: Sequence[float],
    degrees: Sequence[int | None],
    draws: int,
    rng: np.random.Generator,
) -> Values:
    """(draws, points): normal errors, or Student's t where the standard error was estimated; such
    estimates rest on the same few networks, so one factor for all points in each draw."""
    found: Values = rng.standard_normal((draws, len(errors))) * np.asarray(errors)
    for df in sorted({d for d in degrees if d is not None}):
        factor = np.sqrt(df / rng.chisquare(df, draws))
        found *= np.where([d == df for d in degrees], factor[:, None], 1.0)
    return found


def _inside(groups: Sequence[Values]) -> list[Values]:
    """Fractions away from 0 and 1, where one image more would be any number of log-odds: by half of
    what the nearest other value is away, as half an image where they are counted in images."""
    every = np.concatenate(groups)
    away = np.minimum(every, 1 - every)
    away = away[away > _CLIP]
    least = float(away.min()) / 2 if len(away) else _CLIP
    return [np.clip(g, least, 1 - least) for g in groups]


def _log_odds(values: Values) -> Values:
    inside = np.clip(values, _CLIP, 1 - _CLIP)
    found: Values = np.log(inside) - np.log1p(-inside)
    return found


def _fraction(values: Values) -> Values:
    found: Values = 1 / (1 + np.exp(-np.clip(values, -_FAR, _FAR)))
    return found


def _logarithm(values: Values) -> Values:
    found: Values = np.log(np.maximum(values, math.ulp(0.0)))
    return found


def _exponential(values: Values) -> Values:
    found: Values = np.exp(np.clip(values, -_FAR, _FAR))
    return found


def _same(values: Values) -> Values:
    return values


_SCALES: Mapping[str, tuple[Callable[[Values], Values], Callable[[Values], Values]]] = {
    "fraction": (_log_odds, _fraction),
    "positive": (_logarithm, _exponential),
    "real": (_same, _same),
}


def _alone(own: Values, others: Values) -> tuple[int, ...]:
    """Points that at `own` costs are not dominated by any other at `others`."""
    found = []
    for i, point in enumerate(own):
        rest = np.delete(others, i, axis=0)
        dominated = ((rest <= point).all(axis=1) & (rest < point).any(axis=1)).any()
        if not dominated:
            found.append(i)
    return tuple(found)
