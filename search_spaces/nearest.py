"""From any configuration of a space to the nearest of those that results are known of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nasctl.arch import Scalar
from nasctl.space import Choices, Decision, SearchSpace


class Nearest:
    """Finds the nearest of the `known` configurations; of equally near ones the first.

    The distance is Gower's (Biometrics 27, 1971) over the decisions: of numbers the difference of
    their ranks among the choices, over the largest possible; else 0 for equal and 1 for different
    choices; a decision that only one of the two has counts 1.

    Raises:
        ValueError: nothing is known.
    """

    def __init__(self, space: SearchSpace, known: Sequence[Choices]) -> None:
        if not known:
            raise ValueError("no known configuration to be near to")
        self._decisions = space.decisions
        self._places = [_places(d) for d in space.decisions]
        self._known = np.array([self._point(choices) for choices in known])

    def __call__(self, choices: Choices) -> int:
        """The index in `known`."""
        apart: NDArray[np.float64] = np.abs(self._known - self._point(choices))
        # Rounded, so that equal distances are equal however they were summed.
        return int(np.minimum(apart, 1.0).sum(axis=1).round(9).argmin())

    def _point(self, choices: Choices) -> NDArray[np.float64]:
        values = [
            places[choices[d.name]] if d.name in choices else -2.0
            for d, places in zip(self._decisions, self._places, strict=True)
        ]
        return np.array(values, dtype=np.float64)


def _places(decision: Decision) -> dict[Scalar, float]:
    """Where each choice lies: numbers from 0 to 1, others a whole step from each other."""
    choices = decision.choices
    if any(isinstance(c, str | bool) for c in choices):
        return {c: float(i) for i, c in enumerate(choices)}
    step = 1.0 / max(1, len(choices) - 1)
    return {c: i * step for i, c in enumerate(sorted(choices))}
