"""Layer 2: planning. What a number of units can show, and how many units an effect takes.

Power of the paired t test is exact for normal differences, from the noncentral t distribution
(Cohen, Statistical Power Analysis, 1988, chapter 2; Lehmann and Romano, Testing Statistical
Hypotheses, 2005, section 5.2). For m comparisons plan with alpha / m, which is what Holm's
procedure may ask of each of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from nasctl.effects.crossing import Array
from nasctl.stats import pooled_spread

MOST_UNITS = 100_000
NODES = 256
"""Of Gauss and Legendre's quadrature; powers are right to 1e-6."""
TOO_SMALL = 1.5
"""A pilot is too small if its upper limit of a standard deviation is so many times its estimate."""


@functools.cache
def _legendre() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return nodes, weights


def power(effect: float, *, n: int, sd: float, alpha: float = 0.05) -> float:
    """The chance that the two-sided paired t test rejects.

    Args:
        effect: true mean difference.
        n: units.
        sd: true standard deviation of the differences, in the unit of the effect. With 0 any
            effect is found.
        alpha: level.

    Raises:
        ValueError: fewer than two units, a negative standard deviation, or alpha outside (0, 1).
    """
    from scipy.special import chdtri, ndtr, stdtrit

    if n < 2 or not 0 <= sd < math.inf or not 0 < alpha < 1:
        raise ValueError(f"power with n={n}, sd={sd}, alpha={alpha}")
    if sd == 0:
        return 1.0 if effect else 0.0
    bound = -float(stdtrit(n - 1, alpha / 2))
    shift = abs(effect) / sd * math.sqrt(n)
    # t = (z + shift) / s with s^2 = chi^2 / df, integrated over the quantiles of s. (scipy's
    # noncentral t distribution returns NaN for some large shifts.)
    nodes, weights = _legendre()
    s = np.sqrt(chdtri(n - 1, (nodes + 1) / 2) / (n - 1))
    found = ndtr(shift - bound * s) + ndtr(-shift - bound * s)
    return min(float(found @ weights) / 2, 1.0)


def detectable_effect(*, n: int, sd: float, alpha: float = 0.05, target: float = 0.8) -> float:
    """The least true mean difference that is found with power `target`, in the unit of `sd`.

    Raises:
        ValueError: as `power`, or a target that is not between alpha and 1.
    """
    from scipy.optimize import brentq

    _check(alpha, target)
    if not 0 <= sd < math.inf:
        raise ValueError(f"standard deviation {sd}")

    def excess(ratio: float) -> float:
        return power(ratio, n=n, sd=1.0, alpha=alpha) - target

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return sd * float(brentq(excess, 0.0, high))


def units_needed(
    effect: float, *, sd: float, alpha: float = 0.05, target: float = 0.8
) -> int | None:
    """The least number of units that finds this effect with power `target`.

    Returns:
        None if it takes more than `MOST_UNITS`, always so without an effect.

    Raises:
        ValueError: as `detectable_effect`.
    """
    _check(alpha, target)

    def enough(n: int) -> bool:
        return power(effect, n=n, sd=sd, alpha=alpha) >= target

    if not effect or not enough(MOST_UNITS):
        return None
    low, high = 1, MOST_UNITS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(alpha: float, target: float) -> None:
    if not 0 < alpha < target < 1:
        raise ValueError(f"power {target} at alpha {alpha}: expected 0 < alpha < power < 1")


def sd_of_differences(sd: float, correlation: float) -> float:
    """sd sqrt(2 (1 - correlation)): of the differences of two arms on the same units.

    Args:
        sd: of one arm's values over units.
        correlation: of two arms' values on the same units.

    Raises:
        ValueError: a negative sd, or a correlation outside [-1, 1].
    """
    if not sd >= 0 or not -1 <= correlation <= 1:
        raise ValueError(f"sd={sd}, correlation={correlation}")
    return sd * math.sqrt(2 * (1 - correlation))


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """What a small study says about the spread of a larger one.

    Attributes:
        arms: in it.
        n: units that each arm was trained on.
        sd: of an arm's values over units, pooled over arms.
        correlation: of two arms on the same units; None with one arm.
        sd_difference: root mean square of the standard deviations of all pairwise differences,
            which is `sd_of_differences(sd, correlation)`; None with one arm.
        sd_difference_upper: one-sided 80 % upper limit of it. Planning with this one instead has
            the power that was asked for in about 80 % of pilots (Browne, Statistics in Medicine 14,
            1995).
        too_small: the upper limit is more than `TOO_SMALL` times the estimate, as with fewer than
            five degrees of freedom, (arms - 1) (n - 1); always with one arm.
    """

    arms: int
    n: int
    sd: float
    correlation: float | None
    sd_difference: float | None
    sd_difference_upper: float | None
    too_small: bool


def pilot(values: Mapping[str, Sequence[float]]) -> Pilot:
    """Reads a pilot: values of every arm on the same units, in the same order.

    The arms are taken to have the same spread, and every two of them the same correlation
    (compound symmetry: Montgomery, Design and Analysis of Experiments, chapter 4, a randomised
    block design with units as blocks). The correlation is the mean covariance of two arms over the
    pooled variance, not the mean of their correlations, which is biased for few units and would not
    fit `sd_difference`. It is 0 if all arms are constant.

    Raises:
        ValueError: no arms, arms with different numbers of units, or fewer than two units.
    """
    from scipy.special import chdtri

    sizes = {len(v) for v in values.values()}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"a pilot has arms with the same two units or more, got {sorted(sizes)}")
    n, arms = sizes.pop(), len(values)
    spread = pooled_spread(values.values())
    assert spread is not None  # there are two units
    if arms == 1:
        return Pilot(
            arms=1,
            n=n,
            sd=spread.sd,
            correlation=None,
            sd_difference=None,
            sd_difference_upper=None,
            too_small=True,
        )
    centred = [[x - fmean(arm) for x in arm] for arm in values.values()]
    products = [
        math.fsum(x * y for x, y in zip(a, b, strict=True)) / (n - 1)
        for a, b in combinations(centred, 2)
    ]
    variance = spread.sd**2
    # Rounding must not move it out of its range.
    correlation = min(max(fmean(products) / variance, -1.0), 1.0) if variance > 0 else 0.0
    found = sd_of_differences(spread.sd, correlation)
    df = (arms - 1) * (n - 1)
    factor = math.sqrt(df / float(chdtri(df, 0.8)))  # chdtri takes the upper tail
    return Pilot(
        arms=arms,
        n=n,
        sd=spread.sd,
        correlation=correlation,
        sd_difference=found,
        sd_difference_upper=factor * found,
        too_small=factor > TOO_SMALL,
    )
