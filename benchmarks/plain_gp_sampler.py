"""A baseline of `samplers.py`: the least that knows the costs, from library parts.

One Gaussian process of scikit-learn (a squared exponential and a linear part, fitted at every fifth
result), and the expected improvement of the front that was observed. The features, the scale of
the accuracies, the prices and the formula of the gain are those of `known_cost`; the deviations
include the noise. What that has besides (a choice of kernels, a network's own share of the
variance, samples of the front, repeats, every other proposal surer of its model) is not here.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from nasctl.samplers import create_sampler
from nasctl.samplers.base import Observation, Proposal, SamplerContext, derive_seed
from nasctl.samplers.known_cost.features import GROUPS, Encoder
from nasctl.samplers.known_cost.improvement import expected_improvement, front_of
from nasctl.samplers.known_cost.pool import Candidate, PriceList, build_pool
from nasctl.samplers.known_cost.sampler import unknown_objectives
from nasctl.samplers.known_cost.scale import Scale

FEWEST = 3  # results without which there is no model
STARTUP = 10  # trials, spread over the costs
POOL = 10_000  # random candidates of a large space
REFIT = 5  # results from one fit to the next


class PlainGP:
    """See the module.

    Args:
        context: with a price, minimised costs, and `accuracy` as the one objective without a
            price.

    Raises:
        ValueError: the problem is another.
    """

    exhaustive: ClassVar[bool] = False

    def __init__(self, context: SamplerContext) -> None:
        if context.price is None or unknown_objectives(context) != ["accuracy"]:
            raise ValueError("plain_gp needs known costs of everything but the accuracy")
        self._context = context
        self._price = PriceList(context.price)
        options = {"startup_trials": STARTUP, "pool_size": POOL}
        self._first = create_sampler("known_cost", options, context)  # is told nothing
        self._minimised = [m for m in context.objectives if m != "accuracy"]
        self._told: list[Observation] = []
        self._pool: list[Candidate] = []
        self._kernel: Any = None

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
        if attempt:
            rng = random.Random(derive_seed(self._context.seed, "plain_gp", number, attempt))
            return Proposal(choices=self._context.space.sample(rng))
        if not self._pool:
            rng = random.Random(derive_seed(self._context.seed, "pool"))
            self._pool = build_pool(self._context.space, self._price, POOL, rng)
            self._encoder = Encoder(
                self._context.space, [(c.choices, c.known.costs) for c in self._pool]
            )
            self._features = self._encoded([c.choices for c in self._pool])
            self._costs = self._cost_matrix([c.choices for c in self._pool])
        return self._best(pending)

    def _encoded(self, configurations: Sequence[Mapping[str, Any]]) -> np.ndarray:
        points = self._encoder([(c, self._price(c).costs) for c in configurations])
        return np.concatenate([points.groups[g] for g in GROUPS], axis=1)

    def _cost_matrix(self, configurations: Sequence[Mapping[str, Any]]) -> np.ndarray:
        known = [self._price(c).costs for c in configurations]
        return np.array([[costs[m] for m in self._minimised] for costs in known])

    def _best(self, pending: Sequence[Mapping[str, Any]]) -> Proposal | None:
        """The network of the greatest expected improvement that is neither told nor pending."""
        at = self._context.objectives.index("accuracy")
        scores = np.array([o.values[at] for o in self._told if o.values is not None])
        scale = Scale.of(scores, 1.0)
        seen = [o.choices for o in self._told]
        told = self._encoded(seen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a bound of a weak hyperparameter
            process = self._process(told.shape[1], len(seen))
            process.fit(told, scale.standardise(scores))
        self._kernel = process.kernel_
        mean, sd = process.predict(self._features, return_std=True)
        costs = self._cost_matrix([*seen, *pending])
        if pending:  # as if they turned out as expected
            expected = scale.scores(process.predict(self._encoded(pending)))
            scores = np.concatenate([scores, expected])
        members = front_of(scores, costs)
        reference = self._context.reference_point
        gains = expected_improvement(
            mean,
            sd,
            self._costs,
            front_scores=scores[members],
            front_costs=costs[members],
            reference_score=reference["accuracy"],
            reference_costs=np.array([reference[m] for m in self._minimised]),
            psi=scale.psi,
        )
        taken = {self._price(c).id for c in (*seen, *pending)}
        order = np.argsort(-gains, kind="stable")
        best = next((i for i in order if self._pool[i].known.id not in taken), None)
        return None if best is None else Proposal(choices=self._pool[best].choices)

    def _process(self, width: int, results: int) -> GaussianProcessRegressor:
        """Unfitted; between fits with the hyperparameters of the last one."""
        if self._kernel is not None and results % REFIT:
            return GaussianProcessRegressor(self._kernel, optimizer=None)
        return unfitted(width, derive_seed(self._context.seed, "plain_gp", bits=31))


def unfitted(width: int, seed: int) -> GaussianProcessRegressor:
    """For so many features of variance 1."""
    smooth = ConstantKernel(1.0, (1e-3, 1e3)) * RBF(width**0.5, (0.1, 1e3))
    linear = ConstantKernel(1.0, (1e-5, 1e3)) * DotProduct(1.0, (1e-3, 1e3))
    kernel = smooth + linear + WhiteKernel(0.01, (1e-4, 1.0))
    return GaussianProcessRegressor(kernel, random_state=seed)
