"""Layer 4: which training comes next in a verification: a pure function of the ledger.

First every finalist on the first seeds, seed by seed; then, round by round, one more seed of each
contender whose place on the front is open (`nasctl.planned`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nasctl.arch import Cost
from nasctl.candidates import Candidate, Priced
from nasctl.planned import Plan
from nasctl.trial import Trial
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


class VerificationPlan(Plan[tuple[Finalist, int]]):
    """The plan as a source of candidates for the engine.

    Args:
        finalists: in order.
        seeds: by architecture id, those to train on, in order.
        first: how many of them every finalist is trained on.
        limits: in ascending order of `start`; raised where a verification was allowed more.
        epochs: of each training.
        open_ids: contenders whose place is open, given the finished trials.
    """

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
        super().__init__()
        self._finalists = list(finalists)
        self._seeds = seeds
        self._first = first
        self._limits = list(limits)
        self._epochs = epochs
        self._open_ids = open_ids
        self._planned = {f.arch_id: 0 for f in finalists}

    def candidate(self, row: tuple[Finalist, int]) -> Candidate:
        """See `Plan`."""
        finalist, seed = row
        return Candidate(
            choices=finalist.choices,
            architecture=finalist.architecture,
            priced=Priced(cost=Cost(**finalist.cost), intervals=finalist.cost_intervals),
            seed=seed,
            epochs=self._epochs,
        )

    # -- the rounds ---------------------------------------------------------------------------

    def next_round(self, trials: Sequence[Trial]) -> list[tuple[Finalist, int]]:
        """See `Plan`."""
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
