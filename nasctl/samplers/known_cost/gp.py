"""Gaussian processes over architectures: kernels of a few hyperparameters, fitted and scored.

A kernel is a sum of terms over groups of features (see `features`). Which kernel is right differs
from space to space, so several are fitted, and each is weighted by how well it predicts every
observation from the others (`loo_log_densities`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

Array = npt.NDArray[np.float64]
Groups = Mapping[str, Array]
"""Feature matrices by group, each of shape (points, features of the group)."""

JITTER = 1e-8
OWN = 0.03  # expected share of the variance that is a network's own
MANY = 4  # groups of features from which on one large product is cheaper than many small


class Points:
    """Features of some configurations, with their squared norms."""

    def __init__(self, groups: Groups, norms: Mapping[str, Array] | None = None) -> None:
        self.groups = groups
        self._norms = norms or {g: np.einsum("ij,ij->i", v, v) for g, v in groups.items()}

    def __len__(self) -> int:
        return len(next(iter(self.groups.values())))

    def __getitem__(self, index: slice | npt.NDArray[np.intp]) -> Points:
        return Points(
            {g: v[index] for g, v in self.groups.items()},
            {g: v[index] for g, v in self._norms.items()},
        )

    def squares(self, groups: tuple[str, ...]) -> Array:
        """Squared norms, summed over the groups, (points,)."""
        total = self._norms[groups[0]]
        for group in groups[1:]:
            total = total + self._norms[group]
        return total

    @staticmethod
    def joined(parts: Sequence[Points]) -> Points:
        """One after the other."""
        return Points({g: np.concatenate([p.groups[g] for p in parts]) for g in parts[0].groups})


@dataclass(frozen=True)
class Term:
    """One summand of a kernel.

    Attributes:
        form: `rbf` exp(-r^2 / 2), `matern` (5/2), `linear` (inner product), `constant`, or `same`:
            1 where two points are one network, else 0, which is what no feature explains of it.
        groups: the features it looks at.
        tied: one length scale for all groups instead of one for each.
    """

    form: Literal["rbf", "matern", "linear", "constant", "same"]
    groups: tuple[str, ...] = ()
    tied: bool = False

    @property
    def scales(self) -> int:
        """How many length scales it has."""
        if self.form in ("linear", "constant", "same"):
            return 0
        return 1 if self.tied else len(self.groups)


Kernel = tuple[Term, ...]
"""Parameters `theta`: per term its log amplitude and log inverse squared length scales; at the end
the log noise variance."""


class Pairs:
    """Squared distances and inner products between two sets of points, by group.

    Computed when asked for and kept, so that several kernels share them.
    """

    def __init__(self, a: Points, b: Points) -> None:
        self._a, self._b = a, b
        self._inner: dict[tuple[str, ...], Array] = {}
        self._distance: dict[tuple[str, ...], Array] = {}
        self.shape = len(a), len(b)

    def inner(self, groups: tuple[str, ...]) -> Array:
        """Summed over the groups, (points of a, points of b)."""
        if groups not in self._inner:
            if len(groups) == 1:
                self._inner[groups] = self._a.groups[groups[0]] @ self._b.groups[groups[0]].T
            else:
                total = self.inner(groups[:1]) + self.inner(groups[1:2])
                for group in groups[2:]:
                    total += self.inner((group,))
                self._inner[groups] = total
        return self._inner[groups]

    def distance(self, groups: tuple[str, ...]) -> Array:
        """Squared, summed over the groups, (points of a, points of b)."""
        if groups not in self._distance:
            square = -2.0 * self.inner(groups)
            square += self._a.squares(groups)[:, None]
            square += self._b.squares(groups)[None]
            self._distance[groups] = np.maximum(square, 0.0, out=square)
        return self._distance[groups]

    def scaled(self, groups: tuple[str, ...], weights: Sequence[float]) -> Array:
        """Squared distances, summed over the groups with weights, (points of a, points of b)."""
        a = np.concatenate(
            [self._a.groups[g] * w**0.5 for g, w in zip(groups, weights, strict=True)], axis=1
        )
        b = np.concatenate(
            [self._b.groups[g] * w**0.5 for g, w in zip(groups, weights, strict=True)], axis=1
        )
        square = -2.0 * (a @ b.T)
        square += np.einsum("ij,ij->i", a, a)[:, None]
        square += np.einsum("ij,ij->i", b, b)[None]
        result: Array = np.maximum(square, 0.0)
        return result


def _evaluate(term: Term, pairs: Pairs, scales: Array, *, slopes: bool) -> list[Array]:
    """The term with amplitude 1, then (if `slopes`) its derivatives by the log inverse scales."""
    if term.form == "constant":
        return [np.ones(pairs.shape)]
    if term.form == "linear":
        return [pairs.inner(term.groups)]
    if term.form == "same":
        return [(pairs.distance(term.groups) < 0.5).astype(np.float64)]
    parts = [term.groups] if term.tied else [(g,) for g in term.groups]
    if len(parts) > MANY and not slopes:
        square = pairs.scaled(term.groups, np.exp(scales).tolist())
    else:
        weighted = [math.exp(s) * pairs.distance(p) for s, p in zip(scales, parts, strict=True)]
        square = weighted[0]
        for more in weighted[1:]:
            square = square + more
    if term.form == "rbf":
        value = np.exp(-0.5 * square)
        return [value, *(-0.5 * value * w for w in weighted)] if slopes else [value]
    r = np.sqrt(5.0 * square)
    decay = np.exp(-r)
    value = (1.0 + r + r * r / 3.0) * decay
    if not slopes:
        return [value]
    slope = -(5.0 / 6.0) * (1.0 + r) * decay
    return [value, *(slope * w for w in weighted)]


def covariance(kernel: Kernel, theta: Array, pairs: Pairs) -> Array:
    """K between the points of `pairs`, without noise."""
    total = np.zeros(pairs.shape)
    at = 0
    for term in kernel:
        if term.form == "constant":
            total += math.exp(theta[at])
        else:
            scales = theta[at + 1 : at + 1 + term.scales]
            total += math.exp(theta[at]) * _evaluate(term, pairs, scales, slopes=False)[0]
        at += 1 + term.scales
    return total


def variance(kernel: Kernel, theta: Array, points: Points) -> Array:
    """The diagonal of K at points: their variance before anything was observed."""
    total = np.zeros(len(points))
    at = 0
    for term in kernel:
        amplitude = math.exp(theta[at])
        if term.form == "linear":
            total += amplitude * points.squares(term.groups)
        else:
            total += amplitude
        at += 1 + term.scales
    return total


@dataclass(frozen=True)
class Prior:
    """Independent normal priors on theta, for observations of mean 0 and variance 1."""

    mean: Array
    sd: Array


def weak_prior(kernel: Kernel, points: Points, noise: tuple[float, float]) -> Prior:
    """Amplitudes of a third each, length scales at the typical distance, all within a factor of
    e^2 or so; features may be on any scale. What is a network's own, and what is noise, cannot be
    told apart before networks were trained again: there the priors decide.

    Args:
        kernel: the terms.
        points: typical ones.
        noise: mean and deviation of the log noise variance.
    """
    spread = {g: float(v.var(axis=0).sum()) or 1.0 for g, v in points.groups.items()}
    mean: list[float] = []
    for term in kernel:
        if term.form == "linear":
            mean.append(math.log(0.3 / sum(spread[g] for g in term.groups)))
            continue
        mean.append(math.log(OWN if term.form == "same" else 0.3))
        if term.scales == 1:
            mean.append(-math.log(sum(spread[g] for g in term.groups)))
        elif term.scales > 1:
            mean += [-math.log(spread[g] * len(term.groups)) for g in term.groups]
    sd: list[float] = []
    for term in kernel:
        sd += [1.0] if term.form == "same" else [2.0] * (1 + term.scales)
    return Prior(np.array([*mean, noise[0]]), np.array([*sd, noise[1]]))


def fit(
    kernel: Kernel, points: Points, y: Array, extra: Array, prior: Prior, *, iterations: int = 40
) -> Array:
    """The maximum a posteriori theta (Rasmussen and Williams 2006, section 5.4.1).

    Args:
        kernel: the terms.
        points: observed.
        y: (n,), of mean 0 and variance 1.
        extra: (n,), noise variance on top of that of the kernel.
        prior: also where the climb begins.
        iterations: of L-BFGS at most.
    """
    pairs = Pairs(points, points)
    diagonal = np.diag_indices(len(y))
    eye = np.eye(len(y))

    def objective(theta: Array) -> tuple[float, Array]:
        total = np.zeros(pairs.shape)
        slopes: list[Array] = []
        at = 0
        for term in kernel:
            scales = theta[at + 1 : at + 1 + term.scales]
            found = _evaluate(term, pairs, scales, slopes=True)
            found = [math.exp(theta[at]) * f for f in found]
            total += found[0]
            slopes += found
            at += 1 + term.scales
        noise = math.exp(theta[-1])
        total[diagonal] += noise + extra + JITTER
        factor = cho_factor(total, lower=True, overwrite_a=True, check_finite=False)
        alpha = cho_solve(factor, y, check_finite=False)
        inner = cho_solve(factor, eye, check_finite=False) - np.outer(alpha, alpha)
        gradient = np.array(
            [0.5 * float(np.vdot(inner, s)) for s in slopes] + [0.5 * noise * float(inner.trace())]
        )
        z = (theta - prior.mean) / prior.sd
        value = 0.5 * float(y @ alpha) + float(np.log(factor[0][diagonal]).sum())
        return value + 0.5 * float(z @ z), gradient + z / prior.sd

    bounds = [(m - 4 * s, m + 4 * s) for m, s in zip(prior.mean, prior.sd, strict=True)]
    result = minimize(
        objective,
        prior.mean,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": iterations},
    )
    return np.asarray(result.x, dtype=np.float64)


def loo_log_densities(
    kernel: Kernel, theta: Array, points: Points, y: Array, extra: Array
) -> Array:
    """The log predictive density of every observation given all others, (n,).

    In closed form (Sundararajan and Keerthi 2001; Rasmussen and Williams 2006, eq. 5.10 to 5.12).
    """
    total = covariance(kernel, theta, Pairs(points, points))
    total[np.diag_indices(len(y))] += math.exp(theta[-1]) + extra + JITTER
    factor = cho_factor(total, lower=True, overwrite_a=True, check_finite=False)
    alpha = cho_solve(factor, y, check_finite=False)
    precision = np.diag(cho_solve(factor, np.eye(len(y)), check_finite=False))
    result: Array = 0.5 * (np.log(precision / (2 * np.pi)) - alpha**2 / precision)
    return result


def weights(densities: Sequence[Array], rng: np.random.Generator, draws: int = 200) -> Array:
    """How much to believe each model: pseudo-BMA+ (Yao, Vehtari, Simpson and Gelman 2018).

    The softmax of the summed leave-one-out log densities, averaged over Bayesian bootstraps of the
    observations, so that a handful of points cannot decide alone.

    Args:
        densities: per model, (n,).
        rng: of the bootstrap.
        draws: bootstraps.

    Returns:
        (models,), summing to 1.
    """
    table = np.stack(densities, axis=1)
    n = len(table)
    totals = rng.dirichlet(np.ones(n), draws) @ table * n
    shares = np.exp(totals - totals.max(axis=1, keepdims=True))
    result: Array = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return result
