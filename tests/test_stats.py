"""Intervals and rank correlation against published values and scipy."""

from __future__ import annotations

import math
import random

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nasctl.stats import (
    median_interval,
    pooled_spread,
    quantile_interval,
    spearman,
    t_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_published(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_contains_estimate(n: int, p: float, confidence: float) -> None:
    successes = round(p * n)
    low, high = wilson_interval(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1
    oracle = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_t_interval() -> None:
    # mean 3, sd 1.5811, t(4, .975) = 2.7764
    assert t_interval([1, 2, 3, 4, 5]) == pytest.approx((1.0368, 4.9632), abs=1e-4)
    with pytest.raises(ValueError, match="1 values"):
        t_interval([1.0])


def test_pooled_spread_is_the_error_variance_of_a_one_way_analysis() -> None:
    groups = [[1.0, 2.0, 3.0], [10.0], [5.0, 9.0], [2.0, 2.0]]
    spread = pooled_spread(groups)
    assert spread is not None
    assert (spread.df, spread.groups) == (4, 3)
    # F = mean square between / mean square within; scipy's, of the groups that have a spread.
    several = [g for g in groups if len(g) > 1]
    everything = [x for g in several for x in g]
    mean = sum(everything) / len(everything)
    between = sum(len(g) * (sum(g) / len(g) - mean) ** 2 for g in several) / (len(several) - 1)
    assert between / spread.sd**2 == pytest.approx(scipy.stats.f_oneway(*several).statistic)
    # Of one group it is Student's t interval.
    (low, high), alone = t_interval([5.0, 9.0]), pooled_spread([[5.0, 9.0]])
    assert alone is not None
    assert alone.half_width(2) == pytest.approx((high - low) / 2)
    assert pooled_spread([[1.0], [], [2.0]]) is None


def test_intervals_with_a_pooled_spread_cover_as_often_as_they_say() -> None:
    rng = random.Random(0)
    covered = total = 0
    for _ in range(600):
        means = [rng.uniform(0, 10) for _ in range(6)]
        groups = [
            [rng.gauss(m, 0.4) for _ in range(n)]
            for m, n in zip(means, (1, 1, 2, 2, 2, 3), strict=True)
        ]
        spread = pooled_spread(groups)
        assert spread is not None
        for mean, group in zip(means, groups, strict=True):
            covered += abs(sum(group) / len(group) - mean) <= spread.half_width(len(group))
            total += 1
    assert covered / total == pytest.approx(0.95, abs=0.015)


def test_median_interval_published() -> None:
    # Conover, Practical Nonparametric Statistics, and David and Nagaraja: n = 10 gives the second
    # and the ninth order statistic, n = 5 cannot reach 95 % and n = 6 just can.
    assert median_interval(range(1, 11)) == (2, 9)
    assert median_interval([5, 3, 1, 2, 4]) == (1, 5)
    assert median_interval([6, 5, 3, 1, 2, 4]) == (1, 6)
    assert median_interval(range(1, 101)) == (40, 61)


def test_quantile_interval_covers() -> None:
    rng = random.Random(0)
    hits = 0
    for _ in range(400):
        low, high = quantile_interval([rng.random() for _ in range(40)], 0.25)
        hits += low <= 0.25 <= high
    assert 0.93 <= hits / 400 <= 0.995


def test_quantile_interval_of_large_samples() -> None:
    low, high = median_interval(range(20_001))
    assert (low, high) == pytest.approx((10_000 - 138.6, 10_000 + 138.6), abs=2)


@pytest.mark.parametrize("bad", [-0.1, 0, 1, 95])
def test_confidence_is_checked(bad: float) -> None:
    for call in (
        lambda: wilson_interval(1, 2, bad),
        lambda: t_interval([1, 2], bad),
        lambda: median_interval([1, 2], bad),
    ):
        with pytest.raises(ValueError, match="confidence"):
            call()


def test_bad_counts() -> None:
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="of 0 values"):
        median_interval([])
    with pytest.raises(ValueError, match="quantile 1 of"):
        quantile_interval([1.0], 1)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=30))
def test_spearman_matches_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_needs_pairs() -> None:
    with pytest.raises(ValueError, match="at least two pairs"):
        spearman([1, 2], [1])
