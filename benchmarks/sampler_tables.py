"""Tables of known results for `samplers.py`: from a CSV file, or made up."""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nasctl.errors import ConfigError
from nasctl.samplers.base import Known
from nasctl.space import Choices, Decision, SearchSpace
from nasctl.trial import Direction

Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Known results of every configuration of a space; `accuracy` is what training tells."""

    space: SearchSpace
    objectives: Mapping[str, Direction]
    rows: Mapping[Key, Mapping[str, float]]
    reference: Mapping[str, float]

    def key(self, choices: Choices) -> Key:
        return tuple(str(choices[d.name]) for d in self.space.decisions)

    def price(self, choices: Choices) -> Known:
        """Everything but the accuracy."""
        costs = {m: v for m, v in self.rows[self.key(choices)].items() if m != "accuracy"}
        return Known(id="/".join(self.key(choices)), costs=costs, feasible=True)


def read_table(
    path: Path,
    decisions: list[str],
    *,
    accuracy: str,
    costs: list[str],
    minimise: list[str],
    reference: Mapping[str, float],
) -> Table:
    """A CSV file with a column per decision and per metric, one row per configuration.

    Args:
        path: of the file.
        decisions: columns.
        accuracy: column; a fraction, or percent where a value is above 1.
        costs: columns that are known before training.
        minimise: those of them that are objectives.
        reference: of the hypervolume; the largest value of a cost, 0 for the accuracy.
    """
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    missing = [c for c in [*decisions, accuracy, *costs] if not lines or c not in lines[0]]
    if missing:
        raise ConfigError(f"no column {', '.join(missing)}", source=str(path))
    space = SearchSpace(
        tuple(Decision(d, tuple(dict.fromkeys(line[d] for line in lines))) for d in decisions)
    )
    unit = 100.0 if any(float(line[accuracy]) > 1 for line in lines) else 1.0
    rows = {
        tuple(line[d] for d in decisions): {
            "accuracy": float(line[accuracy]) / unit,
            **{m: float(line[m]) for m in dict.fromkeys([*minimise, *costs])},
        }
        for line in lines
    }
    return _complete(space, rows, minimise, reference)


def _complete(
    space: SearchSpace,
    rows: Mapping[Key, Mapping[str, float]],
    minimise: list[str],
    reference: Mapping[str, float],
) -> Table:
    worst = {m: max(r[m] for r in rows.values()) for m in minimise}
    return Table(
        space=space,
        objectives={"accuracy": "max", **dict.fromkeys(minimise, "min")},  # type: ignore[arg-type]  # str for Direction
        rows=rows,
        reference={"accuracy": 0.0, **worst, **reference},
    )


def synthetic_table(seed: int = 0, decisions: int = 6, choices: int = 5) -> Table:
    """Accuracy saturates in the cost, with random effects of decisions and of their pairs."""
    rng = random.Random(seed)
    names = [f"d{i}" for i in range(decisions)]
    cost = {(n, c): rng.uniform(1, 4) * c for n in names for c in range(choices)}
    single = {key: rng.gauss(0, 0.5) for key in cost}
    double = {pair: rng.gauss(0, 0.3) for pair in itertools.combinations(cost, 2)}
    rows = {}
    for values in itertools.product(range(choices), repeat=decisions):
        chosen = list(zip(names, values, strict=True))
        latency = 2 + sum(cost[c] for c in chosen)
        effect = sum(single[c] for c in chosen)
        effect += sum(double[p] for p in itertools.combinations(chosen, 2))
        logit = 1 + math.log(latency / 10) + 0.5 * effect
        rows[tuple(map(str, values))] = {
            "accuracy": 1 / (1 + math.exp(-logit)),
            "latency_ms": latency,
        }
    space = SearchSpace(tuple(Decision(n, tuple(map(str, range(choices)))) for n in names))
    return _complete(space, rows, ["latency_ms"], {"accuracy": 0.5})
