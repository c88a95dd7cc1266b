"""Repeated looks: level, coverage and estimates, by simulation and against published constants."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats

from nasctl.effects.crossing import crossing_probability
from nasctl.effects.paired import t_test
from nasctl.effects.power import power
from nasctl.effects.sequential import Looks
from nasctl.stats import t_interval

STUDIES = 40_000
EVERY = Looks.every(3, 20)
Array = npt.NDArray[np.float64]


@functools.cache
def walks(seed: int = 5) -> Array:
    return np.random.default_rng(seed).standard_normal((STUDIES, 20))


def at(values: Array, n: int) -> tuple[Array, Array]:
    part = values[:, :n]
    return part.mean(axis=1), part.std(axis=1, ddof=1) / math.sqrt(n)


def crosses(looks: Looks, levels: tuple[float, ...], values: Array, mean: float = 0) -> Array:
    """Which studies leave out `mean` at some look."""
    hit = np.zeros(len(values), dtype=bool)
    for n, level in zip(looks.schedule, levels, strict=True):
        seen, error = at(values, n)
        hit |= np.abs(seen - mean) / error > scipy.stats.t.isf(level / 2, n - 1)
    return hit


def near(share: float, p: float) -> bool:
    """Within 3.5 standard errors of simulation."""
    return abs(share - p) < 3.5 * math.sqrt(p * (1 - p) / STUDIES)


@pytest.mark.parametrize(
    "schedule", [(3, 20), (2, 3, 4, 5, 6), (4, 8), (5, 10, 20), tuple(range(3, 21))]
)
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_whole_schedule_has_level_alpha(schedule: tuple[int, ...], alpha: float) -> None:
    looks = Looks(schedule)
    assert near(crosses(looks, looks.levels(alpha), walks()).mean(), alpha)


@pytest.mark.parametrize("schedule", [(2, 3), (3, 8), (3, 4, 5, 6), (5, 20), (10, 60)])
@pytest.mark.parametrize("level", [0.5, 0.05])
def test_looks_that_never_cross_leave_the_t_test(schedule: tuple[int, ...], level: float) -> None:
    """The recursion carries one t distribution into the next."""
    levels = (1e-8,) * (len(schedule) - 1) + (level,)
    assert crossing_probability(schedule, levels) == pytest.approx(level, rel=4e-3)


def test_small_levels_too() -> None:
    """Holm's multipliers ask for them."""
    levels = EVERY.levels(0.05 / 10)
    assert near(crosses(EVERY, levels, walks()).mean(), 0.005)


def test_peeking_without_a_boundary_does_not() -> None:
    levels = (0.05,) * len(EVERY.schedule)
    assert crosses(EVERY, levels, walks()).mean() > 0.2
    assert near(
        crosses(EVERY, levels, walks()).mean(), crossing_probability(EVERY.schedule, levels)
    )


@pytest.mark.parametrize(
    ("shape", "published"),
    [(0.0, 2.040), (0.25, 2.136), (0.5, 2.413)],
)  # Jennison and Turnbull 2000, tables 2.3, 2.9 and 2.1: five looks, alpha 0.05, known variance
def test_many_units_have_the_constants_for_known_variance(shape: float, published: float) -> None:
    schedule = (60, 120, 180, 240, 300)
    z = [published * (n / 300) ** (shape - 0.5) for n in schedule]
    levels = tuple(2 * float(scipy.stats.norm.sf(x)) for x in z)
    # Within 1 %, and above: with 60 units the variance is almost known, but not quite.
    assert 0.05 < crossing_probability(schedule, levels) < 0.0505


def test_few_units_need_larger_ones() -> None:
    """With constants for known variance t statistics cross too often."""
    values = walks()
    steps = np.cumsum(values, axis=1)[:, 2:] / np.sqrt(np.arange(3, 21))
    fraction = np.arange(3, 21) / 20
    known = np.quantile((np.abs(steps) * fraction**0.25).max(axis=1), 0.95)
    assert EVERY.constant(0.05) > known + 0.02
    levels = tuple(2 * scipy.stats.norm.sf(known * fraction**-0.25))
    assert crosses(EVERY, levels, values).mean() > 0.054


def test_one_look_is_a_t_test() -> None:
    looks, values = Looks((4,)), [1.0, 2.0, 4.0, 3.0]
    assert looks.interval(values, 0.05) == t_interval(values, 0.95)
    assert looks.p_value(values) == t_test(values)
    assert looks.levels(0.05) == (0.05,)
    assert looks.constant(0.05) == pytest.approx(1.959964, abs=1e-6)
    assert looks.adjusted_effect(values, 0.05) == 2.5


