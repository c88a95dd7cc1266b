"""`fidelity=halving` end to end: real training, real Ray, killed workers and drivers, tables."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from nasctl.halving import DECISION, recorded
from nasctl.history import history_hash
from nasctl.ledger import Ledger
from nasctl.trial import State, Trial
from search_spaces.blocks import BLOCKS
from tests.e2e.command import Desk

ROOT = Path(__file__).parent.parent.parent
HALVING = (
    *("search", "digits.yaml", "fidelity=halving", "recipe.epochs=6", "trials=12"),
    *("fidelity.min_pairs=3", "fidelity.checkpoint_s=0", "latency=none", "tracking=none"),
    *("fidelity.p_stop=0.5", "fidelity.min_correlation=0"),
    *("sampler=random", "recipe.lr=0.1", "name=halving"),
)
# What is stopped is decided by real accuracies, which differ between processors: a rule that stops
# about a third of the trials on each of them.
RAY = ("executor.workers=2", "executor.cpus=0.5")


def events(desk: Desk) -> list[tuple[float, str, dict[str, Any]]]:
    ledger = Ledger(desk.folder / "runs" / "halving" / "ledger.sqlite", BLOCKS, readonly=True)
    try:
        return ledger.events()
    finally:
        ledger.close()


def sequence(desk: Desk) -> list[tuple[int, int, float, bool]]:
    found = recorded(events(desk))[0].values()
    return sorted((d.number, d.rung, d.value, d.stops) for d in found)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Desk:
    """One process, one worker, nothing happens."""
    from tests.e2e.command import DIGITS

    desk = Desk(folder=tmp_path_factory.mktemp("undisturbed"), cache=cache)
    desk.write("digits.yaml", DIGITS)
    desk.run(*HALVING, "executor=inline", "fidelity.checkpoint_s=null")
    return desk


def test_a_search_stops_trials_and_says_so(undisturbed: Desk) -> None:
    front = json.loads((undisturbed.folder / "runs" / "halving" / "front.json").read_text())
    trials = undisturbed.trials("halving")
    pruned = [t for t in trials if t.state is State.PRUNED]
    assert pruned
    assert front["trials"]["PRUNED"] == len(pruned)
    assert front["halving"]["stopped"] == len(pruned)
    assert [r["epochs"] for r in front["halving"]["rungs"]] == [1, 3]
    assert not {t.arch_id for t in pruned} & {m["arch_id"] for m in front["members"]}
    first = trials[0].evaluations[0].metrics
    assert first["rung_accuracy"] != first["accuracy"]
    out, _ = undisturbed.run("front", "runs/halving")
    assert f"{len(pruned)} trials stopped early" in out
    html = (undisturbed.folder / "runs" / "halving" / "report.html").read_text()
    assert 'id="halving"' in html
    assert not (undisturbed.folder / "runs" / "halving" / "checkpoints").exists()


def _workers(folder: Path) -> list[int]:
    """Ray's worker processes that train for the command in `folder`; not the agents beside them,
    without which the whole node goes down."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                name = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if name.startswith(b"ray::Worker") and f"PWD_OF_TEST={folder}".encode() in environment:
                found.append(int(entry.name))
    return found


def in_training(trials: list[Trial]) -> bool:
    return any(t.state is State.RUNNING and 2 <= len(t.evaluations) <= 4 for t in trials)


@pytest.mark.slow  # a lost node in test_cluster_search.py; the rungs in test_halving_training.py
def test_a_killed_worker_goes_on_from_its_checkpoint_and_changes_nothing(
    desk: Desk, undisturbed: Desk
) -> None:
    process = desk.start(*HALVING, *RAY, PWD_OF_TEST=str(desk.folder))
    desk.wait_for("halving", process, in_training)
    victims = _workers(desk.folder)
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, (out, err)
    kinds = [kind for _, kind, _ in events(desk)]
    assert "lost" in kinds
    assert "resumed" in kinds
    assert any(t.attempts == 2 for t in desk.trials("halving"))
    assert sequence(desk) == sequence(undisturbed)
    assert history_hash(desk.trials("halving")) == history_hash(undisturbed.trials("halving"))


