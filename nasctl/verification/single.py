"""Layer 4: a latency that is known from one measurement or prediction, and how sure that is.

The search says of each latency a 95 % interval; a verification that keeps it (`verify.latency=
search`), or measures in one session, has no repeats of its own to tell more from. Neither knows how
far sessions differ from each other, so these intervals are rather too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from nasctl.stats import Interval
from nasctl.verification.finalists import Finalist

SEARCHED = 0.95
"""Confidence of every interval of a search, and of a measured latency by itself."""


@dataclass(frozen=True, kw_only=True)
class SingleLatency:
    """A latency in milliseconds with its interval.

    Attributes:
        confidence: of the interval.
        n: as `nasctl.trial.Uncertainty` has it.
        source: `measured` or `predicted`.
        degrees: of freedom behind the interval, if it is Student's t; None: taken as normal.
    """

    value: float
    interval: Interval
    confidence: float
    n: int
    source: str
    degrees: int | None = None

    def at(self, confidence: float) -> Interval:
        """The interval at another confidence: each end as many times further from the value as the
        quantile is larger, and not below 0."""
        factor = self._quantile(confidence) / self._quantile(self.confidence)
        low, high = self.interval
        return (
            max(0.0, self.value - factor * (self.value - low)),
            self.value + factor * (high - self.value),
        )

    @property
    def error(self) -> float:
        """The standard error of its logarithm, from both ends."""
        low, high = self.interval
        half = math.log(high / low) / 2 if low > 0 else math.log(high / self.value)
        return half / self._quantile(self.confidence)

    def _quantile(self, confidence: float) -> float:
        if self.degrees is None:
            return NormalDist().inv_cdf((1 + confidence) / 2)
        from scipy.special import stdtrit

        return float(stdtrit(self.degrees, (1 + confidence) / 2))


def searched_latency(finalist: Finalist) -> SingleLatency | None:
    """What the search knew best of a network; None where latency is exact, or there is none.

    A prediction rests on as many networks as the latency table was calibrated with, less two
    degrees of freedom (`nasctl.latency_fit`).
    """
    if "latency_ms" not in finalist.cost_intervals:
        return None
    kept = "latency_ms_measured"
    name = kept if kept in finalist.searched else "latency_ms"
    value = finalist.searched[name]
    known = finalist.searched_uncertainty.get(name) or {"interval": (value, value), "n": 1}
    low, high = known["interval"]
    source, n = str(known.get("source", "predicted")), int(known["n"])
    return SingleLatency(
        value=value,
        interval=(float(low), float(high)),
        confidence=SEARCHED,
        n=n,
        source=source,
        degrees=max(1, n - 2) if source == "predicted" else None,
    )
