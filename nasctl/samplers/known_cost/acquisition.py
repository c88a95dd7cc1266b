"""How much a training is worth: the expected gain of the hypervolume of what is believed.

Averaged over joint samples of the front's true accuracies, so that lucky values do not block their
neighbours (Daulton et al. 2021, noisy expected hypervolume improvement).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nasctl.samplers.known_cost.gp import Array
from nasctl.samplers.known_cost.improvement import (
    CUT,
    Index,
    expected_improvement,
    front_of,
)
from nasctl.samplers.known_cost.pool import Candidate
from nasctl.samplers.known_cost.posterior import Prediction
from nasctl.samplers.known_cost.scale import Scale

Flags = npt.NDArray[np.bool_]

LEVELS = 8  # of the front, for a first look at all candidates
SCREENED = 400  # candidates that are left by it, for a look at the believed front
EXAMINED = 64  # that are left for a look at all samples of the front
EXAMINED_SLOWLY = 40  # the same with three costs and more


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the hypervolume is measured from.

    Attributes:
        score: that counts for nothing.
        costs: (k,).
        scale: of the predictions.
        told: scores of the points that are cut off on that scale, for which the told value stands;
            else not a number; (m,).
    """

    score: float
    costs: Array
    scale: Scale
    told: Array

    def scores(self, values: Array) -> Array:
        """Of the points, from modelled values, (m,)."""
        result: Array = np.where(np.isnan(self.told), self.scale.scores(values), self.told)
        return result


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at all candidates says.

    Attributes:
        candidates: the pool, and relatives of the front after it.
        index: those that are promising; `gains` is what each of them is expected to add, with the
            `sd_factor` of `candidate_gains`.
        prediction: at the candidates, and at the trained and waiting networks.
        costs: of the candidates, (p, k).
        at: of the trained and waiting networks, (m, k).
        target: that gains are measured from.
    """

    candidates: Sequence[Candidate]
    index: Index
    gains: Array
    prediction: Prediction
    costs: Array
    at: Array
    target: Target


def _promising(
    mean: Array,
    sd: Array,
    costs: Array,
    *,
    front: tuple[Array, Array],
    target: Target,
) -> Index:
    """The candidates worth a look at all samples of the front: the best for the believed one, and
    of many the best for a coarser one first. With many costs, where that takes long, the best by
    the gain over what dominates them times all the room there is."""
    index = np.arange(len(costs))
    scores, points = front
    if costs.shape[1] > CUT:
        level = np.full(len(costs), target.score)
        columns = np.ascontiguousarray(costs.T)
        for score, cost in zip(scores, points, strict=True):  # ascending in score
            level[np.logical_and.reduce(cost[:, None] <= columns)] = score
        room = np.maximum(target.costs - costs, 0.0)
        return _best(index, target.scale.psi(mean, sd, level) * room.prod(axis=1), EXAMINED_SLOWLY)
    for levels, count in ((LEVELS, SCREENED), (None, EXAMINED)):
        if len(index) > count:
            gains = expected_improvement(
                mean[index],
                sd[index],
                costs[index],
                front_scores=scores,
                front_costs=points,
                reference_score=target.score,
                reference_costs=target.costs,
                psi=target.scale.psi,
                most=levels,
            )
            index = _best(index, gains, count)
    return index


def _best(index: Index, gains: Array, count: int) -> Index:
    """Those of the largest gains, in order of the index."""
    if len(index) <= count:
        return index
    return index[np.sort(np.argpartition(-gains, count - 1)[:count])]


def candidate_gains(
    prediction: Prediction,
    costs: Array,
    points: Array,
    *,
    known: Sequence[int],
    target: Target,
    samples: int,
    rng: np.random.Generator,
    sd_factor: float = 1.0,
) -> tuple[Index, Array]:
    """The expected improvement of the promising candidates.

    Args:
        prediction: at pool and local candidates, and at the points.
        costs: of the candidates, (p, k).
        points: costs of the points, which may be on the front, (m, k).
        known: candidates that are trained or in flight, and left out.
        target: see `Target`.
        samples: of the front.
        rng: of the samples.
        sd_factor: the candidates' deviations count times this.

    Returns:
        Their indices, and the gains.
    """
    sd = sd_factor * prediction.sd
    believed = target.scores(prediction.mean_at)
    members = front_of(believed, points)
    free = np.delete(np.arange(len(costs)), known)
    index = free[
        _promising(
            prediction.mean[free],
            sd[free],
            costs[free],
            front=(believed[members], points[members]),
            target=target,
        )
    ]
    total = np.zeros(len(index))
    for drawn in prediction.samples_at(rng, samples):
        scores = target.scores(drawn)
        members = front_of(scores, points)
        total += expected_improvement(
            prediction.mean[index],
            sd[index],
            costs[index],
            front_scores=scores[members],
            front_costs=points[members],
            reference_score=target.score,
            reference_costs=target.costs,
            psi=target.scale.psi,
        )
    return index, total / samples


def _gain_of_a_look(
    believed: tuple[float, float],
    costs: Array,
    others: tuple[Array, Array],
    *,
    noise: float,
    target: Target,
    counted: bool,
) -> float:
    """What a result is expected to add to the believed front of `points`.

    It moves the believed mean by N(0, s^2), s^2 = v^2 / (v + noise): the knowledge gradient
    (Frazier, Powell and Dayanik 2009) with the exact hypervolume as utility.

    Args:
        believed: mean and deviation of the one that is trained.
        costs: of it, (k,).
        others: scores and costs of what else may be on the front, (m,), (m, k).
        noise: variance of one result.
        target: as everywhere.
        counted: its mean is part of the believed front already, so only what is beyond is a gain.
    """
    mean, sd = believed
    scores, points = others
    members = front_of(scores, points)
    move = sd * sd / np.sqrt(sd * sd + noise)
    after, now = expected_improvement(
        np.full(2, mean),
        np.array([move, 1e-6]),
        np.stack([costs, costs]),
        front_scores=scores[members],
        front_costs=points[members],
        reference_score=target.score,
        reference_costs=target.costs,
        psi=target.scale.psi,
    )
    return max(float(after - now if counted else after), 0.0)


def fresh_gain(
    prediction: Prediction,
    candidate: int,
    costs: Array,
    points: Array,
    *,
    target: Target,
) -> float:
    """What training a candidate adds: the same measure as `repeat_gains`, to compare with it.

    The front has only what was trained, so all of the candidate's improvement is a gain.
    """
    return _gain_of_a_look(
        (float(prediction.mean[candidate]), float(prediction.sd[candidate])),
        costs,
        (target.scores(prediction.mean_at), points),
        noise=prediction.noise,
        target=target,
        counted=False,
    )


def repeat_gains(
    prediction: Prediction,
    points: Array,
    *,
    among: Sequence[int],
    target: Target,
) -> tuple[Index, Array]:
    """What another training of a point adds to the believed front.

    A member without rivals gains nothing, one whose place depends on a lucky value much.

    Args:
        prediction: at the points.
        points: their costs.
        among: the points that may be trained again.
        target: as everywhere.

    Returns:
        Those near the believed front, and their gains.
    """
    scores = target.scores(prediction.mean_at)
    optimistic = target.scores(prediction.mean_at + 2 * prediction.sd_at)
    members = front_of(scores, points)
    near = []
    gains = []
    for i in among:
        if any((points[j] <= points[i]).all() and scores[j] > optimistic[i] for j in members):
            continue
        others = np.delete(np.arange(len(points)), i)
        near.append(i)
        gains.append(
            _gain_of_a_look(
                (float(prediction.mean_at[i]), float(prediction.sd_at[i])),
                points[i],
                (scores[others], points[others]),
                noise=prediction.noise,
                target=target,
                counted=True,
            )
        )
    return np.array(near, dtype=np.intp), np.array(gains)


def possible_members(
    scores: Array, costs: Array, *, doubt: float, among: Flags, final: Flags
) -> Iterator[int]:
    """Positions of results that may be on the front: its members first, then all, the best first.

    Args:
        scores: what is believed, (n,).
        costs: (n, k).
        doubt: a result is surely worse than one that costs no more by twice this.
        among: which results count, (n,).
        final: which of them may be members, (n,).
    """
    counted = np.flatnonzero(among)
    order = counted[np.argsort(-scores[counted], kind="stable")]
    order = order[final[order]]
    # Whatever is surely better than a result, a member of the front is, too.
    top = counted[front_of(scores[counted], costs[counted])]
    for i in [*order[front_of(scores[order], costs[order])], *order]:
        surely = scores[top] - doubt > scores[i] + doubt
        if not (surely & (costs[top] <= costs[i]).all(axis=1)).any():
            yield int(i)
