"""Layer 4: which training comes next in a verification: a pure function of the ledger.

First every finalist on the first seeds, seed by seed; then, round by round, one more seed of each
contender whose place on the front is open (`nasctl.planned`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nasctl.arch import Cost
from nasctl.candidates import Candidate, Priced
from nasctl.planned import Rounds
from nasctl.samplers.base import Sampler
from nasctl.space import Choices
from nasctl.trial import Rejection, Trial
from nasctl.verification.finalists import Finalist

FRESH = 2**31
"""From the seed of the run to the first fresh one. A search trains on at most 10^9 seeds from its
own on (`search.max_seeds`), modulo 2^32: fresh ones, at most 10^9 too, are never among them."""


def fresh_seeds(seed: int, count: int, *, circle: int | None = None,
                used: Iterable[int] = ()) -> tuple[int, ...]:  # fmt: skip
    """Training seeds that a run of `seed` has not used.

    Args:
        seed: of the run, below 2^32.
        count: how many are wanted.
        circle: of results that repeat after so many seeds (those of a table); None: none do.
        used: seeds whose results the search has seen, if they repeat.

    Returns:
        `count` seeds, or as many as the circle has left.
    """
    if circle is None:
        return tuple((seed + FRESH + k) % 2**32 for k in range(count))
    taken = {s % circle for s in used}
    found: list[int] = []
    for k in range(circle):
        candidate = (seed + FRESH + k) % 2**32
        if candidate % circle not in taken and len(found) < count:
            taken.add(candidate % circle)
            found.append(candidate)
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """`seeds` of a finalist at most, in rounds that begin at trial `start` or later."""

    start: int
    seeds: int


class VerificationPlan:
    """The plan as a source of candidates for the engine.

    Args:
        finalists: in order.
        seeds: by architecture id, those to train on, in order.
        first: how many of them every finalist is trained on.
        limits: in ascending order of `start`; raised where a verification was allowed more.
        epochs: of each training.
        open_ids: contenders whose place is open, given the finished trials.
    """

    closest: Rejection | None = None

    def __init__(
        self,
        finalists: Sequence[Finalist],
        *,
        seeds: Mapping[str, Sequence[int]],
        first: int,
        limits: Sequence[Limit],
        epochs: int,
        open_ids: Callable[[Sequence[Trial]], Container[str]],
    ) -> None:
        self._finalists = list(finalists)
        self._seeds = seeds
        self._first = first
        self._limits = list(limits)
        self._epochs = epochs
        self._open_ids = open_ids
        self._rounds = Rounds(self._next_round)
        self._planned = {f.arch_id: 0 for f in finalists}

    # -- as the engine sees it ----------------------------------------------------------------

    def is_ready(self, number: int, trials: Mapping[int, Trial]) -> bool:
        """Whether it is known what trial `number` is, or that there is none."""
        return self._rounds.is_ready(number, trials)

    def has_more(self, trials: Mapping[int, Trial]) -> bool:
        """Whether anything is left to train."""
        return self._rounds.has_more(trials)

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
    ) -> tuple[Candidate | None, list[Rejection], int]:
        """The planned training; None after the last one."""
        del sampler, pending, known, trainings
        if number >= len(self._rounds.rows):
            return None, [], 0
        finalist, seed = self._rounds.rows[number]
        found = Candidate(
            choices=finalist.choices,
            architecture=finalist.architecture,
            priced=Priced(cost=Cost(**finalist.cost), intervals=finalist.cost_intervals),
            seed=seed,
            epochs=self._epochs,
        )
        return found, [], 0

    # -- the rounds ---------------------------------------------------------------------------

    def _next_round(self, trials: Sequence[Trial]) -> list[tuple[Finalist, int]]:
        if not trials:
            return [
                row
                for _ in range(self._first)
                for finalist in self._finalists
                for row in self._one_more(finalist)
            ]
        most = max(lim.seeds for lim in self._limits if lim.start <= len(trials))
        wanted = self._open_ids(trials)
        return [
            row
            for finalist in self._finalists
            if finalist.arch_id in wanted and self._planned[finalist.arch_id] < most
            for row in self._one_more(finalist)
        ]

    def _one_more(self, finalist: Finalist) -> list[tuple[Finalist, int]]:
        seeds, done = self._seeds[finalist.arch_id], self._planned[finalist.arch_id]
        if done >= len(seeds):
            return []  # a table has no more
        self._planned[finalist.arch_id] += 1
        return [(finalist, seeds[done])]
