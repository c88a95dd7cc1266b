"""Designs: their arms, and that contrasts measure what they say and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from nasctl.effects.designs import (
    Contrast,
    Design,
    Factors,
    evaluate,
    factorial,
    fractional,
    one_at_a_time,
)

THREE = {"act": ["relu", "silu"], "se": ["no", "yes"], "kernel": ["3", "5", "7"]}


def two_levels(count: int) -> dict[str, list[str]]:
    return {f"f{i}": ["off", "on"] for i in range(count)}


def by_name(design: Design) -> dict[str, Contrast]:
    assert len({c.name for c in design.contrasts}) == len(design.contrasts)
    return {c.name: c for c in design.contrasts}


@pytest.mark.parametrize("make", [one_at_a_time, factorial])
@pytest.mark.parametrize("factors", [THREE, two_levels(1), two_levels(2), {"w": ["a", "b", "c"]}])
def test_arms_are_different_and_the_baseline_is_first(
    make: Callable[[Factors], Design], factors: dict[str, list[str]]
) -> None:
    design = make(factors)
    assert len(set(design.arms)) == len(design.arms)
    assert design.arms[0] == tuple(levels[0] for levels in factors.values())
    used = {arm for c in design.contrasts for arm in c.weights}
    assert used <= set(range(len(design.arms)))
    for contrast in by_name(design).values():
        assert sum(contrast.weights.values()) == pytest.approx(0)


def test_one_at_a_time() -> None:
    design = one_at_a_time(THREE)
    assert design.arms == (
        ("relu", "no", "3"),
        ("silu", "no", "3"),
        ("relu", "yes", "3"),
        ("relu", "no", "5"),
        ("relu", "no", "7"),
        ("silu", "yes", "7"),
        ("relu", "yes", "7"),
        ("silu", "no", "7"),
        ("silu", "yes", "3"),
    )
    found = by_name(design)
    assert len(found) == 4 + 1 + 3
    assert found["act: relu -> silu"].weights == {0: -1, 1: 1}
    assert found["all changed"].weights == {0: -1, 5: 1}
    assert found["all changed"].factors == ("act", "se", "kernel")
    last = found["kernel: 3 -> 7, others changed"]
    assert (last.weights, last.levels, last.kind) == ({8: -1, 5: 1}, (("3", "7"),), "effect")


def test_two_factors_put_back_are_the_single_changes() -> None:
    design = one_at_a_time(two_levels(2))
    assert len(design.arms) == 4
    assert len(design.contrasts) == 5
    single = one_at_a_time(two_levels(1))
    assert (len(single.arms), len(single.contrasts)) == (2, 1)


def value(arm: tuple[str, ...], effects: dict[frozenset[str], float]) -> float:
    """A sum of main effects and interactions of the levels that an arm has."""
    return sum(e for levels, e in effects.items() if levels <= set(arm))


def test_factorial_finds_averaged_effects_and_interactions() -> None:
    design = factorial(THREE)
    assert len(design.arms) == 12
    effects = {frozenset({"silu"}): 1.0, frozenset({"yes"}): 2.0, frozenset({"7"}): -4.0}
    effects |= {frozenset({"silu", "yes"}): 0.5, frozenset({"silu", "7"}): 0.3}
    values = {i: {11: value(arm, effects)} for i, arm in enumerate(design.arms)}
    found = {name: evaluate(c, values, 11) for name, c in by_name(design).items()}
    assert found == pytest.approx(
        {
            "act: relu -> silu": 1 + 0.5 / 2 + 0.3 / 3,
            "se: no -> yes": 2 + 0.5 / 2,
            "kernel: 3 -> 5": 0,
            "kernel: 3 -> 7": -4 + 0.3 / 2,
            "act: relu -> silu x se: no -> yes": 0.5,
            "act: relu -> silu x kernel: 3 -> 5": 0,
            "act: relu -> silu x kernel: 3 -> 7": 0.3,
            "se: no -> yes x kernel: 3 -> 5": 0,
            "se: no -> yes x kernel: 3 -> 7": 0,
        }
    )
    kinds = [c.kind for c in design.contrasts]
    assert kinds == ["main_effect"] * 4 + ["interaction"] * 5


@pytest.mark.parametrize("count", range(1, 10))
def test_fractional_has_resolution_four(count: int) -> None:
    design = fractional(two_levels(count))
    runs = {1: 2, 2: 4, 3: 8, 4: 8}.get(count, 16 if count <= 8 else 32)
    assert len(design.arms) == len(set(design.arms)) == runs
    signs = np.array([[1 if level == "on" else -1 for level in arm] for arm in design.arms])
    assert (signs[0] == -1).all()
    weights = np.array([[c.weights[i] for i in range(runs)] for c in design.contrasts])
    # Each contrast is one factor from off to on, clear of the mean and of all other factors ...
    assert weights @ signs == pytest.approx(2 * np.eye(count))
    assert weights.sum(axis=1) == pytest.approx(np.zeros(count))
    # ... and of every two-way interaction.
    for i, j in itertools.combinations(range(count), 2):
        assert weights @ (signs[:, i] * signs[:, j]) == pytest.approx(np.zeros(count))


def test_fractional_evaluates_main_effects() -> None:
    design = fractional(two_levels(5))
    values = {
        i: {0: float(arm[2] == "on") + 9.0 * (arm[0] == arm[1])}
        for i, arm in enumerate(design.arms)
    }
    found = [evaluate(c, values, 0) for c in design.contrasts]
    assert found == pytest.approx([0, 0, 1, 0, 0])
    assert [c.factors for c in design.contrasts] == [(f"f{i}",) for i in range(5)]


@pytest.mark.parametrize("make", [one_at_a_time, factorial, fractional])
@pytest.mark.parametrize("factors", [{}, {"a": ["x"]}, {"a": ["x", "x"]}])
def test_what_is_no_factor(
    make: Callable[[Factors], Design], factors: dict[str, list[str]]
) -> None:
    with pytest.raises(ValueError, match=r"at least one factor|a needs two different"):
        make(factors)


def test_fractional_takes_two_levels_only() -> None:
    with pytest.raises(ValueError, match="kernel has 3"):
        fractional(THREE)


def test_a_missing_value_is_an_error() -> None:
    design = one_at_a_time(two_levels(1))
    with pytest.raises(KeyError):
        evaluate(design.contrasts[0], {0: {1: 0.5}, 1: {2: 0.5}}, 1)
