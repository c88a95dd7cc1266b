"""Layer 2: looking at the differences after every unit without being fooled by it.

A comparison that is tested at 3, 4, 5, ... units and stopped at the first p < 0.05 is right much
less often than 95 % of the time. `Looks` moves the boundary out: at n_k of n_max units, with the
information fraction t_k = n_k / n_max,

    |z_k| >= C(alpha) t_k^(shape - 1/2)            (Wang and Tsiatis, Biometrics 43, 1987)

with shape 0 for O'Brien and Fleming's boundary, 0.5 for Pocock's, and 0.25, our default, between
the two. A look's t statistic is put on this scale through its p-value: z_k has the same two-sided
p-value as t_k with n_k - 1 degrees of freedom (the significance-level approach; Jennison and
Turnbull, Group Sequential Methods, 2000, chapters 3 and 11). The published constants C are those
of z statistics with known variance. From 3 units on they are too small, so C comes from the joint
distribution of the t statistics themselves (`crossing`): for normal differences the whole schedule
has level alpha exactly, whatever their variance.

The intervals are repeated confidence intervals (Jennison and Turnbull, JRSS B 51, 1989; 2000,
chapter 9): all of them, at every look, cover the mean together with probability 1 - alpha. So they
and the p-values hold at whichever look one stops, for whatever reason.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from nasctl.effects.crossing import Array, crossing_probability
from nasctl.effects.paired import t_test
from nasctl.stats import Interval, t_interval

DRAWS = 4000
"""Simulated studies behind a bias-adjusted effect, each of them also with the opposite sign."""


@dataclass(frozen=True)
class Looks:
    """When a comparison is looked at.

    Attributes:
        schedule: numbers of units at the looks, increasing, the first at least 2.
        shape: Wang and Tsiatis' Delta, from 0 to 0.5; a greater one spends more of alpha early.

    Raises:
        ValueError: another schedule or shape.
    """

    schedule: tuple[int, ...]
    shape: float = 0.25

    def __post_init__(self) -> None:
        pairs = zip(self.schedule, self.schedule[1:], strict=False)
        if not self.schedule or self.schedule[0] < 2 or any(a >= b for a, b in pairs):
            raise ValueError(f"looks at {self.schedule}: they increase, from at least 2 units")
        if not 0 <= self.shape <= 0.5:
            raise ValueError(f"shape {self.shape}: from 0 to 0.5")

    @classmethod
    def every(cls, first: int, last: int) -> Looks:
        """A look after each unit from the first to the last number."""
        return cls(tuple(range(first, last + 1)))

    def reached(self, n: int) -> int | None:
        """The last look at or before n units, None before the first.

        Raises:
            ValueError: more units than the last look has: nothing was planned for those.
        """
        if n > self.schedule[-1]:
            raise ValueError(f"{n} units, but the last look is at {self.schedule[-1]}")
        return max((k for k in self.schedule if k <= n), default=None)

    def constant(self, alpha: float) -> float:
        """C(alpha), the boundary at the last look, on the scale of z.

        Raises:
            ValueError: alpha outside (0, 1).
        """
        return _constant(self.schedule, self.shape, alpha)

    def critical(self, alpha: float) -> tuple[float, ...]:
        """The boundary at every look, on the scale of z."""
        constant = self.constant(alpha)
        return tuple(constant * self._fraction(n) ** (self.shape - 0.5) for n in self.schedule)

    def levels(self, alpha: float) -> tuple[float, ...]:
        """The two-sided nominal level of the t test at every look."""
        if len(self.schedule) == 1:
            return (alpha,)  # exactly: no rounding on the way to z and back
        return _nominal(self.schedule, self.shape, self.constant(alpha))

    def interval(self, values: Sequence[float], alpha: float) -> Interval:
        """The repeated confidence interval of the mean at the look after these values.

        Student's t interval at the nominal level of that look; a point if the values are equal.

        Raises:
            ValueError: no look at that number of values.
        """
        level = self.levels(alpha)[self._index(len(values))]
        return t_interval(values, 1 - level)

    def p_value(self, values: Sequence[float], *, so_far: bool = True) -> float:
        """The repeated p-value at the look after these values (Jennison and Turnbull, chapter 9).

        Args:
            values: in the order in which they came.
            so_far: the smallest alpha at which the boundary was crossed at this look or an
                earlier one, so it never increases. Without, the smallest at which it is crossed
                at this look: then p < alpha is the same as 0 outside `interval`. Both are valid
                at any look: under the null hypothesis P(p <= alpha) is at most alpha.

        Raises:
            ValueError: no look at that number of values.
        """
        from scipy.special import ndtri

        index = self._index(len(values))
        if len(self.schedule) == 1:
            return t_test(values)
        constant = 0.0
        for n in self.schedule[0 if so_far else index : index + 1]:
            z = -float(ndtri(t_test(values[:n]) / 2))
            constant = max(constant, z * self._fraction(n) ** (0.5 - self.shape))
        if math.isinf(constant):
            return 0.0
        return _crossing(self.schedule, self.shape, constant)

    def power(self, effect: float, *, sd: float, alpha: float) -> float:
        """The chance that the boundary is crossed at some look, for normal differences.

        From `DRAWS` simulated studies and their mirror images: right to .01.

        Args:
            effect: true mean difference.
            sd: true standard deviation of the differences, in the unit of the effect; above 0.
            alpha: level of the whole schedule.
        """
        from scipy.special import stdtrit

        means, errors = _simulated(self.schedule)
        degrees = np.array(self.schedule) - 1
        bound = -stdtrit(degrees, np.array(self.levels(alpha)) / 2) * errors
        ratio = abs(effect) / sd
        crossed = [(np.abs(ratio + sign * means) >= bound).any(axis=1) for sign in (1.0, -1.0)]
        return float(np.mean(crossed))

    def adjusted_effect(self, values: Sequence[float], alpha: float) -> float:
        """The mean with the bias of stopping early taken off.

        Who stops when the mean looks large reports, on average, too large a mean. This is the
        bias-adjusted estimate of Whitehead (Biometrika 73, 1986): the mean m for which a study
        that stops where 0 leaves the interval at alpha, and at the last look, reports on average
        what was seen. The bias depends on m / sd alone and comes from seeded simulation (its Monte
        Carlo error is below 1 % of the standard deviation). Where the boundary is not crossed, the
        current look counts as the last.

        Its limits: the standard deviation is taken as known and equal to the values', which is too
        small just where a study stops early on few units, so it removes a part of the bias only;
        and stopping for another reason (equivalence) is not in it. Tests and intervals never use
        it.

        Raises:
            ValueError: no look at that number of values.
        """
        index = self._index(len(values))
        mean, sd = fmean(values), stdev(values)
        levels = self.levels(alpha)
        looks = self.schedule if t_test(values) <= levels[index] else self.schedule[: index + 1]
        if len(looks) == 1 or sd == 0 or mean == 0:
            return mean
        return math.copysign(_unbiased(looks, levels[: len(looks) - 1], abs(mean) / sd) * sd, mean)

    def _fraction(self, n: int) -> float:
        return n / self.schedule[-1]

    def _index(self, n: int) -> int:
        if n not in self.schedule:
            raise ValueError(f"{n} values, but the looks are at {self.schedule}")
        return self.schedule.index(n)


def _nominal(schedule: tuple[int, ...], shape: float, constant: float) -> tuple[float, ...]:
    from scipy.special import ndtr

    last = schedule[-1]
    return tuple(float(2 * ndtr(-constant * (n / last) ** (shape - 0.5))) for n in schedule)


def _crossing(schedule: tuple[int, ...], shape: float, constant: float) -> float:
    return crossing_probability(schedule, _nominal(schedule, shape, constant))


@functools.cache
def _constant(schedule: tuple[int, ...], shape: float, alpha: float) -> float:
    from scipy.optimize import brentq
    from scipy.special import ndtri

    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    # The last look alone crosses less often, and Bonferroni's bound for all looks more often.
    low = -float(ndtri(alpha / 2))
    high = -float(ndtri(alpha / 2 / len(schedule)))
    if len(schedule) == 1:
        return low

    def excess(constant: float) -> float:
        return math.log(_crossing(schedule, shape, constant) / alpha)

    # The quadrature's own error may put an end on the wrong side when looks hardly differ.
    return float(brentq(excess, low - 0.05, high + 0.05, xtol=1e-8))


@functools.cache
def _simulated(looks: tuple[int, ...]) -> tuple[Array, Array]:
    """Means and their standard errors at the looks: of `DRAWS` rows of N(0, 1) values."""
    values = np.random.default_rng(0).standard_normal((DRAWS, looks[-1]))
    n = np.array(looks)
    means = np.cumsum(values, axis=1)[:, n - 1] / n
    squares = np.cumsum(values**2, axis=1)[:, n - 1]
    return means, np.sqrt((squares / n - means**2) / (n - 1))


def _unbiased(looks: tuple[int, ...], levels: tuple[float, ...], seen: float) -> float:
    """The ratio of mean to standard deviation at which a study reports `seen` on average."""
    from scipy.optimize import brentq

    def excess(ratio: float) -> float:
        return ratio + _bias(looks, levels, ratio) - seen

    # At 0 the opposite signs cancel; above what was seen there is nothing to take off.
    return float(brentq(excess, 0.0, seen, xtol=1e-4)) if excess(seen) > 0 else seen


def _bias(looks: tuple[int, ...], levels: tuple[float, ...], ratio: float) -> float:
    """E(mean where the study stops) - ratio, for N(ratio, 1) values; `levels` of all looks but the
    last, where every study stops."""
    from scipy.special import stdtrit

    means, errors = _simulated(looks)
    degrees = np.array(looks[:-1]) - 1
    bound = -stdtrit(degrees, np.array(levels) / 2) * errors[:, :-1]
    total = 0.0
    for sign in (1.0, -1.0):
        seen = ratio + sign * means
        stops = np.ones(means.shape, dtype=bool)
        stops[:, :-1] = np.abs(seen[:, :-1]) >= bound
        total += float(seen[np.arange(len(seen)), stops.argmax(axis=1)].mean())
    return total / 2 - ratio