@pytest.mark.parametrize(("n", "effect"), [(3, 2.0), (5, 1.7), (12, 0.9)])
def test_power_is_that_of_the_t_test_at_one_look_and_less_at_several(n: int, effect: float) -> None:
    once = Looks((n,)).power(2 * effect, sd=2.0, alpha=0.05)
    assert once == pytest.approx(power(effect, n=n, sd=1.0), abs=0.015)
    several = Looks.every(2, n).power(2 * effect, sd=2.0, alpha=0.05)
    assert 0.5 * once < several < once - 0.02
    assert Looks.every(2, n).power(1e-9, sd=2.0, alpha=0.05) == pytest.approx(0.05, abs=0.01)


def test_the_boundary_has_its_shape() -> None:
    for shape in (0.0, 0.25, 0.5):
        looks = Looks((5, 10, 20), shape)
        z = looks.critical(0.05)
        assert z[0] / z[2] == pytest.approx(4 ** (0.5 - shape))
        assert z[2] == looks.constant(0.05)
        assert looks.levels(0.05) == pytest.approx([2 * scipy.stats.norm.sf(x) for x in z])


def test_p_values_and_intervals_agree() -> None:
    looks = Looks((3, 5, 8))
    rng = np.random.default_rng(2)
    decided = 0
    for _ in range(30):
        values = list(rng.normal(1, 1, 8))
        previous = 1.0
        crossed = False
        for n in looks.schedule:
            part = values[:n]
            low, high = looks.interval(part, 0.1)
            outside = low > 0 or high < 0
            assert outside == (looks.p_value(part, so_far=False) < 0.1)
            crossed |= outside
            p = looks.p_value(part)
            assert crossed == (p < 0.1)
            assert p <= previous
            previous = p
        decided += crossed
    assert 5 < decided < 25  # both happen


def test_p_values_are_uniform_at_the_end() -> None:
    looks = Looks((3, 6))
    found = np.array([looks.p_value(list(row)) for row in walks()[:400, :6]])
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01


def test_equal_differences() -> None:
    looks = Looks((3, 5))
    assert looks.p_value([1.0, 1.0, 1.0]) == 0
    assert looks.p_value([0.0, 0.0, 0.0]) == 1
    assert looks.interval([1.0, 1.0, 1.0], 0.05) == (1.0, 1.0)
    assert looks.adjusted_effect([1.0, 1.0, 1.0], 0.05) == 1
    assert looks.p_value([1.0, 1.0, 1.0, -3.0, 2.0]) == 0  # so far
    assert looks.p_value([1.0, 1.0, 1.0, -3.0, 2.0], so_far=False) > 0.5


def test_extreme_differences() -> None:
    """Nearly equal ones have p-values from which rounding must not make nonsense."""
    found = [EVERY.p_value([1 + e, 1 - e, 1, 1 + e / 2]) for e in np.geomspace(10, 1e-14, 60)]
    assert found == sorted(found, reverse=True)
    assert 0 <= found[-1] < 1e-15
    assert found[0] > 0.3


def test_intervals_cover_at_every_look_together() -> None:
    assert near(1 - crosses(EVERY, EVERY.levels(0.1), walks() + 0.7, mean=0.7).mean(), 0.9)


def test_adjusted_effect_takes_bias_off() -> None:
    values = walks(7)[:250] + 1.0
    plain, adjusted = [], []
    for row in values:
        for n, level in zip(EVERY.schedule, EVERY.levels(0.05), strict=True):
            part = list(row[:n])
            if t_test(part) <= level or n == 20:
                plain.append(np.mean(part) - 1)
                adjusted.append(EVERY.adjusted_effect(part, 0.05) - 1)
                break
    error = np.std(plain) / math.sqrt(len(plain))
    assert np.mean(plain) > 3 * error
    assert abs(np.mean(adjusted)) < 0.5 * np.mean(plain)


def test_adjusted_effect_is_odd_and_shrinks() -> None:
    values = [1.0, 1.2, 1.5, 0.8, 1.1]
    looks = Looks.every(3, 20)
    found = looks.adjusted_effect(values, 0.05)
    assert 0.5 < found <= np.mean(values)
    assert looks.adjusted_effect([-v for v in values], 0.05) == pytest.approx(-found)
    # Nothing could have stopped it before its first look, and that did not.
    assert looks.adjusted_effect([1.0, -1.0, 2.0], 0.05) == pytest.approx(2 / 3)
    assert looks.adjusted_effect([1.0, -1.0, 0.0], 0.05) == 0


@pytest.mark.parametrize("schedule", [(), (1, 2), (3, 3), (5, 4)])
def test_schedules_increase(schedule: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="increase"):
        Looks(schedule)


def test_what_was_not_planned_is_refused() -> None:
    looks = Looks((3, 5))
    assert [looks.reached(n) for n in range(6)] == [None, None, None, 3, 3, 5]
    with pytest.raises(ValueError, match="last look is at 5"):
        looks.reached(6)
    with pytest.raises(ValueError, match="4 values"):
        looks.interval([1.0, 2.0, 3.0, 4.0], 0.05)
    with pytest.raises(ValueError, match="alpha"):
        looks.constant(0.0)
    with pytest.raises(ValueError, match="shape"):
        Looks((3, 5), 0.6)
