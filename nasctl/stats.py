"""Layer 2: intervals and rank correlation. Small, with sources; scipy only where it is needed."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import numpy as np

Interval = tuple[float, float]


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Interval of a proportion, such as accuracy over n images.

    Wilson's score interval (E. B. Wilson, JASA 22, 1927; recommended by Brown, Cai and DasGupta,
    Statistical Science 16, 2001): inside [0, 1], good coverage down to small n.

    Args:
        successes: in [0, n]; may be fractional, when it comes from a rounded proportion.
        n: trials, at least 1.
        confidence: coverage aimed at.

    Raises:
        ValueError: outside those ranges.
    """
    _check(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The ends are exactly 0 and 1 there; rounding must not move them inside the estimate.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


@functools.cache
def _t_quantile(p: float, df: int) -> float:
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(df, p))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval of the mean of independent, roughly normal values (Student's t).

    Raises:
        ValueError: fewer than two values, which say nothing about their spread.
    """
    _check(confidence)
    if len(values) < 2:
        raise ValueError(f"{len(values)} values: an interval needs at least two")
    half = _t_quantile((1 + confidence) / 2, len(values) - 1) * stdev(values)
    half /= math.sqrt(len(values))
    mean = fmean(values)
    return mean - half, mean + half


@dataclass(frozen=True, kw_only=True)
class PooledSpread:
    """A standard deviation within groups, assumed to be the same in all of them.

    Attributes:
        sd: in the unit of the values.
        df: degrees of freedom behind it.
        groups: that have more than one value.
    """

    sd: float
    df: int
    groups: int

    def half_width(self, n: int, confidence: float = 0.95) -> float:
        """Half the Student's t interval of the mean of `n` values of any one group."""
        _check(confidence)
        return _t_quantile((1 + confidence) / 2, self.df) * self.sd / math.sqrt(n)


def pooled_spread(groups: Iterable[Sequence[float]]) -> PooledSpread | None:
    """The pooled standard deviation within groups, None if no group has two values:
    s^2 = sum of (x_ij - mean_i)^2 / sum of (n_i - 1), the error variance of a one-way analysis of
    variance (Montgomery, Design and Analysis of Experiments, section 3.3)."""
    several = [g for g in groups if len(g) > 1]
    df = sum(len(g) - 1 for g in several)
    if not df:
        return None
    squares = math.fsum((x - fmean(g)) ** 2 for g in several for x in g)
    return PooledSpread(sd=math.sqrt(squares / df), df=df, groups=len(several))


def quantile_interval(values: Sequence[float], q: float, confidence: float = 0.95) -> Interval:
    """Distribution-free interval of a quantile, from order statistics (David and Nagaraja 2003,
    section 7.1): the ranks come from the binomial distribution, at least `confidence` where the
    sample is large enough for it, otherwise the whole range of the sample.

    Raises:
        ValueError: no values, or q outside (0, 1).
    """
    _check(confidence)
    if not values or not 0 < q < 1:
        raise ValueError(f"quantile {q} of {len(values)} values")
    ordered = sorted(values)
    n = len(ordered)
    below = np.cumsum([_binomial(k, n, q) for k in range(n + 1)])
    tail = (1 - confidence) / 2
    # P(X_(r) > quantile) = P(Bin(n, q) < r): the largest r and smallest s with small tails.
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1 - tail - 1e-12))
    return ordered[max(low - 1, 0)], ordered[min(high, n - 1)]


def _binomial(k: int, n: int, p: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Distribution-free interval of the median; see `quantile_interval`."""
    return quantile_interval(values, 0.5, confidence)


def _mean_ranks(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN if either side is constant.

    Raises:
        ValueError: different lengths, or fewer than two pairs.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"{len(a)} and {len(b)} values: expected at least two pairs")
    x, y = _mean_ranks(a), _mean_ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else math.nan
