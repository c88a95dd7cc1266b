"""`nasctl doctor`, and whatever else reads a run, on decisions at rungs that were edited."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nasctl.doctor import examine
from nasctl.errors import EnvironmentProblemError
from nasctl.fidelity import HalvingSettings
from nasctl.halving import DECISION, RAISED, recorded
from nasctl.ledger import Ledger
from nasctl.trial import State
from tests.doctor_bench import check
from tests.toy import make_engine, run

OBJECTIVES = {"accuracy": "max", "params": "min"}


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Of a run in which the decisions stopped some trials."""
    rule = HalvingSettings(first=1, eta=2, p_stop=0.5, min_pairs=3)
    path = tmp_path / "ledger.sqlite"
    engine = make_engine(path, trials=40, halving=rule)
    run(engine)
    config = {"name": "toy", "objectives": OBJECTIVES, "tracking": {"name": "none"}}
    engine._ledger.set_meta(config=config, status="FINISHED", uid="u")
    engine._ledger.close()
    assert any(t.state is State.PRUNED for t in engine.trials)
    return path


def edit(ledger: Path, statement: str) -> tuple[str, ...]:
    """What I3 says before, which is nothing, and after it."""
    assert check(examine(ledger.parent), "I3").state == "ok"
    with closing(sqlite3.connect(ledger)) as db:
        db.execute(statement)
        db.commit()
    found = check(examine(ledger.parent), "I3")
    assert found.state == "violated"
    return found.details


def test_a_pruned_trial_that_nothing_stopped(ledger: Path) -> None:
    found = edit(ledger, f"DELETE FROM events WHERE kind = '{DECISION}'")
    assert found[0].endswith(" is PRUNED, but nothing stopped it")


def test_a_stopped_trial_that_has_a_result(ledger: Path) -> None:
    metrics = json.dumps({"accuracy": 0.5, "params": 1.0})
    state = f"state = 'COMPLETE', metrics = '{metrics}'"
    first = "(SELECT min(number) FROM trials WHERE state = 'PRUNED')"
    *_, line = edit(ledger, f"UPDATE trials SET {state} WHERE number = {first}")
    assert line.endswith(" is COMPLETE, but was stopped at a rung")


@pytest.mark.parametrize("kind", [DECISION, RAISED])
@pytest.mark.parametrize("data", ['{"number": 3}', "[1]", '{"rung": "x", "before": 1}'])
def test_what_nasctl_did_not_write_is_damage(ledger: Path, kind: str, data: str) -> None:
    says = f"the ledger has a {kind} that nasctl did not write"
    insert = f"INSERT INTO events (at, kind, data) VALUES (1, '{kind}', '{data}')"
    (line,) = edit(ledger, insert)
    assert line.startswith(says)
    opened = Ledger(ledger, {}, readonly=True)
    with pytest.raises(EnvironmentProblemError, match=says):
        recorded(opened.events())
    opened.close()
