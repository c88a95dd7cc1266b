"""What a thousand workers would ask of one driver: processor time, memory, ledger.

    python benchmarks/scale.py record                                  # once: what is replayed
    python benchmarks/scale.py replay --sampler random,tpe --trials 10000
    python benchmarks/scale.py replay --sampler known_cost --trials 10000 --cpu-s 900
    python benchmarks/scale.py asks --sampler known_cost               # after so many results
    python benchmarks/scale.py windows --workers 256 1000              # how many workers are idle

`record` searches a generated table of 15,625 networks (six decisions of five choices, three epochs,
five minutes a training) whole; `replay` replays that on a simulated cluster. On a busy machine
processor time is what something costs, so that is what most columns hold. `scale_real.py` beside
this has MLflow and real workers.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import os
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PLUGIN = '''\
"""A table of networks with learning curves, from a formula and a little noise."""
import math, os, random, time
from nasctl.api import Architecture, Cost, Decision, Family, Opaque, SearchSpace

SPACE = SearchSpace(tuple(Decision(f"d{i}", (0, 1, 2, 3, 4)) for i in range(6)))

def size_of(architecture):
    values = dict(architecture.blocks[0].values)
    return 1.0 + sum((i + 1) * values[f"d{i}"] for i in range(6)), architecture.id

def table():
    def decode(choices):
        return Architecture(
            input_shape=(3, 32, 32), blocks=(Opaque("cell", **choices),), num_classes=10
        )
    def cost(architecture):
        size, name = size_of(architecture)
        rng = random.Random(name)
        latency = size * rng.uniform(0.8, 1.2)
        return Cost(latency_ms=latency, params=1000 * size * rng.uniform(0.9, 1.1))
    return Family(space=SPACE, decode=decode, cost=cost)

def curve(architecture, *, budget, seed):
    size, name = size_of(architecture)
    rng = random.Random(f"{name} accuracy")
    rate = 0.5 * math.log(1 + size) + rng.gauss(0, 0.25)
    rng = random.Random(f"{name} {seed}")
    seconds = 70 * (1 + size / 85) * math.exp(rng.gauss(0, 0.3))
    for epoch in range(1, budget + 1):
        time.sleep(float(os.environ.get("SCALE_SECONDS", "0")))
        told = rate * (1 - 0.5**epoch) + rng.gauss(0, 0.01)
        yield {"accuracy": 1 / (1 + math.exp(-told)), "seconds": seconds}

FAMILIES = {"scale_table": table}
EVALUATORS = {"curve": curve}
'''
CONFIG = """\
defaults: [search, _self_, override tracking: none, override executor: inline]
name: recorded
trials: 15625
space: {family: scale_table, options: {}}
objectives: {accuracy: max, latency_ms: min, params: min}
recipe: {epochs: 3}
evaluator: curve
"""
SEARCH = ("search", "scale.yaml", "--plugin", "scale_table", "--progress", "none")
REPLAY = ("evaluator=replay", "replay.run=runs/recorded")


def environment() -> dict[str, str]:
    return {**os.environ, "NASCTL_TRACKING_URI": "", "PYTHONWARNINGS": "ignore"}


def run(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """This program or nasctl in `folder`; its results are files."""
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL, env=environment()
    )


def prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scale_table.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "scale.yaml").write_text(CONFIG, encoding="utf-8")


def ledger_numbers(run_dir: Path) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(run_dir / "ledger.sqlite")) as db:
        trials = db.execute("SELECT count(*) FROM trials WHERE number >= 0").fetchone()[0]
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    size = (run_dir / "ledger.sqlite").stat().st_size
    return {"trials": trials, "bytes": size, "simulation": json.loads(meta.get("simulation", "{}"))}


# -- in the process of the search -----------------------------------------------------------------


def probe(arguments: argparse.Namespace) -> None:
    """Runs one `nasctl search` here, with a clock around its sampler; writes what it saw."""
    from nasctl import cli, search

    asks: list[tuple[int, float, float]] = []
    samples: list[tuple[int, float, float]] = []
    create = search.create_sampler
    page = os.sysconf("SC_PAGE_SIZE")

    class Timed:
        """A sampler that keeps how long its proposals took."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner
            self.exhaustive = inner.exhaustive
            self.tell = inner.tell

        def ask(self, number: int, attempt: int, pending: Sequence[Any] = ()) -> Any:
            if attempt == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                samples.append((number, time.process_time(), pages * page / 2**20))
                if time.process_time() > arguments.cpu_s:
                    os.kill(os.getpid(), signal.SIGINT)
            wall, cpu = time.perf_counter(), time.process_time()
            proposal = self._inner.ask(number, attempt, pending)
            asks.append((number, time.perf_counter() - wall, time.process_time() - cpu))
            return proposal

    search.create_sampler = lambda *given: Timed(create(*given))
    sys.argv = ["nasctl", *arguments.arguments]
    sys.path.insert(0, os.getcwd())
    try:
        cli.main()
    except SystemExit as done:
        if done.code not in (0, None, 130):
            raise
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"asks": asks, "samples": samples, "end": time.process_time(), "peak": peak}
    arguments.output.write_text(json.dumps(found), encoding="utf-8")


