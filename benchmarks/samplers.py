"""Samplers side by side on a table of known results.

    python benchmarks/samplers.py                                   # a synthetic table
    python benchmarks/samplers.py --table nasbench201.csv --decisions edge_1_2,edge_1_3,... \\
        --accuracy accuracy_percent --costs params,macs --minimise latency_ms_gold_6226 \\
        --reference accuracy=0.8 --samplers random,tpe,nsga2,known_cost --seeds 10

Prints the mean hypervolume after some trials, over that of the whole table, with the worst seed in
brackets, and the median time of a proposal: of all, and of the last 20 at each point. With --versus
the paired difference to another sampler and its one-sided 95 % bound. A configuration is never
evaluated twice unless a sampler asks for another seed: samplers are asked up to 20 times for a new
one, then one is drawn at random, as in a search. `--window` trials are in flight: their results are
not known when the next is proposed, their choices are. With --noise, results are told with an
error, and the front that they declare (means over the seeds of a network) is scored by the table.
--plot draws all curves with their quartiles. The sampler plain_gp is slow; botorch and
botorch_hamming, which are slower, are there where BoTorch is installed, which nasctl does not need.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sampler_baselines import BASELINES, additional, problem_of_names, standard
from sampler_tables import Key, Table, read_table, synthetic_table

from nasctl.pareto import front, hypervolume
from nasctl.samplers import SAMPLERS, Observation, SamplerContext, create_sampler, derive_seed

ATTEMPTS = 20
MAX_SEEDS = 3
RECENT = 20
"""Proposals before a point whose median time is printed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a search is run.

    Attributes:
        window: trials in flight.
        noise: standard deviation of an accuracy, told.
        at: numbers of trials after which the front is scored.
    """

    trials: int
    window: int
    noise: float
    at: Sequence[int]
    options: Mapping[str, int]


def context_of(table: Table, seed: int, setting: Setting) -> SamplerContext:
    """What a sampler is told of a search before it begins."""
    return SamplerContext(
        space=table.space,
        directions=tuple(table.objectives.values()),
        seed=seed,
        trials=setting.trials,
        objectives=tuple(table.objectives),
        reference_point=table.reference,
        price=table.price,
        max_seeds=MAX_SEEDS if setting.noise else 1,
    )


def run(name: str, table: Table, seed: int, setting: Setting) -> tuple[list[float], list[float]]:
    """One search: hypervolume after every trial of `at`, and seconds of every proposal."""
    context = context_of(table, seed, setting)
    if name in BASELINES:
        sampler = BASELINES[name](context)
    else:
        sampler = create_sampler(name, dict(setting.options), context)
    noise = np.random.default_rng([seed, 1])
    seen: dict[Key, list[float]] = {}
    flying: list[Observation] = []
    history, seconds = [], []
    for number in range(setting.trials):
        if len(flying) > setting.window:
            sampler.tell(flying.pop(0))
        pending = tuple(o.choices for o in flying)
        for attempt in range(ATTEMPTS):
            start = time.perf_counter()
            proposal = sampler.ask(number, attempt, pending)
            seconds.append(time.perf_counter() - start)
            if proposal is None or proposal.repeat or table.key(proposal.choices) not in seen:
                break
        rng = random.Random(derive_seed("unseen", seed, number))
        choices = proposal.choices if proposal else table.space.sample(rng)
        if proposal is None or not proposal.repeat:
            while table.key(choices) in seen:
                proposal, choices = None, table.space.sample(rng)
        key = table.key(choices)
        row = dict(table.rows[key])
        row["accuracy"] += float(noise.normal(0.0, setting.noise)) if setting.noise else 0.0
        seen.setdefault(key, []).append(row["accuracy"])
        state = proposal.state if proposal else {}
        values = tuple(row[m] for m in table.objectives)
        flying.append(Observation(number=number, choices=choices, state=state, values=values))
        if number + 1 in setting.at:
            history.append(declared(table, seen))
    return history, seconds


def declared(table: Table, seen: Mapping[Key, Sequence[float]]) -> float:
    """The true hypervolume of the front that the told means declare."""
    keys = list(seen)
    told = [{**table.rows[k], "accuracy": statistics.fmean(seen[k])} for k in keys]
    members = [table.rows[keys[i]] for i in front(told, table.objectives)]
    return hypervolume(members, table.objectives, table.reference)


Search = Callable[[tuple[str, Table, int, Setting]], tuple[list[float], list[float]]]


def _run(args: tuple[str, Table, int, Setting]) -> tuple[list[float], list[float]]:
    return run(*args)


def plot(path: Path, at: Sequence[int], curves: Mapping[str, np.ndarray]) -> None:
    """Median hypervolume over trials, a band from quartile to quartile."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, ratios in curves.items():
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
        axes.plot(at, middle, label=name)
        axes.fill_between(at, low, high, alpha=0.2)
    axes.set(xlabel="trials", ylabel="hypervolume / that of the table")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def pairs(text: str) -> dict[str, float]:
    return {k: float(v) for k, _, v in (part.partition("=") for part in text.split(",") if part)}


