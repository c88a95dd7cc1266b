"""What early stopping gains: `fidelity=halving` beside full training, same sampler.

    python benchmarks/halving.py train [--seeds 3] [--trials 24] [--epochs 9] [--sampler random]
                                       [--images N] [--set KEY=VALUE ...]
    python benchmarks/halving.py record [--trials 60] [--epochs 9] [--set KEY=VALUE ...]
    python benchmarks/halving.py simulate [--run runs/curves] [--orders 200] [--p-stop 0.05 ...]

`train` runs both searches on the packaged data for each seed, halving with up to three times the
trials, and reads from their ledgers the hypervolume (accuracy and parameters, validation) that each
had reached by the same wall time: the one that ended first ends the comparison (halving is
interrupted when it has had the time of the other). Full training has the default schedule
(onecycle). With --images the trainings have the first N images only, so that many epochs fit into
minutes.

`record` makes a table of learning curves, `FOLDER/curves`: a search that stops nothing and measures
every rung (every trial is a control).
`simulate` draws its trials in random orders and lets the rule decide, through the engine: the
hypervolume that is reached with as many epochs, cool-downs counted, as full training spends on a
part of the trials. Without --run, on curves that are made up.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasctl.arch import Architecture, Cost, Opaque
from nasctl.candidates import CandidateSource, Priced
from nasctl.data import fashion_mnist_12k
from nasctl.engine import Engine, EngineSettings
from nasctl.fidelity import HalvingSettings
from nasctl.front import FrontSoFar
from nasctl.halving import continued
from nasctl.ledger import Ledger
from nasctl.records import RunRecords
from nasctl.samplers import SamplerContext, create_sampler
from nasctl.space import Decision, Family, SearchSpace
from nasctl.stats import t_interval
from nasctl.trial import Evaluation, Objectives, Outcome, OutcomeKind, State, Trial, Work

OBJECTIVES: Objectives = {"accuracy": "max", "params": "min"}
MARGIN_S = 25.0  # for the start of a search; comparisons begin with its first training
COMMON = ("latency=none", "tracking=none", "reference_point.accuracy=0.7")


# Real training


def search(folder: Path, name: str, *settings: str, seconds: float | None = None) -> RunRecords:
    """Runs `nasctl search mbv2_space`; what is there already is not done again.

    Args:
        seconds: after which it is interrupted, as by Ctrl-C; None: never.
    """
    command = [sys.executable, "-m", "nasctl", "search", "mbv2_space", f"name={name}"]
    command += [f"output_dir={folder}", *COMMON, *settings, "--progress", "plain"]
    if seconds is not None and (folder / name / "front.json").exists():
        return RunRecords(folder / name)  # its clock cannot go on
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    if process.wait() not in (0, 130):
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return RunRecords(folder / name)


def reached(records: RunRecords) -> list[tuple[float, float]]:
    """(seconds since the first training began, hypervolume): after each finished trial."""
    trials = sorted(records.trials(), key=lambda t: t.started_at + t.seconds)
    begin = min(t.started_at for t in trials)
    front = FrontSoFar(records.objectives, records.reference_point)
    return [
        (t.started_at + t.seconds - begin, front.hypervolume) for t in trials if front.add(t)
    ]  # fmt: skip


def length(records: RunRecords) -> float:
    """Seconds from the beginning of the first training to the end of the last that is over."""
    trials = [t for t in records.trials() if t.state.is_final]
    return max(t.started_at + t.seconds for t in trials) - min(t.started_at for t in trials)


def at(history: Sequence[tuple[float, float]], seconds: float) -> float:
    return max((v for t, v in history if t <= seconds), default=0.0)


def fewer_images(folder: Path, count: int) -> tuple[str, ...]:
    """Settings for the packaged data with the first `count` training images."""
    data = fashion_mnist_12k()
    path = folder.resolve() / "images.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        train_images=data.train_images[:count],
        train_labels=data.train_labels[:count],
        val_images=data.val_images,
        val_labels=data.val_labels,
    )
    return "data=npz", f"data.path={path}"


def train(arguments: argparse.Namespace) -> None:
    """Prints a line per seed and the mean ratio."""
    ratios = []
    some = fewer_images(arguments.folder, arguments.images) if arguments.images else ()
    print(
        f"{'seed':>4} {'seconds':>8} {'full':>10} {'halving':>10} {'ratio':>7}  trials", flush=True
    )
    for seed in range(arguments.seeds):
        settings = (f"seed={seed}", f"recipe.epochs={arguments.epochs}")
        settings += (f"sampler={arguments.sampler}", f"executor={arguments.executor}")
        settings += (*some, *arguments.set)
        full_run = search(
            arguments.folder,
            f"full{seed}",
            *settings,
            f"trials={arguments.trials}",
            "fidelity=full",
        )
        halved = search(
            arguments.folder,
            f"halving{seed}",
            *settings,
            f"trials={3 * arguments.trials}",
            "fidelity=halving",
            seconds=length(full_run) + MARGIN_S,
        )
        runs = {"full": full_run, "halving": halved}
        found = {kind: reached(records) for kind, records in runs.items()}
        end = min(map(length, runs.values()))
        full, halving = (at(found[kind], end) for kind in ("full", "halving"))
        ratios.append(halving / full)
        counts = runs["halving"].front["trials"]
        print(
            f"{seed:>4} {end:8.0f} {full:10.4g} {halving:10.4g} {ratios[-1]:7.3f}  "
            f"{len(runs['full'].trials())} full; {counts['COMPLETE']} complete and "
            f"{counts['PRUNED']} pruned",
            flush=True,
        )
    if len(ratios) > 1:
        low, high = t_interval(ratios)
        print(f"mean ratio {statistics.fmean(ratios):.3f} ({low:.3f} to {high:.3f})")


# Simulation


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Networks whose whole trainings are known.

    Attributes:
        costs: of each network.
        epochs: what each reported after every epoch.
        cooldowns: whether rungs cost extra epochs.
    """

    costs: Sequence[Cost]
    epochs: Sequence[Sequence[Mapping[str, float]]]
    cooldowns: bool
    reference: Mapping[str, float]

    @property
    def horizon(self) -> int:
        return len(self.epochs[0])


