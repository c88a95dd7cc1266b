"""The process beside a search, while what drives both of them is told to stop."""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tracking_records import open_fake

from nasctl.outputs import make_tracker
from nasctl.tracking import Tracker, TrackingSettings
from nasctl.tracking.client import import_mlflow, sqlite_path
from nasctl.tracking.store import Store
from tests.faults.drive import until


def test_sigterm_is_the_driver_s_and_the_outbox_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster that stops a job sends it to every process below it, while it starts as well."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    ledger = tmp_path / "ledger.json"
    ledger.write_text(json.dumps({"trials": 0, "status": "RUNNING", "sleep": 100}))
    problems: list[str] = []
    settings = TrackingSettings(output_dir=tmp_path)
    tracker = Tracker(functools.partial(open_fake, ledger), settings, problems.append)
    tracker.start()
    tracker.poke()
    process = tracker._process
    assert process is not None
    assert process.stdin is not None
    os.kill(process.pid, signal.SIGTERM)  # it has hardly begun
    until(lambda: not tracker._poked)  # and now it is at work
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert (process.poll(), problems) == (None, [])
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    process.stdin.close()  # what the kernel does when the driver dies
    assert process.wait(10) == 0
    tracker.close(1)


def test_what_is_missing_is_sent_by_a_command_that_names_the_run() -> None:
    tracker = make_tracker(Path("runs/toy"), TrackingSettings(output_dir=Path("runs")), print)
    assert str(tracker._run) == "runs/toy"


def test_a_database_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tables take seconds: who is killed meanwhile leaves nothing that stops all others."""
    path = tmp_path / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_mlflow(timeout_s=5)
    database = importlib.import_module("mlflow.store.db.utils")
    seen = []

    def cut_short(engine: Any) -> None:
        database.InitialBase.metadata.create_all(engine)
        seen.append(path.exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(database, "_initialize_tables", cut_short)
    with pytest.raises(KeyboardInterrupt):
        Store(f"sqlite:///{path}", "e", tmp_path, timeout_s=5)
    monkeypatch.undo()
    assert seen == [False]
    assert not path.exists()
    (tmp_path / ".mlflow.db.new").write_bytes(b"what a kill leaves")
    store = Store(f"sqlite:///{path}", "e", tmp_path, timeout_s=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [e.name for e in store.client.search_experiments()] == ["e", "Default"]
    assert not (tmp_path / ".mlflow.db.new").exists()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////data/m.db", "/data/m.db"),
        ("sqlite:///m.db?timeout=5", "m.db"),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("sqlite:///file:m.db?uri=true", None),
        ("postgresql://host/m", None),
    ],
)
def test_which_file_an_address_names(uri: str, path: str | None) -> None:
    assert sqlite_path(uri) == (None if path is None else Path(path))


def test_a_database_with_options_is_made_where_it_is_opened(tmp_path: Path) -> None:
    Store(f"sqlite:///{tmp_path}/m.db?timeout=5", "e", tmp_path, timeout_s=5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.db", "m.db.lock"]
