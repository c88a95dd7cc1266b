"""Layer 3: who goes on at a rung: multi-objective successive halving, as functions of plain values.

After Jamieson & Talwalkar 2016 (arXiv:1502.07943; halving), Li et al. 2020 (arXiv:1810.05934;
asynchronous) and Schmucker et al. 2021 (arXiv:2106.12639; non-dominated ranks, ties by an
epsilon-net), with one change. The costs of a network are known before it is trained and do not
change with its epochs, so a cheap network is never dominated at a rung, however hopeless it is,
and an expensive one that learns slowly often is. A trial is therefore stopped only if it is
outside the surviving part *and* its probability of joining the final front is small.

The value of a rung is compared with values of the same rung alone. Everything here is oriented:
larger values are better, smaller costs are better.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nasctl.fidelity import HalvingSettings
from nasctl.pareto import undominated
from nasctl.samplers.base import derive_seed

Array = NDArray[np.float64]

RIDGE = 1.0
"""Prior precision of the standardised coefficients, in units of the residual's."""
HUBER = 1.345
"""95 % efficient for normal residuals (Huber 1964)."""
HUBER_SQUARES = 0.8213  # mean of weight times squared residual, for standard normal ones
CORRELATION_CONFIDENCE = 0.8416  # standard normal quantile: one-sided 80 %
LARGEST_ACCURACY = 1 - 1e-4


