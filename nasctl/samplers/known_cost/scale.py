"""The scale on which accuracy is modelled, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nasctl.samplers.known_cost.gp import Array
from nasctl.samplers.known_cost.improvement import psi_log_error, psi_normal

TAIL = 4.0  # lengths of (90 % quantile - median) that a score may lie below the median
LEAST_ERROR = 1e-4


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From scores (more is better) to what a Gaussian process models, standardised.

    Bounded scores become -log(1 - score / bound): differences count by the share of the error that
    they remove, and the error is lognormal. The low tail is cut off first: networks that fail to
    learn say little about those that do, and would set the scale. What holds a part of the front is
    never cut off, however far below the rest it is: cheap members are.

    Attributes:
        bound: the largest possible score (1 for an accuracy); None: scores are modelled as they
            are.
        low: scores below it count as this.
        centre, spread: mean and deviation of the told values, transformed.
    """

    bound: float | None
    low: float
    centre: float = 0.0
    spread: float = 1.0

    @classmethod
    def of(cls, scores: Array, bound: float | None, kept: float = np.inf) -> Scale:
        """For the results told so far.

        Args:
            scores: (n,), n at least 1.
            bound: see the class.
            kept: scores from here on are not cut off.
        """
        middle, high = np.quantile(scores, [0.5, 0.9])
        low = float(middle - TAIL * (high - middle)) if high > middle else -np.inf
        low = min(low, kept - (high - middle))
        plain = cls(bound=bound, low=low)
        values = plain.standardise(scores)
        return cls(
            bound=bound, low=low, centre=float(values.mean()), spread=float(values.std()) or 1.0
        )

    def standardise(self, scores: Array) -> Array:
        """To the modelled scale, of mean 0 and variance 1 over the told results."""
        kept = np.maximum(scores, self.low)
        if self.bound is not None:
            kept = -np.log(np.maximum(1.0 - kept / self.bound, LEAST_ERROR))
        result: Array = (kept - self.centre) / self.spread
        return result

    def scores(self, values: Array) -> Array:
        """Back from the modelled scale."""
        raw = values * self.spread + self.centre
        result: Array = raw if self.bound is None else self.bound * (1.0 - np.exp(-raw))
        return result

    def psi(self, mean: Array, sd: Array, t: Array) -> Array:
        """E[(A - t)+] of a score A whose modelled value is N(mean, sd^2)."""
        mean, sd = mean * self.spread + self.centre, sd * self.spread
        if self.bound is None:
            return psi_normal(mean, sd, t)
        result: Array = self.bound * psi_log_error(
            mean, sd, np.minimum(t / self.bound, 1 - LEAST_ERROR)
        )
        return result
