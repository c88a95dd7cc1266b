"""What a trial asks of MLflow, and real Ray workers of this machine.

    python benchmarks/scale_real.py mlflow --trials 300 [--postgres]   # requests and their price
    python benchmarks/scale_real.py actors --workers 24                # memory, trials a second

The searches are those of `scale.py`; on a busy machine processor time is what something costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from scale import SEARCH, prepare, run

ROOT = Path(__file__).parent.parent


# -- MLflow ---------------------------------------------------------------------------------------


def ticks(pid: int) -> float:
    """Processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def members(group: int) -> list[int]:
    """Processes of a session, and of those below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == group:
                found.append(int(entry.name))
    return found


def mlflow(arguments: argparse.Namespace) -> None:
    """Requests, bytes and processor time of a projection through a real server."""
    sys.path.insert(0, str(ROOT))
    import requests

    from nasctl.records import RunRecords
    from nasctl.tracking import TrackingSettings, sync
    from tests.e2e.servers import MlflowServer, PostgresServer

    prepare(arguments.folder)
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        options = ("sampler=random", f"trials={arguments.trials}", f"output_dir={place}")
        if run(arguments.folder, "-m", "nasctl", *SEARCH, "--fresh", *options).wait():
            raise SystemExit("the search failed")
        database = None
        if arguments.postgres:
            postgres = PostgresServer()
            stack.callback(postgres.remove)
            postgres.start()
            database = postgres.uri
        server = MlflowServer(Path(place) / "server", database=database)
        server.start()
        stack.callback(server.kill)
        sent: list[int] = []
        send = requests.Session.send

        def counted(session: Any, request: Any, **options: Any) -> Any:
            sent.append(int(request.headers.get("Content-Length", 0)))
            return send(session, request, **options)

        requests.Session.send = counted
        settings = TrackingSettings(output_dir=Path(place), uri=server.uri, timeout_s=60)
        began, cpu = time.perf_counter(), time.process_time()
        served = sum(map(ticks, members(server.pid)))
        result = sync(RunRecords(Path(place) / "recorded"), settings)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        served = sum(map(ticks, members(server.pid))) - served
        if result.problem is not None:
            raise SystemExit(result.problem)
        n = arguments.trials
        print(
            f"{n} trials of three epochs on {'PostgreSQL' if database else 'SQLite'}: "
            f"{len(sent) / n:.2f} requests a trial, {sum(sent) / n:.0f} bytes a trial\n"
            f"  processor: client {1e3 * cpu / n:.1f} ms a trial, server {1e3 * served / n:.1f} ms "
            f"a trial ({1e3 * served / len(sent):.1f} a request)\n"
            f"  {1e3 * wall / n:.1f} ms a trial, one request after the other",
            flush=True,
        )


# -- real actors ----------------------------------------------------------------------------------


def workers_of(uid: str) -> list[int]:
    """Ray's worker processes with the mark of a run in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (entry / "cmdline").read_bytes()
            marked = f"NASCTL_RUN={uid}".encode() in (entry / "environ").read_bytes()
            if marked and title.startswith(b"ray::") and b"IDLE" not in title:
                found.append(int(entry.name))
    return found


def memory_mib(pid: int) -> dict[str, float]:
    """Resident, proportional and private memory of a process."""
    found: dict[str, float] = {"private": 0.0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split()[:2]
        if key in ("Rss:", "Pss:"):
            found[key[:-1].lower()] = int(value) / 1024
        if key.startswith("Private_") and not key.startswith("Private_Hugetlb"):
            found["private"] += int(value) / 1024
    return found


def actors(arguments: argparse.Namespace) -> None:
    """Memory of idle-handed workers, trials a second, and what a trial costs the driver."""
    prepare(arguments.folder)
    with tempfile.TemporaryDirectory() as place:
        process = run(
            arguments.folder,
            *("-m", "nasctl", *SEARCH, f"output_dir={place}", f"trials={arguments.trials}"),
            *("sampler=random", "executor=ray", f"executor.workers={arguments.workers}"),
            *(f"executor.cpus={arguments.cpus}", "search.order=async"),
        )
        ledger = Path(place) / "recorded/ledger.sqlite"
        seen: dict[int, dict[str, float]] = {}
        marks: list[tuple[int, float, float]] = []

        def watch() -> None:
            uid = ""
            while process.poll() is None:
                time.sleep(0.5)
                with contextlib.suppress(OSError, sqlite3.Error, TypeError):
                    db = sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)
                    with contextlib.closing(db):
                        row = db.execute("SELECT value FROM meta WHERE key='uid'").fetchone()
                        uid = json.loads(row[0])
                        done = "SELECT count(*) FROM trials WHERE state != 'RUNNING'"
                        marks.append(
                            (db.execute(done).fetchone()[0], time.time(), ticks(process.pid))
                        )
                    for pid in workers_of(uid):
                        seen[pid] = memory_mib(pid)

        watcher = threading.Thread(target=watch)
        watcher.start()
        if process.wait():
            raise SystemExit("the search failed")
        watcher.join()
    # From the first moment with all workers to the last trial: without start and report.
    half = [m for m in marks if arguments.trials // 4 <= m[0] < arguments.trials]
    trials, seconds, cpu = (half[-1][i] - half[0][i] for i in range(3))
    print(
        f"{arguments.workers} actors of {arguments.cpus:g} cpus, {arguments.trials} trials: "
        f"{trials / seconds:.1f} trials a second, driver {1e3 * cpu / trials:.1f} ms of processor "
        "time a trial"
    )
    for kind in ("rss", "pss", "private"):
        values = [m[kind] for m in seen.values()]
        print(
            f"  {kind:>8} MiB an actor: median {statistics.median(values):.0f}, "
            f"{min(values):.0f} to {max(values):.0f} (n={len(values)}), sum {sum(values):.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, does, trials in (("mlflow", mlflow, 300), ("actors", actors, 1000)):
        command = commands.add_parser(name)
        command.set_defaults(does=does)
        command.add_argument("--folder", type=Path, default=Path("runs/scale"))
        command.add_argument("--trials", type=int, default=trials)
        if name == "mlflow":
            command.add_argument("--postgres", action="store_true")
        else:
            command.add_argument("--workers", type=int, default=24)
            command.add_argument("--cpus", type=float, default=0.05)
    arguments = parser.parse_args()
    arguments.does(arguments)


if __name__ == "__main__":
    main()