@dataclass(frozen=True, kw_only=True)
class Past:
    """A trial as the rule sees it.

    Attributes:
        network: its id; trials of one network are averaged.
        costs: by cost objective, in one order for all trials.
        rungs: values by epoch.
        final: value of the whole training; None for a trial that was stopped or still runs.
        weight: 1 / probability of having been trained to the end, of a finished trial: a control
            stands for all those that the rule stopped.
    """

    network: str
    costs: tuple[float, ...]
    rungs: Mapping[int, float] = field(default_factory=dict)
    final: float | None = None
    weight: float = 1.0

    @functools.cached_property
    def logs(self) -> tuple[float, ...]:
        """Of the costs; asked for at every decision that looks back at this trial."""
        return tuple(_log(c) for c in self.costs)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rule says of one trial at one rung.

    Attributes:
        cohort: trials with a value at this rung, this one included.
        pairs: finished trials among them.
        probability: of joining the final front; None before there are enough pairs.
        survives: whether it is in the surviving part; None where that was not asked.
    """

    cohort: int
    pairs: int
    probability: float | None = None
    survives: bool | None = None

    def stops(self, p_stop: float) -> bool:
        """Whether the trial has to end."""
        return self.probability is not None and self.probability < p_stop and self.survives is False


def is_control(seed: int, number: int, every: int) -> bool:
    """Whether a trial is never stopped: exactly one of each `every` in a row, drawn by the seed.

    Not one by one with probability 1 / `every`: of 24 trials, a twelfth of the runs had none.
    """
    return every > 0 and derive_seed(seed, number // every, "control") % every == number % every


def scaled(value: float, metric: str) -> float:
    """The scale on which finals are predicted: -log(1 - accuracy), other metrics as they are.

    Errors of trainings, and what is left of them some epochs later, are multiplied rather than
    added: on this scale the spread is about the same for good and for bad networks.
    """
    if metric != "accuracy":
        return value
    return -math.log1p(-min(max(value, 0.0), LARGEST_ACCURACY))


def judge(
    past: Sequence[Past],
    *,
    rung: int,
    value: float,
    costs: tuple[float, ...],
    reference: tuple[float, tuple[float, ...]],
    settings: HalvingSettings,
) -> Verdict:
    """What becomes of a trial with `value` at `rung`.

    Args:
        past: the trials that may be looked at, without this one.
        rung: epochs.
        value: of this trial, on the scale of the others.
        costs: likewise.
        reference: the worst value and the worst costs that count for the hypervolume.
        settings: of the run.
    """
    cohort = [p for p in past if rung in p.rungs]
    pairs = [p for p in cohort if p.final is not None]
    if len(pairs) < max(settings.min_pairs, 3):
        return Verdict(cohort=len(cohort) + 1, pairs=len(pairs))
    model = Predictor.fit(pairs, rung)
    probability = joining_probability(model, past, value, costs, reference)
    if probability >= settings.p_stop:
        return Verdict(cohort=len(cohort) + 1, pairs=len(pairs), probability=probability)
    rivals = [*((p.rungs[rung], p.costs) for p in cohort), (value, costs)]
    worst, most = reference
    beyond = (np.array([cs for _, cs in rivals]) > np.array(most)).any(axis=1)
    hopeless = beyond | (model.all_exceed(worst, rivals) < settings.p_stop)
    survives = len(rivals) - 1 in survivors(rivals, hopeless.tolist(), settings.eta)
    return Verdict(cohort=len(rivals), pairs=len(pairs), probability=probability, survives=survives)


def joining_probability(
    model: Predictor,
    past: Sequence[Past],
    value: float,
    costs: tuple[float, ...],
    reference: tuple[float, tuple[float, ...]],
) -> float:
    """That the final value beats every finished network that costs no more, and the reference.

    0 for costs beyond the reference point, which count for nothing.
    """
    worst, most = reference
    if any(c > m for c, m in zip(costs, most, strict=True)):
        return 0.0
    finals: dict[str, list[float]] = {}
    for p in past:
        if p.final is not None and all(map(operator.le, p.costs, costs)):
            finals.setdefault(p.network, []).append(p.final)
    bar = max([worst, *(sum(v) / len(v) for v in finals.values())])
    return model.exceeds(bar, value, costs)


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Final values from rung values: a Student t for each trial.

    final - rung value = intercept + slope * value + coefficients * log costs + noise, robust
    (Huber's weights) and shrunk: slope and coefficients are standardised and have a prior with
    the noise's own spread around 0, so few pairs say `as much as the others gained`. Costs take
    part because large networks learn slowly at first and gain more later. With a flat prior on the
    intercept and the scale, the posterior predictive is Student's t with n - 1 degrees of freedom
    (Gelman et al., Bayesian Data Analysis, 3rd ed., section 14.8).
    """

    centre: Array
    spread: Array
    logarithmic: tuple[bool, ...]
    coefficients: Array
    covariance: Array
    scale: float
    freedom: int
    left_out: Array
    """What it would predict of each pair from the others, given the weights."""

    @classmethod
    def fit(cls, pairs: Sequence[Past], rung: int) -> Predictor:
        """From finished trials with a value at `rung`, at least two."""
        logarithmic = tuple(min(column) > 0 for column in zip(*(p.costs for p in pairs)))  # noqa: B905 - a matrix
        raw = np.array([_row(p.rungs[rung], p.costs, p.logs, logarithmic) for p in pairs])
        gain = np.array([p.final for p in pairs], dtype=np.float64) - raw[:, 0]
        centre, spread = raw.mean(axis=0), raw.std(axis=0)
        spread = np.where(spread > 1e-12, spread, np.inf)  # what never varies explains nothing
        design = np.column_stack([np.ones(len(pairs)), (raw - centre) / spread])
        ridge = np.diag([0.0, *[RIDGE] * raw.shape[1]])
        weights = np.ones(len(pairs))
        for _ in range(20):
            inverse = np.linalg.inv(design.T @ (weights[:, None] * design) + ridge)
            coefficients = inverse @ (design.T @ (weights * gain))
            residuals = gain - design @ coefficients
            typical = float(np.median(np.abs(residuals))) * 1.4826
            if typical <= 1e-12:
                break
            new = np.minimum(1.0, HUBER * typical / np.maximum(np.abs(residuals), 1e-12))
            done = bool(np.max(np.abs(new - weights)) < 1e-6)
            weights = new
            if done:
                break
        freedom = len(pairs) - 1
        squares = float(weights @ residuals**2) / HUBER_SQUARES
        squares += float(coefficients @ ridge @ coefficients)
        leverage = weights * ((design @ inverse) * design).sum(axis=1)
        return cls(
            centre=centre,
            spread=spread,
            logarithmic=logarithmic,
            coefficients=coefficients,
            covariance=inverse,
            scale=math.sqrt(max(squares, 0.0) / freedom),
            freedom=freedom,
            left_out=gain + raw[:, 0] - residuals / np.maximum(1.0 - leverage, 1e-9),
        )

    def predict(self, value: float, costs: tuple[float, ...]) -> tuple[float, float]:
        """Location and scale of the final value's t distribution."""
        locations, scales = self._predict([(value, costs)])
        return float(locations[0]), float(scales[0])

    def exceeds(self, bar: float, value: float, costs: tuple[float, ...]) -> float:
        """The probability that the final value is above `bar`."""
        return float(self.all_exceed(bar, [(value, costs)])[0])

    def all_exceed(self, bar: float, trials: Sequence[tuple[float, tuple[float, ...]]]) -> Array:
        """The same for trials with these values and costs."""
        from scipy.special import stdtr

        locations, scales = self._predict(trials)
        ahead = (locations - bar) / np.maximum(scales, 1e-300)
        probabilities: Array = stdtr(self.freedom, ahead)
        return probabilities

    def _predict(self, trials: Sequence[tuple[float, tuple[float, ...]]]) -> tuple[Array, Array]:
        raw = np.array([_features(v, cs, self.logarithmic) for v, cs in trials])
        rows = np.column_stack([np.ones(len(trials)), (raw - self.centre) / self.spread])
        leverage = ((rows @ self.covariance) * rows).sum(axis=1)
        return rows @ self.coefficients + raw[:, 0], self.scale * np.sqrt(1.0 + leverage)


def _features(value: float, costs: tuple[float, ...], logarithmic: tuple[bool, ...]) -> list[float]:
    return _row(value, costs, tuple(_log(c) for c in costs), logarithmic)


