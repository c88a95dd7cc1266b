"""What a new search might add to what was trained: the strategy's belief, asked and not acted on.

A batch of candidates is chosen one after the other by their expected improvement, each believed to
turn out as the model expects (Ginsbourger et al. 2010, "kriging believer"), so that the next is not
the same again. What the batch adds is then taken from joint samples of the true values of trained
networks and batch: neighbours are good or bad together, which a sum of improvements would count
once for each. On a table of known results it came out two to thirteen times too high
(docs/new_device.md): the model takes the best of many doubtful networks for better than they are.
So it is told as what a search might add at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from threadpoolctl import ThreadpoolController

from nasctl.pareto import volume
from nasctl.samplers.base import Known, Observation, SamplerContext
from nasctl.samplers.known_cost.aim import Aim
from nasctl.samplers.known_cost.gp import Array, Points
from nasctl.samplers.known_cost.sampler import unknown_objectives
from nasctl.samplers.known_cost.strategy import FEWEST, KnownCostStrategy, Options
from nasctl.space import Choices

JOINT = 200  # samples of the true values of front and batch, to tell what it adds


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What untrained networks are expected to add to a front.

    Attributes:
        gain: mean of what the next trainings add, as a fraction of the hypervolume of what is
            trained.
        proposals: how many trainings.
        candidates: feasible networks that were looked at.
        best: configuration of the first.
    """

    gain: float
    proposals: int
    candidates: int
    best: Choices


def expected_gap(
    context: SamplerContext,
    observations: Iterable[Observation],
    *,
    proposals: int,
    pool_size: int = 10_000,
) -> Gap | str:
    """The gap, or why none can be told.

    Args:
        context: of the space, with the prices, constraints and reference point that count now.
        observations: of the trials, in order; their costs are those of `context`.
        proposals: how many trainings to look ahead.
        pool_size: random candidates, unless the space is small enough to have all.
    """
    unknown = unknown_objectives(context)
    if len(unknown) != 1:
        return f"the model learns one objective, here are {', '.join(unknown) or 'none'} unknown"
    aim = Aim(
        objectives=dict(zip(context.objectives, context.directions, strict=True)),
        unknown=unknown[0],
        bound=1.0 if unknown[0] == "accuracy" else None,
        reference=context.reference_point,
    )
    assert context.price is not None, "with a price there is an unknown objective at most"
    strategy = _Outlook(
        context.space, context.price, aim, seed=context.seed, options=Options(pool=pool_size)
    )
    for observation in observations:
        strategy.tell(observation)
    with ThreadpoolController().limit(limits=1):  # as the sampler: sums come out the same
        return strategy.gap(proposals)


class _Outlook(KnownCostStrategy):
    """The strategy, for one look ahead."""

    def gap(self, proposals: int) -> Gap | str:
        self._learn()
        if len(self._scores) < FEWEST:
            return f"fewer than {FEWEST} trainings have a result"
        if not self._start():
            return "no candidate satisfies the constraints"
        self._prepare()
        self._encode()
        self._surrogate.update(self._results)
        # What a network that is forbidden now dominates may be a member.
        trained = self._contenders(self._is_feasible)
        taken = set(self._ids)
        waiting: list[tuple[Choices, Known]] = []
        for number in range(proposals):
            found = self._next(number, trained, waiting, taken)
            if found is None:
                break
            waiting.append(found)
            taken.add(found[1].id)
        if not waiting:
            return "every candidate is trained"
        added = self._added(trained, waiting)
        if not np.isfinite(added).all():
            return "what is trained has no hypervolume within the predicted costs to compare with"
        return Gap(
            gain=float(added.mean()),
            proposals=len(waiting),
            candidates=len(self._pool),
            best=waiting[0][0],
        )

    def _added(self, trained: list[int], batch: list[tuple[Choices, Known]]) -> Array:
        """What the batch adds to the hypervolume of the trained networks, as a fraction of it, for
        each joint sample, (samples,)."""
        points = [self._results[i].features for i in trained]
        prediction = self._surrogate.predict(
            pending=None, local=None, contenders=Points.joined([*points, self._points(batch)])
        )
        costs = np.array(
            [
                *(self._results[i].costs for i in trained),
                *(self._aim.cost_vector(known) for _, known in batch),
            ]
        ).reshape(len(trained) + len(batch), -1)
        target = self._target(trained, len(batch))
        worst = np.append(-target.score, target.costs)
        added = []
        for drawn in prediction.samples_at(np.random.default_rng(self._seed), JOINT):
            all_ = np.column_stack([-target.scores(drawn), costs])
            now, then = (_volume(p, worst) for p in (all_[: len(trained)], all_))
            added.append((then - now) / now if now > 0 else math.inf)
        return np.array(added)

    def _is_feasible(self, result: int) -> bool:
        known = self._price(self._choices[result])
        return known is not None and known.feasible

    def _next(
        self,
        number: int,
        trained: list[int],
        waiting: list[tuple[Choices, Known]],
        taken: set[str],
    ) -> tuple[Choices, Known] | None:
        """The candidate that is expected to add most; None: there is none left."""
        if len(taken & self._in_pool.keys()) >= len(self._pool) and self._is_enumerated:
            return None
        look = self._look(number, trained, waiting, taken, stream="outlook")
        if not len(look.index):
            return None
        chosen = look.candidates[look.index[int(np.argmax(look.gains))]]
        return chosen.choices, chosen.known


def _volume(points: Array, worst: Array) -> float:
    inside = points[(points < worst).all(axis=1)]
    return volume(inside, worst) if len(inside) else 0.0
