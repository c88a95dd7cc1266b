"""Layer 2: which arms an ablation trains, and which differences of them are its results.

Factors are a mapping from name to levels, the baseline's level first. An arm is one level per
factor, in the factors' order. A contrast is a weighted sum of arms; applied to the values that the
arms have on one unit it gives that unit's difference.

`one_at_a_time` is the usual ablation, from both ends: what a change brings alone, and what it still
brings when everything else is changed as well. `factorial` trains everything and says which changes
help or hinder each other. `fractional` estimates the same main effects, as precisely per training,
from far fewer arms, if one can do without knowing the interactions.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal, TypeVar

Unit = TypeVar("Unit", bound=Hashable)
Arm = tuple[str, ...]
Factors = Mapping[str, Sequence[str]]
Kind = Literal["effect", "main_effect", "interaction"]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference of interest.

    Attributes:
        name: unique in its design, for people.
        kind: "effect": of a change in one particular setting of the other factors; "main_effect":
            averaged over their settings; "interaction": what two changes bring together beyond the
            sum of what each brings alone (a difference of differences).
        factors: that change.
        levels: for each of them (from, to).
        weights: of the arms, by their index; they add up to 0.
    """

    name: str
    kind: Kind
    factors: tuple[str, ...]
    levels: tuple[tuple[str, str], ...]
    weights: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Design:
    """Arms without duplicates, the baseline first, and contrasts of them."""

    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]


def evaluate(
    contrast: Contrast, values_by_arm: Mapping[int, Mapping[Unit, float]], unit: Unit
) -> float:
    """The contrast on one unit.

    Args:
        contrast: to evaluate.
        values_by_arm: for the index of each arm its values by unit.
        unit: a seed.

    Raises:
        KeyError: an arm of the contrast has no value for the unit.
    """
    return sum(weight * values_by_arm[arm][unit] for arm, weight in contrast.weights.items())


def one_at_a_time(factors: Factors) -> Design:
    """The baseline, and every other level of every factor alone.

    With two factors or more also every factor at its last level ("all changed"), and that with one
    factor at a time put back to its first level. Each contrast is a difference of two arms.

    Raises:
        ValueError: no factors, or one without two different levels.
    """
    _check(factors)
    names = list(factors)
    baseline = tuple(factors[name][0] for name in names)
    changed = tuple(factors[name][-1] for name in names)
    arms = [baseline]
    contrasts = []

    def index(arm: Arm) -> int:
        if arm not in arms:
            arms.append(arm)
        return arms.index(arm)

    def add(name: str, moved: Sequence[str], before: Arm, after: Arm) -> None:
        places = [names.index(factor) for factor in moved]
        contrasts.append(
            Contrast(
                name=name,
                kind="effect",
                factors=tuple(moved),
                levels=tuple((before[i], after[i]) for i in places),
                weights={index(before): -1.0, index(after): 1.0},
            )
        )

    for i, name in enumerate(names):
        for level in factors[name][1:]:
            label = f"{name}: {baseline[i]} -> {level}"
            add(label, [name], baseline, (*baseline[:i], level, *baseline[i + 1 :]))
    if len(names) > 1:
        add("all changed", names, baseline, changed)
        for i, name in enumerate(names):
            label = f"{name}: {baseline[i]} -> {changed[i]}, others changed"
            add(label, [name], (*changed[:i], baseline[i], *changed[i + 1 :]), changed)
    return Design(arms=tuple(arms), contrasts=tuple(contrasts))


def factorial(factors: Factors) -> Design:
    """Every combination of levels.

    Contrasts are, against the first level, the main effect of every other level, averaged over the
    other factors, and all two-way interactions, also averaged.

    Raises:
        ValueError: no factors, or one without two different levels.
    """
    _check(factors)
    names = list(factors)
    arms = tuple(product(*(factors[name] for name in names)))
    contrasts = [_main_effect(arms, names, i, f) for i, f in _changes(factors)]
    for (i, a), (j, b) in combinations(_changes(factors), 2):
        if i != j:
            contrasts.append(_interaction(arms, (names[i], names[j]), (i, j), (a, b)))
    return Design(arms=arms, contrasts=tuple(contrasts))


def fractional(factors: Factors) -> Design:
    """Two levels per factor in 2 N arms, N the smallest power of two that is at least the number
    of factors.

    A Hadamard matrix of order N (Sylvester's) gives N arms and the levels of N factors; the other
    N arms are the same with every level the other one, their foldover. That makes it a design of
    resolution IV (Box and Wilson, JRSS B 13, 1951; Plackett and Burman, Biometrika 33, 1946; Box,
    Hunter and Hunter, Statistics for Experimenters, 2005, chapter 6): main effects are clear of
    each other and of two-way interactions, which are confounded with one another and not estimated.

    Raises:
        ValueError: no factors, or one that has not exactly two different levels.
    """
    _check(factors)
    names = list(factors)
    for name in names:
        if len(factors[name]) != 2:
            raise ValueError(
                f"a fractional design takes factors of two levels, {name} has {len(factors[name])}"
            )
    size = 1
    while size < len(names):
        size *= 2
    # Sylvester's entry is (-1)^(bits that row and column share); its first row is the baseline.
    half = [[(row & column).bit_count() % 2 for column in range(len(names))] for row in range(size)]
    signs = half + [[1 - level for level in row] for row in half]
    arms = tuple(
        tuple(factors[name][level] for name, level in zip(names, row, strict=True)) for row in signs
    )
    contrasts = tuple(_main_effect(arms, names, i, change) for i, change in _changes(factors))
    return Design(arms=arms, contrasts=contrasts)


def _check(factors: Factors) -> None:
    if not factors:
        raise ValueError("a design needs at least one factor")
    for name, levels in factors.items():
        if len(levels) < 2 or len(set(levels)) < len(levels):
            raise ValueError(f"{name} needs two different levels or more, got {list(levels)}")


def _changes(factors: Factors) -> list[tuple[int, tuple[str, str]]]:
    """(position of the factor, (first level, another level)) of every level but the first."""
    return [
        (i, (levels[0], level)) for i, levels in enumerate(factors.values()) for level in levels[1:]
    ]


def _main_effect(
    arms: Sequence[Arm], names: Sequence[str], i: int, change: tuple[str, str]
) -> Contrast:
    with_, without = ([k for k, arm in enumerate(arms) if arm[i] == x] for x in change[::-1])
    weights = {k: 1 / len(with_) for k in with_} | {k: -1 / len(without) for k in without}
    return Contrast(
        name=f"{names[i]}: {change[0]} -> {change[1]}",
        kind="main_effect",
        factors=(names[i],),
        levels=(change,),
        weights=dict(sorted(weights.items())),
    )


def _interaction(
    arms: Sequence[Arm],
    names: tuple[str, str],
    places: tuple[int, int],
    changes: tuple[tuple[str, str], tuple[str, str]],
) -> Contrast:
    (i, j), (a, b) = places, changes
    signs = {
        k: (1 if arm[i] == a[1] else -1) * (1 if arm[j] == b[1] else -1)
        for k, arm in enumerate(arms)
        if arm[i] in a and arm[j] in b
    }
    each = len(signs) / 4
    return Contrast(
        name=f"{names[0]}: {a[0]} -> {a[1]} x {names[1]}: {b[0]} -> {b[1]}",
        kind="interaction",
        factors=names,
        levels=changes,
        weights={k: sign / each for k, sign in signs.items()},
    )