def recorded_curves(run: Path) -> Curves:
    """The finished trials of a run without stopping (`record`)."""
    records = RunRecords(run)
    trials = [t for t in records.trials() if t.state is State.COMPLETE]
    return Curves(
        costs=[t.cost for t in trials],
        epochs=[[e.metrics for e in t.evaluations] for t in trials],
        cooldowns=True,
        reference=records.reference_point,
    )


def invented_curves(n: int = 300, horizon: int = 27, seed: int = 0) -> Curves:
    """Large networks end higher and begin slower; curves cross."""
    rng = random.Random(seed)
    costs, epochs = [], []
    for _ in range(n):
        size = rng.uniform(0, 3)
        rate = 1.6 + 0.25 * size + rng.gauss(0, 0.2)
        speed = (0.8 + 0.5 * size) * math.exp(rng.gauss(0, 0.2))
        costs.append(Cost(params=1e4 * math.exp(size)))
        epochs.append(
            [
                {"accuracy": 1 - math.exp(-rate * (1 - math.exp(-e / speed))) + rng.gauss(0, 0.004)}
                for e in range(1, horizon + 1)
            ]
        )
    reference = {"accuracy": 0.7, "params": 1.1e4 * math.exp(3)}
    return Curves(costs=costs, epochs=epochs, cooldowns=False, reference=reference)


class Silence:
    """An observer that wants to know nothing."""

    def trial_started(self, trial: Trial) -> None: ...
    def epoch(self, trial: Trial, evaluation: Evaluation) -> None: ...
    def trial_ended(self, trial: Trial) -> None: ...
    def rejected(self, count: int) -> None: ...


