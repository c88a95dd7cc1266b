"""Layer 2: how often Student's t crosses a boundary when it is looked at again and again.

The joint null distribution of t statistics on growing samples is computed exactly, by recursive
numerical integration over the looks (Armitage, McPherson and Rowe, JRSS A 132, 1969, for known
variance; Jennison and Turnbull, Biometrika 78, 1991, for sequential t tests).

The state is one number. Of k independent N(0, sigma^2) values with sum S and sum of squares Q let
u = S / sqrt(Q). The direction of a vector of such values is independent of its length, so the next
value x, relative to that length, r = x / sqrt(Q), is independent of every earlier u, and
sqrt(k) r has Student's t distribution with k degrees of freedom. With it

    u' = (S + x) / sqrt(Q + x^2) = (u + r) / sqrt(1 + r^2),

so u is a Markov chain that does not depend on sigma. Student's t is a function of it: with
u = sqrt(k) sin(v), t = sqrt(k - 1) tan(v). The constants for known variance would be wrong here:
with them, nominal levels and looks at 3, 4, ..., 20 units cross too often (see
benchmarks/ablation_statistics.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

TINY = 1e-9
"""Smaller probabilities are bounded, not computed."""
Array = npt.NDArray[np.float64]

GRID = 192
"""Points of the state on each side of zero, with a cubic spline between them. Against ten times as
many points and nodes, probabilities of 0.01 to 0.3 are right to 0.4 % of themselves, those near
0.0001 to 1 %."""
NODES = 40
"""Of Gauss and Legendre's quadrature over the next value, on each of two intervals."""


@functools.cache
def _legendre() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return nodes, weights


def _reach(k: int) -> float:
    """The angle beyond which the densities cos^(k-1) and cos^(k-2) are below 1e-15 of their
    greatest value."""
    return min(math.pi / 2, 8.5 / math.sqrt(max(k - 2, 1)))


def _grid(edge: float) -> Array:
    """Angles from 0 to `edge`, dense at the edge, where the chance to cross changes fastest."""
    return edge * np.sin(np.linspace(0.0, math.pi / 2, GRID))


def _between(points: tuple[Array, Array]) -> Callable[[Array], Array]:
    """The function of an angle through these points; it is even, and constant beyond them."""
    from scipy.interpolate import CubicSpline

    v, chances = points
    spline = CubicSpline(v, chances, bc_type=((1, 0.0), "not-a-knot"))
    return lambda angle: spline(np.minimum(angle, v[-1]))


def _density(angles: Array, power: int) -> Array:
    """The density proportional to cos^power on (-pi/2, pi/2)."""
    log = math.lgamma(power / 2 + 1) - math.lgamma((power + 1) / 2) - math.log(math.pi) / 2
    density: Array = math.exp(log) * np.maximum(np.cos(angles), 0.0) ** power
    return density


def _below(angle: Array, k: int) -> Array:
    """P(phi < angle) where sqrt(k) tan(phi) has Student's t distribution with k degrees."""
    from scipy.special import stdtr

    inside = np.clip(angle, -math.pi / 2, math.pi / 2)
    below: Array = np.where(
        np.abs(angle) >= math.pi / 2, angle > 0, stdtr(k, math.sqrt(k) * np.tan(inside))
    )
    return below


def _step(k: int, v: Array, edge: float, after: tuple[Array, Array] | None) -> Array:
    """The chance to cross at k + 1 values or later, given the angles `v` >= 0 at k values.

    Args:
        k: values so far.
        v: of the state at k values.
        edge: the angle of the boundary at k + 1 values; pi / 2 where nobody looks.
        after: angles and chances to cross later than k + 1 values; None if that is never.
    """
    u = math.sqrt(k) * np.sin(v)
    radius = np.sqrt(1 + u * u)
    psi = np.arctan(u)
    # u' = radius sin(phi + psi) with tan(phi) = r; |u'| < boundary where the sine is below this.
    beta = np.arcsin(np.minimum(math.sqrt(k + 1) * math.sin(edge) / radius, 1.0))
    crossed = np.zeros_like(v)
    if edge < math.pi / 2:
        # Tails on the far side of zero, so that small chances keep their digits.
        crossed = _below(psi - beta, k) - _below(psi - (math.pi - beta), k)
        crossed = crossed + _below(-beta - psi, k)
    if after is None:
        return crossed
    later, reach = _between(after), _reach(k)
    nodes, weights = _legendre()
    intervals = ((-beta - psi, beta - psi), (math.pi - beta - psi, np.full_like(psi, math.pi)))
    for begin, end in intervals:
        low, high = np.clip(begin, -reach, reach), np.clip(end, -reach, reach)
        some = high > low
        low, half = low[some], (high[some] - low[some]) / 2
        phi = low[:, None] + half[:, None] * (nodes + 1)
        sine = radius[some, None] * np.sin(phi + psi[some, None]) / math.sqrt(k + 1)
        angle = np.arcsin(np.clip(np.abs(sine), 0.0, 1.0))
        values = later(angle) * _density(phi, k - 1)
        crossed[some] += half * (values @ weights)
    return crossed


@functools.lru_cache(maxsize=4096)
def crossing_probability(schedule: tuple[int, ...], levels: tuple[float, ...]) -> float:
    """P(a two-sided t test of mean 0 is significant at one look or more), for normal values.

    Args:
        schedule: numbers of values at the looks, increasing, the first at least 2.
        levels: nominal two-sided level of the t test at each look.
    """
    from scipy.special import stdtrit

    if max(levels) >= 1:
        return 1.0  # where everything is significant
    # Deep in the tails rounding shows: Bonferroni's bound is safe there, and the least value of
    # the rest keeps the whole monotonic.
    bound = math.fsum(levels)
    if bound <= TINY:
        return bound
    edges = {
        k: math.atan(-float(stdtrit(k - 1, level / 2)) / math.sqrt(k - 1))
        for k, level in zip(schedule, levels, strict=True)
    }
    first, last = schedule[0], schedule[-1]
    after: tuple[Array, Array] | None = None
    for k in range(last - 1, first - 1, -1):
        # Where nobody looks, the states that have a probability at all.
        v = _grid(min(edges.get(k, math.pi / 2), _reach(k)))
        after = v, _step(k, v, edges.get(k + 1, math.pi / 2), after)
    if after is None:
        return levels[0]
    nodes, weights = _legendre()
    half = min(edges[first], _reach(first)) / 2
    v = half * (nodes + 1)
    later = 2 * half * float((_between(after)(v) * _density(v, first - 2)) @ weights)
    return min(max(levels[0] + later, TINY), 1.0)
