"""Samplers side by side on a table of known results.

    python benchmarks/samplers.py                                   # a synthetic table
    python benchmarks/samplers.py --table nasbench201.csv --decisions edge_1_2,edge_1_3,... \\
        --maximise accuracy_percent --minimise latency_ms_gold_6226 \\
        --reference accuracy_percent=80 --samplers random,tpe,nsga2 --seeds 10

Prints the mean hypervolume after some trials, over that of the whole table, with the worst seed in
brackets, and the median time of a proposal. A configuration is never evaluated twice: samplers are
asked up to 20 times for a new one, then one is drawn at random, as in a search. `--window` trials
are in flight: their results are not known when the next is proposed, their choices are.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nasctl.errors import ConfigError
from nasctl.pareto import front, hypervolume, hypervolume_history
from nasctl.samplers import SAMPLERS, Observation, SamplerContext, create_sampler, derive_seed
from nasctl.space import Choices, Decision, SearchSpace
from nasctl.trial import Direction

ATTEMPTS = 20
Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Known results of every configuration of a space."""

    space: SearchSpace
    objectives: Mapping[str, Direction]
    rows: Mapping[Key, Mapping[str, float]]
    reference: Mapping[str, float]

    def key(self, choices: Choices) -> Key:
        return tuple(str(choices[d.name]) for d in self.space.decisions)


def read_table(
    path: Path, decisions: list[str], objectives: dict[str, Direction], reference: dict[str, float]
) -> Table:
    """A CSV file with a column per decision and per objective, one row per configuration.

    The reference point defaults to 0 for maximised columns and the largest value of others.
    """
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    missing = [c for c in [*decisions, *objectives] if not lines or c not in lines[0]]
    if missing:
        raise ConfigError(f"no column {', '.join(missing)}", source=str(path))
    space = SearchSpace(
        tuple(Decision(d, tuple(dict.fromkeys(line[d] for line in lines))) for d in decisions)
    )
    rows = {
        tuple(line[d] for d in decisions): {m: float(line[m]) for m in objectives} for line in lines
    }
    default = {
        m: 0.0 if d == "max" else max(r[m] for r in rows.values()) for m, d in objectives.items()
    }
    return Table(space=space, objectives=objectives, rows=rows, reference={**default, **reference})


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
    return Table(
        space=SearchSpace(tuple(Decision(n, tuple(map(str, range(choices)))) for n in names)),
        objectives={"accuracy": "max", "latency_ms": "min"},
        rows=rows,
        reference={"accuracy": 0.5, "latency_ms": max(r["latency_ms"] for r in rows.values())},
    )


def run(
    name: str, table: Table, *, trials: int, seed: int, window: int
) -> tuple[list[float], list[float]]:
    """One search: hypervolume after every trial, and seconds of every proposal."""
    context = SamplerContext(
        space=table.space, directions=tuple(table.objectives.values()), seed=seed, trials=trials
    )
    sampler = create_sampler(name, {}, context)
    results: dict[Key, Mapping[str, float]] = {}
    flying: list[Observation] = []
    seconds = []
    for number in range(min(trials, len(table.rows))):
        if len(flying) > window:
            sampler.tell(flying.pop(0))
        pending = tuple(o.choices for o in flying)
        for attempt in range(ATTEMPTS):
            start = time.perf_counter()
            proposal = sampler.ask(number, attempt, pending)
            seconds.append(time.perf_counter() - start)
            if proposal is None or table.key(proposal.choices) not in results:
                break
        rng = random.Random(derive_seed("unseen", seed, number))
        choices = proposal.choices if proposal else table.space.sample(rng)
        while table.key(choices) in results:
            proposal, choices = None, table.space.sample(rng)
        row = results[table.key(choices)] = table.rows[table.key(choices)]
        state = proposal.state if proposal else {}
        values = tuple(row[m] for m in table.objectives)
        flying.append(Observation(number=number, choices=choices, state=state, values=values))
    history = hypervolume_history(results.values(), table.objectives, table.reference)
    return history, seconds


def pairs(text: str) -> dict[str, float]:
    return {k: float(v) for k, _, v in (part.partition("=") for part in text.split(",") if part)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path)
    parser.add_argument("--decisions", default="")
    parser.add_argument("--maximise", default="")
    parser.add_argument("--minimise", default="")
    parser.add_argument("--reference", type=pairs, default={}, metavar="METRIC=VALUE,...")
    parser.add_argument("--samplers", default=",".join(n for n in SAMPLERS if n != "gp"))
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--at", default="25,50,100,200")
    args = parser.parse_args()

    if args.table is None:
        table = synthetic_table()
    else:
        objectives: dict[str, Direction] = dict.fromkeys(
            filter(None, args.maximise.split(",")), "max"
        )
        objectives |= dict.fromkeys(filter(None, args.minimise.split(",")), "min")
        table = read_table(args.table, args.decisions.split(","), objectives, args.reference)
    everything = list(table.rows.values())
    total = hypervolume(everything, table.objectives, table.reference)
    size = len(front(everything, table.objectives))
    at = [n for n in map(int, args.at.split(",")) if n <= args.trials]
    print(
        f"{len(everything)} configurations, {size} on the front, hypervolume {total:.6g}, "
        f"reference {dict(table.reference)}, window {args.window}, {args.seeds} seeds"
    )
    print(f"{'sampler':<10}" + "".join(f"{n:>16}" for n in at) + f"{'ms/ask':>10}")
    for name in args.samplers.split(","):
        runs = [
            run(name, table, trials=args.trials, seed=s, window=args.window)
            for s in range(args.seeds)
        ]
        cells = []
        for n in at:
            ratios = [history[min(n, len(history)) - 1] / total for history, _ in runs]
            cells.append(f"{statistics.fmean(ratios):.3f} ({min(ratios):.3f})")
        spent = 1e3 * statistics.median([s for _, times in runs for s in times])
        print(f"{name:<10}" + "".join(f"{c:>16}" for c in cells) + f"{spent:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
