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

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from nasctl.pareto import undominated, volume

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Psi = Callable[[Array, Array, Array], Array]
"""E[(A - t)+] from mean and deviation of the modelled scale and t, which broadcast."""

CUT = 2  # costs up to which a front is cut into cells
CHUNK = 512  # candidates at a time, which stay in the processor's cache
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


def free_volumes(
    costs: Array, front_costs: Array, reference: Array, starts: Index | None = None
) -> Array:
    """V_j for every candidate and level.

    Args:
        costs: of the candidates, (p, k), k at least 1.
        front_costs: (m, k), in ascending order of score.
        reference: (k,).
        starts: takes the levels from each of these to the next one together; the first is 0.

    Returns:
        (p, m + 1): column j is the volume that front points j, j + 1, ... leave free. With `starts`
        a column for each of them, the mean of the columns that it stands for.
    """
    if costs.shape[1] > CUT:
        return _means(_free_volumes_beyond(costs, front_costs, reference), starts)
    # Left of all candidates the front may be taken for a simpler one.
    seen = np.maximum(front_costs, costs.min(axis=0, initial=np.inf))
    return _Cells(seen, reference, starts).volumes(costs)


def _means(levels: Array, starts: Index | None) -> Array:
    """Over the last axis, from each start to the next."""
    if starts is None:
        return levels
    counts = np.diff(starts, append=levels.shape[-1])
    result: Array = np.add.reduceat(levels, starts, axis=-1) / counts
    return result


class _Cells:
    """The front cuts the space of costs into cells, each of them covered up to one score.

    From a candidate in a cell, the free volume is what lies beyond the cell on all axes, and what
    lies beyond it on some and is as wide as the rest of the cell on the others: one table for each
    choice of those others. So a candidate takes a look into 2^k tables, whatever the front.
    """

    def __init__(self, front_costs: Array, reference: Array, starts: Index | None) -> None:
        m, k = front_costs.shape
        inner = np.minimum(front_costs, reference)
        self._edges = [np.unique(inner[:, d]) for d in range(k)]
        self._bounds = [np.append(e, r) for e, r in zip(self._edges, reference, strict=True)]
        # A cell is covered by the points left of and below it; the last of them is the best.
        last = np.zeros([len(e) + 1 for e in self._edges], dtype=np.intp)
        at = [np.searchsorted(e, inner[:, d]) + 1 for d, e in enumerate(self._edges)]
        np.maximum.at(last, tuple(at), np.arange(1, m + 1))
        for axis in range(k):
            np.maximum.accumulate(last, axis=axis, out=last)
        free = (last[..., None] <= np.arange(m + 1)).astype(np.float64)
        tables: dict[tuple[int, ...], Array] = {(): _means(free, starts)}
        for d, bound in enumerate(self._bounds):
            widths = np.diff(bound, prepend=bound[0])
            beyond = np.triu(np.broadcast_to(widths, (len(widths), len(widths))), 1)
            tables = {(*axes, d): t for axes, t in tables.items()} | {
                axes: _along(beyond, t, d) for axes, t in tables.items()
            }
        self._tables = {axes: t.reshape(-1, t.shape[-1]) for axes, t in tables.items()}

    def volumes(self, costs: Array) -> Array:
        """See `free_volumes`."""
        cell = np.zeros(len(costs), dtype=np.intp)
        rest = []
        for d, (edges, bounds) in enumerate(zip(self._edges, self._bounds, strict=True)):
            at = np.searchsorted(edges, costs[:, d], side="right")
            cell = cell * len(bounds) + at
            rest.append(np.maximum(bounds[at] - costs[:, d], 0.0)[:, None])
        result: Array = self._tables[()][cell]
        for axes, table in self._tables.items():
            if axes:
                result += math.prod(rest[d] for d in axes) * table[cell]
        return result


def _along(matrix: Array, values: Array, axis: int) -> Array:
    """The matrix times every line of values along an axis."""
    shape = values.shape
    lines = values.reshape(math.prod(shape[:axis]), shape[axis], -1)
    result: Array = np.matmul(matrix, lines).reshape(shape)
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
    most: int | None = None,
) -> Array:
    """E[HVI] of every candidate, in units of the objectives multiplied.

    Args:
        mean, sd: of the unknown objective on the modelled scale, (p,).
        costs: (p, k).
        front_scores, front_costs: of the front, ascending in score: (m,), (m, k).
        reference_score: points below it count for nothing.
        reference_costs: (k,).
        psi: of the scale, see `psi_normal`.
        most: so many levels at most; a longer front is taken for a coarser one, which is faster.
    """
    inside = front_scores > reference_score
    front_scores, front_costs = front_scores[inside], front_costs[inside]
    levels = np.concatenate([[reference_score], front_scores])
    if costs.shape[1] == 0:  # nothing but the score counts
        best: Array = psi(mean, sd, levels[-1:])
        return best
    starts = None
    if most is not None and most < len(levels):
        starts = np.unique(np.linspace(0, len(levels), most, endpoint=False).astype(np.intp))
        levels = levels[starts]
    result = np.empty(len(costs))
    free = free_volumes(costs, front_costs, reference_costs, starts)
    for first in range(0, len(costs), CHUNK):
        part = slice(first, first + CHUNK)
        value = psi(mean[part, None], sd[part, None], levels[None])
        # Abel summation: each level adds its own volume less that of the level below.
        gains = np.diff(free[part], axis=1, prepend=0.0)
        result[part] = np.einsum("pj,pj->p", value, gains)
    return result
