"""Searches to compare with in `samplers.py` that nasctl does not offer: simple and strong.

Each has the ask/tell interface, knows the costs exactly, and never proposes what is known.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar

from botorch_sampler import BoTorch
from plain_gp_sampler import PlainGP

from nasctl.pareto import front
from nasctl.samplers.base import Observation, Proposal, Sampler, SamplerContext, derive_seed
from nasctl.samplers.known_cost.pool import mutate
from nasctl.space import Choices


class LocalSearch:
    """Unseen one-decision neighbours of the front, in random order; random where there are none
    (White et al. 2021, "Local search is state of the art for NAS benchmarks", for a front)."""

    exhaustive: ClassVar[bool] = False

    def __init__(self, context: SamplerContext, startup: int = 10) -> None:
        self._context = context
        self._startup = startup
        self._told: list[Observation] = []

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        del pending
        rng = random.Random(derive_seed(self._context.seed, "local", number, attempt))
        space = self._context.space
        if len(self._told) < self._startup or attempt > 15:
            return Proposal(choices=space.sample(rng))
        parent = rng.choice(self._members())
        return Proposal(choices=mutate(space, parent, rng, 1))

    def tell(self, observation: Observation) -> None:
        if observation.values is not None:
            self._told.append(observation)

    def _members(self) -> list[Choices]:
        names = [f"o{i}" for i in range(len(self._context.directions))]
        points = [dict(zip(names, o.values or (), strict=True)) for o in self._told]
        objectives = dict(zip(names, self._context.directions, strict=True))
        return [dict(self._told[i].choices) for i in front(points, objectives)]


class RegularisedEvolution(LocalSearch):
    """Real et al. 2019 (arXiv 1802.01548) for a front: the parent is a non-dominated one of a
    random sample of the latest results, its child one mutation away."""

    def __init__(self, context: SamplerContext, population: int = 30, sample: int = 10) -> None:
        super().__init__(context)
        self._sample = sample
        self._alive: deque[Observation] = deque(maxlen=population)

    def tell(self, observation: Observation) -> None:
        super().tell(observation)
        if observation.values is not None:
            self._alive.append(observation)

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        del pending
        rng = random.Random(derive_seed(self._context.seed, "evolution", number, attempt))
        space = self._context.space
        if len(self._told) < self._startup or attempt > 15:
            return Proposal(choices=space.sample(rng))
        everyone, self._told = (
            self._told,
            rng.sample(self._alive, min(self._sample, len(self._alive))),
        )
        parent = rng.choice(self._members())
        self._told = everyone
        return Proposal(choices=mutate(space, parent, rng, 1))


BASELINES: dict[str, Callable[[SamplerContext], Sampler]] = {
    "local_search": LocalSearch,
    "regularised_evolution": RegularisedEvolution,
    "plain_gp": PlainGP,
    "botorch": BoTorch,
    "botorch_hamming": partial(BoTorch, kernel="hamming"),
}
NEEDS = {"botorch": "botorch", "botorch_hamming": "botorch"}
"""Libraries that are no dependencies of nasctl; what needs one is slow, and has to be named."""


def standard() -> list[str]:
    """The baselines that need nothing else."""
    return [n for n in BASELINES if n not in NEEDS]


def additional() -> list[str]:
    """The baselines whose libraries are installed although nasctl does not need them."""
    return [n for n, library in NEEDS.items() if find_spec(library)]


def problem_of_names(names: Sequence[str], versus: str | None, offered: Sequence[str]) -> str:
    """What is wrong with --samplers or --versus, in one line; empty if nothing is."""
    for name in names:
        if name in NEEDS and name not in offered:
            return f"--samplers {name}: not installed; pip install {NEEDS[name]}"
        if name not in offered:
            return f"--samplers {name}: there is none; one of {', '.join(offered)}"
    if versus not in (None, *names):
        return f"--versus {versus}: not among --samplers {','.join(names)}"
    return ""
