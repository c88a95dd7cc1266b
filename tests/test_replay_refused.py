"""Runs that cannot be replayed, and replays that would not go on as they began."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from nasctl.errors import ConfigError
from nasctl.history import history_hash
from nasctl.prepare import check_results
from nasctl.replay import Recording, load_recording, replayed_family
from tests import toy
from tests.e2e.command import TABLE, TOY, Desk
from tests.test_replay import CONFIG, record, trained


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ("DELETE FROM evaluations WHERE number = 1", "trial 1 is COMPLETE and reported nothing"),
        ("UPDATE trials SET cost = '{}' WHERE number = 1", "trial 1 has other costs than trial 0"),
        ("UPDATE trials SET seconds = -5 WHERE number = 1", "trial 1 took -5 s"),
        (
            """UPDATE trials SET metrics = '{"accuracy": NaN, "params": 1}' WHERE number = 1""",
            "trial 1 has accuracy=nan",
        ),
        (
            """UPDATE evaluations SET metrics = '{"accuracy": "x"}' WHERE number = 1""",
            "trial 1 has accuracy='x'",
        ),
        ("DELETE FROM meta WHERE key = 'config'", "its ledger does not say what was searched"),
        ("UPDATE meta SET value = '[]' WHERE key = 'config'", "does not say what was searched"),
        (
            "UPDATE meta SET value = '\"many\"' WHERE key = 'validation_images'",
            "its ledger has 'many' validation images",
        ),
        (
            """UPDATE meta SET value = '{"factors": {}}' WHERE key = 'config'""",
            "a study; only a search can be replayed",
        ),
        (
            "INSERT INTO meta VALUES ('verification', '{}')",
            "a verification; only a search can be replayed",
        ),
        ("DROP TABLE evaluations", "no such table: evaluations"),
        ("UPDATE architectures SET data = '{}'", "a row cannot be read"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(tmp_path: Path, edit: str, says: str) -> None:
    run = record(tmp_path / "run", [trained(0, 1, 1), trained(1, 2, 2)])
    load_recording(str(run), {}, CONFIG)
    with sqlite3.connect(run / "ledger.sqlite") as database:
        database.execute(edit)
    database.close()
    with pytest.raises(ConfigError) as caught:
        load_recording(str(run), {}, CONFIG)
    assert says in str(caught.value)
    assert str(caught.value).startswith("replay.run: ")
    assert "\n" not in str(caught.value)


def test_pages_that_are_damaged_are_a_problem_of_the_key(tmp_path: Path) -> None:
    run = record(tmp_path / "run", [trained(n, 1 + n // 8, n % 8) for n in range(50)])
    pages = bytearray((run / "ledger.sqlite").read_bytes())
    pages[3 * 4096 :] = b"\x5a" * (len(pages) - 3 * 4096)
    (run / "ledger.sqlite").write_bytes(pages)
    with pytest.raises(ConfigError, match=r"replay\.run: .*malformed") as caught:
        load_recording(str(run), {}, CONFIG)
    assert caught.value.exit_code == 2


def test_a_training_of_another_space_is_named() -> None:
    recording = Recording(trials=(trained(3, 1, 1), trained(4, 1, 99)), validation_images=None)
    with pytest.raises(ConfigError, match=r"replay\.run: trial 4 is not of this space: width"):
        replayed_family(toy.toy_family(), recording)


def test_a_replay_goes_on_with_the_trainings_that_it_began_with(tmp_path: Path) -> None:
    """A run that has more trainings by now has another nearest network for the same choices."""
    desk = Desk(tmp_path, tmp_path / "cache")
    desk.write("toy.yaml", TOY)
    desk.write("toy_table.py", TABLE)
    plugin = ("--plugin", "toy_table")
    desk.run("search", "toy.yaml", "executor=inline", "trials=5", *plugin)
    shutil.copytree(tmp_path / "runs/toy", tmp_path / "runs/before")
    again = ("search", "toy.yaml", "evaluator=replay", "sampler=random", "name=again", *plugin)
    desk.run(*again, "replay.run=runs/toy", "trials=2")
    desk.run("search", "toy.yaml", "executor=inline", "trials=12", *plugin)
    kept = history_hash(desk.trials("again"))
    _, err = desk.run(*again, "replay.run=runs/toy", "trials=4", code=2)
    assert "replay.run: " in err
    assert "/runs/toy has other trainings than this run began with: 12 that are finished" in err
    assert history_hash(desk.trials("again")) == kept
    # As it was it goes on, however its folder is spelt and wherever the command is given.
    shutil.rmtree(tmp_path / "runs/toy")
    (tmp_path / "runs/before").rename(tmp_path / "runs/toy")
    desk.run(*again, "replay.run=runs/../runs/toy/", "trials=4")
    # And wherever it has been taken.
    shutil.move(tmp_path / "runs/toy", tmp_path / "elsewhere")
    desk.run(*again, "replay.run=elsewhere", "trials=5")
    assert len(desk.trials("again")) == 5
    (tmp_path / "below").mkdir()
    below = Desk(tmp_path / "below", tmp_path / "cache")
    shutil.copy(tmp_path / "toy_table.py", tmp_path / "below")
    config = str(tmp_path / "runs/again/config.yaml")
    below.run("search", config, "trials=5", f"output_dir={tmp_path / 'runs'}", *plugin)
    assert len(desk.trials("again")) == 5


def test_runs_older_than_the_fingerprint_go_on() -> None:
    check_results(None, None, None)  # type: ignore[arg-type]
