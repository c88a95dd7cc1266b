"""What a trial costs where training is a lookup: the whole command, and then trial by trial.

    python benchmarks/driver.py                                # 10,000 trials of a generated table
    python benchmarks/driver.py --trials 2000 --tracking none,mlflow --repeats 3

Runs `nasctl search` on a table of 15,625 networks (six decisions of five choices), reads from the
ledger when each trial began, and looks at memory and processor time of the process meanwhile (on
a busy machine the latter is what a trial costs). With MLflow, also how far its projection was when
the search ended, and with --sync how long `nasctl sync` took for the rest.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

DECISIONS = [f"d{i}" for i in range(6)]
CONFIG = """\
defaults: [search, _self_]
name: run
evaluator: table
objectives: {accuracy: max, latency_ms: min, params: min}
space:
  family: table
  options:
    file: table.csv
    decisions: [d0, d1, d2, d3, d4, d5]
    costs: [latency_ms, params]
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of one command.

    Attributes:
        began: when each trial did, in seconds since the first.
        samples: (seconds since the first trial, resident MiB, processor seconds used).
        total: of the command, seconds.
    """

    began: list[float]
    samples: list[tuple[float, float, float]]
    total: float


def write_table(path: Path) -> None:
    """Accuracies saturate in the cost, with a random effect of each row."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join([*DECISIONS, "latency_ms", "params", "accuracy"]) + "\n")
        for row in itertools.product(range(5), repeat=6):
            size = 1.0 + sum((i + 1) * c for i, c in enumerate(row))
            accuracy = 1 / (1 + math.exp(-math.log(size) / 2 - rng.gauss(0, 0.3)))
            latency = size * rng.uniform(0.9, 1.1)
            file.write(",".join(map(str, [*row, latency, 1000 * size, accuracy])) + "\n")


def look(pid: int) -> tuple[float, float] | None:
    """MiB and processor seconds of a process; None when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except (OSError, IndexError):
        return None
    used = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, used


def nasctl(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "nasctl", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def search(folder: Path, options: list[str]) -> Measured:
    (folder / "table.yaml").write_text(CONFIG, encoding="utf-8")
    start, start_wall = time.perf_counter(), time.time()
    process = nasctl(folder, "search", "table.yaml", "--progress", "none", *options)
    samples: list[tuple[float, float, float]] = []

    def watch() -> None:
        while process.poll() is None:
            if (seen := look(process.pid)) is not None:
                samples.append((time.time(), *seen))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    total = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise SystemExit(f"nasctl search failed ({process.returncode}): {errors.decode()}")
    with sqlite3.connect(folder / "runs/run/ledger.sqlite") as db:
        began = [t for (t,) in db.execute("SELECT started_at FROM trials ORDER BY number")]
    assert began[0] >= start_wall, "the ledger is an old one"
    return Measured(
        began=[t - began[0] for t in began],
        samples=[(t - began[0], *s) for t, *s in samples if began[0] <= t <= began[-1]],
        total=total,
    )


def projected(folder: Path) -> int:
    """Trials that MLflow has, finished ones."""
    with sqlite3.connect(folder / "runs/mlflow.db") as db:
        query = "SELECT count(*) FROM runs WHERE status = 'FINISHED'"
        return int(db.execute(query).fetchone()[0])


def report(name: str, found: Measured) -> None:
    n = len(found.began)
    rate = (n - 1) / found.began[-1]
    print(f"{name}: {n} trials, {rate:.0f} a second, {found.total:.1f} s for the whole command")
    print(f"  {'trials':>14} {'ms per trial':>14} {'processor ms':>14} {'resident MiB':>14}")
    step = max(1, n // 10)
    for low in range(0, n - 1, step):
        high = min(low + step, n - 1)
        spent = 1e3 * (found.began[high] - found.began[low]) / (high - low)
        inside = [s for s in found.samples if found.began[low] <= s[0] <= found.began[high]]
        row = f"  {f'{low} to {high}':>14} {spent:>14.2f}"
        if len(inside) > 1:
            share = (inside[-1][2] - inside[0][2]) / (inside[-1][0] - inside[0][0])
            row += f" {spent * share:>14.2f} {inside[-1][1]:>14.0f}"
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--tracking", default="none")
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--sync", action="store_true", help="finish the projection into MLflow")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write_table(Path(place) / "table.csv")
        for repeat, tracking in itertools.product(range(args.repeats), args.tracking.split(",")):
            folder = Path(place) / f"{tracking}{repeat}"
            folder.mkdir()
            (folder / "table.csv").symlink_to(Path(place) / "table.csv")
            options = [f"trials={args.trials}", f"sampler={args.sampler}", "executor=inline"]
            report(f"tracking={tracking}", search(folder, [*options, f"tracking={tracking}"]))
            if tracking == "mlflow":
                print(f"  {projected(folder)} runs in MLflow when the search ended")
                if args.sync:
                    start = time.perf_counter()
                    process = nasctl(folder, "sync", "runs/run")
                    process.communicate()
                    spent = time.perf_counter() - start
                    print(
                        f"  nasctl sync: exit {process.returncode}, {spent:.0f} s, then "
                        f"{projected(folder)} runs"
                    )


if __name__ == "__main__":
    main()
