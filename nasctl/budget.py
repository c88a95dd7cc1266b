"""Layer 3: the best member of a front within a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from nasctl.errors import ConfigError, NothingFeasibleError, unknown


def read_budget(text: str) -> tuple[str, float]:
    """METRIC=VALUE as a pair.

    Raises:
        ConfigError: it is something else.
    """
    metric, _, value = text.partition("=")
    try:
        bound = float(value)
        if not math.isfinite(bound):
            raise ValueError
        return metric, bound
    except ValueError:
        raise ConfigError(
            f"--at {text}: expected METRIC=VALUE, for example latency_ms=1.5"
        ) from None


def best_within(front: Mapping[str, Any], metric: str, bound: float) -> Mapping[str, Any]:
    """The best member within a budget.

    Best is the first objective; if that is the bounded one, the second.

    Args:
        front: the object of front.json.
        metric: any metric; measured latency counts where there is one.
        bound: its largest allowed value; of an objective to maximise, the smallest.

    Raises:
        ConfigError: no member has that metric.
        NothingFeasibleError: no member is within the budget; names the closest.
    """
    members: Iterable[Mapping[str, Any]] = front["members"]
    names = list(dict.fromkeys(n for m in members for n in m["metrics"]))
    if metric not in names:
        raise ConfigError(f"--at {metric}={bound:g}: {unknown('metric', metric, names)}")

    def value(member: Mapping[str, Any]) -> float:
        metrics = member["metrics"]
        return float(metrics.get(f"{metric}_measured", metrics.get(metric, float("inf"))))

    objectives = front["objectives"]
    is_floor = objectives.get(metric) == "max"
    within = [m for m in members if (value(m) >= bound if is_floor else value(m) <= bound)]
    if not within:
        closest = (max if is_floor else min)(members, key=value)
        raise NothingFeasibleError(
            f"--at {metric}={bound:g}: no member of the front is within it; the closest is "
            f"{closest['arch_id']} with {metric} {value(closest):.6g}"
        )
    first = next((m for m in objectives if m != metric), metric)
    return (max if objectives[first] == "max" else min)(within, key=lambda m: m["metrics"][first])