def test_a_killed_driver_resumes_decisions_and_trainings(desk: Desk, undisturbed: Desk) -> None:
    process = desk.start(*HALVING, *RAY)
    desk.wait_for("halving", process, in_training)
    process.kill()
    process.communicate()
    desk.run(*HALVING, *RAY)
    assert sequence(desk) == sequence(undisturbed)
    assert history_hash(desk.trials("halving")) == history_hash(undisturbed.trials("halving"))
    kinds = [kind for _, kind, _ in events(desk)]
    assert "resumed" in kinds
    assert kinds.count(DECISION) == len(sequence(desk)), "none was made twice"


@pytest.mark.slow  # test_damaged_files.py and test_halving_training.py have the parts
def test_a_damaged_checkpoint_is_named_and_changes_nothing(desk: Desk, undisturbed: Desk) -> None:
    process = desk.start(*HALVING, "executor=inline")
    folder = desk.folder / "runs" / "halving" / "checkpoints"
    desk.wait_for("halving", process, lambda _: any(folder.glob("*/*.ckpt")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (path, *_) = sorted(folder.glob("*/*.ckpt"))
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)
    _, err = desk.run(*HALVING, "executor=inline", "--progress", "plain")
    assert f"{path.name}: damaged" in err
    assert history_hash(desk.trials("halving")) == history_hash(undisturbed.trials("halving"))


@pytest.mark.slow
def test_a_long_training_without_halving_is_kept_too(desk: Desk) -> None:
    full = ("search", "digits.yaml", "recipe.epochs=6", "trials=2", "latency=none", "name=halving")
    full += ("tracking=none", "sampler=random", "fidelity.checkpoint_s=0", "executor=inline")
    desk.run(*full)
    expected = history_hash(desk.trials("halving"))
    process = desk.start(*full, "--fresh")
    desk.wait_for("halving", process, in_training)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    desk.run(*full)
    assert "resumed" in [kind for _, kind, _ in events(desk)]
    assert history_hash(desk.trials("halving")) == expected


CURVES = """\
defaults: [search, _self_]
name: halving
trials: 40
space: {family: curvenets}
objectives: {accuracy: max, params: min}
evaluator: curves
recipe: {epochs: 9}
"""
TABLE = (
    *("search", "curves.yaml", "--plugin", "tests.curves", "tracking=none", "sampler=random"),
    *("executor=inline", "fidelity=halving"),
)


@pytest.fixture
def table(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    desk.write("curves.yaml", CURVES)
    return desk


def test_a_table_of_curves_is_a_halving_problem(table: Desk) -> None:
    front = table.json(*TABLE)
    trials = table.trials("halving")
    trained = sum(len(t.evaluations) for t in trials)
    assert front["halving"]["stopped"] >= 10
    assert front["halving"]["epochs"] == trained < 0.8 * 40 * 9
    assert front["halving"]["epochs_saved"] == 40 * 9 - trained


def test_a_dry_run_shows_the_rungs(table: Desk) -> None:
    out, _ = table.run(*TABLE, "--dry-run")
    assert "rungs             1, 3 of 9 epochs: 2.9 epochs a trial" in out
    assert table.json(*TABLE, "--dry-run")["rungs"] == [1, 3]


def test_an_evaluator_that_gives_only_the_end_is_never_stopped(table: Desk) -> None:
    front = table.json(*TABLE, "evaluator=last_only", "trials=12")
    assert front["trials"]["COMPLETE"] == 12
    assert {t.evaluations[-1].epoch for t in table.trials("halving")} == {9}


def test_objectives_that_are_all_learned_are_refused(table: Desk) -> None:
    _, err = table.run(*TABLE, "objectives.loss=min", "reference_point.loss=9", code=2)
    assert "fidelity: halving compares one objective" in err
    assert "training decides accuracy, loss" in err


def test_a_schedule_that_cannot_be_cut_is_refused(desk: Desk) -> None:
    _, err = desk.run(*HALVING, "recipe.schedule=onecycle", code=2)
    assert "recipe.schedule: 'onecycle' cannot be cut short" in err
    assert not (desk.folder / "runs").exists()
