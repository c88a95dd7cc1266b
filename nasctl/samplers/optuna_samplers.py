"""`tpe`, `nsga2`, `nsga3` and `gp`: Optuna's samplers as pure functions of what was told.

Every ask constructs the sampler anew, seeded by (seed, number, attempt), and shows it a study that
holds the told trials and nothing else. This module is imported when one of them is chosen.
"""

from __future__ import annotations

import math
import random
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from nasctl.samplers.base import (
    Observation,
    Proposal,
    SamplerContext,
    checked_values,
    derive_seed,
)
from nasctl.samplers.optuna_history import Encoding, ask_labels, frozen_trial, open_study

Pending = Sequence[Mapping[str, Any]]

TPE_REJECTED = 500
GP_REJECTED = 50
GP_ATTEMPTS = 3


def total_violation(observation: Observation) -> float:
    """The sum of what is violated; 0 for the feasible, 1 for what could not be built."""
    total = float(sum(v for v in observation.violations.values() if v > 0))
    return 1.0 if observation.rejected and total == 0 else total


class _OptunaSampler:
    """What the three kinds have in common: encoding, seeds, checks."""

    exhaustive: ClassVar[bool] = False

    def __init__(self, context: SamplerContext) -> None:
        self._space = context.space
        self._seed = context.seed
        self._directions = context.directions
        self._encoding = Encoding(context.space, context.seed)
        self._count = 0  # told trials that Optuna may see: the next one's number

    def _derive(self, *parts: str | int) -> int:
        return derive_seed(self._seed, *parts, bits=32)

    def _checked(self, observation: Observation) -> tuple[float, ...] | None:
        return checked_values(observation, len(self._directions))

    def _frozen(
        self,
        observation: Observation,
        values: Sequence[float],
        constraints: Mapping[str, float],
    ) -> FrozenTrial:
        inactive = observation.state.get("inactive", {})
        self._count += 1
        return frozen_trial(
            self._count - 1,
            TrialState.COMPLETE,
            self._encoding.labels(observation.choices, inactive, observation.number),
            self._encoding.distributions,
            values=values,
            constraints=constraints,
        )

    def _running(self, pending: Pending) -> list[FrozenTrial]:
        return [
            frozen_trial(
                self._count + i,
                TrialState.RUNNING,
                self._encoding.labels(choices, {}, "pending", i),
                self._encoding.distributions,
            )
            for i, choices in enumerate(pending)
        ]

    def _proposal(self, sampler: Any, trials: Sequence[FrozenTrial]) -> Proposal:
        labels = ask_labels(sampler, self._directions, trials, self._encoding.distributions)
        active, inactive = self._encoding.choices(labels)
        return Proposal(choices=active, state={"inactive": inactive} if inactive else {})


class _Tpe(TPESampler):
    """With the search space given: inferring it from the history takes longer than sampling."""

    def __init__(self, relative: Mapping[str, BaseDistribution], **options: Any) -> None:
        super().__init__(multivariate=True, constant_liar=True, **options)
        self._relative = relative

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        del study, trial
        return dict(self._relative)


class TpeSampler(_OptunaSampler):
    """Multivariate tree-structured Parzen estimator (Watanabe, arXiv:2304.11127).

    Several objectives are split by non-domination rank and hypervolume (Ozaki et al., JAIR 2022).

    Pending trials are shown as running and repel (constant liar). Rejected candidates are told as
    infeasible: Optuna sorts those by their violation only and never looks at their objective
    values, which are zeros. They count towards `startup_trials`, and fill the good half
    (smallest violation first) while there are too few feasible ones. Only the latest 500 are kept.
    Failed trials are left out.
    """

    def __init__(self, context: SamplerContext, *, startup_trials: int, candidates: int) -> None:
        super().__init__(context)
        self._options = {"n_startup_trials": startup_trials, "n_ei_candidates": candidates}
        self._results: list[FrozenTrial] = []
        self._rejected: deque[FrozenTrial] = deque(maxlen=TPE_REJECTED)

    def ask(self, number: int, attempt: int, pending: Pending = ()) -> Proposal | None:
        """See `Sampler.ask`."""
        seed = self._derive("tpe", number, attempt)
        sampler = _Tpe(self._encoding.relative, seed=seed, **self._options)
        told = sorted([*self._results, *self._rejected], key=attrgetter("number"))
        return self._proposal(sampler, [*told, *self._running(pending)])

    def tell(self, observation: Observation) -> None:
        """See `Sampler.tell`."""
        values = self._checked(observation)
        violation = {"violation": total_violation(observation)}
        if values is not None:
            self._results.append(self._frozen(observation, values, violation))
        elif observation.rejected:
            zeros = [0.0] * len(self._directions)
            self._rejected.append(self._frozen(observation, zeros, violation))


class _Generation:
    """Overrides that give a genetic sampler its population and parents; see `GeneticSampler`."""

    generation: int
    population: list[FrozenTrial]
    parents: list[FrozenTrial]
    relative: Mapping[str, BaseDistribution]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        del study, trial
        return dict(self.relative)

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        del study, trial
        return self.generation

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        del study, generation
        return self.population

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        del study, generation
        return self.parents


class _Nsga2(_Generation, NSGAIISampler):
    pass


class _Nsga3(_Generation, NSGAIIISampler):
    pass


