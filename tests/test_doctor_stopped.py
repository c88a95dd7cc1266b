"""`nasctl doctor` on what a search leaves that was stopped at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nasctl.doctor import examine
from nasctl.ledger import Ledger
from tests.doctor_bench import check


def test_a_run_without_a_trial_is_sound(tmp_path: Path) -> None:
    """Stopped while its blocks were priced: its reference point comes after that."""
    ledger = Ledger(tmp_path / "ledger.sqlite", {})
    config = {"name": "toy", "objectives": {"accuracy": "max", "params": "min"}}
    ledger.set_meta(config={**config, "tracking": {"name": "none"}}, status="INTERRUPTED", uid="u")
    ledger.close()
    found = examine(tmp_path)
    assert found.sound, [c.to_line() for c in found.checks]
    for name in ("I5", "I8"):
        one = check(found, name)
        assert (one.state, one.details) == ("not_checked", ("no trial was ever begun",))


def _wal(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")


BEGINNINGS: dict[str, Callable[[Path], object]] = {
    "created": Path.touch,
    "in its journal mode": _wal,
    "with tables": lambda path: Ledger(path, {}).close(),
}


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_killed_before_anything_was_written(
    tmp_path: Path, beginning: Callable[[Path], object]
) -> None:
    """Nothing was promised yet: the same command begins the run."""
    (tmp_path / ".lock").touch()
    beginning(tmp_path / "ledger.sqlite")
    found = examine(tmp_path)
    assert found.sound, [c.to_line() for c in found.checks]


def test_an_empty_ledger_beside_what_a_search_made_is_a_loss(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").touch()
    (tmp_path / "config.yaml").touch()
    found = examine(tmp_path)
    assert not found.sound
    assert check(found, "I0").details == (
        "ledger.sqlite: there is nothing in it, but config.yaml is there",
    )
