"""Expected hypervolume improvement where only one objective is unknown.

Maximise a score `a`, minimise costs `c` that are known exactly. A candidate with costs c whose
score turned out to be A would add

    HVI(A) = integral over t from a_r to A of V(t) dt,
    V(t)   = volume of {c' : c <= c' <= c_r} not covered by any front point with a_i >= t,

a piecewise-linear function of A, because V changes only at the scores of the front. So

    E[HVI] = sum_j V_j (Psi(t_j) - Psi(t_j+1)),   Psi(t) = E[(A - t)+],

exactly, for any distribution of A whose Psi is known. Compare Emmerich et al. 2011 (every objective
unknown), Loka et al. 2022, doi 10.1007/s00366-021-01573-7 (cheap and expensive objectives).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from nasctl.pareto import undominated, volume

Array = npt.NDArray[np.float64]
Psi = Callable[[Array, Array, Array], Array]
"""E[(A - t)+] from mean and deviation of the modelled scale and t, which broadcast."""

_ROOT = 1.0 / np.sqrt(2.0 * np.pi)


def psi_normal(mean: Array, sd: Array, t: Array) -> Array:
    """For A ~ N(mean, sd^2)."""
    z = (mean - t) / sd
    result: Array = sd * (z * ndtr(z) + _ROOT * np.exp(-0.5 * z * z))
    return result


def psi_log_error(mean: Array, sd: Array, t: Array) -> Array:
    """For A = 1 - exp(-Y), Y ~ N(mean, sd^2), t < 1: the error is lognormal, and the expectation
    that of a put option on it (Black and Scholes 1973)."""
    room = 1.0 - t
    d = (np.log(room) + mean) / sd
    result: Array = np.maximum(room * ndtr(d) - np.exp(0.5 * sd * sd - mean) * ndtr(d - sd), 0.0)
    return result


def front_of(scores: Array, costs: Array) -> npt.NDArray[np.intp]:
    """Indices of the non-dominated points, lowest score first; one of equal points."""
    points = np.column_stack([-scores, costs])
    members = undominated(points)  # best first, cheapest first among equals
    fresh = np.ones(len(members), dtype=bool)
    fresh[1:] = (points[members[1:]] != points[members[:-1]]).any(axis=1)
    return members[fresh][::-1]


def free_volumes(costs: Array, front_costs: Array, reference: Array) -> Array:
    """V_j for every candidate and level.

    Args:
        costs: of the candidates, (p, k), k at least 1.
        front_costs: (m, k), in ascending order of score.
        reference: (k,).

    Returns:
        (p, m + 1): column j is the volume that front points j, j + 1, ... leave free.
    """
    if costs.shape[1] == 1:
        cheapest = np.full(len(front_costs) + 1, reference[0])
        cheapest[:-1] = np.minimum.accumulate(front_costs[::-1, 0])[::-1]
        result: Array = np.maximum(np.minimum(cheapest, reference[0])[None] - costs, 0.0)
        return result
    if costs.shape[1] == 2:
        return _free_in_cells(costs, front_costs, reference)
    return _free_volumes_beyond(costs, front_costs, reference)


def _free_in_cells(costs: Array, front_costs: Array, reference: Array) -> Array:
    """Two costs: the front cuts the plane into cells, each of them covered up to one score."""
    m = len(front_costs)
    inner = np.minimum(front_costs, reference)
    edges = [np.unique(inner[:, k]) for k in range(2)]
    # A cell is covered by the points left of and below it; the last of them is the best.
    last = np.zeros([len(e) + 1 for e in edges], dtype=np.intp)
    at = [np.searchsorted(e, inner[:, k]) + 1 for k, e in enumerate(edges)]
    np.maximum.at(last, (at[0], at[1]), np.arange(1, m + 1))
    for axis in range(2):
        np.maximum.accumulate(last, axis=axis, out=last)
    bounds = [np.append(e, r) for e, r in zip(edges, reference, strict=True)]
    # In a column of cells, points j, j + 1, ... leave free what is below the first that they cover.
    rows = (last[:, :, None] <= np.arange(m + 1)).sum(axis=1) - 1
    heights = np.maximum(bounds[1] - costs[:, 1:], 0.0)
    right = np.maximum(bounds[0], costs[:, :1])
    widths = np.diff(right, prepend=costs[:, :1], axis=1)
    result: Array = np.matmul(widths[:, None, :], heights[:, rows])[:, 0]
    return result


def _free_volumes_beyond(costs: Array, front_costs: Array, reference: Array) -> Array:
    """Three costs and more: one exact hypervolume per candidate and level."""
    m = len(front_costs)
    room = np.maximum(reference - costs, 0.0)
    result = np.repeat(room.prod(axis=1)[:, None], m + 1, axis=1)
    for p, own in enumerate(costs):
        if not (own < reference).all():
            continue
        for j in range(m - 1, -1, -1):
            clipped = np.maximum(front_costs[j:], own)
            clipped = clipped[(clipped < reference).all(axis=1)]
            if len(clipped):
                result[p, j] -= volume(clipped, reference)
    free: Array = np.maximum(result, 0.0)
    return free


def expected_improvement(
    mean: Array,
    sd: Array,
    costs: Array,
    *,
    front_scores: Array,
    front_costs: Array,
    reference_score: float,
    reference_costs: Array,
    psi: Psi,
) -> Array:
    """E[HVI] of every candidate, in units of the objectives multiplied.

    Args:
        mean, sd: of the unknown objective on the modelled scale, (p,).
        costs: (p, k).
        front_scores, front_costs: of the front, ascending in score: (m,), (m, k).
        reference_score: points below it count for nothing.
        reference_costs: (k,).
        psi: of the scale, see `psi_normal`.
    """
    inside = front_scores > reference_score
    front_scores, front_costs = front_scores[inside], front_costs[inside]
    levels = np.concatenate([[reference_score], front_scores])
    if costs.shape[1] == 0:  # nothing but the score counts
        best: Array = psi(mean, sd, levels[-1:])
        return best
    free = free_volumes(costs, front_costs, reference_costs)
    value = psi(mean[:, None], sd[:, None], levels[None])
    # Abel summation: each level adds its own volume less that of the level below.
    gains = np.diff(free, axis=1, prepend=0.0)
    result: Array = (value * gains).sum(axis=1)
    return result
