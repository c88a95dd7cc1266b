"""A Gaussian process over a fixed pool of points, extended by one observation at a time.

With K + noise = L L' and V = L^-1 K(observed, pool), the posterior over the pool has the mean V'z,
z = L^-1 y, and the variance k - sum V^2. A new observation adds one row to L and V, so a proposal
costs O(observations x pool) instead of a new factorisation. Rows are always computed in the same
way, one by one, so a process that begins anew gets the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from nasctl.samplers.known_cost.gp import (
    JITTER,
    Array,
    Kernel,
    Pairs,
    Points,
    covariance,
    variance,
)

FLOOR = 1e-9  # of a variance
Single = npt.NDArray[np.float32]


class New:
    """Points to condition on, seen from what is there; shared by the kernels.

    Args:
        points: the new ones.
        observed: those added before, in their order.
        pool: of the posterior.
        extra: (points,), noise variance on top of the kernel's.
    """

    def __init__(self, points: Points, observed: Points, pool: Points, extra: Array) -> None:
        self.own = Pairs(points, points)
        self.observed = Pairs(observed, points)
        self.pool = Pairs(points, pool)
        self.extra = extra


class Place:
    """Points to ask about, seen from those observed and pending; shared by the kernels."""

    def __init__(self, points: Points, observed: Points, pending: Points | None) -> None:
        self.points = points
        self.own = Pairs(points, points)
        self.observed = Pairs(observed, points)
        self.pending = None if pending is None else Pairs(pending, points)


@dataclass(frozen=True, kw_only=True)
class At:
    """Where a prediction is wanted besides the pool.

    Attributes:
        local: more candidates, or None.
        contenders: points whose joint distribution is wanted.
    """

    local: Place | None
    contenders: Place


class Posterior:
    """One kernel with fixed parameters.

    Args:
        kernel: the terms.
        theta: see `gp.Kernel`.
        pool: the points that are asked about at every proposal.
    """

    def __init__(self, kernel: Kernel, theta: Array, pool: Points) -> None:
        self._kernel = kernel
        self._theta = theta
        self._pool = pool
        self.noise = math.exp(theta[-1])
        self._prior = variance(kernel, theta, pool)
        self._n = 0
        size = len(self._prior)
        self._lower = np.zeros((64, 64))
        self._cross: Single = np.zeros((64, size), dtype=np.float32)
        self._explained = np.zeros(size)

    def __len__(self) -> int:
        return self._n

    def _room(self, n: int) -> None:
        have = len(self._lower)
        if n > have:
            more = max(have + have // 4, n)
            lower = np.zeros((more, more))
            lower[:have, :have] = self._lower
            cross = np.zeros((more, self._cross.shape[1]), dtype=np.float32)
            cross[:have] = self._cross
            self._lower, self._cross = lower, cross

    def _k(self, pairs: Pairs) -> Array:
        return covariance(self._kernel, self._theta, pairs)

    def _extend(self, new: New) -> tuple[Array, Array, Single]:
        """The rows that new points add: (new, observed), (new, new) and (new, pool)."""
        n = self._n
        own = self._k(new.own)
        own[np.diag_indices(len(own))] += self.noise + new.extra + JITTER
        side = np.zeros((len(own), n))
        target = self._k(new.pool).astype(np.float32)
        if n:
            side = solve_triangular(
                self._lower[:n, :n], self._k(new.observed), lower=True, check_finite=False
            ).T
            own -= side @ side.T
            target -= side.astype(np.float32) @ self._cross[:n]
        corner = np.asarray(np.linalg.cholesky(own), dtype=np.float64)
        cross: Single = solve_triangular(
            corner.astype(np.float32), target, lower=True, check_finite=False
        )
        return side, corner, cross

    def add(self, new: New) -> None:
        """Conditions on new points for good; the grouping of calls has to be reproducible."""
        side, corner, cross = self._extend(new)
        n, m = self._n, self._n + len(corner)
        self._room(m)
        self._lower[n:m, :n] = side
        self._lower[n:m, n:m] = corner
        self._cross[n:m] = cross
        self._explained += np.einsum("ij,ij->j", cross, cross)
        self._n = m

    def predict(self, y: Array, pending: New | None, at: At) -> Prediction:
        """The posterior without noise.

        Pending points narrow the variance and leave the mean: as if each had turned out as expected
        (Ginsbourger et al. 2010, "kriging believer").

        Args:
            y: values of the points added, in their order.
            pending: proposed and not observed, or None.
            at: where else than in the pool.
        """
        lower = self._lower[: self._n, : self._n]
        z = solve_triangular(lower, y, lower=True, check_finite=False)
        mean = (z.astype(np.float32) @ self._cross[: self._n]).astype(np.float64)
        spent = self._explained
        extension = None
        if pending is not None:
            extension = self._extend(pending)
            spent = spent + np.einsum("ij,ij->j", extension[2], extension[2])

        def side(place: Place) -> Array:
            """L^-1 K(observed and pending, place)."""
            upper = solve_triangular(lower, self._k(place.observed), lower=True, check_finite=False)
            if extension is None or place.pending is None:
                return np.asarray(upper)
            left, corner, _ = extension
            below = self._k(place.pending) - left @ upper
            return np.vstack([upper, solve_triangular(corner, below, lower=True)])

        variances = self._prior - spent
        if at.local is not None:
            beside = side(at.local)
            mean = np.concatenate([mean, z @ beside[: self._n]])
            prior = variance(self._kernel, self._theta, at.local.points)
            variances = np.concatenate([variances, prior - (beside**2).sum(axis=0)])
        solved = side(at.contenders)
        return Prediction(
            mean=mean,
            sd=np.sqrt(np.maximum(variances, FLOOR)),
            mean_at=z @ solved[: self._n],
            covariance_at=self._k(at.contenders.own) - solved.T @ solved,
            noise=self.noise,
        )

    def smoothed(self, y: Array, extra: Array) -> Array:
        """The posterior mean at the observed points themselves, (n,)."""
        lower = self._lower[: self._n, : self._n]
        z = solve_triangular(lower, y, lower=True)
        alpha = solve_triangular(lower, z, lower=True, trans="T")
        result: Array = y - (self.noise + extra + JITTER) * alpha
        return result


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A posterior in units of the standardised observations.

    Attributes:
        mean, sd: at the pool and the local candidates after it.
        mean_at, covariance_at: of the points, jointly.
        noise: variance of one observation.
    """

    mean: Array
    sd: Array
    mean_at: Array
    covariance_at: Array
    noise: float

    @property
    def sd_at(self) -> Array:
        """(points,)."""
        result: Array = np.sqrt(np.maximum(np.diag(self.covariance_at), FLOOR))
        return result

    def samples_at(self, rng: np.random.Generator, n: int) -> Array:
        """Joint draws at the points, (n, points)."""
        values, vectors = np.linalg.eigh(self.covariance_at)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        result: Array = self.mean_at + rng.standard_normal((n, len(values))) @ root.T
        return result
