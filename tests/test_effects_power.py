"""Planning, against published sample sizes and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from nasctl.effects.power import (
    detectable_effect,
    pilot,
    power,
    sd_of_differences,
    units_needed,
)


@pytest.mark.parametrize(
    ("d", "target", "n"),
    # One-sample and paired t test, two-sided, alpha 0.05 (G*Power 3; R's power.t.test).
    [(0.5, 0.8, 34), (0.8, 0.8, 15), (0.2, 0.8, 199), (0.5, 0.95, 54), (1.0, 0.9, 13)],
)
def test_units_needed_as_published(d: float, target: float, n: int) -> None:
    assert units_needed(d, sd=1.0, target=target) == n
    assert units_needed(-3 * d, sd=3.0, target=target) == n
    assert power(d, n=n, sd=1.0) >= target > power(d, n=n - 1, sd=1.0)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_detectable_effect_is_found_as_often_as_promised(n: int) -> None:
    effect = detectable_effect(n=n, sd=2.0, alpha=0.02, target=0.7)
    assert power(effect, n=n, sd=2.0, alpha=0.02) == pytest.approx(0.7)
    values = np.random.default_rng(n).normal(effect, 2.0, (20_000, n))
    t = values.mean(axis=1) / values.std(axis=1, ddof=1) * math.sqrt(n)
    found = (np.abs(t) > scipy.stats.t.isf(0.01, n - 1)).mean()
    assert found == pytest.approx(0.7, abs=3.5 * math.sqrt(0.7 * 0.3 / 20_000))


@pytest.mark.parametrize("n", [2, 3, 5, 20, 200])
@pytest.mark.parametrize("shift", [0.3, 2.0, 4.5])
def test_power_is_that_of_the_noncentral_t_distribution(n: int, shift: float) -> None:
    for alpha in (0.05, 0.002):
        bound = scipy.stats.t.isf(alpha / 2, n - 1)
        oracle = scipy.stats.nct.sf(bound, n - 1, shift) + scipy.stats.nct.cdf(-bound, n - 1, shift)
        assert power(shift / math.sqrt(n), n=n, sd=1.0, alpha=alpha) == pytest.approx(
            oracle, abs=1e-6
        )


@pytest.mark.parametrize("n", [2, 3, 10, 1000, 100_000])
def test_power_rises_with_the_effect_to_the_end(n: int) -> None:
    found = [power(x, n=n, sd=1.0) for x in (0.0, 0.01, 0.1, 1, 10, 20, 25, 40, 1000)]
    assert found == sorted(found)
    assert found[-1] > 0.999


def test_power_at_the_ends() -> None:
    assert power(0.0, n=5, sd=1.0, alpha=0.05) == pytest.approx(0.05, abs=1e-6)
    assert power(50.0, n=5, sd=1.0) == pytest.approx(1)
    assert (power(0.1, n=5, sd=0.0), power(0.0, n=5, sd=0.0)) == (1, 0)
    assert detectable_effect(n=3, sd=0.0) == 0
    assert units_needed(1.0, sd=0.0) == 2
    assert units_needed(0.0, sd=1.0) is None
    assert units_needed(1e-4, sd=1.0) is None
    assert units_needed(20.0, sd=1.0) == 2
    assert units_needed(10.0, sd=1.0) == 3  # with two units the bound is t = 12.7


@pytest.mark.parametrize(("n", "sd", "alpha"), [(1, 1.0, 0.05), (3, -1.0, 0.05), (3, 1.0, 0.0)])
def test_power_ranges(n: int, sd: float, alpha: float) -> None:
    with pytest.raises(ValueError, match="power"):
        power(1.0, n=n, sd=sd, alpha=alpha)
    with pytest.raises(ValueError, match="expected 0 < alpha < power < 1"):
        units_needed(1.0, sd=1.0, alpha=0.05, target=0.01)


def test_sd_of_differences() -> None:
    assert sd_of_differences(2.0, 0.5) == pytest.approx(2.0)
    assert sd_of_differences(1.0, 0.0) == pytest.approx(math.sqrt(2))
    assert sd_of_differences(1.0, 1.0) == 0
    with pytest.raises(ValueError, match="correlation"):
        sd_of_differences(1.0, 1.5)


def test_a_pilot_finds_spread_and_correlation() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, math.sqrt(0.6), 1000)
    arms = {str(i): list(i + shared + rng.normal(0, math.sqrt(0.4), 1000)) for i in range(3)}
    found = pilot(arms)
    assert (found.arms, found.n, found.too_small) == (3, 1000, False)
    assert found.sd == pytest.approx(1, abs=0.06)
    assert found.correlation == pytest.approx(0.6, abs=0.06)
    assert found.sd_difference == pytest.approx(math.sqrt(0.8), abs=0.05)


def test_a_pilots_spread_is_that_of_its_differences() -> None:
    arms = {"a": [1.0, 2.0, 4.0], "b": [0.5, 2.5, 3.0], "c": [7.0, 6.0, 9.0]}
    variances = [np.var(np.subtract(arms[x], arms[y]), ddof=1) for x, y in ("ab", "ac", "bc")]
    found = pilot(arms)
    assert found.sd_difference == pytest.approx(math.sqrt(np.mean(variances)))
    assert found.sd_difference_upper is not None
    # Four degrees of freedom: sqrt(4 / 1.6488), from a table of chi-square.
    assert found.sd_difference_upper / found.sd_difference == pytest.approx(1.5575, abs=1e-4)
    assert found.too_small
    assert not pilot(arms | {"d": [1.0, 2.0, 2.0]}).too_small


def test_pilots_at_the_edges() -> None:
    alone = pilot({"a": [1.0, 2.0, 3.0]})
    assert (alone.sd, alone.correlation, alone.sd_difference, alone.too_small) == (
        1,
        None,
        None,
        True,
    )
    constant = pilot({"a": [1.0, 1.0], "b": [2.0, 2.0]})
    assert (constant.sd, constant.correlation, constant.sd_difference) == (0, 0, 0)
    same = pilot({"a": [0.1, 0.7, 0.4], "b": [0.1, 0.7, 0.4]})
    assert same.correlation == pytest.approx(1)
    assert same.sd_difference == pytest.approx(0, abs=1e-7)
    for bad in ({}, {"a": [1.0]}, {"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]}):
        with pytest.raises(ValueError, match="a pilot has arms"):
            pilot(bad)
