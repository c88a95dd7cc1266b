"""Which candidate is chosen among many, against an exact look at all of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nasctl.samplers.known_cost.acquisition import (
    EXAMINED,
    SCREENED,
    Target,
    candidate_gains,
    possible_members,
)
from nasctl.samplers.known_cost.improvement import expected_improvement, front_of
from nasctl.samplers.known_cost.posterior import Prediction
from nasctl.samplers.known_cost.scale import Scale

SAMPLES = 4
CANDIDATES = 3_000


def situation(seed: int, k: int) -> tuple[Prediction, np.ndarray, np.ndarray, Target]:
    """Candidates about as good as their costs allow, and trained networks of the same kind, so that
    the front is long and most of the room that is left is along it."""
    rng = np.random.default_rng(seed)
    scale = Scale(bound=1.0, low=0.0)
    n = 120
    costs = rng.uniform(0.0, 1.0, (CANDIDATES + n, k)) ** 2
    mean = 0.6 + 1.2 * costs.mean(axis=1) ** 0.5 + rng.normal(0.0, 0.08, CANDIDATES + n)
    prediction = Prediction(
        mean=mean[:CANDIDATES],
        sd=rng.uniform(0.02, 0.12, CANDIDATES),
        mean_at=mean[CANDIDATES:],
        covariance_at=np.diag(np.full(n, 0.02**2)),
        noise=1e-4,
    )
    target = Target(score=0.3, costs=np.ones(k), scale=scale, told=np.full(n, np.nan))
    return prediction, costs[:CANDIDATES], costs[CANDIDATES:], target


def gains_against(
    *,
    members: np.ndarray,
    scores: np.ndarray,
    prediction: Prediction,
    costs: np.ndarray,
    points: np.ndarray,
    target: Target,
    most: int | None = None,
) -> np.ndarray:
    return expected_improvement(
        prediction.mean,
        prediction.sd,
        costs,
        front_scores=scores[members],
        front_costs=points[members],
        reference_score=target.score,
        reference_costs=target.costs,
        psi=target.scale.psi,
        most=most,
    )


def gains_of_all(
    prediction: Prediction, costs: np.ndarray, points: np.ndarray, target: Target, seed: int
) -> np.ndarray:
    total = np.zeros(len(costs))
    for drawn in prediction.samples_at(np.random.default_rng(seed), SAMPLES):
        scores = target.scores(drawn)
        members = front_of(scores, points)
        assert len(members) > 10, "the front is too short to be a test"
        total += gains_against(
            members=members,
            scores=scores,
            prediction=prediction,
            costs=costs,
            points=points,
            target=target,
        )
    return total / SAMPLES


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_hardly_any_gain_is_lost_by_not_looking_at_all(seed: int, k: int) -> None:
    prediction, costs, points, target = situation(seed, k)
    assert len(costs) > SCREENED > EXAMINED
    wanted = gains_of_all(prediction, costs, points, target, seed)
    known = [int(np.argmax(wanted))]  # is trained: the best of the rest is asked for
    index, found = candidate_gains(
        prediction,
        costs,
        points,
        known=known,
        target=target,
        samples=SAMPLES,
        rng=np.random.default_rng(seed),
    )
    assert known[0] not in index
    assert found == pytest.approx(wanted[index])
    assert found.max() >= 0.95 * np.delete(wanted, known).max()
    assert 0 < len(index) <= EXAMINED


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_smaller_factor_is_as_if_the_model_were_surer(k: int) -> None:
    prediction, costs, points, target = situation(3, k)
    surer = dataclasses.replace(prediction, sd=0.5 * prediction.sd)

    def gains(prediction: Prediction, **sd_factor: float) -> tuple[np.ndarray, np.ndarray]:
        return candidate_gains(
            prediction,
            costs,
            points,
            known=[],
            target=target,
            samples=SAMPLES,
            rng=np.random.default_rng(0),
            **sd_factor,
        )

    index, found = gains(prediction, sd_factor=0.5)
    wanted_index, wanted = gains(surer)
    assert index.tolist() == wanted_index.tolist()
    assert found == pytest.approx(wanted)
    assert found != pytest.approx(gains(prediction)[1])


@pytest.mark.parametrize("k", [1, 2])
def test_more_levels_are_nearer_and_few_keep_the_best(k: int) -> None:
    prediction, costs, points, target = situation(7, k)
    scores = target.scores(prediction.mean_at)
    members = front_of(scores, points)

    def gains(most: int | None) -> np.ndarray:
        return gains_against(
            members=members,
            scores=scores,
            prediction=prediction,
            costs=costs,
            points=points,
            target=target,
            most=most,
        )

    exact = gains(None)
    assert gains(len(members) + 1) == pytest.approx(exact)
    errors = [np.abs(gains(most) - exact).sum() / exact.sum() for most in (3, 6, 12)]
    assert errors[0] > errors[1] > errors[2]
    best = np.argsort(-exact)[:20]
    assert set(best) <= set(np.argsort(-gains(8))[:SCREENED])


@pytest.mark.parametrize("k", [0, 1, 2])
def test_members_are_possible_if_nothing_is_surely_better(k: int) -> None:
    rng = np.random.default_rng(k)
    scores, costs = rng.normal(size=80).round(1), rng.random((80, k)).round(1)
    among, final = rng.random(80) < 0.8, rng.random(80) < 0.7
    asked = {"doubt": 0.15, "among": among, "final": final}
    expected = {
        i
        for i in np.flatnonzero(among & final)
        if not any(
            scores[j] - 0.15 > scores[i] + 0.15 and (costs[j] <= costs[i]).all()
            for j in np.flatnonzero(among)
        )
    }
    found = list(possible_members(scores, costs, **asked))
    assert set(found) == expected
    rest = found[len(found) - len(expected) :]  # members are named twice
    assert (np.diff(scores[rest]) <= 0).all()
