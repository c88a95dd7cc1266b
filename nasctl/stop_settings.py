"""Layer 1: when a search may end early; light, since configurations are checked with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StopSettings:
    """The section `stop` of a configuration.

    Attributes:
        marginal_gain: expected gain below which the search ends, as a fraction of the hypervolume.
        window: w of the rule (`nasctl.stopping`), in trainings.
    """

    marginal_gain: float
    window: int = 8
