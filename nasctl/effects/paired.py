"""Layer 2: what paired differences say, one comparison at a time.

Every function takes the differences, one per unit (a seed, and possibly its own split of the
data), oriented so that positive is what is claimed. They are taken to be independent and, for the
methods with Student's t, roughly normal. With three to twenty units nothing else is exact enough:
the bootstrap is left out below 20 units, the sign-flip test has few values to take.

Equal differences (standard deviation 0) are a point: intervals have no width, a p-value is 0 if
the point is not the tested value and 1 if it is. They happen with metrics that do not depend on
the seed, such as a number of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import numpy as np

from nasctl.stats import Interval

BOOTSTRAP_UNITS = 20
"""Below, BCa intervals cover too rarely (benchmarks/ablation_statistics.py)."""
EXACT_UNITS = 20
"""Up to here all 2^n sign flips are enumerated."""


@dataclass(frozen=True, kw_only=True)
class SignFlip:
    """A sign-flip test.

    Attributes:
        p: two-sided.
        smallest: p that this many differences can reach at all: 0.25 for 3, 0.0625 for 5.
        exact: whether all sign flips were enumerated.
    """

    p: float
    smallest: float
    exact: bool


def t_test(differences: Sequence[float], mean: float = 0.0) -> float:
    """Student's two-sided p-value of "their mean is `mean`".

    Raises:
        ValueError: fewer than two differences.
    """
    statistic, df = _t_statistic(differences, mean)
    return min(2 * _lower_tail(-abs(statistic), df), 1.0)


def equivalence_test(differences: Sequence[float], margin: float) -> float:
    """The p-value of "their mean is at least `margin` away from 0": two one-sided t tests.

    The greater of the two (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987).
    Below alpha, the interval with confidence 1 - 2 alpha lies inside (-margin, margin).

    Raises:
        ValueError: fewer than two differences, or a margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"an equivalence margin is positive, got {margin}")
    above, df = _t_statistic(differences, -margin)
    below, _ = _t_statistic(differences, margin)
    # A point on the margin has statistic 0 and p 1/2 there; it is not inside, so p is 1.
    if stdev(differences) == 0:
        return 0.0 if abs(fmean(differences)) < margin else 1.0
    return max(_lower_tail(-above, df), _lower_tail(below, df))


def _t_statistic(differences: Sequence[float], mean: float) -> tuple[float, int]:
    n = len(differences)
    if n < 2:
        raise ValueError(f"{n} differences: a test needs at least two")
    gap = fmean(differences) - mean
    error = stdev(differences) / math.sqrt(n)
    if error == 0:
        return (math.copysign(math.inf, gap) if gap else 0.0), n - 1
    return gap / error, n - 1


def _lower_tail(statistic: float, df: int) -> float:
    from scipy.special import stdtr

    return float(stdtr(df, statistic))


def effect_size(differences: Sequence[float]) -> float | None:
    """Cohen's d_z, mean over standard deviation of the differences, without small-sample bias.

    d_z (Cohen, Statistical Power Analysis, 1988, section 2.3) times the exact factor of Hedges
    (Journal of Educational Statistics 6, 1981, equation 6e) with n - 1 degrees of freedom,
    gamma(df / 2) / (sqrt(df / 2) gamma((df - 1) / 2)): 0.564 for 3 differences, 0.798 for 5.

    Returns:
        None for fewer than three differences (for two no unbiased estimate exists) and for equal
        differences other than 0, which have no spread to compare with.
    """
    df = len(differences) - 1
    if df < 2:
        return None
    mean, sd = fmean(differences), stdev(differences)
    if sd == 0:
        return 0.0 if mean == 0 else None
    factor = math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)
    return mean / sd * factor


def superiority(differences: Sequence[float]) -> float:
    """Share of units in which the claim holds, ties counted half: an estimate of the probability
    of superiority (Grissom and Kim, Effect Sizes for Research, 2005).

    Raises:
        ValueError: no differences.
    """
    if not differences:
        raise ValueError("no differences")
    return fmean(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences)


def normal_superiority(differences: Sequence[float]) -> float:
    """The same probability if the differences are normal: Phi(mean / sd).

    Raises:
        ValueError: fewer than two differences.
    """
    if len(differences) < 2:
        raise ValueError(f"{len(differences)} differences say nothing about their spread")
    mean, sd = fmean(differences), stdev(differences)
    if sd == 0:
        return 1.0 if mean > 0 else 0.5 if mean == 0 else 0.0
    return NormalDist().cdf(mean / sd)


def sign_flip_test(
    differences: Sequence[float], *, draws: int = 100_000, seed: int = 0
) -> SignFlip:
    """Two-sided permutation test of "the differences are symmetric about 0" (Fisher, The Design
    of Experiments, 1935, section 21): the share of sign flips with as great an absolute sum.

    Exact up to `EXACT_UNITS` differences; beyond, `draws` seeded flips, with the observed one
    counted among them so that p is never too small (Phipson and Smyth, Statistical Applications in
    Genetics and Molecular Biology 9, 2010).

    Raises:
        ValueError: no differences.
    """
    n = len(differences)
    if not n:
        raise ValueError("no differences")
    values = np.asarray(differences, dtype=np.float64)
    # Sums that are equal but for rounding count as equal.
    least = abs(float(values.sum())) - 1e-12 * float(np.abs(values).sum())
    if n > EXACT_UNITS:
        rng = np.random.default_rng(seed)
        # Half the flipped sum, less half the sum: one product, with bits for signs.
        bits = rng.integers(0, 2, size=(draws, n), dtype=np.int8)
        sums = 2 * (bits @ values) - values.sum()
        hits = int((np.abs(sums) >= least).sum())
        return SignFlip(p=(hits + 1) / (draws + 1), smallest=1 / (draws + 1), exact=False)
    sums = values[:1]  # its sign is fixed: the other half is the mirror image
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    p = float((np.abs(sums) >= least).mean())
    return SignFlip(p=p, smallest=2 / 2**n, exact=True)


def bootstrap_interval(
    differences: Sequence[float], confidence: float = 0.95, *, resamples: int = 9999, seed: int = 0
) -> Interval | None:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron, JASA 82, 1987), seeded.

    Returns:
        None for fewer than `BOOTSTRAP_UNITS` differences.
    """
    from scipy.stats import bootstrap

    if len(differences) < BOOTSTRAP_UNITS:
        return None
    if stdev(differences) == 0:
        return differences[0], differences[0]
    found = bootstrap(
        (np.asarray(differences, dtype=np.float64),),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