class GeneticSampler(_OptunaSampler):
    """NSGA-II (Deb et al. 2002) or NSGA-III (Deb and Jain 2014).

    A generation is `population_size` candidates in the order in which they are told, and the
    parents of the next are selected when it is full: Optuna's own rule when trials run one by one.
    Optuna itself writes the generation into a trial when it is asked for and selects parents at
    the next ask, so that with trials in flight the parents depend on when was asked.

    Rejected candidates are told as infeasible and take part in a generation: a feasible one
    dominates them, among them the smaller violation wins. Selection ignores their objective
    values, except that NSGA-III normalises by them if it must keep infeasible ones; they are the
    worst value told so far in each objective. Failed trials are left out.
    """

    def __init__(
        self, context: SamplerContext, kind: type[_Nsga2 | _Nsga3], **options: Any
    ) -> None:
        super().__init__(context)
        self._kind = kind
        self._options = options
        self._worst: list[float] | None = None
        self._generation = 0
        self._population: list[FrozenTrial] = []
        self._parents: list[FrozenTrial] = []

    def ask(self, number: int, attempt: int, pending: Pending = ()) -> Proposal | None:
        """See `Sampler.ask`."""
        del pending
        return self._proposal(self._genetic("ask", number, attempt), [])

    def tell(self, observation: Observation) -> None:
        """See `Sampler.tell`."""
        values = self._checked(observation)
        if values is None and not observation.rejected:
            return
        if values is None:
            values = tuple(self._worst or [0.0] * len(self._directions))
        else:
            self._worst = [
                min(a, b) if d == "max" else max(a, b)
                for d, a, b in zip(self._directions, self._worst or values, values, strict=True)
            ]
        violation = {"violation": total_violation(observation)}
        self._population.append(self._frozen(observation, values, violation))
        if len(self._population) == self._options["population_size"]:
            self._select()

    def _select(self) -> None:
        sampler = self._genetic("select", self._generation)
        study = open_study(sampler, self._directions, [])
        self._parents = sampler.select_parent(study, self._generation + 1)
        self._population = []
        self._generation += 1

    def _genetic(self, *key: str | int) -> _Nsga2 | _Nsga3:
        with warnings.catch_warnings():  # NSGAIIISampler has been experimental since 3.2
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = self._kind(seed=self._derive("nsga", *key), **self._options)
        sampler.relative = self._encoding.relative
        sampler.generation = self._generation
        sampler.population = self._population
        sampler.parents = self._parents
        return sampler


class GpSampler(_OptunaSampler):
    """Gaussian processes for every objective, log expected hypervolume improvement.

    Pending trials are integrated over (q-batch acquisition). A rejected candidate teaches the
    models of the constraints that it violates; Optuna fits the objectives' models to all complete
    trials, infeasible ones included, so it is given the mean of the results told, which pulls
    nothing up or down, and only the latest 50 are kept. They never enter the front that
    improvement is measured against. Failed trials are left out.

    Refits from scratch at every ask (tenths of a second, growing with the cube of the trials), and
    the maximum of the acquisition is often a network that is known: after 3 attempts for one trial
    it draws at random.
    """

    def __init__(
        self, context: SamplerContext, *, startup_trials: int, deterministic_objective: bool
    ) -> None:
        import scipy.optimize  # noqa: F401 - Optuna loads it later; its BLAS must be there to limit

        super().__init__(context)
        self._startup_trials = startup_trials
        self._deterministic = deterministic_objective
        self._results: list[Observation] = []
        self._rejected: deque[Observation] = deque(maxlen=GP_REJECTED)

    def ask(self, number: int, attempt: int, pending: Pending = ()) -> Proposal | None:
        """See `Sampler.ask`."""
        if attempt >= GP_ATTEMPTS or len(self._results) < self._startup_trials:
            rng = random.Random(self._derive("gp", "random", number, attempt))
            return Proposal(choices=self._space.sample(rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # deterministic_objective is one
            sampler = GPSampler(
                seed=self._derive("gp", number, attempt),
                n_startup_trials=0,
                deterministic_objective=self._deterministic,
                warn_independent_sampling=False,
            )
        # One thread: sums come out the same on every machine, and the driver leaves the cores to
        # the workers. Optuna limits torch itself, but BLAS only through the environment, too late.
        with threadpool_limits(1):
            return self._proposal(sampler, [*self._told(), *self._running(pending)])

    def tell(self, observation: Observation) -> None:
        """See `Sampler.tell`."""
        if self._checked(observation) is not None:
            self._results.append(observation)
        elif observation.rejected:
            self._rejected.append(observation)

    def _told(self) -> list[FrozenTrial]:
        rows = [o.values for o in self._results if o.values is not None]
        mean = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
        broken = [_violated(o) for o in self._rejected]
        names = sorted({name for over in broken for name in over})
        self._count = 0
        trials = [
            self._frozen(
                o, o.values or mean, {n: min(0.0, o.violations.get(n, 0.0)) for n in names}
            )
            for o in self._results
        ]
        return trials + [
            self._frozen(o, mean, {n: over.get(n, 0.0) for n in names})
            for o, over in zip(self._rejected, broken, strict=True)
        ]


def _violated(observation: Observation) -> dict[str, float]:
    over = {name: v for name, v in observation.violations.items() if v > 0}
    return over or {"buildable": 1.0}
