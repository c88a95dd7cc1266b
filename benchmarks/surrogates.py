"""The sampler known_cost with other surrogates, side by side on a table of known results.

    python benchmarks/surrogates.py                      # a synthetic table, see --synthetic
    python benchmarks/surrogates.py --window 0 --table nasbench201.csv ...   # as for samplers.py

Everything but the model of the unknown objective stays: pool, features, scale, expected hypervolume
improvement. `all` is what known_cost uses, the best of its kernels; `kernel:NAME` is one of them
alone; `forest`, `extra_trees` and `mlps` take the spread over their members as uncertainty. Options
are those of `samplers.py`; --samplers chooses among the surrogates, --versus all compares with what
known_cost uses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import samplers
from sampler_tables import Table

from nasctl.samplers import derive_seed
from nasctl.samplers.known_cost import strategy, surrogate
from nasctl.samplers.known_cost.features import GROUPS
from nasctl.samplers.known_cost.gp import Array, Points
from nasctl.samplers.known_cost.posterior import Prediction
from nasctl.samplers.known_cost.scale import Scale
from nasctl.samplers.known_cost.surrogate import Readings, Result, read

LEAST_NOISE = 1e-6  # variance, standardised
Ask = Callable[[Array], Array]
"""From inputs (points, features) to what every member predicts, (members, points)."""


def inputs(points: Points) -> Array:
    """All features of the network, (points, features)."""
    return np.concatenate([points.groups[g] for g in GROUPS], axis=1)


class Ensemble(ABC):
    """The interface of `surrogate.Surrogate` for models that are fitted anew to every result.

    Args:
        pool, seed, first, bound, reference: as for `Surrogate`; `first` means nothing here.
    """

    def __init__(
        self,
        pool: Points,
        *,
        seed: int,
        first: int,
        bound: float | None,
        reference: tuple[float, Array],
    ) -> None:
        del first
        self._pool = pool
        self._seed = seed
        self._bound = bound
        self._reference = reference
        self._readings: Readings | None = None
        self.weights = {type(self).__name__: 1.0}

    @abstractmethod
    def fit(self, x: Array, y: Array, seed: int) -> Ask:
        """A pure function of its arguments."""

    def update(self, results: Sequence[Result]) -> None:
        """Learns of all results told so far."""
        self._readings = read(results, self._bound, self._reference)
        self._observed = Points.joined([results[i].features for i in self.index])
        self._x = inputs(self._observed)
        self._ask = self.fit(
            self._x, self._readings.y, derive_seed(self._seed, len(self.index), bits=31)
        )
        self._mean = self._ask(self._x).mean(axis=0)
        error = float(np.mean((self._readings.y - self._mean) ** 2))
        self._noise = max(error, LEAST_NOISE)

    @property
    def scale(self) -> Scale:
        assert self._readings is not None, "nothing was told"
        return self._readings.scale

    @property
    def index(self) -> list[int]:
        """The results that count, in order."""
        assert self._readings is not None, "nothing was told"
        return list(self._readings.index)

    def smoothed(self) -> tuple[Array, float]:
        """The mean at the results that count, and the variance of what it leaves unexplained."""
        return self._mean, self._noise

    def predict(
        self, *, pending: Points | None, local: Points | None, contenders: Points
    ) -> Prediction:
        """See `Surrogate.predict`; pending points count as if they had turned out as expected."""
        assert self._readings is not None, "nothing was told"
        ask = self._ask
        if pending is not None:
            more = inputs(pending)
            believed = np.concatenate([self._readings.y, ask(more).mean(axis=0)])
            seed = derive_seed(self._seed, len(believed), "pending", bits=31)
            ask = self.fit(np.concatenate([self._x, more]), believed, seed)
        asked = inputs(self._pool if local is None else Points.joined([self._pool, local]))
        members = ask(asked)
        at = ask(inputs(contenders))
        return Prediction(
            mean=members.mean(axis=0),
            sd=np.maximum(members.std(axis=0, ddof=1), LEAST_NOISE**0.5),
            mean_at=at.mean(axis=0),
            covariance_at=np.atleast_2d(np.cov(at, rowvar=False)),
            noise=self._noise,
        )


class Forest(Ensemble):
    """Regression trees on bootstraps, a third of the features at every split (Breiman 2001;
    the spread over trees as in SMAC, Hutter et al. 2011)."""

    model = "RandomForestRegressor"

    def fit(self, x: Array, y: Array, seed: int) -> Ask:
        from sklearn import ensemble

        trees = getattr(ensemble, self.model)(
            n_estimators=50, max_features=1 / 3, random_state=seed, n_jobs=1
        )
        trees.fit(x, y)

        def ask(asked: Array) -> Array:
            single = np.ascontiguousarray(asked, dtype=np.float32)  # what trees compute with
            return np.stack([t.predict(single, check_input=False) for t in trees.estimators_])

        return ask


class ExtraTrees(Forest):
    """Without bootstraps and with random thresholds (Geurts et al. 2006): goes through the data."""

    model = "ExtraTreesRegressor"


class Networks(Ensemble):
    """Five perceptrons with two hidden layers, from different initial weights (Lakshminarayanan et
    al. 2017; five of them as in BANANAS, White et al. 2021)."""

    members = 5
    width = 64
    steps = 300

    def fit(self, x: Array, y: Array, seed: int) -> Ask:
        import torch

        rng = torch.Generator().manual_seed(seed)
        sizes = [x.shape[1], self.width, self.width, 1]
        layers = []
        for fan_in, fan_out in pairwise(sizes):
            weight = torch.randn(self.members, fan_in, fan_out, generator=rng) * (2 / fan_in) ** 0.5
            layers.append(
                (weight.requires_grad_(), torch.zeros(self.members, 1, fan_out).requires_grad_())
            )

        def forward(asked: torch.Tensor) -> torch.Tensor:
            hidden = asked.expand(self.members, *asked.shape)
            for i, (weight, bias) in enumerate(layers):
                hidden = torch.baddbmm(bias, torch.relu(hidden) if i else hidden, weight)
            return hidden.squeeze(-1)

        given, target = (torch.as_tensor(v, dtype=torch.float32) for v in (x, y))
        adam = torch.optim.AdamW([p for layer in layers for p in layer], lr=3e-3, weight_decay=1e-2)
        for _ in range(self.steps):
            adam.zero_grad()
            # Summed over the members: each is trained as if alone.
            ((forward(given) - target) ** 2).mean(dim=1).sum().backward()
            adam.step()

        def ask(asked: Array) -> Array:
            with torch.no_grad():
                return forward(torch.as_tensor(asked, dtype=torch.float32)).double().numpy()

        return ask


ENSEMBLES: dict[str, type[Ensemble]] = {
    "forest": Forest,
    "extra_trees": ExtraTrees,
    "mlps": Networks,
}
NAMES = [*ENSEMBLES, "all", *(f"kernel:{k}" for k in surrogate.KERNELS)]


@contextmanager
def replaced(name: str) -> Iterator[None]:
    """Makes the strategy use a surrogate of `NAMES`."""
    kernels, model = surrogate.KERNELS, strategy.Surrogate
    try:
        if name in ENSEMBLES:
            strategy.Surrogate = ENSEMBLES[name]  # type: ignore[assignment,misc]  # the same interface, another class
        elif name != "all":
            alone = name.removeprefix("kernel:")
            surrogate.KERNELS = {alone: kernels[alone]}  # type: ignore[misc]  # final everywhere but here
        yield
    finally:
        surrogate.KERNELS, strategy.Surrogate = kernels, model  # type: ignore[misc]  # as above


def search(task: tuple[str, Table, int, samplers.Setting]) -> tuple[list[float], list[float]]:
    """One search, see `samplers.run`."""
    import torch

    torch.set_num_threads(1)
    name, table, seed, setting = task
    with replaced(name):
        return samplers.run("known_cost", table, seed, setting)


if __name__ == "__main__":
    samplers.main(__doc__, NAMES, search)
