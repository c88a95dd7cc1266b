"""Paired differences, against scipy, by hand and at the edges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from nasctl.effects.paired import (
    bootstrap_interval,
    effect_size,
    equivalence_test,
    normal_superiority,
    sign_flip_test,
    superiority,
    t_test,
)
from nasctl.stats import t_interval

differences = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=9)


@given(differences, st.floats(-10, 10))
def test_t_test_is_scipys(values: list[float], mean: float) -> None:
    if len(set(values)) > 1:
        oracle = scipy.stats.ttest_1samp(values, mean).pvalue
        assert t_test(values, mean) == pytest.approx(oracle, rel=1e-9, abs=1e-15)


def test_equal_differences_are_a_point() -> None:
    assert t_test([0.0, 0.0, 0.0]) == 1
    assert t_test([2.0, 2.0]) == 0
    assert t_test([2.0, 2.0], mean=2.0) == 1
    assert t_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert effect_size([2.0] * 3) is None
    assert effect_size([0.0] * 3) == 0
    assert normal_superiority([2.0, 2.0]) == 1
    assert normal_superiority([0.0, 0.0]) == 0.5
    assert normal_superiority([-2.0, -2.0]) == 0
    assert equivalence_test([1.0, 1.0], 2.0) == 0
    assert equivalence_test([2.0, 2.0], 2.0) == 1
    assert equivalence_test([-3.0, -3.0], 2.0) == 1
    assert sign_flip_test([0.0] * 4).p == 1
    assert bootstrap_interval([2.0] * 20) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (t_test, [1.0]),
        (normal_superiority, [1.0]),
        (superiority, []),
        (sign_flip_test, []),
        (lambda v: equivalence_test(v, 1.0), [1.0]),
        (lambda v: equivalence_test(v, 0.0), [1.0, 2.0]),
    ],
)
def test_too_few_differences(
    function: Callable[[list[float]], object], values: list[float]
) -> None:
    with pytest.raises(ValueError, match=r"differences|margin"):
        function(values)


@pytest.mark.parametrize(("n", "factor"), [(3, 0.5642), (5, 0.7979), (10, 0.9139), (20, 0.9599)])
def test_hedges_factor(n: int, factor: float) -> None:
    # Hedges 1981, table 1 (df = n - 1); for many units near 1 - 3 / (4 df - 1).
    values = [float(i) for i in range(n)]
    assert effect_size(values) == pytest.approx(
        factor * np.mean(values) / np.std(values, ddof=1), rel=1e-3
    )
    assert effect_size([1.0, 2.0]) is None


def test_effect_size_is_unbiased_where_cohens_is_not() -> None:
    samples = np.random.default_rng(1).normal(0.8, 1, (5000, 5))
    found = np.array([effect_size(list(row)) for row in samples])
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - 0.8) < 3 * error
    plain = samples.mean(axis=1) / samples.std(axis=1, ddof=1)
    assert plain.mean() > 0.8 + 10 * error


def test_superiority() -> None:
    assert superiority([1.0, 2.0, 0.0, -1.0]) == 0.625
    assert normal_superiority([0.0, 2.0]) == pytest.approx(scipy.stats.norm.cdf(1 / math.sqrt(2)))


@given(st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=7))
def test_sign_flips_are_all_enumerated(values: list[float]) -> None:
    seen = abs(sum(values))
    flips = list(itertools.product((1, -1), repeat=len(values)))
    hits = [abs(sum(s * v for s, v in zip(f, values, strict=True))) >= seen for f in flips]
    found = sign_flip_test(values)
    assert found.p == sum(hits) / len(flips)
    assert found.exact
    assert found.smallest == 2 / len(flips)


def test_sign_flip_reaches_its_smallest() -> None:
    assert sign_flip_test([1.0, 2.0, 3.0]).p == sign_flip_test([1.0, 2.0, 3.0]).smallest == 0.25
    assert sign_flip_test([0.1, 0.2, 0.3, 0.4, 0.5]).p == 0.0625
    # By hand: of |±1 ±2 ±3 ±6|, those of at least 10 are 12 and 10, either sign.
    assert sign_flip_test([-1.0, 2.0, 3.0, 6.0]).p == 4 / 16
    # Sums that differ by rounding only: 0.1 + 0.2 - 0.3 is 5.6e-17, and so are others.
    assert sign_flip_test([0.1, 0.2, -0.3]).p == 1


def test_many_sign_flips_are_drawn() -> None:
    values = list(np.random.default_rng(0).normal(0.4, 1, 24))
    found = sign_flip_test(values)
    assert not found.exact
    assert found.p == pytest.approx(t_test(values), abs=0.01)
    assert found == sign_flip_test(values)
    assert sign_flip_test([1.0] * 40).p == found.smallest == 1 / 100_001


@settings(deadline=None)
@given(differences, st.floats(0.1, 50))
def test_equivalence_is_two_one_sided_tests(values: list[float], margin: float) -> None:
    if len(set(values)) == 1:
        return
    oracle = max(
        scipy.stats.ttest_1samp(values, -margin, alternative="greater").pvalue,
        scipy.stats.ttest_1samp(values, margin, alternative="less").pvalue,
    )
    p = equivalence_test(values, margin)
    assert p == pytest.approx(oracle, rel=1e-9, abs=1e-15)
    low, high = t_interval(values, 0.9)
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (-margin < low and high < margin)


def test_bootstrap_only_with_enough_units() -> None:
    values = list(np.random.default_rng(3).exponential(1, 20))
    assert bootstrap_interval(values[:19]) is None
    found = bootstrap_interval(values)
    assert found is not None
    oracle = scipy.stats.bootstrap(
        (values,), np.mean, rng=np.random.default_rng(0)
    ).confidence_interval
    assert found == pytest.approx((oracle.low, oracle.high))
    assert found == bootstrap_interval(values)