# -- searches that are replayed -------------------------------------------------------------------


def percentile(values: Iterable[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def record(arguments: argparse.Namespace) -> None:
    prepare(arguments.folder)
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    process = run(arguments.folder, "-m", "nasctl", *SEARCH, "sampler=grid", "--fresh")
    if process.wait():
        raise SystemExit("the recording failed")
    found = ledger_numbers(arguments.folder / "runs/recorded")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began
    print(f"{found['trials']} trainings recorded, {spent:.0f} s of processor time")
    print(f"ledger: {found['bytes'] / found['trials']:.0f} bytes a trial of three epochs")


def replayed(folder: Path, *options: str, cpu_s: float) -> tuple[dict[str, Any], dict[str, Any]]:
    name = "replayed"
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "found.json"
        process = run(
            folder,
            *(__file__, "probe", str(output), str(cpu_s), *SEARCH, *REPLAY, "--fresh"),
            *(f"name={name}", f"output_dir={place}", *options),
        )
        if process.wait():
            raise SystemExit(f"the replay failed: {' '.join(options)}")
        return json.loads(output.read_text()), ledger_numbers(Path(place) / name)


def replay(arguments: argparse.Namespace) -> None:
    """Processor time and latency of proposals along a search."""
    order = [f"search.order={arguments.order}", f"search.window={arguments.window}"]
    for sampler in arguments.sampler.split(","):
        found, ledger = replayed(
            arguments.folder.absolute(),
            *(f"sampler={sampler}", f"trials={arguments.trials}", *order),
            f"replay.workers={arguments.workers}",
            cpu_s=arguments.cpu_s,
        )
        simulation = ledger["simulation"]
        print(
            f"sampler={sampler} {' '.join(order)}: {ledger['trials']} trials, "
            f"{simulation['workers']} workers, {simulation['utilisation']:.3f} of them busy; "
            f"ledger {ledger['bytes'] / ledger['trials']:.0f} bytes a trial; "
            f"peak {found['peak']:.0f} MiB"
        )
        print(
            f"  {'trials':>16} {'cpu ms a trial':>15} {'ask, median ms':>15} {'p99 ms':>9} "
            f"{'wall p50':>9} {'wall p99':>9} {'MiB':>6}"
        )
        for row in bins(found, arguments.bins):
            print("  " + row)
        last = found["samples"][-1][1]
        print(f"  after the last proposal: {found['end'] - last:.1f} s", flush=True)


def bins(found: Mapping[str, Any], edges: Sequence[int]) -> Iterator[str]:
    samples, asks = found["samples"], found["asks"]
    last = samples[-1][0]
    whole = [e for e in edges if e < last] + [last]
    for low, high in itertools.pairwise([0, *whole]):
        inside = [s for s in samples if low <= s[0] <= high]
        trials = inside[-1][0] - inside[0][0]
        if trials < 1:
            continue
        cpu = 1e3 * (inside[-1][1] - inside[0][1]) / trials
        # The proposals of a trial together: those that were turned away are part of its price.
        per_trial: dict[int, tuple[float, float]] = {}
        for number, wall, used in asks:
            if low <= number < high:
                before = per_trial.get(number, (0.0, 0.0))
                per_trial[number] = before[0] + wall, before[1] + used
        walls, used = zip(*per_trial.values(), strict=True)
        yield (
            f"{f'{low} to {high}':>16} {cpu:15.2f} {1e3 * statistics.median(used):15.2f} "
            f"{1e3 * percentile(used, 0.99):9.1f} {1e3 * statistics.median(walls):9.2f} "
            f"{1e3 * percentile(walls, 0.99):9.1f} {inside[-1][2]:6.0f}"
        )


def asks(arguments: argparse.Namespace) -> None:
    """Processor time of single proposals after so many results, without a search around them."""
    sys.path.insert(0, str(arguments.folder.absolute()))
    import scale_table

    from nasctl.records import RunRecords
    from nasctl.samplers import SamplerContext, create_sampler
    from nasctl.samplers.base import Known, Observation

    family = scale_table.table()
    records = RunRecords(arguments.folder / "runs/recorded")
    trials = records.trials()
    random.Random(0).shuffle(trials)

    def price(choices: Any) -> Known:
        architecture = family.decode(choices)
        return Known(id=architecture.id, costs=family.cost(architecture), feasible=True)

    context = SamplerContext(
        space=family.space,
        directions=("max", "min", "min"),
        seed=0,
        trials=10_000,
        objectives=("accuracy", "latency_ms", "params"),
        reference_point=records.reference_point,
        price=price,
        max_seeds=3,
    )
    print(f"{'results':>8} {'in flight':>10} {'first, cpu ms':>14} {'then, cpu ms':>13}")
    for results, flight in itertools.product(arguments.results, arguments.flight):
        sampler = create_sampler(arguments.sampler, {}, context)
        pending = [t.choices for t in trials[-flight:]] if flight else []
        took = []
        for number, trial in enumerate(trials[: results + 5]):
            values = tuple(trial.metrics[m] for m in context.objectives)
            sampler.tell(Observation(number=number, choices=trial.choices, state={}, values=values))
            if number >= results - 1:
                before = time.process_time()
                sampler.ask(number + 1, 0, pending)
                took.append(1e3 * (time.process_time() - before))
        first, then = took[0], statistics.median(took[1:])
        print(f"{results:>8} {flight:>10} {first:14.0f} {then:13.0f}", flush=True)


def windows(arguments: argparse.Namespace) -> None:
    """What part of the workers trains until the last training begins, by the window of the
    deterministic order: the rule of `nasctl.engine` alone, with the recorded durations."""
    query = """SELECT sum(json_extract(metrics, '$.seconds')) FROM evaluations
               WHERE number >= 0 GROUP BY number ORDER BY number"""
    ledger = arguments.folder / "runs/recorded/ledger.sqlite"
    with contextlib.closing(sqlite3.connect(ledger)) as db:
        seconds = [s for (s,) in db.execute(query)]
    random.Random(0).shuffle(seconds)
    mean, sd = statistics.fmean(seconds), statistics.pstdev(seconds)
    print(f"trainings of {mean:.0f} s in the mean, standard deviation {sd / mean:.2f} of that")
    print(f"{'workers':>8} {'window':>8} {'busy':>6}")
    for workers in arguments.workers:
        for window in (4, workers // 2, *(int(workers * f) for f in (1, 1.5, 2, 3, 4)), None):
            busy = utilisation(seconds[: arguments.trials], workers, window)
            print(f"{workers:>8} {window or 'async':>8} {busy:6.3f}")


def utilisation(seconds: Sequence[float], workers: int, window: int | None) -> float:
    """Trial n begins once a worker is free and all trials before n - window are over."""
    free = [0.0] * workers
    ends: list[float] = []
    over = begin = 0.0  # when all trials that the next one waits for are over
    for number, length in enumerate(seconds):
        if window is not None and number > window:
            over = max(over, ends[number - window - 1])
        begin = max(heapq.heappop(free), over)
        ends.append(begin + length)
        heapq.heappush(free, ends[-1])
    worked = sum(min(end, begin) - (end - s) for end, s in zip(ends, seconds, strict=True))
    return worked / (workers * begin)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    def command(name: str, does: Any, trials: int) -> argparse.ArgumentParser:
        made = commands.add_parser(name)
        made.set_defaults(does=does)
        made.add_argument("--folder", type=Path, default=Path("runs/scale"))
        made.add_argument("--trials", type=int, default=trials)
        return made

    command("record", record, 15_625)
    one = command("replay", replay, 10_000)
    one.add_argument("--sampler", default="random")
    one.add_argument("--workers", type=int, default=256)
    one.add_argument("--order", default="async")
    one.add_argument("--window", type=int, default=512)
    one.add_argument("--cpu-s", type=float, default=3600, help="interrupt the search after that")
    one.add_argument(
        "--bins", type=int, nargs="*", default=[100, 300, 1000, 2000, 3000, 5000, 7000]
    )
    alone = command("asks", asks, 0)
    alone.add_argument("--sampler", default="known_cost")
    alone.add_argument("--results", type=int, nargs="*", default=[100, 300, 1000, 2000])
    alone.add_argument("--flight", type=int, nargs="*", default=[0, 256])
    two = command("windows", windows, 10_000)
    two.add_argument("--workers", type=int, nargs="*", default=[24, 256, 1000])
    inner = commands.add_parser("probe")
    inner.set_defaults(does=probe)
    inner.add_argument("output", type=Path)
    inner.add_argument("cpu_s", type=float)
    inner.add_argument("arguments", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    arguments.does(arguments)


if __name__ == "__main__":
    main()
