"""The samplers that need no library: `random` and `grid`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from nasctl.samplers.base import Observation, Proposal, SamplerContext, derive_seed
from nasctl.samplers.ranking import Ranking, permuted

GridOrder = Literal["shuffled", "lexicographic"]


class RandomSampler:
    """Each active decision uniformly at random, independent of every result."""

    exhaustive: ClassVar[bool] = False

    def __init__(self, context: SamplerContext) -> None:
        self._context = context

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        del pending
        rng = random.Random(derive_seed("random", self._context.seed, number, attempt))
        return Proposal(choices=self._context.space.sample(rng))

    def tell(self, observation: Observation) -> None:
        del observation


class GridSampler:
    """Every configuration once, then None.

    The position in the order travels in the proposal's state. Proposals for a trial start behind
    the furthest position that was told and move on by one with every attempt, so those that are
    pending are proposed again and must be turned away by the caller as known. A caller that stops
    asking before None may leave a run of known configurations unpassed; see `exhaustive`.
    """

    exhaustive: ClassVar[bool] = True

    def __init__(self, context: SamplerContext, order: GridOrder) -> None:
        self._ranking = Ranking(context.space)
        self._seed = context.seed if order == "shuffled" else None
        # Every attempt of the current trial takes one position already: what was rejected for
        # that same trial must not count twice, so positions are kept by trial number.
        self._next_after: dict[int, int] = {}

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        del pending
        start = max((p for n, p in self._next_after.items() if n != number), default=0)
        position = start + attempt
        if position >= self._ranking.count:
            return None
        rank = position
        if self._seed is not None:
            rank = permuted(position, self._ranking.count, self._seed)
        return Proposal(choices=self._ranking[rank], state={"position": position})

    def tell(self, observation: Observation) -> None:
        position = observation.state.get("position")
        if position is None:
            return
        passed = self._next_after
        passed[observation.number] = max(position + 1, passed.get(observation.number, 0))
        if len(passed) > 2:  # only the furthest of another trial counts: keep the best two
            del passed[min(passed, key=lambda n: passed[n])]
