"""Searches to compare with in `samplers.py` that nasctl does not offer: simple and strong.

Each has the ask/tell interface, knows the costs exactly, and never proposes what is known.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

from nasctl.pareto import front
from nasctl.samplers.base import Observation, Proposal, SamplerContext, derive_seed
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


class BoTorch(LocalSearch):
    """A Gaussian process for the unknown objective, deterministic models for the known ones, and
    the noisy expected hypervolume improvement over both (qLogNEHVI: Daulton et al. 2021, Ament et
    al. 2023), as BoTorch has them (Balandat et al. 2020), with its defaults.

    The process sees the choices one-hot and models -log(1 - accuracy). Candidates are unseen
    mutants of the front and others at random. BoTorch compiles a C++ kernel at its first use, which
    takes minutes on a busy machine.
    """

    candidates = 2000
    mutants = 500

    def __init__(self, context: SamplerContext, startup: int = 10) -> None:
        super().__init__(context, startup)
        price = context.price
        assert price is not None, "botorch needs known costs"
        self._price = price
        known = price(context.space.sample(random.Random(0)))
        assert known is not None
        self._costs = [m for m in context.objectives if m in known.costs]
        self._unknown = [m for m in context.objectives if m not in known.costs].pop()
        self._at = context.objectives.index(self._unknown)

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        rng = random.Random(derive_seed(self._context.seed, "botorch", number, attempt))
        if len(self._told) < self._startup or attempt:
            return Proposal(choices=self._context.space.sample(rng))
        taken = {tuple(c.items()) for c in (*(o.choices for o in self._told), *pending)}
        found = list(self._candidates(rng, taken).values())
        if not found:
            return None
        return Proposal(choices=found[self._best(found, pending, rng.getrandbits(31))])

    def _candidates(
        self, rng: random.Random, taken: Collection[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], Choices]:
        space, parents = self._context.space, self._members()
        found: dict[tuple[Any, ...], Choices] = {}
        for i in range(2 * self.candidates):
            if len(found) == self.candidates:
                break
            is_mutant = i < self.mutants
            choices = mutate(space, rng.choice(parents), rng, 1) if is_mutant else space.sample(rng)
            if tuple(choices.items()) not in taken and self._price(choices) is not None:
                found[tuple(choices.items())] = choices
        return found

    def _inputs(self, configurations: Sequence[Mapping[str, Any]]) -> list[list[float]]:
        """One column per choice, then the costs as parts of the reference point."""
        rows = []
        for choices in configurations:
            row = [
                float(choices.get(d.name) == c)
                for d in self._context.space.decisions
                for c in d.choices
            ]
            known = self._price(dict(choices))
            assert known is not None
            row += [known.costs[m] / self._context.reference_point[m] for m in self._costs]
            rows.append(row)
        return rows

    def _best(
        self, candidates: Sequence[Choices], pending: Sequence[Mapping[str, Any]], seed: int
    ) -> int:
        """The position of the candidate with the greatest expected improvement."""
        import torch
        from botorch.acquisition.multi_objective.logei import (
            qLogNoisyExpectedHypervolumeImprovement,
        )
        from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import ModelList, SingleTaskGP
        from botorch.models.deterministic import GenericDeterministicModel
        from botorch.models.transforms.input import FilterFeatures
        from botorch.optim import optimize_acqf_discrete
        from gpytorch.mlls import ExactMarginalLogLikelihood

        def tensor(rows: Sequence[Sequence[float]]) -> Any:
            return torch.tensor(rows, dtype=torch.float64)

        seen = tensor(self._inputs([o.choices for o in self._told]))
        told = [(o.values or ())[self._at] for o in self._told]
        errors = tensor([[max(1.0 - a, 1e-4)] for a in told])
        width = seen.shape[1] - len(self._costs)
        room = 1.0 - self._context.reference_point[self._unknown]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            process = SingleTaskGP(
                seen, -errors.log(), input_transform=FilterFeatures(torch.arange(width))
            )
            fit_gpytorch_mll(ExactMarginalLogLikelihood(process.likelihood, process))
            costs = GenericDeterministicModel(lambda x: -x[..., width:], len(self._costs))

            def objective(samples: Any, X: Any = None) -> Any:  # noqa: N803, ARG001 - BoTorch's names
                above = 1.0 - (-samples[..., :1]).exp() / room
                return torch.cat([above, samples[..., 1:]], dim=-1)

            gain = qLogNoisyExpectedHypervolumeImprovement(
                ModelList(process, costs),
                ref_point=[0.0, *(-1.0 for _ in self._costs)],
                X_baseline=seen,
                X_pending=tensor(self._inputs(pending)) if pending else None,
                objective=GenericMCMultiOutputObjective(objective),
                prune_baseline=True,
                cache_root=False,
            )
            choices = tensor(self._inputs(candidates))
            best, _ = optimize_acqf_discrete(gain, 1, choices, max_batch_size=500)
        return int((choices == best).all(dim=1).nonzero()[0])


BASELINES = {
    "local_search": LocalSearch,
    "regularised_evolution": RegularisedEvolution,
    "botorch": BoTorch,
}
NEEDS = {"botorch": "botorch"}
"""Libraries that are no dependencies of nasctl."""


def available() -> list[str]:
    """The baselines whose libraries are installed."""
    return [n for n in BASELINES if n not in NEEDS or find_spec(NEEDS[n])]


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
