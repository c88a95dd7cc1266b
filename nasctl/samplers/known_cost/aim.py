"""What a search with one unknown objective is after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nasctl.samplers.base import Known
from nasctl.samplers.known_cost.gp import Array
from nasctl.trial import Direction


@dataclass(frozen=True, kw_only=True)
class Aim:
    """The objectives, one of them unknown.

    Attributes:
        objectives: metric to direction, in the order of the told values.
        unknown: the one that only training tells.
        bound: its largest possible value, None where there is none; see `Scale`.
        reference: point of the hypervolume by metric; costs left out: 1.1 times the largest in the
            pool; the unknown left out: the worst of the first results.
    """

    objectives: Mapping[str, Direction]
    unknown: str
    bound: float | None
    reference: Mapping[str, float]

    @property
    def costs(self) -> list[str]:
        """The objectives that are known."""
        return [m for m in self.objectives if m != self.unknown]

    def sign(self, metric: str) -> float:
        """That makes it a cost: smaller is better."""
        return -1.0 if self.objectives[metric] == "max" else 1.0

    def cost_vector(self, known: Known) -> Array:
        """The known objectives, smaller is better."""
        return np.array([self.sign(m) * known.costs[m] for m in self.costs])

    def score(self, value: float) -> float:
        """The unknown objective, more is better."""
        return -self.sign(self.unknown) * value
