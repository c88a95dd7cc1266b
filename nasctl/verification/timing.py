"""Layer 4: whole-network latency of finalists in several sessions, alone where it is measured.

A session visits all finalists in turn, many times (`nasctl.latency_rounds`). What one session says
of a network scatters less than what the next one says: sessions are the repeats that intervals and
probabilities rest on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, geometric_mean
from typing import Any, Literal

from nasctl import stats
from nasctl.latency import WholeLatency
from nasctl.stats import Interval
from nasctl.verification.single import SEARCHED, SingleLatency

Sessions = Sequence[Mapping[str, WholeLatency]]


def combined(sessions: Sessions, confidence: float) -> dict[str, dict[str, Any]]:
    """What the ledger keeps of the sessions, by architecture id.

    `p50_ms` and `p90_ms` are geometric means over sessions, `n` their number; `sessions_ms` are the
    p50 of each. Intervals are Student's t on logarithms, with the spread between sessions pooled
    over all networks; of a single session they are those of its calls, at that confidence.
    """
    first = sessions[0]
    p50 = {i: [s[i].p50_ms for s in sessions] for i in first}
    p90 = {i: [s[i].p90_ms for s in sessions] for i in first}
    ends, p90_ends = pooled_intervals(p50, confidence), pooled_intervals(p90, confidence)
    return {
        arch_id: {
            "p50_ms": geometric_mean(p50[arch_id]),
            "p90_ms": geometric_mean(p90[arch_id]),
            "interval": list(ends.get(arch_id) or _of_calls(first[arch_id], "p50", confidence)),
            "p90_interval": list(
                p90_ends.get(arch_id) or _of_calls(first[arch_id], "p90", confidence)
            ),
            "n": len(sessions),
            "calls": sum(s[arch_id].n for s in sessions),
            "sessions_ms": p50[arch_id],
        }
        for arch_id in first
    }


def _of_calls(measured: WholeLatency, which: Literal["p50", "p90"], confidence: float) -> Interval:
    """What one session says of itself."""
    is_median = which == "p50"
    return SingleLatency(
        value=measured.p50_ms if is_median else measured.p90_ms,
        interval=measured.interval if is_median else measured.p90_interval,
        confidence=SEARCHED,
        n=measured.n,
        source="measured",
    ).at(confidence)


def pooled_intervals(
    groups: Mapping[str, Sequence[float]], confidence: float
) -> dict[str, Interval]:
    """Intervals of geometric means, from the pooled spread of logarithms; empty where no group has
    two values.

    Args:
        groups: positive values by name.
    """
    logs = {name: [math.log(v) for v in values] for name, values in groups.items()}
    spread = stats.pooled_spread(logs.values())
    if spread is None:
        return {}
    found = {}
    for name, values in logs.items():
        mean, half = fmean(values), spread.half_width(len(values), confidence)
        found[name] = (math.exp(mean - half), math.exp(mean + half))
    return found


FEWEST_DRIFTING = 3
"""Networks from which on what they share in a session is taken out."""


def without_common_drift(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    """Latencies by network and session, without what all networks share in a session.

    A session in which everything is 2 % slower says nothing about which network is faster. Of fewer
    than three networks nothing is taken out: it could not be told from their own.

    Args:
        groups: positive, all with the same sessions in the same order.
    """
    if len(groups) < FEWEST_DRIFTING:
        return [list(g) for g in groups]
    logs = [[math.log(v) for v in g] for g in groups]
    shared = [fmean(column) for column in zip(*logs, strict=True)]
    middle = fmean(shared)
    return [[math.exp(v - s + middle) for v, s in zip(row, shared, strict=True)] for row in logs]