def _row(
    value: float, costs: tuple[float, ...], logs: tuple[float, ...], logarithmic: tuple[bool, ...]
) -> list[float]:
    if all(logarithmic):
        return [value, *logs]
    return [value, *(b if is_log else c for c, b, is_log in zip(costs, logs, logarithmic))]  # noqa: B905 - one row


def _log(cost: float) -> float:
    return math.log(max(cost, 1e-300))


def survivors(
    rivals: Sequence[tuple[float, tuple[float, ...]]], hopeless: Sequence[bool], eta: int
) -> set[int]:
    """Indices of the best 1 / eta: the hopeful first, then by non-dominated rank, then by an
    epsilon-net of the rank that does not fit whole.

    Args:
        rivals: value and costs of each.
        hopeless: those that will not come better than the reference point, whatever their rank.
        eta: at least 2.
    """
    keep = math.ceil(len(rivals) / eta)
    points = np.array([[-v, *cs] for v, cs in rivals], dtype=np.float64)
    chosen: list[int] = []
    for group in (False, True):
        rest = np.array([i for i, h in enumerate(hopeless) if h is group], dtype=int)
        while len(rest) and len(chosen) < keep:
            dominated = _dominated(points[rest])
            level = rest[~dominated]
            room = keep - len(chosen)
            fits = len(level) <= room
            picked = list(range(len(level))) if fits else epsilon_net(points[level])[:room]
            chosen += [int(level[i]) for i in picked]
            rest = rest[dominated]
    return set(chosen)


def _dominated(points: Array) -> NDArray[np.bool_]:
    found = np.ones(len(points), dtype=bool)
    found[undominated(points)] = False
    return found


def epsilon_net(points: Array) -> list[int]:
    """An order in which every beginning covers the points evenly.

    The best of the first column, then always the point farthest from those chosen (Gonzalez 1985,
    as Schmucker et al. use it). Distances are between ranks in each column: free of units, and
    not ruled by one large value. Ties go to the earlier point.
    """
    ranks = np.column_stack([_mean_ranks(column) for column in points.T])
    order = [int(np.argmin(points[:, 0]))]
    distance = ((ranks - ranks[order[0]]) ** 2).sum(axis=1)
    distance[order[0]] = -1.0
    while len(order) < len(points):
        following = int(np.argmax(distance))
        order.append(following)
        distance = np.minimum(distance, ((ranks - ranks[following]) ** 2).sum(axis=1))
        distance[order] = -1.0
    return order


def _mean_ranks(values: Array, weights: Array | None = None) -> Array:
    """The share of the weight below each value, ties at their mean."""
    weights = np.ones(len(values)) if weights is None else weights
    distinct, inverse = np.unique(values, return_inverse=True)
    mass = np.bincount(inverse, weights=weights, minlength=len(distinct))
    shares: Array = (np.cumsum(mass) - mass / 2)[inverse] / mass.sum()
    return shares


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How a rung ranks trials compared with their end.

    Attributes:
        rung: epochs.
        pairs: finished trials with a value at the rung.
        effective: as many equally weighted pairs would say as much (Kish 1965).
        value: Spearman's; None while one side is constant or there are fewer than three pairs.
    """

    rung: int
    pairs: int
    effective: float
    value: float | None

    def is_below(self, threshold: float) -> bool:
        """Whether it is below `threshold` with 80 % confidence (Fisher's z; the factor 1.06 of
        Fieller, Hartley & Pearson 1957 for ranks)."""
        if self.value is None or self.effective <= 5:
            return False
        z = math.atanh(min(max(self.value, -0.9999), 0.9999))
        upper = z + CORRELATION_CONFIDENCE * math.sqrt(1.06 / (self.effective - 3))
        return math.tanh(upper) < threshold


def correlation(past: Sequence[Past], rung: int, *, predicted: bool = False) -> Correlation:
    """Spearman's rank correlation of a rung with the end, weighted for what was stopped.

    Of the trials that the rule would stop only the controls are trained to the end; without their
    weights the correlation would be that of the good ones among themselves, which is lower.

    Args:
        past: finished trials among them count.
        rung: epochs.
        predicted: of what the rule makes of the values of the others and of the costs, instead.
    """
    pairs = [p for p in past if p.final is not None and rung in p.rungs]
    weights = np.array([p.weight for p in pairs], dtype=np.float64)
    effective = float(weights.sum() ** 2 / (weights**2).sum()) if pairs else 0.0
    value = None
    if len(pairs) >= 3:
        values = np.array([p.rungs[rung] for p in pairs], dtype=np.float64)
        a = _mean_ranks(Predictor.fit(pairs, rung).left_out if predicted else values, weights)
        b = _mean_ranks(np.array([p.final for p in pairs], dtype=np.float64), weights)
        weights = weights / weights.sum()
        a, b = a - weights @ a, b - weights @ b
        product = math.sqrt(float(weights @ a**2) * float(weights @ b**2))
        value = float(weights @ (a * b)) / product if product > 1e-15 else None
    return Correlation(rung=rung, pairs=len(pairs), effective=effective, value=value)
