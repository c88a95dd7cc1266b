"""Layer 4: why a finalist is not on the verified front, in a few words."""

from __future__ import annotations

from collections.abc import Mapping

from nasctl import pareto
from nasctl.trial import Objectives
from nasctl.verification.finalists import judged_metric

SAME = 0.005
"""Relative difference of a cost below which people call it the same."""


def why_off(
    own: Mapping[str, float],
    others: Mapping[str, Mapping[str, float]],
    objectives: Objectives,
) -> tuple[str, str]:
    """Which member dominates a network, and by how much.

    Of several the one that is better in the judged metric by most.

    Args:
        own: the values that rank it.
        others: those of the members, by id.

    Returns:
        The id, and `dominated by ID: +0.4 points at the same latency, 3.1 % fewer parameters`.
    """
    ids = list(others)
    over = pareto.dominated_by(own, [others[i] for i in ids], objectives)
    judged = judged_metric(objectives)
    sign = 1 if objectives[judged] == "max" else -1
    by = max((ids[i] for i in over), key=lambda i: sign * others[i][judged])
    gain = difference(judged, others[by][judged] - own[judged])
    costs = [_compared(m, others[by][m], own[m]) for m in objectives if m != judged]
    return by, f"dominated by {by}: {gain}" + (f" at {', '.join(costs)}" if costs else "")


def difference(metric: str, value: float) -> str:
    """`+0.4 points` of a fraction, `+0.12` of anything else."""
    if "accuracy" in metric:
        return f"{100 * value:+.2f} points"
    return f"{value:+.3g} {metric}"


def _compared(metric: str, other: float, own: float) -> str:
    name = {"latency_ms": "latency", "params": "parameters"}.get(metric, metric.replace("_", " "))
    if other == own or (own and abs(other / own - 1) < SAME):
        return f"the same {name}"
    if not own:
        return f"{name} {other:.3g} instead of 0"
    share = abs(other / own - 1)
    return f"{100 * share:.1f} % {'more' if (other > own) else 'less'} {name}".replace(
        "less parameters", "fewer parameters"
    )
