"""Fabricated records of a run, importable by the outbox process as `tracking_records`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasctl.arch import Architecture, Cost, Opaque
from nasctl.trial import Evaluation, State, Trial

START = 1_700_000_000.0


def make_trial(number: int, *, epochs: int = 3, state: State = State.COMPLETE, **changes: Any):
    """A trial with `epochs` finished epochs; every number differs."""
    width = 0.25 + 0.05 * (number % 7)
    architecture = Architecture(
        input_shape=(1, 28, 28), blocks=(Opaque("cell", index=number),), num_classes=10
    )
    evaluations = tuple(
        Evaluation(
            epoch=e,
            metrics={
                "accuracy": 0.7 + 0.01 * number + 0.02 * e,
                "loss": 1.0 / e,
                "val_loss": 1.1 / e,
                "seconds": 4.0,
            },
        )
        for e in range(1, epochs + 1)
    )
    final = {"accuracy": evaluations[-1].metrics["accuracy"]} if evaluations else {}
    cost = Cost(params=10_000 + 900 * number, macs=1e6 * (number + 1), latency_ms=0.5 + number / 10)
    values = {
        "number": number,
        "state": state,
        "choices": {"width_multiplier": width, "stage1.block1.kernel_size": 3 + 2 * (number % 2)},
        "architecture": architecture,
        "seed": 0,
        "epochs": 3,
        "cost": cost,
        "evaluations": evaluations,
        "metrics": {**cost, **final} if state is State.COMPLETE else {},
        "started_at": START + 20.0 * number,
        "seconds": 4.0 * epochs,
    }
    return Trial(**{**values, **changes})


@dataclass
class FakeRecords:
    """What `nasctl.records.RunRecords` offers, from plain values."""

    rows: list[Trial]
    uid: str = "run-1"
    name: str = "mbv2_space"
    status: str = "RUNNING"
    is_ablation: bool = False
    study: dict[str, Any] = field(default_factory=dict)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    verification: dict[str, Any] | None = None
    verified: dict[str, Any] | None = None
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "name": "mbv2_space",
            "seed": 0,
            "trials": 24,
            "recipe": {"epochs": 3, "lr": 0.1},
            "space": {"stages": [{"channels": 16, "depth": 1}]},
            "tracking": {"uri": "http://user:secret@tracking:5000"},
        }
    )
    environment: dict[str, str] = field(default_factory=lambda: {"torch": "2.13.0+cpu"})
    command: str = "nasctl search conf/mbv2_space.yaml"
    git_commit: str | None = "0" * 40
    objectives: dict[str, str] = field(
        default_factory=lambda: {"accuracy": "max", "latency_ms": "min", "params": "min"}
    )
    rejected_count: int = 5
    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    latency_device: dict[str, str] = field(default_factory=dict)
    compute: dict[str, Any] | None = None
    front: set[str] = field(default_factory=set)
    files: list[tuple[Path, str]] = field(default_factory=list)
    exported: list[tuple[Path, Path]] = field(default_factory=list)
    published: list[Trial] = field(default_factory=list)

    def trials(self) -> list[Trial]:
        return self.rows

    def references(self) -> list[Trial]:
        return self.published

    def hypervolume_history(self) -> list[tuple[int, float]]:
        done = [t.number for t in self.rows if t.state is State.COMPLETE]
        return [(n, 0.1 * (i + 1)) for i, n in enumerate(done)]

    def front_ids(self) -> set[str]:
        return self.front

    def artifacts(self) -> list[tuple[Path, str]]:
        return self.files

    def models(self) -> list[tuple[Path, Path]]:
        return self.exported


def open_fake(path: str) -> FakeRecords:
    """Records described by a JSON file that a test rewrites, as the driver does the ledger.

    `trials` of them exist, the last one still RUNNING unless `status` says FINISHED;
    `sleep` makes reading slow, `exit` ends the process.
    """
    data = json.loads(Path(path).read_text())
    if data.get("exit"):
        raise SystemExit(3)
    time.sleep(data.get("sleep", 0))
    finished = data["status"] != "RUNNING"
    rows = [make_trial(n) for n in range(data["trials"])]
    if not finished and rows:
        rows[-1] = make_trial(len(rows) - 1, epochs=1, state=State.RUNNING)
    return FakeRecords(rows, uid=data.get("uid", "run-1"), status=data["status"])
