"""BoTorch as a baseline of `samplers.py`, where it is installed; nasctl does not need it.

A Gaussian process for the accuracy, deterministic models for the known costs, and the noisy
expected hypervolume improvement over both (qLogNEHVI: Daulton et al. 2021, Ament et al. 2023), as
BoTorch (Balandat et al. 2020) has them. The rest is that of `known_cost`: the same first trials for
the same seed, the same prices, all networks of a small space as candidates. So what differs is the
model and how its gain is integrated.

BoTorch is slow here, so two things are saved. Hyperparameters are fitted at as many results as
those of `known_cost`, each time from the last ones. And qLogNEHVI is asked only about the
candidates that add most, in expectation and each by itself, to the front of the posterior means.

BoTorch compiles a part of its acquisition function at its first use where `ninja` and a C++
compiler are; without them it warns and is about three times slower.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nasctl.pareto import front
from nasctl.samplers import create_sampler
from nasctl.samplers.base import Known, Observation, Proposal, SamplerContext, derive_seed
from nasctl.samplers.known_cost.pool import (
    ENUMERATED,
    Candidate,
    PriceList,
    build_pool,
    feasible,
    relatives,
)
from nasctl.samplers.known_cost.sampler import unknown_objectives
from nasctl.samplers.known_cost.surrogate import fitted_at
from nasctl.space import Choices

FEWEST = 3  # results without which there is no model
STARTUP = 6  # trials; as many as known_cost
POOL = 10_000  # random candidates of a large space; as many as known_cost
RELATIVES = 300  # of the front, besides
SAMPLES = 128  # of the posterior, a power of two
SCREENED = 200  # candidates that qLogNEHVI is asked about
QUANTILES = 16  # of a posterior, to choose them by
SLICE = 200  # candidates looked at at once
STEPS = 100  # of a fit at most; the next one goes on from there
LEAST_ERROR = 1e-4

Kernel = Literal["one_hot", "hamming"]
"""What the process sees of the choices: one column each for BoTorch's default kernel (squared
exponential, a length scale per column, priors scaled by their number), or categories whose
distance is whether they differ (a length scale per decision). Both see the logarithms of all known
costs too."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """From networks to the inputs of the models.

    Attributes:
        kernel: see `Kernel`.
        decisions: names and choices.
        costs: names of all known costs.
        low, high: least and greatest logarithm of each; they become 0 and 1.
    """

    kernel: Kernel
    decisions: Sequence[tuple[str, Sequence[Any]]]
    costs: Sequence[str]
    low: Sequence[float]
    high: Sequence[float]

    @classmethod
    def of(cls, kernel: Kernel, context: SamplerContext, pool: Sequence[Candidate]) -> Inputs:
        """For a space; the scale of the costs is that of its pool.

        Raises:
            ValueError: a cost is not positive.
        """
        costs = sorted(pool[0].known.costs)
        columns = [[c.known.costs[m] for c in pool] for m in costs]
        if any(value <= 0 for column in columns for value in column):
            raise ValueError(f"botorch needs positive costs, got others among {costs}")
        return cls(
            kernel=kernel,
            decisions=[(d.name, d.choices) for d in context.space.decisions],
            costs=costs,
            low=[math.log(min(column)) for column in columns],
            high=[math.log(max(column)) for column in columns],
        )

    @property
    def width(self) -> int:
        """Columns before those of the costs."""
        if self.kernel == "hamming":
            return len(self.decisions)
        return sum(len(choices) for _, choices in self.decisions)

    def __call__(self, choices: Mapping[str, Any], known: Known) -> list[float]:
        """A row: the choices, then the costs. An inactive decision is a category of its own, or
        all zeros."""
        row: list[float] = []
        for name, offered in self.decisions:
            if self.kernel == "hamming":
                at = offered.index(choices[name]) if name in choices else len(offered)
                row.append(float(at))
            else:
                row += [float(name in choices and choices[name] == c) for c in offered]
        for metric, low, high in zip(self.costs, self.low, self.high, strict=True):
            row.append((math.log(known.costs[metric]) - low) / ((high - low) or 1.0))
        return row


class BoTorch:
    """See the module.

    Args:
        context: with a price, minimised costs, and `accuracy` as the one objective without a
            price.
        kernel: see `Kernel`.

    Raises:
        ValueError: the problem is another.
    """

    exhaustive: ClassVar[bool] = False

    def __init__(self, context: SamplerContext, kernel: Kernel = "one_hot") -> None:
        if context.price is None or unknown_objectives(context) != ["accuracy"]:
            raise ValueError("botorch needs known costs of everything but the accuracy")
        self._context = context
        self._kernel: Kernel = kernel
        self._price = PriceList(context.price)
        options = {"startup_trials": STARTUP, "pool_size": POOL}
        self._first = create_sampler("known_cost", options, context)  # is told nothing
        self._told: list[Observation] = []
        self._pool: list[Candidate] = []
        self._fitted = 0  # results
        self._hyperparameters: dict[str, Any] = {}

    def tell(self, observation: Observation) -> None:
        """See `Sampler.tell`."""
        if observation.values is not None:
            self._told.append(observation)

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        """See `Sampler.ask`."""
        if number < STARTUP or len(self._told) < FEWEST:
            return self._first.ask(number, attempt, pending)
        seed = derive_seed(self._context.seed, "botorch", number, attempt, bits=31)
        rng = random.Random(seed)
        if attempt:
            return Proposal(choices=self._context.space.sample(rng))
        self._prepare()
        near: list[Candidate] = []
        if self._context.space.count() > ENUMERATED:
            related = relatives(self._context.space, self._members(), rng, RELATIVES)
            near = feasible(related, self._price, RELATIVES)
        return self._best(near, pending, seed)

    def _prepare(self) -> None:
        """Builds the pool at the first proposal of the model."""
        if not self._pool:
            rng = random.Random(derive_seed(self._context.seed, "pool"))
            self._pool = build_pool(self._context.space, self._price, POOL, rng)
            self._inputs = Inputs.of(self._kernel, self._context, self._pool)
            self._pool_rows = self._rows([c.choices for c in self._pool])

    def _known(self, choices: Mapping[str, Any]) -> Known:
        known = self._price(choices)
        assert known is not None, "what is trained has a price"
        return known

    def _rows(self, configurations: Sequence[Mapping[str, Any]]) -> Any:
        """Inputs of configurations, (configurations, columns)."""
        import torch

        rows = [self._inputs(c, self._known(c)) for c in configurations]
        return torch.tensor(rows, dtype=torch.float64)

    def _members(self) -> list[Choices]:
        objectives = dict(zip(self._context.objectives, self._context.directions, strict=True))
        points = [dict(zip(objectives, o.values or (), strict=True)) for o in self._told]
        return [dict(self._told[i].choices) for i in front(points, objectives)]

    def _best(
        self, near: Sequence[Candidate], pending: Sequence[Mapping[str, Any]], seed: int
    ) -> Proposal | None:
        """The network of the greatest expected improvement that is neither told nor pending; None
        if there is none left.

        Args:
            near: candidates besides those of the pool.
            pending: in training.
            seed: of everything random.
        """
        import torch
        from botorch.optim import optimize_acqf_discrete

        torch.set_num_threads(1)  # as known_cost
        seen = [o.choices for o in self._told]
        taken = {self._known(c).id for c in (*seen, *pending)}
        free = [i for i, c in enumerate(self._pool) if c.known.id not in taken]
        taken |= {c.known.id for c in self._pool}
        near = [c for c in near if c.known.id not in taken]
        candidates = [*(self._pool[i] for i in free), *near]
        if not candidates:
            return None
        rows = self._pool_rows[free]
        if near:
            rows = torch.cat([rows, self._rows([c.choices for c in near])])
        told = self._rows(seen)
        waiting = self._rows(pending) if pending else told[:0]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            problem = Problem.of(self._context, self._inputs, self._process(told))
            kept = problem.screened(rows, torch.cat([told, waiting]))
            gain = problem.gain(told, waiting if pending else None, seed)
            best, _ = optimize_acqf_discrete(gain, 1, rows[kept], max_batch_size=SLICE)
        at = int((rows == best).all(dim=1).nonzero()[0])
        return Proposal(choices=candidates[at].choices)

    def _process(self, told: Any) -> Any:
        """A Gaussian process of -log(1 - accuracy) given all results; noise is inferred.

        Args:
            told: inputs of the told networks, (results, columns).
        """
        from botorch.fit import fit_gpytorch_mll
        from gpytorch.mlls import ExactMarginalLogLikelihood

        fitted = fitted_at(len(told), FEWEST)
        process = self._untrained(told[:fitted])
        if fitted > self._fitted:
            mll = ExactMarginalLogLikelihood(process.likelihood, process)
            fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": STEPS}})
            self._fitted = fitted
            parameters = process.named_parameters()
            self._hyperparameters = {n: p.detach().clone() for n, p in parameters}
        return process if fitted == len(told) else self._untrained(told)

    def _untrained(self, told: Any) -> Any:
        """The process given the first results, with the last hyperparameters, if there are any."""
        import torch
        from botorch.models import MixedSingleTaskGP, SingleTaskGP

        at = self._context.objectives.index("accuracy")
        told_first = self._told[: len(told)]
        errors = [max(1.0 - (o.values or ())[at], LEAST_ERROR) for o in told_first]
        values = -torch.tensor(errors, dtype=torch.float64).log()[:, None]
        if self._kernel == "hamming":
            process = MixedSingleTaskGP(told, values, cat_dims=list(range(self._inputs.width)))
        else:
            process = SingleTaskGP(told, values)
        with torch.no_grad():
            for name, value in self._hyperparameters.items():
                process.get_parameter(name).copy_(value)
        return process


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The acquisition functions.

    Objectives are maximised and scaled: accuracy above the reference point as a part of what is
    possible, costs as negative parts of the reference point.

    Attributes:
        model: of -log(1 - accuracy) and of the negative costs.
        objective: from its samples to the objectives.
        worst: the reference point.
    """

    model: Any
    objective: Any
    worst: Sequence[float]

    @classmethod
    def of(cls, context: SamplerContext, inputs: Inputs, process: Any) -> Problem:
        """With a model of -log(1 - accuracy)."""
        import torch
        from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
        from botorch.models import ModelList
        from botorch.models.deterministic import GenericDeterministicModel

        minimised = [m for m in context.objectives if m != "accuracy"]
        at = [inputs.costs.index(m) for m in minimised]
        columns = [inputs.width + i for i in at]
        low = torch.tensor([inputs.low[i] for i in at], dtype=torch.float64)
        high = torch.tensor([inputs.high[i] for i in at], dtype=torch.float64)
        most = torch.tensor([context.reference_point[m] for m in minimised], dtype=torch.float64)
        room = 1.0 - context.reference_point["accuracy"]

        def cost(x: Any) -> Any:
            return -torch.exp(low + x[..., columns] * (high - low)) / most

        def objective(samples: Any, X: Any = None) -> Any:  # noqa: N803, ARG001 - BoTorch's names
            above = 1.0 - (-samples[..., :1]).exp() / room
            return torch.cat([above, samples[..., 1:]], dim=-1)

        return cls(
            model=ModelList(process, GenericDeterministicModel(cost, len(minimised))),
            objective=GenericMCMultiOutputObjective(objective),
            worst=[0.0, *(-1.0 for _ in minimised)],
        )

    def _sampler(self, samples: int, seed: int) -> Any:
        """Quasi-random; what BoTorch takes by itself for a list of models is not."""
        import torch
        from botorch.sampling.index_sampler import IndexSampler
        from botorch.sampling.list_sampler import ListSampler
        from botorch.sampling.normal import SobolQMCNormalSampler

        shape = torch.Size([samples])
        return ListSampler(SobolQMCNormalSampler(shape, seed=seed), IndexSampler(shape, seed=seed))

    def screened(self, rows: Any, trained: Any) -> Any:
        """Positions of the candidates whose own expected improvement of the mean's front is
        greatest.

        Args:
            rows: inputs of the candidates, (candidates, columns).
            trained: inputs of the told and pending networks.
        """
        import torch
        from botorch.utils.multi_objective.box_decompositions.non_dominated import (
            FastNondominatedPartitioning,
        )

        middles = (torch.arange(QUANTILES, dtype=rows.dtype) + 0.5) / QUANTILES
        normal = torch.special.ndtri(middles)[:, None, None]
        worst = torch.tensor(self.worst, dtype=rows.dtype)
        gains = []
        with torch.no_grad():
            means = self.objective(self.model.posterior(trained).mean)
            cells = FastNondominatedPartitioning(worst, Y=means).get_hypercell_bounds()
            for part in rows.split(SLICE):
                posterior = self.model.posterior(part)
                spread = posterior.variance.clamp_min(0.0).sqrt()
                points = self.objective(posterior.mean + normal * spread)[..., None, :]
                sides = (torch.minimum(points, cells[1]) - cells[0]).clamp_min(0.0)
                gains.append(sides.prod(dim=-1).sum(dim=-1).mean(dim=0))
        return torch.cat(gains).topk(min(SCREENED, len(rows))).indices

    def gain(self, told: Any, pending: Any | None, seed: int) -> Any:
        """qLogNEHVI.

        Args:
            told: inputs of the told networks, (results, columns).
            pending: of those in training; None if there are none.
            seed: of the samples.
        """
        from botorch.acquisition.multi_objective.logei import (
            qLogNoisyExpectedHypervolumeImprovement,
        )

        return qLogNoisyExpectedHypervolumeImprovement(
            self.model,
            ref_point=self.worst,
            X_baseline=told,
            sampler=self._sampler(SAMPLES, seed),
            objective=self.objective,
            X_pending=pending,
            prune_baseline=True,
        )
