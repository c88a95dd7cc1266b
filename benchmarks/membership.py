"""Are the probabilities of `nasctl.membership` what they say, on a table of known results?

    python benchmarks/membership.py --table nasbench201.csv --decisions edge_1_2,edge_1_3,... \\
        --accuracy accuracy_percent --minimise latency_ms_gold_6226 --noise 0.0021

Each of many small searches draws `--trials` networks and sees them once, with noise; its finalists
are the front and what is within two standard deviations of it. They are seen `--seeds` more times,
as `nasctl verify` does, and the probability of each to be on the true front among them is held
against the table. Prints the expected calibration error (ten bins), the Brier score, the coverage
of 90 % intervals, and the same of the bootstrap over seeds, side by side.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from nasctl.membership import Repeats, membership
from nasctl.pareto import undominated

OBJECTIVES = {"accuracy": "max", "cost": "min"}


def read(path: Path, accuracy: str, cost: str, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies as fractions, and costs, of the networks above `floor`."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(float(r[accuracy]), float(r[cost])) for r in csv.DictReader(file)]
    accuracies, costs = np.array(rows).T
    accuracies = accuracies / 100 if accuracies.max() > 1 else accuracies
    kept = accuracies > floor
    return accuracies[kept], costs[kept]


def front_of(accuracies: np.ndarray, costs: np.ndarray) -> np.ndarray:
    found = np.zeros(len(costs), bool)
    found[undominated(np.stack([-accuracies, costs], axis=1))] = True
    return found


def finalists(seen: np.ndarray, costs: np.ndarray, noise: float) -> np.ndarray:
    """Of the front, and of what would be on it if it were two deviations better."""
    better = (costs[None] <= costs[:, None]) & (seen[None] > seen[:, None] + 2 * noise)
    return np.flatnonzero(~better.any(axis=1))


def bootstrap(values: np.ndarray, costs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    draws = np.zeros(len(costs))
    n = values.shape[1]
    for _ in range(1000):
        picked = np.take_along_axis(values, rng.integers(0, n, values.shape), axis=1)
        draws += front_of(picked.mean(axis=1), costs)
    return draws / 1000


def calibration_error(chances: np.ndarray, truths: np.ndarray) -> float:
    """Guo et al. 2017 (arXiv 1706.04599), equation 3, ten bins of equal width."""
    bins = np.minimum((chances * 10).astype(int), 9)
    parts = [(bins == b) for b in range(10)]
    return float(
        sum(m.mean() * abs(chances[m].mean() - truths[m].mean()) for m in parts if m.any())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--accuracy", default="accuracy_percent")
    parser.add_argument("--minimise", default="latency_ms_gold_6226")
    parser.add_argument("--floor", type=float, default=0.5)
    parser.add_argument("--noise", type=float, default=0.0021)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--searches", type=int, default=200)
    given = parser.parse_args()
    accuracies, costs = read(given.table, given.accuracy, given.minimise, given.floor)
    rng = np.random.default_rng(0)
    ours, theirs, truths, covered, shrinkage = [], [], [], [], []
    for search in range(given.searches):
        drawn = rng.choice(len(costs), given.trials, replace=False)
        true, cost = accuracies[drawn], costs[drawn]
        seen = true + rng.normal(0, given.noise, given.trials)
        chosen = finalists(seen, cost, given.noise)
        true, cost, seen = true[chosen], cost[chosen], seen[chosen]
        again = true[:, None] + rng.normal(0, given.noise, (len(chosen), given.seeds))
        metrics = {
            "accuracy": Repeats(values=again.tolist(), scale="fraction"),
            "cost": Repeats(values=[[c] for c in cost], scale="exact"),
        }
        found = membership(metrics, OBJECTIVES, draws=1000, seed=search)
        ours += found.probability
        theirs += bootstrap(again, cost, rng).tolist()
        truths += front_of(true, cost).tolist()
        ends = found.intervals["accuracy"]
        covered += [a <= t <= b for (a, b), t in zip(ends, true, strict=True)]
        members = front_of(seen, cost)
        shrinkage.append(float((seen - again.mean(axis=1))[members].mean()))
    truth = np.array(truths, float)
    print(
        f"{given.searches} searches of {given.trials}, {len(truth)} finalists, {given.seeds} seeds"
    )
    for name, values in (("posterior", ours), ("bootstrap", theirs)):
        chances = np.array(values)
        error, brier = calibration_error(chances, truth), float(((chances - truth) ** 2).mean())
        print(f"{name}: calibration error {error:.3f}, Brier score {brier:.4f}")
    print(f"90 % intervals cover {np.mean(covered):.3f}")
    print(f"searched less verified accuracy of members: {100 * np.mean(shrinkage):+.3f} points")


if __name__ == "__main__":
    main()
