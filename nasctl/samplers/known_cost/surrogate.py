"""What is believed about the unknown objective: the Gaussian process that predicts best so far.

Everything here is a pure function of the sequence of results: hyperparameters are fitted when the
number of results reaches the next of a geometric series, from the results up to there; results in
between are conditioned on one by one. So a surrogate rebuilt after a crash is the same, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nasctl.pareto import contributions, volume
from nasctl.samplers.base import derive_seed
from nasctl.samplers.known_cost import gp
from nasctl.samplers.known_cost.features import GROUPS
from nasctl.samplers.known_cost.gp import Array, Kernel, Points, Term
from nasctl.samplers.known_cost.improvement import front_of
from nasctl.samplers.known_cost.posterior import At, New, Place, Posterior, Prediction
from nasctl.samplers.known_cost.scale import Scale

_OWN = Term("same", ("network",))
_REST = (Term("linear", GROUPS), Term("constant"), _OWN)
KERNELS: Mapping[str, Kernel] = {
    "smooth": (Term("rbf", GROUPS, tied=True), Term("constant"), _OWN),
    "smooth+linear": (Term("rbf", GROUPS, tied=True), *_REST),
    "smooth+costs": (Term("rbf", GROUPS, tied=True), Term("rbf", ("costs",)), *_REST),
    "rough+costs": (Term("matern", GROUPS, tied=True), Term("rbf", ("costs",)), *_REST),
}
"""Which is best depends on the space (docs/known_cost.md has what else was tried). Besides `GROUPS`
points have a group `network`, one column with a number for each network."""

GROWTH = 1.15  # of the number of results from one fit to the next
FITTED = 160  # results that hyperparameters are fitted to; more cost cubically and add little
BLOCK = 256  # results that the model takes in at once; bounds its memory
NOISE = (math.log(0.01), 1.0)  # log noise variance of standardised values: mean and deviation
MATTERS = 0.01  # of the hypervolume
PAIRS = 4  # trials with a rung and a final value before the rung says anything


@dataclass(frozen=True, kw_only=True)
class Result:
    """One told training.

    Attributes:
        network: its id.
        features: of one point.
        costs: in the order of the cost objectives, smaller is better.
        score: more is better; None where the trial was pruned.
        rungs: score by epoch.
    """

    network: str
    features: Points
    costs: Array
    score: float | None
    rungs: Mapping[int, float] = field(default_factory=dict)


def fitted_at(n: int, first: int) -> int:
    """The number of results that hyperparameters are fitted to when there are `n`."""
    at = first
    while (after := max(at + 1, math.ceil(at * GROWTH))) <= n:
        at = after
    return at


@dataclass(frozen=True)
class Readings:
    """Results as the models see them: those that say something, on the modelled scale.

    Attributes:
        index: which results.
        y: standardised values; of pruned trials, what their last rung predicts.
        extra: noise variance on top of that of a final value.
        scale: back to scores.
    """

    index: tuple[int, ...]
    y: Array
    extra: Array
    scale: Scale


def lowest_member(results: Sequence[Result], reference: tuple[float, Array]) -> float:
    """The lowest score on the told front that matters: whose member alone holds a hundredth of the
    hypervolume and more. Infinity if there is none."""
    done = [(r.score, r.costs) for r in results if r.score is not None]
    scores = np.array([s for s, _ in done])
    costs = np.stack([c for _, c in done])
    worst = np.append(-reference[0], reference[1])
    points = np.column_stack([-scores, costs])[front_of(scores, costs)]
    points = points[(points < worst).all(axis=1)]
    if not len(points):
        return math.inf
    held = contributions(points, worst)
    found = np.flatnonzero(held >= MATTERS * volume(points, worst))
    return float(-points[found[0], 0]) if len(found) else math.inf  # lowest score first


def read(
    results: Sequence[Result], bound: float | None, reference: tuple[float, Array]
) -> Readings:
    """All that final values and rungs say. There must be a final value."""
    finals = np.array([r.score for r in results if r.score is not None])
    scale = Scale.of(finals, bound, lowest_member(results, reference))
    told = iter(scale.standardise(finals).tolist())
    values = [next(told) if r.score is not None else None for r in results]
    shifts = _shifts(results, values, scale)
    index, y, extra = [], [], []
    for i, (r, final) in enumerate(zip(results, values, strict=True)):
        value, doubt = final, 0.0
        if value is None:
            epoch = max((e for e in r.rungs if e in shifts), default=None)
            if epoch is None:
                continue
            gain, doubt = shifts[epoch]
            value = float(scale.standardise(np.array(r.rungs[epoch]))) + gain
        index.append(i)
        y.append(value)
        extra.append(doubt)
    return Readings(tuple(index), np.array(y), np.array(extra), scale)


def _shifts(
    results: Sequence[Result], values: Sequence[float | None], scale: Scale
) -> dict[int, tuple[float, float]]:
    """By epoch: how much a final value is above the rung's, and the variance of that."""
    gains: dict[int, list[float]] = {}
    for r, final in zip(results, values, strict=True):
        if final is not None:
            for epoch, value in r.rungs.items():
                at_rung = float(scale.standardise(np.array(value)))
                gains.setdefault(epoch, []).append(final - at_rung)
    return {
        e: (float(np.mean(g)), float(np.var(g, ddof=1)) * (1 + 1 / len(g)))
        for e, g in gains.items()
        if len(g) >= PAIRS
    }


