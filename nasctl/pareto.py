"""Layer 2: Pareto fronts and hypervolume over mappings from metric to value.

Points carry any metrics; `objectives` (metric to "max" or "min") says which count and how. A point
dominates another if it is nowhere worse and somewhere better.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nasctl.trial import Objectives

Point = Mapping[str, float]
Interval = tuple[float, float]
Costs = npt.NDArray[np.float64]

_CHUNK = 256  # rows compared at once: bounds memory at 256 x n booleans
REFERENCE_FACTOR = 1.1


def _costs(points: Sequence[Point], objectives: Objectives) -> Costs:
    """Shape (points, objectives), negated where more is better: everything is minimised.

    Raises:
        ValueError: a value is not a number, which no front could place.
    """
    values = np.array([[p[m] for m in objectives] for p in points], dtype=np.float64)
    values = values.reshape(len(points), len(objectives))
    if np.isnan(values).any():
        index, column = np.argwhere(np.isnan(values))[0]
        raise ValueError(f"point {index}: {list(objectives)[column]} is not a number")
    signs = np.array([-1.0 if d == "max" else 1.0 for d in objectives.values()])
    costs: Costs = values * signs
    return costs


def _is_dominated(costs: Costs, by: Costs) -> npt.NDArray[np.bool_]:
    """For each row of `costs`, whether some row of `by` dominates it."""
    found = np.zeros(len(costs), dtype=bool)
    for start in range(0, len(costs), _CHUNK):
        rows = costs[start : start + _CHUNK]
        no_worse = np.ones((len(rows), len(by)), dtype=bool)
        better = np.zeros_like(no_worse)
        for own, other in zip(rows.T, by.T, strict=True):  # 3 times as fast as reducing an axis
            no_worse &= other <= own[:, None]
            better |= other < own[:, None]
        found[start : start + _CHUNK] = np.any(no_worse & better, axis=1)
    return found


def front(points: Sequence[Point], objectives: Objectives) -> list[int]:
    """Indices of the non-dominated points, in order; of equal points all are kept."""
    costs = _costs(points, objectives)
    return [int(i) for i in np.sort(undominated(costs))]


def undominated(costs: Costs) -> npt.NDArray[np.intp]:
    """The rows that no other row dominates: n comparisons with the front, not with each other.

    In lexicographic order what dominates a row comes before it. (moocore has it in n log n, but
    version 0.3 crashes on infinities.)
    """
    order = np.lexsort(costs.T[::-1])
    members = order[:0]
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        rows = rows[~_is_dominated(costs[rows], costs[members])]
        rows = rows[~_is_dominated(costs[rows], costs[rows])]
        members = np.concatenate([members, rows])
    return members


def ranks(points: Sequence[Point], objectives: Objectives) -> list[int]:
    """The non-domination rank of every point: 0 on the front, 1 on the front of the rest, ..."""
    costs = _costs(points, objectives)
    rank = np.zeros(len(points), dtype=int)
    rest = np.arange(len(points))
    level = 0
    while len(rest):
        dominated = _is_dominated(costs[rest], costs[rest])
        rank[rest[~dominated]] = level
        rest = rest[dominated]
        level += 1
    return [int(r) for r in rank]


def dominated_by(point: Point, points: Sequence[Point], objectives: Objectives) -> list[int]:
    """Indices of the points that dominate `point`."""
    costs = _costs(points, objectives)
    one = _costs([point], objectives)
    return [i for i in range(len(points)) if _is_dominated(one, costs[i : i + 1])[0]]


def _reference(reference_point: Point, objectives: Objectives) -> Costs:
    missing = [m for m in objectives if m not in reference_point]
    if missing:
        raise ValueError(f"reference point: {', '.join(missing)} missing")
    return _costs([reference_point], objectives).reshape(-1)


def hypervolume(points: Sequence[Point], objectives: Objectives, reference_point: Point) -> float:
    """The volume between the points and the reference point, in objective units multiplied.

    Exact for any number of objectives. Points that are not strictly better than the reference in
    every objective are left out; none left is 0. Computed by moocore (Fonseca, Paquete and
    López-Ibáñez 2006; Guerreiro and Fonseca 2017).

    Raises:
        ValueError: a value is not a number, or the reference lacks an objective.
    """
    reference = _reference(reference_point, objectives)
    costs = _costs(points, objectives)
    return volume(costs[(costs < reference).all(axis=1)], reference)


def volume(costs: Costs, reference: Costs) -> float:
    """The volume between points that are all below the reference and it; everything minimised.

    Args:
        costs: (points, objectives).
        reference: (objectives,).
    """
    if not len(costs):
        return 0.0
    if costs.shape[1] == 1:
        return float(reference[0] - costs.min())
    import moocore

    return float(moocore.hypervolume(costs, ref=reference))


class RunningFront:
    """A front whose points come one by one and may move, as means do when they are corrected.

    A point costs one comparison with the front, and one of everything with the front where a member
    became worse: what it had dominated may come back.

    Args:
        objectives: metric to direction.
        reference_point: of the hypervolume.
    """

    def __init__(self, objectives: Objectives, reference_point: Point) -> None:
        self._objectives = objectives
        self._reference = _reference(reference_point, objectives)
        self._costs = np.empty((16, len(objectives)))  # grows by doubling
        self._rows: dict[Hashable, int] = {}
        self._members = np.empty(0, dtype=np.intp)  # rows
        self._hypervolume: float | None = 0.0

    def put(self, key: Hashable, point: Point) -> None:
        """Adds the point of `key`, or moves it there.

        Raises:
            ValueError: a value is not a number.
        """
        cost = _costs([point], self._objectives)
        row = self._rows.setdefault(key, len(self._rows))
        if row == len(self._costs):
            self._costs = np.vstack([self._costs, np.empty_like(self._costs)])
        others = self._members[self._members != row]
        was_member = len(others) < len(self._members)
        became_worse = was_member and not (cost <= self._costs[row]).all()
        self._costs[row] = cost
        if became_worse:
            rows = np.arange(len(self._rows))
            rows = rows[~_is_dominated(self._costs[rows], self._costs[self._members])]  # few
            self._members = rows[~_is_dominated(self._costs[rows], self._costs[rows])]
        elif not was_member and _is_dominated(cost, self._costs[others])[0]:
            return
        else:
            self._members = np.append(others[~_is_dominated(self._costs[others], cost)], row)
        self._hypervolume = None

    @property
    def size(self) -> int:
        """How many points are on the front; of equal ones all are."""
        return len(self._members)

    @property
    def hypervolume(self) -> float:
        """See `hypervolume`; remembered until the front changes."""
        if self._hypervolume is None:
            costs = self._costs[self._members]
            self._hypervolume = volume(
                costs[(costs < self._reference).all(axis=1)], self._reference
            )
        return self._hypervolume


def contributions(costs: Costs, reference: Costs) -> npt.NDArray[np.float64]:
    """How much of `volume` each point holds alone, (points,), of points on one front."""
    if costs.shape[1] == 1:
        result = np.asarray(reference - costs[:, 0])  # one point, or equal ones
        result = result if len(costs) == 1 else np.zeros(len(costs))
    else:
        import moocore

        result = np.asarray(moocore.hv_contributions(costs, ref=reference), dtype=np.float64)
    return result


def attainment(draws: Costs, percentiles: Sequence[float]) -> list[npt.NDArray[np.float64]]:
    """The empirical attainment surfaces of random fronts in two objectives, both minimised.

    The surface of p % bounds what at least p % of the draws dominate or equal (Grunert da Fonseca,
    Fonseca and Hall 2001; computed by moocore).

    Args:
        draws: (draws, points, 2).
        percentiles: in 0 .. 100, ascending.

    Returns:
        For each percentile the corners of its surface, (corners, 2), by the first objective.
    """
    import moocore

    count, size, _ = draws.shape
    sets = np.repeat(np.arange(1, count + 1), size)
    flat = np.ascontiguousarray(draws.reshape(count * size, 2), dtype=np.float64)
    rows = np.asarray(moocore.eaf(flat, sets, percentiles=list(percentiles)))
    found = []
    for p in percentiles:
        own = rows[rows[:, 2] == p, :2]
        found.append(own[np.lexsort((own[:, 1], own[:, 0]))])
    return found


def hypervolume_history(
    points: Iterable[Point | None], objectives: Objectives, reference_point: Point
) -> list[float]:
    """The hypervolume of the first 1, 2, ... points; None (no result) adds nothing."""
    running = RunningFront(objectives, reference_point)
    history = []
    for number, point in enumerate(points):
        if point is not None:
            running.put(number, point)
        history.append(running.hypervolume)
    return history


def near_front(
    points: Sequence[Point],
    intervals: Sequence[Mapping[str, Interval]],
    objectives: Objectives,
    members: Sequence[int],
) -> list[int]:
    """Candidates that could belong to the front, given how uncertain their metrics are.

    A candidate is near if its best case (the good end of every interval) is not dominated by the
    worst case of any member.

    Args:
        points: all candidates.
        intervals: for each point, the metrics that are uncertain; others count as exact.
        objectives: metric to direction.
        members: indices of the front, which are not repeated in the answer.

    Returns:
        Indices in order.
    """
    best, worst = [], []
    for point, uncertain in zip(points, intervals, strict=True):
        ends = {m: uncertain.get(m, (point[m], point[m])) for m in objectives}
        best.append({m: ends[m][1 if d == "max" else 0] for m, d in objectives.items()})
        worst.append({m: ends[m][0 if d == "max" else 1] for m, d in objectives.items()})
    dominated = _is_dominated(
        _costs(best, objectives), _costs([worst[i] for i in members], objectives)
    )
    inside = set(members)
    return [i for i in range(len(points)) if not dominated[i] and i not in inside]


def default_reference(
    objectives: Objectives,
    constraints: Mapping[str, float | None],
    sample: Sequence[Point],
    given: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The reference point of a run: what is given, completed.

    Metrics to maximise get 0; costs to minimise their constraint, or 1.1 times the maximum of a
    sample of the space.

    Raises:
        ValueError: a metric to minimise has neither a constraint nor a value in the sample.
    """
    reference = {}
    for metric, direction in objectives.items():
        bound = constraints.get(metric)
        if given is not None and metric in given:
            reference[metric] = float(given[metric])
        elif direction == "max":
            reference[metric] = 0.0
        elif bound is not None:
            reference[metric] = float(bound)
        else:
            seen = [p[metric] for p in sample if metric in p and math.isfinite(p[metric])]
            if not seen:
                raise ValueError(f"reference_point.{metric}: cannot be derived, please give it")
            reference[metric] = REFERENCE_FACTOR * max(seen)
    return reference
