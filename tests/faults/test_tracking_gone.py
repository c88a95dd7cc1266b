"""MLflow that is not there, dies in the midst, refuses or hangs, under a whole search: F6 to F8.

The projection by itself is tested in tests/e2e/test_mlflow_server.py.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasctl.doctor import Check
from tests.e2e.servers import HangingServer, MlflowServer, free_port
from tests.faults.drive import INLINE, SEARCH, Bench

SLOW = {"FAULT_SECONDS": "0.3"}
TIMEOUT_S = 5
QUICK = f"tracking.timeout_s={TIMEOUT_S}"


def tracked(bench: Bench) -> Check:
    (found,) = [c for c in bench.diagnosis().checks if c.id == "I7"]
    return found


def warnings(err: str) -> list[str]:
    return [x for x in err.splitlines() if x.startswith("warning: ") and "MLflow" in x]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's client
def test_f6_f7_killed_in_mid_search_never_back_and_synchronised_later(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "server").mkdir()
    server = MlflowServer(tmp_path / "server")
    server.start()
    arguments = (*SEARCH, INLINE, "tracking=mlflow", f"tracking.uri={server.uri}", QUICK)
    try:
        process = bench.start(*arguments, **SLOW)
        bench.wait_for("toy", process, lambda trials: len(trials) >= 6)
        server.kill()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert len(warnings(err)) <= 1, err
        assert "not everything reached the tracking store; later: nasctl sync runs/toy" in err
        unreachable = tracked(bench)
        assert unreachable.state == "not_checked"
        assert "refused the connection; is the server running?" in unreachable.details[0]
        assert bench.call("sync", "runs/toy").code == 4
        server.start()
        assert tracked(bench).state in ("violated", "ok")  # it may have had everything
        assert bench.call("sync", "runs/toy").code == 0
        assert tracked(bench) == Check(
            id="I7",
            invariant="MLflow has every training once, with its status",
            state="ok",
            details=("13 runs",),
        )
    finally:
        server.kill()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside other tests a process of low priority may need minutes for what takes it seconds."""
    monkeypatch.setattr("nasctl.search.FLUSH_S", 240.0)


class _Refusing(http.server.BaseHTTPRequestHandler):
    status = 401

    def do_GET(self) -> None:
        self.send_error(self.status, "Unauthorized" if self.status == 401 else "Forbidden")

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Not on the terminal of the tests."""


@pytest.fixture(params=[401, pytest.param(403, marks=pytest.mark.slow)])
def refusing(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    handler = type("Handler", (_Refusing,), {"status": request.param})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", request.param
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("patient")
def test_f7_a_server_that_refuses_costs_one_warning_with_the_cause(
    bench: Bench, refusing: tuple[str, int]
) -> None:
    uri, status = refusing
    said = bench.call(*SEARCH, INLINE, "tracking=mlflow", f"tracking.uri={uri}", QUICK)
    assert said.code == 0, said.err
    (warning,) = [x for x in warnings(said.err) if "MLflow at" in x]
    assert f"({status})" in warning
    assert tracked(bench).state == "not_checked"
    assert f"({status})" in tracked(bench).details[0]
    bench.assert_sound()


@pytest.mark.usefixtures("patient")
def test_f7_a_server_that_was_never_there(bench: Bench) -> None:
    uri = f"tracking.uri=http://127.0.0.1:{free_port()}"
    said = bench.call(*SEARCH, INLINE, "tracking=mlflow", uri, QUICK)
    assert said.code == 0
    (warning,) = [x for x in warnings(said.err) if "MLflow at" in x]
    assert warning.endswith("refused the connection; is the server running?")
    bench.assert_sound()


def test_f8_a_server_that_never_answers_delays_nothing(bench: Bench) -> None:
    server = HangingServer()
    try:
        uri = f"tracking.uri={server.uri}"
        said = bench.call(*SEARCH, INLINE, "tracking=mlflow", uri, QUICK, **SLOW)
        assert said.code == 0, said.err
        # Half a second of sleep; had it waited for a single call, it would be ten times that.
        assert max(t.seconds for t in bench.toy.trials()) < TIMEOUT_S
        assert any(f"does not answer within {TIMEOUT_S} s" in x for x in warnings(said.err)), (
            said.err
        )
        bench.assert_sound()
    finally:
        server.stop()
