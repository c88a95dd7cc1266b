"""Layer 4: trainings that a plan decides round by round, for an engine that asks no sampler.

A round is planned when the one before it is over, so the plan is a function of results alone,
whatever the timing, and after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from nasctl.samplers.base import Observation, Proposal
from nasctl.trial import Trial

Row = TypeVar("Row")


class Rounds(Generic[Row]):
    """The trainings that are known so far, by trial number.

    Args:
        next_round: the trainings of the next round, given all trials before it, which are final; an
            empty one is the end.
    """

    def __init__(self, next_round: Callable[[Sequence[Trial]], list[Row]]) -> None:
        self._next_round = next_round
        self._is_over = False
        self.rows: list[Row] = []

    def is_ready(self, number: int, trials: Mapping[int, Trial]) -> bool:
        """Whether it is known what trial `number` is, or that there is none."""
        while number >= len(self.rows) and not self._is_over:
            if not all(n in trials and trials[n].state.is_final for n in range(len(self.rows))):
                return False
            more = self._next_round([trials[n] for n in range(len(self.rows))])
            self._is_over = not more
            self.rows += more
        return True

    def has_more(self, trials: Mapping[int, Trial]) -> bool:
        """Whether anything is left to train."""
        running = any(not t.state.is_final for t in trials.values())
        return running or not self.is_ready(len(trials), trials) or len(trials) < len(self.rows)


class NoSampler:
    """A plan asks nobody."""

    exhaustive: ClassVar[bool] = True

    def tell(self, observation: Observation) -> None:
        """Ignored: the plan reads the results itself."""

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        """Nothing is proposed."""
        del number, attempt, pending
        return None
