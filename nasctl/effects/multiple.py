"""Layer 2: several comparisons at once.

Holm's procedure (Scandinavian Journal of Statistics 6, 1979): the smallest of m p-values is
compared with alpha / m, the next with alpha / (m - 1), and so on up to the first that fails. The
chance of one wrong rejection or more is at most alpha, however the comparisons depend on each
other; here they do, as they share the baseline's trainings.

It asks of each p-value only that P(p <= x) is at most x if its null hypothesis is true, at the
moment when it is read. Repeated p-values (`sequential`) have that at every look at once, so also at
a look that was chosen by what was seen, in this comparison or in another. So comparisons may stop
at different numbers of units: one that has stopped keeps its last p-value, and Holm's procedure can
be repeated after every unit with what there is. A comparison that nobody has looked at yet has
p-value 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Adjusted:
    """One comparison of a family.

    Attributes:
        p: adjusted; below alpha if Holm's procedure rejects.
        level: alpha over the number that its p-value was multiplied by. An interval with
            confidence 1 - level leaves out 0 exactly if `p` is below alpha.
    """

    p: float
    level: float


def holm(p_values: Mapping[str, float], alpha: float = 0.05) -> dict[str, Adjusted]:
    """Adjusted p-values, and the level at which each interval has to be drawn.

    The i-th smallest of m p-values is compared with alpha / (m - i + 1), and its interval has that
    level; every comparison after the first that fails is tested no more, and its interval has the
    level of the one that failed. Equal p-values get the same level.

    Each interval alone covers with probability 1 - alpha or more, as its level is at most alpha.
    They do not all cover together with that probability when several hypotheses are rejected; who
    needs that draws all of them at alpha / m.

    Raises:
        ValueError: a p-value or alpha outside its range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"{name}: p-value {p}")
    order = sorted(p_values, key=lambda name: p_values[name])
    found: dict[str, Adjusted] = {}
    adjusted, previous, factor = 0.0, -1.0, len(order)
    for i, name in enumerate(order):
        p = p_values[name]
        if p > previous and adjusted < alpha:
            factor = len(order) - i
        adjusted = max(adjusted, min((len(order) - i) * p, 1.0))
        found[name] = Adjusted(p=adjusted, level=alpha / factor)
        previous = p
    return {name: found[name] for name in p_values}