def repeat_noise(results: Sequence[Result], scale: Scale) -> tuple[float, int]:
    """The variance between trainings of one network, pooled, and its degrees of freedom."""
    values: dict[str, list[float]] = {}
    for r in results:
        if r.score is not None:
            values.setdefault(r.network, []).append(float(scale.standardise(np.array(r.score))))
    groups = [np.array(v) for v in values.values() if len(v) > 1]
    freedom = sum(len(g) - 1 for g in groups)
    total = sum(float(((g - g.mean()) ** 2).sum()) for g in groups)
    return (total / freedom if freedom else 0.0), freedom


class Surrogate:
    """See the module.

    Args:
        pool: features of the candidates that are always asked about.
        seed: of the subsets and bootstraps.
        first: results before the first fit.
        bound: largest possible score, see `Scale`.
        reference: score and costs of the reference point.
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
        self._pool = pool
        self._seed = seed
        self._first = first
        self._bound = bound
        self._reference = reference
        self._fitted = -1
        self._posterior: Posterior | None = None  # of the kernel that predicts best
        self._index: list[int] = []
        self._seen = 0
        self._extra = np.empty(0)
        self._observed = pool[:0]
        self._readings: Readings | None = None
        self.weights: dict[str, float] = {}
        """By kernel name, of the last fit."""

    def update(self, results: Sequence[Result]) -> None:
        """Learns of all results told so far; they may only be added to."""
        fitted = fitted_at(len(results), self._first)
        if fitted != self._fitted or len(results) < self._seen:
            self._fit(results[:fitted])
            self._fitted = self._seen = fitted
        for n in range(self._seen + 1, len(results) + 1):
            self._append(results[:n])
        self._seen = len(results)
        readings = read(results, self._bound, self._reference)
        position = {i: k for k, i in enumerate(readings.index)}
        kept = [position[i] for i in self._index]
        self._readings = Readings(tuple(self._index), readings.y[kept], self._extra, readings.scale)

    def _fit(self, results: Sequence[Result]) -> None:
        readings = read(results, self._bound, self._reference)
        self._index = list(readings.index)
        self._extra = readings.extra
        self._observed = Points.joined([results[i].features for i in self._index])
        n = len(self._index)
        rng = np.random.default_rng(derive_seed(self._seed, "fit", len(results)))
        some = np.arange(n)
        if n > FITTED:  # the best third, where it matters, and others at random
            order = np.argsort(-readings.y, kind="stable")
            third = FITTED // 3
            rest = rng.choice(order[third:], FITTED - third, replace=False)
            some = np.sort(np.concatenate([order[:third], rest]))
        pooled, freedom = repeat_noise(results, readings.scale)
        noise = NOISE
        if freedom >= 3:
            noise = (math.log(max(pooled, 1e-6)), math.sqrt(2 / freedom))
        points = self._observed[some]
        thetas, densities = [], []
        for kernel in KERNELS.values():
            prior = gp.weak_prior(kernel, self._pool, noise)
            data = points, readings.y[some], readings.extra[some]
            theta = gp.fit(kernel, *data, prior)
            thetas.append(theta)
            densities.append(gp.loo_log_densities(kernel, theta, *data))
        weights = gp.weights(densities, rng)
        self.weights = dict(zip(KERNELS, map(float, weights), strict=True))
        best = int(np.argmax(weights))
        self._posterior = Posterior(list(KERNELS.values())[best], thetas[best], self._pool)
        for start in range(0, n, BLOCK):
            new = slice(start, start + BLOCK)
            block = self._observed[new], self._observed[:start], self._pool, self._extra[new]
            self._posterior.add(New(*block))

    def _append(self, results: Sequence[Result]) -> None:
        extra = np.zeros(1)
        if results[-1].score is None:
            readings = read(results, self._bound, self._reference)
            if not readings.index or readings.index[-1] != len(results) - 1:
                return  # it says nothing yet
            extra = readings.extra[-1:]
        point = results[-1].features
        assert self._posterior is not None, "fits come first"
        self._posterior.add(New(point, self._observed, self._pool, extra))
        self._index.append(len(results) - 1)
        self._extra = np.append(self._extra, extra)
        self._observed = Points.joined([self._observed, point])

    @property
    def scale(self) -> Scale:
        assert self._readings is not None, "nothing was told"
        return self._readings.scale

    @property
    def index(self) -> list[int]:
        """The results that count, in order."""
        return self._index

    def smoothed(self) -> tuple[Array, float]:
        """The posterior mean at the results that count, and the noise variance."""
        assert self._readings is not None, "nothing was told"
        assert self._posterior is not None, "nothing was told"
        return self._posterior.smoothed(self._readings.y, self._extra), self._posterior.noise

    def predict(
        self, *, pending: Points | None, local: Points | None, contenders: Points
    ) -> Prediction:
        """See `Posterior.predict`."""
        assert self._readings is not None, "nothing was told"
        assert self._posterior is not None, "nothing was told"
        seen = self._observed
        waiting = None
        if pending is not None:
            waiting = New(pending, seen, self._pool, np.zeros(len(pending)))
        at = At(
            local=None if local is None else Place(local, seen, pending),
            contenders=Place(contenders, seen, pending),
        )
        return self._posterior.predict(self._readings.y, waiting, at)
