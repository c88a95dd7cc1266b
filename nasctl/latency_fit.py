"""Layer 2: from summed block latencies to network latencies, with an honest error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RIDGE = 0.1  # one prior standard deviation counts like one network that is 10 % off
HUBER = 1.5
SESSION = 0.02  # standard deviation between sessions of the canary against other networks
STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Features:
    """Of one network: the sum of its blocks' times, their number, what crosses their borders.

    Attributes:
        blocks_ms: sum over the blocks of the latency measured alone.
        num_blocks: how many there are.
        elements: input elements of all blocks. A block measured alone converts its input and
            output between the caller's and the runtime's memory layout; inside a network it
            mostly does not.
    """

    blocks_ms: float
    num_blocks: int
    elements: int

    def row(self) -> tuple[float, float, float, float]:
        return (self.blocks_ms, float(self.num_blocks), float(self.elements), 1.0)


@dataclass(frozen=True, kw_only=True)
class Correction:
    """latency_ms = scale x blocks_ms + per_block x num_blocks + per_element x elements + intercept.

    Attributes:
        relative_error: half width of the 95 % prediction interval, relative to the prediction.
        leave_one_out: relative error of each calibration network, predicted without itself.
    """

    scale: float
    per_block: float
    per_element: float
    intercept: float
    relative_error: float
    leave_one_out: tuple[float, ...]

    @property
    def n(self) -> int:
        """The number of calibration networks."""
        return len(self.leave_one_out)

    @property
    def median_error(self) -> float:
        """Median absolute relative error, each network predicted without itself."""
        return float(np.median(np.abs(self.leave_one_out)))

    def ms(self, features: Features) -> float:
        """The point prediction."""
        weights = (self.scale, self.per_block, self.per_element, self.intercept)
        return math.fsum(w * f for w, f in zip(weights, features.row(), strict=True))


def fit_correction(
    features: Sequence[Features], measured_ms: Sequence[float], *, call_ms: float
) -> Correction:
    """Fits the correction on whole networks, robustly and in relative error.

    Huber's weights (c = 1.5 MAD) by iterated least squares, rows divided by the measured time so
    that small networks count as much as large ones. With about ten networks and four correlated
    terms, plain least squares extrapolates badly, so each term is pulled weakly towards what it
    would be if blocks did not feel each other: the sum, but the overhead of a call paid once
    instead of once per block. So scale 1 (sd 0.3), per block -call_ms and per border 0 (sd half a
    mean block), intercept call_ms (sd one mean block).

    The interval is +- t(0.975, n - 2) x the root of the mean squared leave-one-out relative error
    (PRESS, in which the uncertainty of the coefficients is contained) plus SESSION squared: what
    a prediction is compared with is measured in another session, between which the median
    network moved by 2 % against the canary (21 sessions of twelve networks). Two degrees of
    freedom are what the shrunken fit spends. Within one session, over random choices of ten
    networks out of 100, the part without SESSION covered 94 to 95 % of the others.

    Args:
        features: of each calibration network.
        measured_ms: of each, whole.
        call_ms: the time of calling a network that does nothing.

    Raises:
        ValueError: no networks, or not one time per network.
    """
    if not features or len(features) != len(measured_ms):
        raise ValueError("one measured time per calibration network, and at least one network")
    rows = np.asarray([f.row() for f in features])
    y = np.asarray(measured_ms, dtype=float)
    mean_block = float(np.mean(rows[:, 0] / rows[:, 1]))
    mean_elements = float(rows[:, 2].sum() / rows[:, 1].sum())
    deviation = np.asarray([0.3, 0.5 * mean_block, 0.5 * mean_block / mean_elements, mean_block])
    prior = np.asarray([1.0, -call_ms, 0.0, call_ms])
    weights = _huber(rows, y, prior, deviation)
    left_out = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        prediction = float(rows[i] @ _huber(rows[rest], y[rest], prior, deviation))
        left_out.append(float(y[i] / prediction - 1))
    rms = math.sqrt(float(np.mean(np.square(left_out))) + SESSION**2)
    quantile = student_t_975(max(1, len(y) - 2))
    return Correction(
        scale=float(weights[0]),
        per_block=float(weights[1]),
        per_element=float(weights[2]),
        intercept=float(weights[3]),
        relative_error=min(0.9, quantile * rms),
        leave_one_out=tuple(left_out),
    )


def _huber(rows: Array, y: Array, prior: Array, deviation: Array) -> Array:
    pull = np.diag(RIDGE / deviation)
    x = rows / y[:, None]
    trust = np.ones(len(y))
    weights = prior
    for _ in range(STEPS):
        left = np.vstack([trust[:, None] * x, pull])
        right = np.concatenate([trust, pull @ prior])
        weights = np.linalg.lstsq(left, right, rcond=None)[0]
        residual = np.abs(1 - x @ weights)
        if not len(y):
            break
        scale = 1.4826 * float(np.median(residual)) + 1e-4
        trust = np.sqrt(np.minimum(1.0, HUBER * scale / np.maximum(residual, 1e-12)))
    return np.asarray(weights)


def student_t_975(degrees: int) -> float:
    """The 97.5 % point of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def order_statistic_interval(values: Sequence[float], quantile: float) -> tuple[float, float]:
    """A distribution-free 95 % interval for a quantile.

    The ranks between which the quantile lies with that probability, from the binomial distribution
    (David and Nagaraja, Order Statistics, 3rd ed., section 7.1). Below six values (for the
    median) no ranks reach 95 %, and the smallest and largest value are given.
    """
    from scipy.special import bdtr

    ordered = sorted(values)
    n = len(ordered)
    ranks = np.arange(n + 1)
    below = np.asarray(bdtr(ranks.astype(float), n, quantile))  # P(X <= rank), X ~ Bin(n, q)
    low = int(np.searchsorted(below, 0.025, side="right"))  # first rank with P(X <= rank) > .025
    high = int(np.searchsorted(below, 0.975, side="left"))
    return ordered[min(max(low - 1, 0), n - 1)], ordered[min(high, n - 1)]
