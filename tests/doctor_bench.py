"""What the tests of `nasctl doctor` do to a run, and read from its verdict."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

from nasctl.doctor import Check, Diagnosis, examine
from tests.faults.drive import Bench


def sql(bench: Bench, *statements: str) -> None:
    """Edits the ledger behind everybody's back."""
    with closing(sqlite3.connect(bench.run_dir / "ledger.sqlite")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def violated(bench: Bench) -> dict[str, str]:
    found = examine(bench.run_dir)
    assert not found.sound
    return {c.id: "; ".join(c.details) for c in found.checks if c.state == "violated"}


def check(found: Diagnosis, name: str) -> Check:
    (one,) = [c for c in found.checks if c.id == name]
    return one


def edit_front(bench: Bench, edit: Callable[[dict[str, Any]], object]) -> None:
    path = bench.run_dir / "front.json"
    front = json.loads(path.read_text())
    edit(front)
    path.write_text(json.dumps(front))
