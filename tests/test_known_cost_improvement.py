"""The exact expectation, against sampling and against the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasctl.pareto import hypervolume
from nasctl.samplers.known_cost.improvement import (
    expected_improvement,
    front_of,
    psi_log_error,
    psi_normal,
)

COSTS = ("c0", "c1", "c2")


def gain(
    score: float, cost: np.ndarray, scores: np.ndarray, costs: np.ndarray, reference: np.ndarray
) -> float:
    """By definition: the hypervolume with the candidate less that without."""
    names = COSTS[: costs.shape[1]]
    objectives = {"a": "max", **dict.fromkeys(names, "min")}

    def point(a: float, c: np.ndarray) -> dict[str, float]:
        return {"a": a, **dict(zip(names, map(float, c), strict=True))}

    worst = {"a": 0.0, **dict(zip(names, map(float, reference), strict=True))}
    front = [point(a, c) for a, c in zip(scores, costs, strict=True)]
    with_it = hypervolume([*front, point(score, cost)], objectives, worst)
    return with_it - hypervolume(front, objectives, worst)


def problem(seed: int, k: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 12))
    scores, costs = rng.uniform(-0.1, 1, n), rng.uniform(0, 1.1, (n, k))
    members = front_of(scores, costs)
    return scores[members], costs[members], rng.uniform(0, 1.1, (20, k)), np.full(k, 1.0)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), k=st.sampled_from([1, 2, 3]))
def test_a_certain_score_gains_what_the_hypervolume_says(seed: int, k: int) -> None:
    scores, costs, candidates, reference = problem(seed, k)
    values = np.random.default_rng(seed + 1).uniform(0, 1, len(candidates))
    found = expected_improvement(
        values,
        np.full(len(values), 1e-9),
        candidates,
        front_scores=scores,
        front_costs=costs,
        reference_score=0.0,
        reference_costs=reference,
        psi=psi_normal,
    )
    wanted = [gain(v, c, scores, costs, reference) for v, c in zip(values, candidates, strict=True)]
    assert found == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("k", [1, 2])
def test_an_uncertain_score_gains_the_mean_over_its_draws(k: int) -> None:
    scores, costs, candidates, reference = problem(5, k)
    candidate = candidates[:1] * 0.5
    draws = 1 - np.exp(-np.random.default_rng(0).normal(0.8, 0.5, 3000))
    sampled = [gain(max(d, 0.0), candidate[0], scores, costs, reference) for d in draws]
    found = expected_improvement(
        np.array([0.8]),
        np.array([0.5]),
        candidate,
        front_scores=scores,
        front_costs=costs,
        reference_score=0.0,
        reference_costs=reference,
        psi=psi_log_error,
    )
    error = np.std(sampled) / len(sampled) ** 0.5
    assert np.mean(sampled) > 10 * error, "the draws tell nothing"
    assert found[0] == pytest.approx(np.mean(sampled), abs=4 * error)


@pytest.mark.parametrize(
    ("psi", "transform"), [(psi_normal, lambda y: y), (psi_log_error, lambda y: 1 - np.exp(-y))]
)
@pytest.mark.parametrize("t", [-0.5, 0.0, 0.4, 0.9])
def test_psi_is_the_expected_excess(psi, transform, t: float) -> None:
    y = np.random.default_rng(1).normal(0.7, 0.4, 400_000)
    excess = np.maximum(transform(y) - t, 0.0)
    found = psi(np.array(0.7), np.array(0.4), np.array(t))
    assert found == pytest.approx(excess.mean(), abs=5 * excess.std() / len(y) ** 0.5)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize("most", [None, 2])
def test_no_candidates_gain_nothing(k: int, most: int | None) -> None:
    scores, costs, _, reference = problem(3, max(k, 1))
    found = expected_improvement(
        np.empty(0),
        np.empty(0),
        np.empty((0, k)),
        front_scores=scores,
        front_costs=costs[:, :k],
        reference_score=0.0,
        reference_costs=reference[:k],
        psi=psi_normal,
        most=most,
    )
    assert found.shape == (0,)


def test_without_costs_it_is_the_expected_improvement_over_the_best() -> None:
    best, mean, sd = 0.6, 0.5, 0.2
    found = expected_improvement(
        np.array([mean]),
        np.array([sd]),
        np.empty((1, 0)),
        front_scores=np.array([best]),
        front_costs=np.empty((1, 0)),
        reference_score=0.0,
        reference_costs=np.empty(0),
        psi=psi_normal,
    )
    assert found[0] == pytest.approx(float(psi_normal(*map(np.array, (mean, sd, best)))))


def test_a_front_has_one_of_equal_points_and_nothing_dominated() -> None:
    scores = np.array([0.5, 0.9, 0.9, 0.7, 0.6])
    costs = np.array([[1.0], [3.0], [3.0], [2.0], [2.5]])
    assert front_of(scores, costs).tolist() == [0, 3, 1]
