"""Layer 4: trainings that a plan decides round by round, for an engine that asks no sampler.

A round is planned when the one before it is over, so the plan is a function of results alone,
whatever the timing, and after a crash.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from nasctl.candidates import Candidate
from nasctl.samplers.base import Observation, Proposal, Sampler
from nasctl.space import Choices
from nasctl.trial import Rejection, Trial

Row = TypeVar("Row")


class Plan(ABC, Generic[Row]):
    """A source of candidates for the engine: rounds of trainings, known by trial number.

    Attributes:
        rows: the trainings that are known so far.
    """

    closest: Rejection | None = None

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._is_over = False

    @abstractmethod
    def next_round(self, trials: Sequence[Trial]) -> list[Row]:
        """The trainings of the next round, given all trials before it, which are final; an empty
        one is the end."""

    @abstractmethod
    def candidate(self, row: Row) -> Candidate:
        """A planned training as the engine wants it."""

    def is_ready(self, number: int, trials: Mapping[int, Trial]) -> bool:
        """Whether it is known what trial `number` is, or that there is none."""
        while number >= len(self.rows) and not self._is_over:
            if not all(n in trials and trials[n].state.is_final for n in range(len(self.rows))):
                return False
            more = self.next_round([trials[n] for n in range(len(self.rows))])
            self._is_over = not more
            self.rows += more
        return True

    def has_more(self, trials: Mapping[int, Trial]) -> bool:
        """Whether anything is left to train."""
        running = any(not t.state.is_final for t in trials.values())
        return running or not self.is_ready(len(trials), trials) or len(trials) < len(self.rows)

    def note(self, rejection: Rejection) -> None:
        """Nothing is ever rejected."""

    def find(
        self,
        number: int,
        sampler: Sampler,
        *,
        pending: Sequence[Choices],
        known: Container[str],
        trainings: Callable[[str], int],
        begun: Iterable[Choices],
    ) -> tuple[Candidate | None, list[Rejection], int]:
        """The planned training; None after the last one."""
        del sampler, pending, known, trainings, begun
        found = self.candidate(self.rows[number]) if number < len(self.rows) else None
        return found, [], 0


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