def simulate_once(
    curves: Curves, rule: HalvingSettings | None, seed: int
) -> tuple[list[tuple[float, float]], int, int]:
    """One random order of all networks.

    Returns:
        (epochs spent, hypervolume) after each trial; how many were stopped; how many of those
        would be on the front of all.
    """
    space = SearchSpace((Decision("network", tuple(range(len(curves.costs)))),))
    family = Family(
        space=space,
        decode=lambda c: Architecture(
            input_shape=(1, 1, 1), blocks=(Opaque("net", network=c["network"]),), num_classes=2
        ),
        cost=lambda a: curves.costs[_index(a)],
    )
    search = EngineSettings(
        objectives=OBJECTIVES, constraints={}, trials=len(curves.costs), seed=seed,
        epochs=curves.horizon,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite", {})
        ledger.set_meta(reference_point=dict(curves.reference))
        context = SamplerContext(
            space=space, directions=("max", "min"), seed=seed, trials=search.trials
        )
        engine = Engine(
            ledger=ledger,
            settings=search,
            source=CandidateSource(
                family=family,
                price=lambda a: Priced(cost=curves.costs[_index(a)]),
                constraints={},
                seed=seed,
            ),
            sampler=create_sampler("random", {}, context),
            observer=Silence(),
            halving=continued(rule, ledger, search),
        )
        front = FrontSoFar(OBJECTIVES, curves.reference)
        spent, history = 0.0, []
        with ledger.grouped():
            while isinstance(work := engine.next(), Work):
                spent += _train(engine, work, curves, rule)
                front.add(engine.trials[work.number])
                history.append((spent, front.hypervolume))
        stopped = [_index(t.architecture) for t in engine.trials if t.state is State.PRUNED]
        ledger.close()
    best = _front_of(curves)
    return history, len(stopped), len(best.intersection(stopped))


def _train(engine: Engine, work: Work, curves: Curves, rule: HalvingSettings | None) -> float:
    spent = 0.0
    for epoch, metrics in enumerate(curves.epochs[_index(work.architecture)], start=1):
        spent += 1
        if curves.cooldowns and rule is not None and epoch in work.rungs:
            spent += rule.cooldown * epoch
        if not engine.report(work, epoch, metrics):
            engine.end(work, Outcome(kind=OutcomeKind.STOPPED))
            return spent
    engine.end(work, Outcome(kind=OutcomeKind.COMPLETE))
    return spent


def _index(architecture: Architecture) -> int:
    return int(dict(architecture.blocks[0].values)["network"])  # type: ignore[attr-defined]  # of `Opaque`


def _front_of(curves: Curves) -> set[int]:
    from nasctl.pareto import front

    points = [
        {**cost, **epochs[-1]} for cost, epochs in zip(curves.costs, curves.epochs, strict=True)
    ]
    return set(front(points, OBJECTIVES))


def simulate(arguments: argparse.Namespace) -> None:
    """Prints hypervolume at equal epochs for several thresholds."""
    curves = invented_curves() if arguments.run is None else recorded_curves(arguments.run)
    n = len(curves.costs)
    base = HalvingSettings(control_every=0)
    parts = (0.25, 0.5, 0.75)
    full = [simulate_once(curves, None, seed)[0] for seed in range(arguments.orders)]
    whole = full[0][-1][1]
    print(f"{n} networks of {curves.horizon} epochs, {arguments.orders} orders; hypervolume over")
    print("that of all, after as many epochs as full training takes for 25, 50, 75 % of them\n")
    print(f"{'':16} {'25 %':>7} {'50 %':>7} {'75 %':>7}   epochs of all   front members stopped")
    rows = [("full", full, 0.0)]
    for p_stop in arguments.p_stop:
        rule = dataclasses.replace(base, p_stop=p_stop)
        runs = [simulate_once(curves, rule, seed) for seed in range(arguments.orders)]
        wrong = statistics.fmean(w for _, _, w in runs) / len(_front_of(curves))
        rows.append((f"halving {p_stop:g}", [h for h, _, _ in runs], wrong))
    for name, runs, wrong in rows:
        cells = [
            statistics.fmean(at(h, part * n * curves.horizon) for h in runs) / whole
            for part in parts
        ]
        used = statistics.fmean(h[-1][0] for h in runs) / (n * curves.horizon)
        figures = " ".join(f"{c:7.4f}" for c in cells)
        print(f"{name:16} {figures}   {used:13.1%}   {wrong:21.1%}")


def record(arguments: argparse.Namespace) -> None:
    """Trains every trial to the end and cools down at every rung."""
    search(
        arguments.folder,
        "curves",
        *("fidelity=halving", "fidelity.control_every=1", "sampler=random"),
        *(f"recipe.epochs={arguments.epochs}", f"trials={arguments.trials}"),
        f"executor={arguments.executor}",
        *arguments.set,
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("train", "record", "simulate"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--executor", default="ray")
    parser.add_argument("--folder", type=Path, default=Path("runs/halving"))
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images", type=int, metavar="N", help="to train on; all by default")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the search")
    parser.add_argument("--orders", type=int, default=50)
    parser.add_argument("--p-stop", type=float, nargs="*", default=[0.01, 0.05, 0.1, 0.2])
    arguments = parser.parse_args()
    {"train": train, "record": record, "simulate": simulate}[arguments.what](arguments)


if __name__ == "__main__":
    main()
