"""Layer 3: does a trained network keep to bounds? Candidates and references are judged alike."""

from __future__ import annotations

from collections.abc import Mapping

from nasctl.front import Entry


def excess(entry: Entry, bounds: Mapping[str, float], *, hopeful: bool = False) -> dict[str, float]:
    """How far a network breaks each bound, as a fraction of it; nothing of those that it keeps.

    A measured value counts as it is, a prediction with the upper end of its interval.

    Args:
        bounds: upper ones, by metric; those that it has no value of are passed over.
        hopeful: a prediction counts with the lower end.
    """
    found = {}
    for metric, bound in bounds.items():
        value = entry.decisive.get(metric)
        known = entry.uncertainty.get(metric)
        is_measured = metric == "latency_ms" and "latency_ms_measured" in entry.metrics
        if value is not None and known is not None and not is_measured:
            value = known.interval[0 if hopeful else 1]
        if value is not None and value > bound:
            found[metric] = (value - bound) / (abs(bound) or 1.0)
    return found
