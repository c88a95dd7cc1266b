"""Runs in a mount namespace of its own: `SCENARIO FOLDER ...`; says what happened as JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nasctl.errors import EnvironmentProblemError
from nasctl.history import history_hash
from tests.faults.drive import INLINE, SEARCH, Bench

ARGUMENTS = (*SEARCH, INLINE, "sampler=tpe", "sampler.startup_trials=4")
ROOM = "64m"


def mount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    mount(place, f"size={size}")
    yield
    subprocess.run(["umount", str(place)], check=True)


def resize(place: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def said(bench: Bench, *arguments: str) -> dict[str, Any]:
    answer = bench.call(*arguments)
    lines = [x for x in answer.err.splitlines() if x.startswith("Error: ")]
    return {"code": answer.code, "errors": lines, "traceback": "Traceback" in answer.err}


def acknowledged(bench: Bench) -> list[tuple[int, float]]:
    """(number, time of start) of every trial that is final on disk."""
    with contextlib.suppress(EnvironmentProblemError):
        return [(t.number, t.started_at) for t in bench.toy.trials() if t.state.is_final]
    return []


def violated(bench: Bench) -> list[str]:
    return [c.to_line() for c in bench.diagnosis().checks if c.state == "violated"]


def full_while_searching(bench: Bench, *sizes: str) -> Any:
    """A disk of each size fills up in the midst of a search, and is given more room."""
    runs = bench.folder / "runs"
    results = []
    with small_disk(runs, ROOM):
        calm = said(bench, *ARGUMENTS)
        hash_of_calm = history_hash(bench.toy.trials())
    for size in sizes:
        with small_disk(runs, size):
            full = said(bench, *ARGUMENTS)
            before = acknowledged(bench)
            resize(runs, ROOM)
            again = said(bench, *ARGUMENTS)
            results.append(
                {
                    "size": size,
                    "full": full,
                    "before": len(before),
                    "again": again,
                    "kept": set(before) <= set(acknowledged(bench)),
                    "same": history_hash(bench.toy.trials()) == hash_of_calm,
                    "violated": violated(bench),
                }
            )
    return {"calm": calm, "results": results}


def full_at_the_report(bench: Bench) -> Any:
    """Enough for the ledger, not enough for the page."""
    runs = bench.folder / "runs"
    with small_disk(runs, ROOM):
        first = said(bench, *ARGUMENTS, "trials=6")
        page = bench.run_dir / "report.html"
        old = hashlib.sha256(page.read_bytes()).hexdigest()
        room = os.statvfs(runs)
        with open(runs / "filler", "wb") as filler:
            filler.write(bytes(room.f_bavail * room.f_frsize - 900_000))
        full = [said(bench, *ARGUMENTS, "trials=8"), said(bench, "report", "runs/toy")]
        same = hashlib.sha256(page.read_bytes()).hexdigest() == old
        left = [p.name for p in bench.run_dir.glob(".*.tmp")]
        done = len(acknowledged(bench))
        (runs / "filler").unlink()
        again = said(bench, *ARGUMENTS, "trials=8")
        return {
            "first": first, "full": full, "same": same, "left": left, "done": done,
            "again": again, "violated": violated(bench),
            "new": hashlib.sha256(page.read_bytes()).hexdigest() != old,
        }  # fmt: skip


def full_in_a_worker(bench: Bench) -> Any:
    """An evaluator that keeps files of its own finds no room for them."""
    scratch = bench.folder / "scratch"
    with small_disk(scratch, "200k"):
        os.environ["FAULT_FOLDER"] = str(scratch)
        arguments = (*SEARCH, INLINE, "evaluator=full_disk", "trials=6")
        own = {"FAULT_FOLDER": str(scratch)}
        full = bench.call(*arguments, **own)
        states = [t.state.value for t in bench.toy.trials()]
        sound = bench.diagnosis().sound
        resize(scratch, ROOM)
        again = bench.call(*arguments, **own)
        return {
            "code": full.code, "error": full.error, "states": states, "sound": sound,
            "again": again.code, "after": [t.state.value for t in bench.toy.trials()],
            "violated": violated(bench),
        }  # fmt: skip


def read_only(bench: Bench) -> Any:
    """A finished run on a disk that becomes read-only: reading goes on, writing is refused."""
    runs = bench.folder / "runs"
    with small_disk(runs, ROOM):
        first = said(bench, *ARGUMENTS, "trials=4")
        for side in ("-wal", "-shm"):
            (bench.run_dir / f"ledger.sqlite{side}").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(runs)], check=True)
        return {
            "first": first,
            "more": said(bench, *ARGUMENTS, "trials=8"),
            "other": said(bench, *ARGUMENTS, "name=other"),
            "dry": said(bench, *ARGUMENTS, "name=other", "--dry-run"),
            "front": said(bench, "front", "runs/toy"),
            "doctor": said(bench, "doctor", "runs/toy"),
            "report": said(bench, "report", "runs/toy"),
        }


SCENARIOS = {
    f.__name__: f for f in (full_while_searching, full_at_the_report, full_in_a_worker, read_only)
}

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    print(json.dumps(SCENARIOS[sys.argv[1]](Bench(folder, cache), *sys.argv[3:])))
