"""A whole search into MLflow on a real PostgreSQL, as the cluster has it: F6, F7, I7."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from nasctl.doctor import Check
from nasctl.trial import State
from tests.e2e.servers import START_SECONDS as PATIENCE
from tests.e2e.servers import MlflowServer, PostgresServer, has_postgres
from tests.faults.drive import INLINE, TOY, Bench, until

pytestmark = [
    # On a developer's machine; CI has the package, and checks that nothing is skipped for want
    # of one.
    pytest.mark.skipif(
        not has_postgres() and "NASCTL_CI" not in os.environ, reason="no PostgreSQL here"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's client
]

GATED = '''\
"""The table of accidents, with an evaluator that waits to be allowed: so many trainings in all."""
import os, pathlib, time
from tests.faults.plugin import FAMILIES, accuracy

FOLDER = pathlib.Path(os.environ["FAULT_FOLDER"])

def gated(architecture, *, budget, seed):
    done = FOLDER / f"done-{os.environ.get('GATE', 'all')}"
    while len(done.read_text()) >= int((FOLDER / "allowed").read_text() or 0):
        time.sleep(0.02)
    for epoch in (1, 2):
        if epoch == 2:
            with open(done, "a") as file:
                file.write(".")
        yield {"accuracy": accuracy(architecture, seed) * epoch / 2}

EVALUATORS = {"gated": gated}
'''
GATED_SEARCH = ("search", "toy.yaml", "--plugin", "gated", "evaluator=gated", INLINE)
TRIALS = 12
PATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}  # on a machine with much to do


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "cache").mkdir()
    made = Bench(tmp_path, tmp_path / "cache")
    made.write("toy.yaml", TOY)
    made.write("gated.py", GATED)
    made.write("done-all", "")
    return made


def allow(bench: Bench, trainings: int) -> None:
    temporary = bench.write("allowed.new", str(trainings))
    temporary.replace(bench.folder / "allowed")


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    made = PostgresServer()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def server(postgres: PostgresServer, tmp_path: Path) -> Iterator[MlflowServer]:
    made = MlflowServer(
        tmp_path / "server", database=postgres.uri, allowed_hosts="127.0.0.1:*,tracking:5000"
    )
    try:
        made.start()
        yield made
    finally:
        made.kill()


def ask(postgres: PostgresServer, query: str) -> list[tuple[Any, ...]]:
    """Of the database itself, past MLflow."""
    with psycopg.connect(postgres.uri.replace("+psycopg", "")) as db:
        return db.execute(query).fetchall()


def finished(postgres: PostgresServer) -> int:
    (row,) = ask(postgres, "SELECT count(*) FROM runs WHERE status = 'FINISHED'")
    return int(row[0])


def tracked(bench: Bench, run: str, **environment: str) -> Check:
    """What the doctor says of the store."""
    said = bench.call("doctor", f"runs/{run}", "--json", **environment)
    (found,) = [c for c in json.loads(said.out)["checks"] if c["id"] == "I7"]
    return Check(**{**found, "details": tuple(found["details"])})


def assert_everything_once(bench: Bench, run: str, **environment: str) -> None:
    said = bench.call("sync", f"runs/{run}", **environment)  # the end of a search waits 20 s only
    assert said.code == 0, said.err
    assert tracked(bench, run, **environment) == Check(
        id="I7",
        invariant="MLflow has every training once, with its status",
        state="ok",
        details=(f"{TRIALS + 1} runs",),
    )


def mlflow_warnings(err: str) -> list[str]:
    return [x for x in err.splitlines() if x.startswith("warning: ") and "MLflow" in x]


def wait_for_trials(bench: Bench, process: subprocess.Popen[str], complete: int) -> None:
    def enough(trials: list[Any]) -> bool:
        return sum(t.state is State.COMPLETE for t in trials) >= complete

    bench.wait_for("toy", process, enough)


@pytest.mark.alone  # what writes to MLflow yields to everything else that runs
def test_f6_postgresql_is_killed_and_comes_back_in_mid_search(
    bench: Bench, postgres: PostgresServer, server: MlflowServer
) -> None:
    here = {"NASCTL_TRACKING_URI": server.uri, **PATIENT}
    allow(bench, 4)
    process = bench.start(*GATED_SEARCH, "tracking=mlflow", **here)
    try:
        until(lambda: finished(postgres) >= 4, seconds=PATIENCE)
        postgres.kill()
        allow(bench, 8)
        wait_for_trials(bench, process, 8)  # with nobody to tell
        until(lambda: '" 500' in server.log or '" 503' in server.log, seconds=PATIENCE)
        postgres.start()
        until(lambda: finished(postgres) >= 8, seconds=PATIENCE)  # the search itself sees to it
        allow(bench, TRIALS)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0, err
    (warning,) = mlflow_warnings(err)
    assert re.search(
        rf"MLflow at {server.uri} has a fault of its own \(50[03]\); is its database running\?$",
        warning,
    )
    assert "nasctl ui runs/toy" in err
    assert bench.call("sync", "runs/toy", **here).out == "0 changes sent, everything is there\n"
    assert_everything_once(bench, "toy", **here)
    assert bench.call("ui", "runs/toy", **here).out == f"{server.uri}\n"

    # What is in the database is the ledger: one parent, its children, their epochs, the files.
    runs = ask(postgres, "SELECT run_uuid, name, status FROM runs")
    parents = dict(ask(postgres, "SELECT run_uuid, value FROM tags WHERE key='mlflow.parentRunId'"))
    ((parent, name, status),) = [r for r in runs if r[0] not in parents]
    assert (name, status) == ("toy", "FINISHED")
    assert set(parents.values()) == {parent}
    trials = bench.toy.trials()
    expected = Counter((f"{t.number:03d} {t.arch_id}", "FINISHED") for t in trials)
    assert Counter((n, s) for run, n, s in runs if run != parent) == expected
    query = "SELECT count(*) FROM metrics WHERE key = 'accuracy'"
    assert ask(postgres, query) == [(2 * TRIALS,)]
    files = {p.name for p in (server.folder / "artifacts").rglob("*") if p.is_file()}
    assert {"report.html", "front.json", "config.yaml"} <= files
    # The address is the deployment's, not the run's.
    assert bench.toy.config["tracking"]["uri"] is None
    assert server.uri not in (bench.run_dir / "config.yaml").read_text()


@pytest.mark.slow  # the same with the server in place of its database
def test_f6_the_server_is_killed_and_comes_back_in_mid_search(
    bench: Bench, postgres: PostgresServer, server: MlflowServer
) -> None:
    here = {"NASCTL_TRACKING_URI": server.uri, **PATIENT}
    allow(bench, 4)
    process = bench.start(*GATED_SEARCH, "tracking=mlflow", **here)
    try:
        until(lambda: finished(postgres) >= 4, seconds=PATIENCE)
        server.kill()
        allow(bench, 8)
        wait_for_trials(bench, process, 8)
        server.start()
        until(lambda: finished(postgres) >= 8, seconds=PATIENCE)
        allow(bench, TRIALS)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0, err
    assert len(mlflow_warnings(err)) <= 1, err
    assert_everything_once(bench, "toy", **here)


def both_at_once(
    bench: Bench, start: Callable[[str], subprocess.Popen[str]], names: tuple[str, str]
) -> None:
    allow(bench, TRIALS)
    for name in names:
        bench.write(f"done-{name}", "")
    for process in [start(name) for name in names]:
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert mlflow_warnings(err) == []


@pytest.mark.slow  # two searches through one server
def test_two_searches_at_once_into_one_server(
    bench: Bench, postgres: PostgresServer, server: MlflowServer
) -> None:
    here = {"NASCTL_TRACKING_URI": server.uri, **PATIENT}

    def start(name: str) -> subprocess.Popen[str]:
        return bench.start(*GATED_SEARCH, "tracking=mlflow", f"name={name}", GATE=name, **here)

    both_at_once(bench, start, ("one", "two"))
    for name in ("one", "two"):
        assert_everything_once(bench, name, **here)
    assert ask(postgres, "SELECT count(*) FROM experiments WHERE name = 'nasctl'") == [(1,)]
    assert finished(postgres) == 2 * (TRIALS + 1)


@pytest.mark.slow  # MLflow's client makes the tables of an empty database, from two processes
def test_two_searches_at_once_into_an_empty_database(
    bench: Bench, postgres: PostgresServer
) -> None:
    password = postgres.uri.rpartition("@")[0].rpartition(":")[2]
    without = postgres.uri.replace(f":{password}@", "@")
    ways = {
        "one": ((f"tracking.uri={without}",), {"PGPASSWORD": password}),
        "two": ((), {"NASCTL_TRACKING_URI": postgres.uri}),
    }

    def start(name: str) -> subprocess.Popen[str]:
        options, environment = ways[name]
        return bench.start(
            *GATED_SEARCH, "tracking=mlflow", f"name={name}", *options, GATE=name, **environment
        )

    both_at_once(bench, start, ("one", "two"))
    for name, (_, environment) in ways.items():
        assert_everything_once(bench, name, **environment)
        for path in (bench.folder / "runs" / name).rglob("*"):
            assert not path.is_file() or password.encode() not in path.read_bytes()
    assert finished(postgres) == 2 * (TRIALS + 1)


@pytest.mark.slow  # real refusals; stand-ins for them are in tests/faults/test_tracking_gone.py
def test_f7_wrong_host_no_login_wrong_login_right_login(bench: Bench, tmp_path: Path) -> None:
    password = "a password of the tests"
    server = MlflowServer(tmp_path / "server", allowed_hosts="127.0.0.1:*", admin_password=password)
    here = {"NASCTL_TRACKING_URI": server.uri, **PATIENT}
    wrong = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "wrong"}
    right = {**here, **wrong, "MLFLOW_TRACKING_PASSWORD": password}
    another = {"NASCTL_TRACKING_URI": f"http://localhost:{server.port}"}
    refusals = (
        ({**right, **another}, 403, f"start it with --allowed-hosts localhost:{server.port}"),
        (here, 401, "wants a login (401); set MLFLOW_TRACKING_USERNAME and"),
        ({**here, **wrong}, 401, "refuses the login of MLFLOW_TRACKING_USERNAME and"),
    )

    def refused(status: int, more_than: int) -> bool:
        return server.log.count(f'HTTP/1.1" {status} ') > more_than

    try:
        server.start()
        for number, (environment, status, says) in enumerate(refusals):
            before = server.log.count(f'HTTP/1.1" {status} ')
            bench.write("done-all", "")
            allow(bench, 4)
            process = bench.start(
                *GATED_SEARCH, "tracking=mlflow", f"name=run{number}", **environment
            )
            try:
                until(functools.partial(refused, status, before), seconds=PATIENCE)
                allow(bench, TRIALS)
                _, err = process.communicate(timeout=PATIENCE)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            assert process.returncode == 0, err
            (warning,) = [x for x in mlflow_warnings(err) if "MLflow at" in x]
            assert says in warning
            assert tracked(bench, f"run{number}", **environment).state == "not_checked"
            assert_everything_once(bench, f"run{number}", **right)
    finally:
        server.kill()
