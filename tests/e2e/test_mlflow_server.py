"""Tracking against real servers: killed, restarted, absent, hanging, refusing."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from servers import HangingServer, MlflowServer, free_port  # noqa: E402 - needs the path above
from tracking_records import FakeRecords, make_trial, open_fake  # noqa: E402 - likewise

from nasctl.tracking import (  # noqa: E402 - likewise
    ProjectionState,
    Tracker,
    TrackingSettings,
    project,
    sync,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), allowed_hosts="127.0.0.1:*")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def settings(server: MlflowServer, tmp_path: Path, request: pytest.FixtureRequest):
    return TrackingSettings(
        output_dir=tmp_path, uri=server.uri, experiment=request.node.name, timeout_s=2
    )


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent), prepend=os.pathsep)
    return tmp_path / "ledger.json"


def write(ledger: Path, trials: int, status: str = "RUNNING") -> None:
    temporary = ledger.with_suffix(".new")
    temporary.write_text(json.dumps({"trials": trials, "status": status}))
    temporary.replace(ledger)


def names(server: MlflowServer, experiment: str) -> Counter[str]:
    with sqlite3.connect(server.database) as db:
        found = db.execute(
            "SELECT r.name FROM runs r JOIN experiments e USING (experiment_id) "
            "WHERE e.name=? AND r.lifecycle_stage='active'",
            (experiment,),
        ).fetchall()
    db.close()
    return Counter(name for (name,) in found)


def expected(trials: int) -> Counter[str]:
    own = [make_trial(n) for n in range(trials)]
    return Counter(["mbv2_space", *(f"{t.number:03d} {t.arch_id}" for t in own)])


class Driver:
    """A search as the tracker sees it: pokes at every epoch; notes how long that took."""

    def __init__(self, ledger: Path, settings: TrackingSettings) -> None:
        self.ledger = ledger
        self.problems: list[str] = []
        self.warned = threading.Event()
        self.slowest = 0.0
        write(ledger, 0)
        opener = functools.partial(open_fake, ledger)
        self.tracker = Tracker(opener, settings, self._hear)
        self.tracker.start()

    def _hear(self, problem: str) -> None:
        self.problems.append(problem)
        self.warned.set()

    def step(self, trials: int, status: str = "RUNNING") -> None:
        write(self.ledger, trials, status)
        before = time.monotonic()
        self.tracker.poke()
        self.slowest = max(self.slowest, time.monotonic() - before)

    def close(self, seconds: float) -> bool:
        before = time.monotonic()
        done = self.tracker.close(seconds)
        # A promise, not a measurement: P4 says that a search never waits for its tracking.
        assert time.monotonic() - before < seconds + 5
        assert self.slowest < 1.0
        return done


def test_projection_through_a_server(
    server: MlflowServer, settings: TrackingSettings, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    records = FakeRecords(
        [make_trial(n) for n in range(3)], status="FINISHED", files=[(report, "")]
    )
    first = sync(records, settings)
    assert (first.pending, first.problem) == (0, None)
    again = sync(records, settings)
    assert (again.sent, again.problem) == (0, None)
    assert names(server, settings.experiment) == expected(3)
    assert [p.read_text() for p in server.folder.rglob("report.html")] == ["<p>report</p>"]


def test_killed_and_restarted_in_mid_search(
    server: MlflowServer, settings: TrackingSettings, ledger: Path
) -> None:
    driver = Driver(ledger, settings)
    driver.step(4)
    until = time.monotonic() + 60
    while not names(server, settings.experiment) and time.monotonic() < until:
        time.sleep(0.05)
    server.kill()  # in the middle of the first projection, or right after it
    driver.step(6)
    assert driver.warned.wait(60)
    driver.step(7)
    server.start()
    driver.step(9, "FINISHED")
    assert driver.close(300)
    assert len(driver.problems) == 1
    assert "the connection; is the server" in driver.problems[0]  # refused or broken
    assert names(server, settings.experiment) == expected(9)


def test_a_call_that_was_done_but_not_answered_is_not_done_twice(
    settings: TrackingSettings, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = FakeRecords([make_trial(n) for n in range(3)], status="FINISHED")
    state = ProjectionState()
    project(FakeRecords([make_trial(0)]), settings, state)
    create = state.store.client.create_run

    def create_and_lose_the_answer(*args, **kwargs):
        create(*args, **kwargs)
        raise TimeoutError("timed out")

    monkeypatch.setattr(state.store.client, "create_run", create_and_lose_the_answer)
    assert "does not answer" in project(records, settings, state).problem
    monkeypatch.undo()
    assert project(records, settings, state).pending == 0
    assert names(server, settings.experiment) == expected(3)


def test_server_never_there(ledger: Path, tmp_path: Path, server: MlflowServer) -> None:
    settings = TrackingSettings(output_dir=tmp_path, uri=f"http://127.0.0.1:{free_port()}")
    driver = Driver(ledger, settings)
    driver.step(2)
    assert driver.warned.wait(60)
    driver.step(3, "FINISHED")
    assert not driver.close(30)
    assert len(driver.problems) == 1
    assert "refused the connection" in driver.problems[0]
    later = TrackingSettings(output_dir=tmp_path, uri=server.uri, experiment="later")
    assert sync(open_fake(str(ledger)), later).pending == 0  # `nasctl sync` once there is one
    assert names(server, "later") == expected(3)


def test_server_that_never_answers(ledger: Path, tmp_path: Path) -> None:
    hanging = HangingServer()
    settings = TrackingSettings(output_dir=tmp_path, uri=hanging.uri, timeout_s=1)
    driver = Driver(ledger, settings)
    driver.step(2)
    assert driver.warned.wait(60)
    driver.step(3, "FINISHED")
    assert not driver.close(10)
    hanging.stop()
    assert driver.problems == [f"MLflow at {hanging.uri} does not answer within 1 s"]
    assert 1 <= hanging.asked <= 4  # one attempt, one at the end; no storm of retries


def test_host_check(server: MlflowServer, tmp_path: Path) -> None:
    # The server allows 127.0.0.1 only; its health check stays green for every other name.
    settings = TrackingSettings(output_dir=tmp_path, uri=f"http://localhost:{server.port}")
    result = sync(FakeRecords([make_trial(0)]), settings)
    assert result.pending == 2
    assert f"start it with --allowed-hosts localhost:{server.port}" in result.problem


def test_the_ui_shows_the_front(server: MlflowServer, settings: TrackingSettings) -> None:
    # The saved view is the UI's own format: a browser is the only one who knows that it is right.
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium")
    from playwright.sync_api import sync_playwright

    records = FakeRecords([make_trial(n) for n in range(3)], status="FINISHED")
    state = ProjectionState()
    assert project(records, settings, state).pending == 0
    page_of = f"{server.uri}/#/experiments/{state.store.experiment_id}/runs"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-quic", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.goto(f"{page_of}?viewStateShareKey=nasctl&workflowType=machine_learning")
        page.get_by_role("link", name="mbv2_space").first.wait_for(timeout=60_000)
        for column in ("accuracy", "latency_ms", "params"):
            page.get_by_text(column, exact=True).first.wait_for(timeout=20_000)
        page.goto(page.url + "&compareRunsMode=CHART")
        page.get_by_text(re.compile(r"^Search\s*\(1\)")).first.wait_for(
            timeout=60_000
        )  # the hypervolume curve
        page.locator(".ag-cell button").first.click()  # unfold the trials
        page.get_by_text(re.compile(r"^Search\s*\(4\)")).first.wait_for(timeout=60_000)
        assert page.get_by_text("Error loading shared view").count() == 0
        browser.close()
