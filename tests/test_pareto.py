"""Fronts and hypervolumes against brute force, Optuna's private implementation and by hand."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasctl.pareto import (
    RunningFront,
    contributions,
    default_reference,
    dominated_by,
    front,
    hypervolume,
    hypervolume_history,
    near_front,
    ranks,
    undominated,
    volume,
)

OBJECTIVES = {"accuracy": "max", "latency_ms": "min"}
REFERENCE = {"accuracy": 0.5, "latency_ms": 10.0}


def point(accuracy: float, latency: float) -> dict[str, float]:
    return {"accuracy": accuracy, "latency_ms": latency, "ignored": 7.0}


def dominates(a: dict[str, float], b: dict[str, float], objectives: dict[str, str]) -> bool:
    sign = {m: 1 if d == "min" else -1 for m, d in objectives.items()}
    no_worse = all(sign[m] * a[m] <= sign[m] * b[m] for m in objectives)
    return no_worse and any(sign[m] * a[m] < sign[m] * b[m] for m in objectives)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[dict[str, float]], dict[str, str]]:
    names = "abcd"[: draw(st.integers(1, 4))]
    objectives = {n: draw(st.sampled_from(["max", "min"])) for n in names}
    grid = st.integers(0, 5).map(float)  # coarse: ties and duplicates are the interesting cases
    points = draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, grid)), max_size=25))
    return points, objectives


def test_front_by_hand() -> None:
    points = [point(0.9, 5), point(0.8, 2), point(0.8, 5), point(0.9, 5), point(0.7, 1)]
    assert front(points, OBJECTIVES) == [0, 1, 3, 4]  # equal points are all kept
    assert ranks(points, OBJECTIVES) == [0, 0, 1, 0, 0]
    assert dominated_by(points[2], points, OBJECTIVES) == [0, 1, 3]
    assert front([], OBJECTIVES) == []
    assert front(points, {"accuracy": "max"}) == [0, 3]


@given(problems())
@settings(deadline=None)
def test_front_and_ranks_by_brute_force(problem) -> None:
    points, objectives = problem
    expected = [
        i for i, p in enumerate(points) if not any(dominates(q, p, objectives) for q in points)
    ]
    assert front(points, objectives) == expected
    rank = ranks(points, objectives)
    assert [i for i, r in enumerate(rank) if r == 0] == expected
    for i, p in enumerate(points):
        above = [rank[j] for j, q in enumerate(points) if dominates(q, p, objectives)]
        assert rank[i] == (max(above) + 1 if above else 0)
        assert dominated_by(p, points, objectives) == [
            j for j, q in enumerate(points) if dominates(q, p, objectives)
        ]


def test_front_of_many_points() -> None:
    rng = np.random.default_rng(0)
    points = [point(a, b) for a, b in rng.random((1500, 2))]
    kept = front(points, OBJECTIVES)
    best = -math.inf
    expected = set()
    for i in sorted(range(len(points)), key=lambda i: points[i]["latency_ms"]):
        if points[i]["accuracy"] > best:
            expected.add(i)
            best = points[i]["accuracy"]
    assert set(kept) == expected


def test_hypervolume_by_hand() -> None:
    points = [point(0.9, 5), point(0.8, 2)]
    assert hypervolume(points, OBJECTIVES, REFERENCE) == pytest.approx(0.4 * 5 + 0.3 * 3)
    assert hypervolume(points, {"accuracy": "max"}, REFERENCE) == pytest.approx(0.4)
    assert hypervolume([], OBJECTIVES, REFERENCE) == 0


@pytest.mark.parametrize(
    "outside", [point(0.5, 1), point(0.99, 10), point(0.4, 1), point(0.99, 11)]
)
def test_hypervolume_leaves_out_points_at_or_beyond_the_reference(outside) -> None:
    inside = [point(0.9, 5)]
    alone = hypervolume(inside, OBJECTIVES, REFERENCE)
    assert hypervolume([*inside, outside], OBJECTIVES, REFERENCE) == alone
    assert hypervolume([outside], OBJECTIVES, REFERENCE) == 0


@given(problems())
@settings(deadline=None)
def test_hypervolume_counts_cells(problem) -> None:
    """On an integer grid the volume is the number of unit cells that some point dominates."""
    points, objectives = problem
    reference = {m: 4.0 if d == "min" else 1.0 for m, d in objectives.items()}
    costs = [
        [p[m] if d == "min" else 5 - p[m] for m, d in objectives.items()]
        for p in points
        if all((p[m] < 4) if d == "min" else (p[m] > 1) for m, d in objectives.items())
    ]
    cells = sum(
        any(all(c <= x for c, x in zip(cost, cell, strict=True)) for cost in costs)
        for cell in itertools.product(range(4), repeat=len(objectives))
    )
    assert hypervolume(points, objectives, reference) == pytest.approx(cells)
    history = hypervolume_history(points, objectives, reference)
    assert history == sorted(history)
    assert (history or [0.0])[-1] == pytest.approx(cells)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_hypervolume_matches_optuna(count: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.random((40, count)) * 1.2
    names = [f"m{i}" for i in range(count)]
    points = [dict(zip(names, row, strict=True)) for row in values.tolist()]
    inside = values[(values < 1).all(axis=1)]
    expected = optuna._hypervolume.compute_hypervolume(inside, np.ones(count))
    found = hypervolume(points, dict.fromkeys(names, "min"), dict.fromkeys(names, 1.0))
    assert found == pytest.approx(expected, rel=1e-9)


@given(problems(), st.data())
@settings(deadline=None)
def test_a_running_front_of_points_that_move_is_the_front_of_where_they_are(problem, data) -> None:
    points, objectives = problem
    reference = {m: 4.0 if d == "min" else 1.0 for m, d in objectives.items()}
    running = RunningFront(objectives, reference)
    now: dict[int, dict[str, float]] = {}
    for p in points:
        key = data.draw(st.integers(0, 7))
        now[key] = p
        running.put(key, p)
        there = list(now.values())
        assert running.size == len(front(there, objectives))
        assert running.hypervolume == pytest.approx(hypervolume(there, objectives, reference))


def test_history_of_failures() -> None:
    history = hypervolume_history([None, point(0.9, 5), None, point(0.6, 9)], OBJECTIVES, REFERENCE)
    assert history == pytest.approx([0, 2, 2, 2])


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="point 1: latency_ms is not a number"):
        front([point(0.9, 1), point(0.9, math.nan)], OBJECTIVES)
    with pytest.raises(ValueError, match="latency_ms missing"):
        hypervolume([point(0.9, 1)], OBJECTIVES, {"accuracy": 0.0})


def test_near_front_by_hand() -> None:
    points = [point(0.90, 5), point(0.88, 5.5), point(0.85, 5.5), point(0.80, 2), point(0.88, 5)]
    intervals = [{"accuracy": (p["accuracy"] - 0.015, p["accuracy"] + 0.015)} for p in points]
    members = front(points, OBJECTIVES)
    assert members == [0, 3]
    # 1 may really be at .895, 0 at .885; 2 reaches .865 only.
    assert near_front(points, intervals, OBJECTIVES, members) == [1, 4]
    latency = [{"latency_ms": (p["latency_ms"] * 0.8, p["latency_ms"] * 1.2)} for p in points]
    assert near_front(points, latency, OBJECTIVES, members) == [1, 2, 4]


@given(problems(), st.floats(0, 2), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_near_front_properties(problem, width: float, rng: random.Random) -> None:
    points, objectives = problem
    members = front(points, objectives)
    exact = near_front(points, [{} for _ in points], objectives, members)
    assert exact == []  # without uncertainty there is nothing between the front and the rest
    wide = [{m: (p[m] - width, p[m] + width) for m in objectives} for p in points]
    near = near_front(points, wide, objectives, members)
    assert not set(near) & set(members)
    # Whatever the truth inside the intervals is, its front is among members and near ones.
    truth = [{m: rng.uniform(*w[m]) for m in objectives} for w in wide]
    assert set(front(truth, objectives)) <= set(members) | set(near)


def test_default_reference() -> None:
    sample = [{"params": 100.0, "latency_ms": 3.0}, {"params": 200.0, "latency_ms": 2.0}]
    objectives = {"accuracy": "max", "latency_ms": "min", "params": "min"}
    found = default_reference(objectives, {"params": 150.0, "latency_ms": None}, sample)
    assert found == pytest.approx({"accuracy": 0.0, "latency_ms": 3.3, "params": 150.0})
    assert default_reference(objectives, {}, sample, {"accuracy": 0.8, "params": 9})[
        "params"
    ] == pytest.approx(9)
    with pytest.raises(ValueError, match=r"reference_point\.energy: cannot be derived"):
        default_reference({"energy": "min"}, {}, sample)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_contribution_is_what_goes_with_the_point(width: int) -> None:
    rng = np.random.default_rng(width)
    costs = rng.uniform(0, 1, (20, width))
    costs = costs[undominated(costs)]
    reference = np.ones(width)
    held = contributions(costs, reference)
    for i in range(len(costs)):
        lost = volume(costs, reference) - volume(np.delete(costs, i, axis=0), reference)
        assert held[i] == pytest.approx(lost, abs=1e-12)
    assert held.max() > 0
