"""Layer 2: from differences to verdicts.

An interval says more than a p-value: whether a change helps, whether it is too small to matter, or
that the data do not tell. The rule reads the interval and a range of equivalence only (as Freedman,
Lowman and Spiegelhalter, Biometrics 40, 1984).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

from nasctl.effects import paired
from nasctl.effects.multiple import Adjusted, holm
from nasctl.effects.sequential import Looks
from nasctl.stats import Interval


class Verdict(StrEnum):
    """What the interval of an effect says about the claim that the effect is positive.

    Attributes:
        SUPPORTED: positive, and possibly greater than the smallest effect of interest.
        REFUTED: negative, and possibly by more than that.
        EQUIVALENT: smaller than that either way.
        INCONCLUSIVE: none of these.
    """

    SUPPORTED = "supported"
    REFUTED = "refuted"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything about one comparison. What cannot be computed is None, never NaN or infinite.

    Attributes:
        n: units used, those at the last look that was reached.
        effect: mean difference, in the unit of the metric; None without units.
        sd: standard deviation of the differences; None below two units.
        interval: of the effect; None below two units or before the first look (nothing is excluded
            then; the verdict is inconclusive).
        level: confidence of `interval` and `bootstrap`, 1 - alpha / Holm's multiplier.
        p_value: of no effect: Student's t, or repeated at this look; 1 without an interval.
        p_adjusted: after Holm; below alpha exactly if 0 is outside `interval`.
        verdict: see `verdict`.
        effect_size: Cohen's d_z after Hedges' correction.
        superiority: share of units in which the claim holds.
        sign_flip_p: of the sign-flip test, which does not need normal differences.
        sign_flip_smallest: p that it can reach with n units.
        equivalence_p: of two one-sided tests; None if the smallest effect is 0.
        bootstrap: BCa interval; None below 20 units.
        adjusted_effect: the effect without the bias of stopping early.

    `effect_size` to `bootstrap` describe the units at hand; they are not adjusted for repeated
    looks, nor (but for the confidence of `bootstrap`) for other comparisons.
    """

    n: int
    effect: float | None
    sd: float | None
    interval: Interval | None
    level: float
    p_value: float
    p_adjusted: float
    verdict: Verdict
    effect_size: float | None
    superiority: float | None
    sign_flip_p: float | None
    sign_flip_smallest: float | None
    equivalence_p: float | None
    bootstrap: Interval | None
    adjusted_effect: float | None


def verdict(interval: Interval | None, smallest_effect: float) -> Verdict:
    """The decision.

    Equivalent if the interval is wholly inside (-smallest_effect, smallest_effect); supported if it
    is above 0 and reaches beyond smallest_effect; refuted if it is below 0 and reaches beyond
    -smallest_effect; otherwise, and without an interval, inconclusive. With a smallest effect of 0
    nothing is ever equivalent.

    Raises:
        ValueError: a negative or infinite smallest effect.
    """
    if not 0 <= smallest_effect < math.inf:
        raise ValueError(f"the smallest effect of interest is at least 0, got {smallest_effect}")
    if interval is None:
        return Verdict.INCONCLUSIVE
    low, high = interval
    if -smallest_effect < low and high < smallest_effect:
        return Verdict.EQUIVALENT
    if low > 0 and high > smallest_effect:
        return Verdict.SUPPORTED
    if high < 0 and low < -smallest_effect:
        return Verdict.REFUTED
    return Verdict.INCONCLUSIVE


def judge(
    family: Mapping[str, Sequence[float]],
    *,
    alpha: float = 0.05,
    smallest_effect: float = 0.0,
    looks: Looks | None = None,
) -> dict[str, Evidence]:
    """Judges a family of comparisons; Holm's procedure is over all of its members.

    A comparison that has stopped is given with the differences that it had then. The chance of one
    supported or refuted claim or more without any effect is at most alpha in the whole family, at
    any look. The chance that a verdict of equivalence is wrong is at most alpha for each of them.

    Args:
        family: for each comparison its differences, in the order of the units, positive where the
            claim holds.
        alpha: level of the family.
        smallest_effect: the least difference that matters, in the unit of the metric.
        looks: when the differences are looked at; None if this is the only time. Differences after
            the last look that was reached wait for the next.

    Raises:
        ValueError: differences that are not finite, more of them than the last look has, or alpha
            or the smallest effect out of range.
    """
    for name, differences in family.items():
        if not all(math.isfinite(d) for d in differences):
            raise ValueError(f"{name}: differences must be finite, got {list(differences)}")
    read = {name: _read(name, differences, looks) for name, differences in family.items()}
    p_values = {name: _p_value(values, looks) for name, values in read.items()}
    adjusted = holm(p_values, alpha)
    return {
        name: _evidence(values, p_values[name], adjusted[name], smallest_effect, looks)
        for name, values in read.items()
    }


def _read(name: str, differences: Sequence[float], looks: Looks | None) -> tuple[float, ...]:
    """The differences up to the last look, or all of them if there is none yet."""
    if looks is None:
        return tuple(differences)
    try:
        n = looks.reached(len(differences))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return tuple(differences[:n])


def _looks(values: tuple[float, ...], looks: Looks | None) -> Looks | None:
    """The looks that these values are judged by; None if they are too few."""
    if len(values) < 2:
        return None
    if looks is None:
        return Looks((len(values),))
    return looks if len(values) in looks.schedule else None


# A study is judged again after every unit, and most of its comparisons have not changed then.
@functools.lru_cache(maxsize=4096)
def _p_value(values: tuple[float, ...], looks: Looks | None) -> float:
    schedule = _looks(values, looks)
    # This look's, so that it says the same as this look's interval.
    return 1.0 if schedule is None else schedule.p_value(values, so_far=False)


@functools.lru_cache(maxsize=4096)
def _evidence(
    values: tuple[float, ...],
    p_value: float,
    adjusted: Adjusted,
    smallest_effect: float,
    looks: Looks | None,
) -> Evidence:
    n, schedule = len(values), _looks(values, looks)
    flip = paired.sign_flip_test(values) if n else None
    several = n >= 2
    interval = schedule.interval(values, adjusted.level) if schedule else None
    return Evidence(
        n=n,
        effect=fmean(values) if n else None,
        sd=stdev(values) if several else None,
        interval=interval,
        level=1 - adjusted.level,
        p_value=p_value,
        p_adjusted=adjusted.p,
        verdict=verdict(interval, smallest_effect),
        effect_size=paired.effect_size(values),
        superiority=paired.superiority(values) if n else None,
        sign_flip_p=flip.p if flip else None,
        sign_flip_smallest=flip.smallest if flip else None,
        equivalence_p=paired.equivalence_test(values, smallest_effect)
        if several and smallest_effect > 0
        else None,
        bootstrap=paired.bootstrap_interval(values, 1 - adjusted.level),
        adjusted_effect=schedule.adjusted_effect(values, adjusted.level) if schedule else None,
    )
