"""`sampler=known_cost`: the strategy behind nasctl's ask/tell interface."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from threadpoolctl import ThreadpoolController

from nasctl.samplers.base import Known, Observation, Proposal, SamplerContext, checked_values
from nasctl.samplers.known_cost.aim import Aim
from nasctl.samplers.known_cost.pool import ENUMERATED
from nasctl.samplers.known_cost.strategy import KnownCostStrategy, Options
from nasctl.space import Choices

PROBES = 5_000
"""Random configurations of a large space of which one should be possible to build."""
SHORT = 4  # a start-up phase takes at most this part of all trials


def unpriced(choices: Choices) -> Known:
    """For spaces without costs: every configuration is a network of its own."""
    return Known(id=json.dumps(choices, sort_keys=True), costs={}, feasible=True)


def unknown_objectives(context: SamplerContext) -> list[str]:
    """The objectives that only training tells: those that networks which can be built have no
    price for. All, if none can be built."""
    objectives = context.objectives or tuple(
        f"objective {i}" for i in range(len(context.directions))
    )
    if context.price is None:
        return list(objectives)
    rng = random.Random(context.seed)
    drawn = (context.space.sample(rng) for _ in range(PROBES))
    is_small = context.space.count() <= ENUMERATED
    for choices in context.space.enumerate() if is_small else drawn:
        known = context.price(choices)
        if known is not None:
            return [m for m in objectives if m not in known.costs]
    return list(objectives)


class KnownCostSampler:
    """See `strategy`.

    Args:
        context: with exactly one objective that is not priced.
        startup_trials: spread over the costs before the model decides; a quarter of the trials at
            most.
        pool_size: random candidates, unless the space is small enough to have all.

    Raises:
        ValueError: another number of objectives is unknown.
    """

    exhaustive: ClassVar[bool] = False

    def __init__(self, context: SamplerContext, *, startup_trials: int, pool_size: int) -> None:
        unknown = unknown_objectives(context)
        names = context.objectives or tuple(unknown)
        unknown = unknown or list(names[:1])  # all are known: then one is learned for nothing
        if len(unknown) != 1:
            raise ValueError(f"one objective must be unknown, got {unknown}")
        self._names = names
        aim = Aim(
            objectives=dict(zip(names, context.directions, strict=True)),
            unknown=unknown[0],
            bound=1.0 if unknown[0] == "accuracy" else None,
            reference=context.reference_point,
        )
        options = Options(
            startup=max(4, min(startup_trials, context.trials // SHORT)),
            pool=pool_size,
            max_seeds=context.max_seeds,
        )
        self._strategy = KnownCostStrategy(
            context.space, context.price or unpriced, aim, seed=context.seed, options=options
        )
        self._threads = ThreadpoolController()

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        """See `Sampler.ask`."""
        # One thread: sums come out the same everywhere, and the workers keep their cores.
        with self._threads.limit(limits=1):
            return self._strategy.ask(number, attempt, pending)

    def tell(self, observation: Observation) -> None:
        """See `Sampler.tell`."""
        checked_values(observation, len(self._names))
        self._strategy.tell(observation)