def names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def print_times(runs: Sequence[Sequence[float]], at: Sequence[int]) -> None:
    """The median of the last proposals before each of `at`. Those that were turned away count as
    well, so with some samplers they are of a little earlier."""
    lately = [[s for seconds in runs for s in seconds[n - RECENT : n]] for n in at]
    cells = [f"{1e3 * statistics.median(part):.1f} ms" for part in lately]
    print(f"{'':<22}" + "".join(f"{c:>16}" for c in cells), flush=True)


def print_gaps(curves: Mapping[str, np.ndarray], versus: str, shown: Sequence[int]) -> None:
    """Paired differences to `versus`, each with its lower 95 % bound."""
    from scipy.stats import t

    other = curves[versus]
    for name, ratios in curves.items():
        cells = []
        for i in shown if name != versus else []:
            gap = ratios[:, i] - other[:, i]
            sem = gap.std(ddof=1) / math.sqrt(len(gap))
            low = gap.mean() - t.ppf(0.95, len(gap) - 1) * sem
            cells.append(f"{gap.mean():+.3f} >{low:+.3f}")
        if cells:
            print(f"{name + ' - ' + versus:<22}" + "".join(f"{c:>16}" for c in cells))


def main(
    description: str | None, compared: Sequence[str], search: Search, others: Sequence[str] = ()
) -> None:
    """Runs the searches and prints the comparison.

    Args:
        description: for --help.
        compared: what --samplers names by default.
        search: runs one of them; a function of a module, for other processes.
        others: what --samplers may name too.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path)
    parser.add_argument("--decisions", type=names, default=[])
    parser.add_argument("--accuracy", default="accuracy")
    parser.add_argument("--costs", type=names, default=[], help="known, but no objectives")
    parser.add_argument("--minimise", type=names, default=["latency_ms"])
    parser.add_argument("--reference", type=pairs, default={}, metavar="METRIC=VALUE,...")
    parser.add_argument("--synthetic", type=int, default=0, metavar="SEED", help="without --table")
    parser.add_argument("--samplers", type=names, default=compared)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--noise", type=float, default=0.0, metavar="SD")
    parser.add_argument("--at", default="25,50,100,200")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--versus", metavar="SAMPLER")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    args = parser.parse_args()
    if problem := problem_of_names(args.samplers, args.versus, [*compared, *others]):
        parser.error(problem)

    if args.table is None:
        table = synthetic_table(args.synthetic)
    else:
        table = read_table(
            args.table,
            args.decisions,
            accuracy=args.accuracy,
            costs=args.costs,
            minimise=args.minimise,
            reference=args.reference,
        )
    everything = list(table.rows.values())
    total = hypervolume(everything, table.objectives, table.reference)
    size = len(front(everything, table.objectives))
    at = sorted({n for n in map(int, args.at.split(",")) if n <= args.trials})
    if args.plot:
        at = sorted({*at, *range(10, args.trials + 1, 5)})
    shown = [at.index(n) for n in map(int, args.at.split(",")) if n in at]
    print(
        f"{len(everything)} configurations, {size} on the front, hypervolume {total:.6g}, "
        f"reference {dict(table.reference)}, window {args.window}, noise {args.noise:g}, "
        f"{args.seeds} seeds"
    )
    print(f"{'sampler':<22}" + "".join(f"{at[i]:>16}" for i in shown) + f"{'ms/ask':>10}")
    curves: dict[str, np.ndarray] = {}
    with ProcessPoolExecutor(args.jobs) as workers:
        for name in args.samplers:
            setting = Setting(
                trials=args.trials, window=args.window, noise=args.noise, at=at, options={}
            )
            seeds = range(args.first_seed, args.first_seed + args.seeds)
            runs = list(workers.map(search, [(name, table, s, setting) for s in seeds]))
            ratios = curves[name] = np.array([history for history, _ in runs]) / total
            cells = [f"{ratios[:, i].mean():.3f} ({ratios[:, i].min():.3f})" for i in shown]
            spent = 1e3 * statistics.median([s for _, times in runs for s in times])
            print(
                f"{name:<22}" + "".join(f"{c:>16}" for c in cells) + f"{spent:>10.2f}", flush=True
            )
            print_times([times for _, times in runs], [at[i] for i in shown])
    if args.versus:
        print_gaps(curves, args.versus, shown)
    if args.plot:
        plot(args.plot, at, curves)


def command() -> None:
    """The comparison of all samplers."""
    compared = [*(n for n in SAMPLERS if n != "gp"), *standard()]
    main(__doc__, compared, _run, ["gp", *additional()])


if __name__ == "__main__":
    command()
