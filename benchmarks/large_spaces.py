"""Samplers in a ready space that is too large for a table, with accuracies that are made up.

    python benchmarks/large_spaces.py [SPACE] [--samplers known_cost,tpe,random] [--trials 50]

The space with its real decoding and pricing; the latency of a block is made of its MACs. The
accuracy of a network is a saturating function of its size and of what its choices and pairs of
neighbouring choices add, drawn anew for every seed, and is told with an error of --noise. It tells
how samplers find their way among millions of networks and three objectives, not how networks learn.

Prints the hypervolume (true accuracy, latency, parameters) of what was trained, relative to that
of the first sampler, seed by seed: mean and standard error. And wall milliseconds per proposal over
all seeds: median, 90th percentile, largest (hyperparameters are fitted, or the pool is priced).
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from pricing import ready_family

from nasctl.blocktable import BlockTable
from nasctl.candidates import CandidateSource
from nasctl.latency_cache import pair_key
from nasctl.latency_table import LatencyTable
from nasctl.pareto import front, hypervolume
from nasctl.pricing import Pricer
from nasctl.samplers import SamplerContext, create_sampler, derive_seed
from nasctl.samplers.base import Known, Observation
from nasctl.space import Choices, Family
from nasctl.trial import Direction

OBJECTIVES: dict[str, Direction] = {"accuracy": "max", "latency_ms": "min", "params": "min"}
SCORED = (25, 50, 100, 200)
DRAWN = 1_000
"""Random networks that the scale of costs is taken from."""


def candidates(family: Family) -> CandidateSource:
    """With prices as a search has them."""
    assert family.blocks is not None
    table, pairs = BlockTable(), list(family.blocks())
    table.warm(pairs)
    latency = LatencyTable(
        device="none",
        runtime="none",
        settings={},
        canary_ms=1.0,
        drift=(1.0, 1.0),
        blocks={pair_key(*p): 0.003 + 2e-8 * table.block(*p).macs for p in pairs},
        correction={
            "scale": 1.0,
            "intercept": 0.01,
            "per_block": 0.0,
            "per_element": 0.0,
            "relative_error": 0.1,
        },
    )
    price = Pricer(family, table, latency)
    return CandidateSource(family=family, price=price, constraints={}, seed=0)


def made_up(seed: int, typical: float) -> Callable[[Choices, float], float]:
    """Accuracy by choices and parameters; 0.75 to 0.9 for most networks of `typical` parameters."""

    def effect(*what: object) -> float:
        return random.Random(derive_seed(seed, repr(what))).gauss(0.0, 1.0)

    def accuracy(choices: Choices, params: float) -> float:
        chosen = sorted(choices.items())
        own = 0.04 * sum(effect(c) for c in chosen)
        pairs = 0.03 * sum(effect(*chosen[i : i + 2]) for i in range(len(chosen) - 1))
        return 1.0 - math.exp(-max(1.8 + 0.4 * math.log(params / typical) + own + pairs, 0.1))

    return accuracy


def search(task: tuple[str, str, int, int, float]) -> tuple[list[float], list[float]]:
    """Hypervolume after every number of trials that is scored, and seconds of every proposal."""
    space, name, trials, seed, noise = task
    family = ready_family(space)
    source = candidates(family)
    rng = random.Random(derive_seed(seed, "errors"))
    scale = random.Random(0)
    some = [k for _ in range(DRAWN) if (k := source.known(family.space.sample(scale))) is not None]
    worst = {m: max(k.costs[m] for k in some) for m in ("latency_ms", "params")}
    accuracy = made_up(seed, statistics.median(k.costs["params"] for k in some))
    context = SamplerContext(
        space=family.space,
        directions=tuple(OBJECTIVES.values()),
        seed=seed,
        trials=trials,
        objectives=tuple(OBJECTIVES),
        reference_point={"accuracy": 0.5, **worst},
        price=source.known,
    )
    sampler = create_sampler(name, {}, context)
    rows: list[dict[str, float]] = []
    found, seconds = [], []
    for number in range(trials):
        start = time.perf_counter()
        proposal = sampler.ask(number, 0)
        seconds.append(time.perf_counter() - start)
        assert proposal is not None, "a space of millions"
        known = source.known(proposal.choices)
        assert isinstance(known, Known), "every configuration of a ready space can be built"
        costs = {m: known.costs[m] for m in worst}
        rows.append({"accuracy": accuracy(proposal.choices, costs["params"]), **costs})
        told = rows[-1]["accuracy"] + rng.gauss(0.0, noise)
        sampler.tell(
            Observation(
                number=number,
                choices=proposal.choices,
                state=proposal.state,
                values=(told, *costs.values()),
            )
        )
        if number + 1 in SCORED:
            members = [rows[i] for i in front(rows, OBJECTIVES)]
            found.append(hypervolume(members, OBJECTIVES, context.reference_point))
    return found, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space", nargs="?", default="mbv2_space")
    parser.add_argument("--samplers", default="known_cost,tpe,random")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.003, metavar="SD")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    scored = [n for n in SCORED if n <= arguments.trials]
    print(f"{arguments.space}, {arguments.seeds} seeds, noise {arguments.noise:g}")
    heads = "".join(f"{f'{n} trials':>18}" for n in scored)
    print(f"{'sampler':<22}{heads}{'median ms':>12}{'p90':>8}{'largest':>9}")
    first: list[list[float]] = []
    with ProcessPoolExecutor(arguments.jobs) as workers:
        for name in arguments.samplers.split(","):
            tasks = [(arguments.space, name, arguments.trials, s, arguments.noise) for s in seeds]
            runs = list(workers.map(search, tasks))
            first = first or [found for found, _ in runs]
            cells = ""
            for i in range(len(scored)):
                ratios = [found[i] / base[i] for (found, _), base in zip(runs, first, strict=True)]
                error = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else 0
                cells += f"{statistics.mean(ratios):>10.3f} ({error:.3f})"
            took = sorted(1e3 * s for _, seconds in runs for s in seconds)
            p90 = took[int(0.9 * len(took))]
            print(
                f"{name:<22}{cells}{statistics.median(took):>12.1f}{p90:>8.1f}{took[-1]:>9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
