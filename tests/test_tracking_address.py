"""Where runs are shown: `tracking.uri`, the environment's address, and what never leaves either."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nasctl.outputs import tracking_settings
from nasctl.tracking import TrackingSettings, ui_command
from nasctl.tracking.address import VARIABLE, default_uri, password_problem
from nasctl.tracking.client import creating_tables
from nasctl.tracking.text import has_password, redact
from tests.e2e.servers import free_port
from tests.faults.drive import INLINE, SEARCH, TOY, Bench

PASSWORD = "geheim/42"
MLFLOW = (*SEARCH, INLINE, "tracking=mlflow", "trials=2")


@pytest.fixture(autouse=True)
def no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "cache").mkdir()
    made = Bench(tmp_path, tmp_path / "cache")
    made.write("toy.yaml", TOY)
    return made


class TestPasswords:
    @pytest.mark.parametrize(
        ("uri", "shown"),
        [
            (f"http://me:{PASSWORD}@host:5000", "http://***@host:5000"),
            ("http://token@host:5000", "http://***@host:5000"),
            (f"postgresql+psycopg://me:{PASSWORD}@host/db", "postgresql+psycopg://***@host/db"),
            ("postgresql://me:p@ss@host/db", "postgresql://***@host/db"),
            (f"postgresql://host/db?user=me&password={PASSWORD}&x=1",
             "postgresql://host/db?user=me&password=***&x=1"),
            (f"postgresql://host/db?PASSWORD={PASSWORD}", "postgresql://host/db?PASSWORD=***"),
            (f"mysql://me:{PASSWORD}", f"mysql://me:{PASSWORD}"),  # a host and a port
            ("sqlite:////data/a:b/mlflow.db", "sqlite:////data/a:b/mlflow.db"),
            ("http://host:5000", "http://host:5000"),
        ],
    )  # fmt: skip
    def test_they_are_found_and_left_out(self, uri: str, shown: str) -> None:
        assert redact(uri) == shown
        assert redact(f"cannot reach {uri} now") == f"cannot reach {shown} now"
        assert has_password(uri) == (shown != uri and "token" not in uri)

    @pytest.mark.parametrize(
        ("uri", "instead"),
        [
            (f"https://me:{PASSWORD}@h", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "),
            (f"postgresql+psycopg://me:{PASSWORD}@h/d", "~/.pgpass, or the whole address to "),
            (f"mysql://me:{PASSWORD}@h/d", f"give it to {VARIABLE}"),
        ],
    )
    def test_the_remedy_is_that_of_the_store(self, uri: str, instead: str) -> None:
        problem = password_problem(uri)
        assert problem is not None
        assert instead in problem
        assert problem.endswith(VARIABLE)

    @pytest.mark.parametrize("command", ["search", "ablate"])
    @pytest.mark.parametrize("more", [(), ("--dry-run",)])
    def test_a_configuration_with_one_is_refused_before_anything_is_written(
        self, bench: Bench, command: str, more: tuple[str, ...]
    ) -> None:
        config = {"search": "toy.yaml", "ablate": "linear_bottleneck"}[command]
        for password in (PASSWORD, "x" * 80):  # longer than what is shown of a value
            uri = f"postgresql://me:{password}@host/db"
            plugin = SEARCH[2:] if command == "search" else ()
            said = bench.call(command, config, *plugin, "tracking=mlflow", f"tracking.uri={uri}",
                              *more)  # fmt: skip
            assert said.code == 2
            assert "tracking.uri: a password would be kept with the run" in said.error
            assert "got 'postgresql://***@host/db'" in said.error
            assert password[:20] not in said.err + said.out
        assert not (bench.folder / "runs").exists()

    def test_one_in_a_file_is_refused_with_its_line(self, bench: Bench) -> None:
        bench.write("toy.yaml", TOY + f"tracking: {{uri: 'http://me:{PASSWORD}@host:5000'}}\n")
        said = bench.call(*SEARCH, "tracking=mlflow")
        assert said.code == 2
        assert "toy.yaml:8: tracking.uri: a password would be kept" in said.error
        assert PASSWORD not in said.err

    def test_the_environments_may_have_one_and_it_is_written_nowhere(self, bench: Bench) -> None:
        place = f"127.0.0.1:{free_port()}"
        uri = f"http://me:{PASSWORD.replace('/', '%2F')}@{place}"
        said = bench.call(*MLFLOW, "tracking.timeout_s=1", **{VARIABLE: uri})
        assert said.code == 0, said.err
        assert "MLflow at http://***@127.0.0.1" in said.err
        assert "refused the connection; is the server running?" in said.err
        assert "not everything reached the tracking store" in said.err
        assert bench.call("sync", "runs/toy", **{VARIABLE: uri}).code == 4
        assert bench.call("ui", "runs/toy", **{VARIABLE: uri}).out == f"http://{place}\n"
        assert "geheim" not in said.err + said.out
        for path in (bench.folder / "runs").rglob("*"):
            assert not path.is_file() or b"geheim" not in path.read_bytes(), path

    def test_the_ui_of_a_database_has_it_in_its_environment_alone(self, tmp_path: Path) -> None:
        uri = f"postgresql+psycopg://me:{PASSWORD.replace('/', '%2F')}@127.0.0.1/db"
        command = ui_command(TrackingSettings(output_dir=tmp_path, uri=uri), port=5123)
        assert command.argv is not None
        assert "geheim" not in " ".join(command.argv) + command.url
        assert command.env["MLFLOW_BACKEND_STORE_URI"] == uri


class TestTheEnvironmentsAddress:
    def test_it_stands_in_for_null_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def uri(**section: Any) -> str | None:
            return tracking_settings({"name": "mlflow", **section}, tmp_path).uri

        assert (default_uri(), uri()) == (None, None)
        monkeypatch.setenv(VARIABLE, " http://mlflow:5000 ")
        assert uri() == uri(uri=None) == default_uri() == "http://mlflow:5000"
        assert uri(uri="http://other:5000") == "http://other:5000"
        monkeypatch.setenv(VARIABLE, "")
        assert uri() is None

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            ("mlruns", "'mlruns': MLflow has given up plain folders; use sqlite:///mlruns/"),
            ("htpp://mlflow:5000", "unknown scheme; did you mean http://?"),
            ("http://:5000", "no host; write http://HOST:PORT"),
            ("http://mlflow:five", "its host and port cannot be read"),
            ("ftp://me:geheim@mlflow", "'ftp://***@mlflow': unknown scheme"),
        ],
    )
    def test_a_wrong_one_is_named_before_anything_is_written(
        self, bench: Bench, value: str, says: str
    ) -> None:
        said = bench.call(*MLFLOW, **{VARIABLE: value})
        assert said.code == 2
        assert said.error.startswith(f"Error: {VARIABLE}: ")
        assert says in said.error
        assert not (bench.folder / "runs" / "toy").exists()

    def test_search_doctor_sync_and_ui_use_it(self, bench: Bench) -> None:
        store = bench.folder / "elsewhere" / "mlflow.db"
        here = {VARIABLE: f"sqlite:///{store}"}
        said = bench.call(*MLFLOW, **here)
        assert said.code == 0, said.err
        assert "nasctl ui runs/toy" in said.err
        assert bench.call("sync", "runs/toy", **here).code == 0  # if its time was too short
        assert store.is_file()
        assert not (bench.folder / "runs" / "mlflow.db").exists()
        assert bench.toy.config["tracking"]["uri"] is None
        assert _i7(bench, here).startswith("I7 ok")
        assert _i7(bench, {}).startswith("I7 not checked")  # another place, nothing there
        assert bench.call("sync", "runs/toy", **here).out.startswith("0 changes sent")
        assert "no MLflow store here yet" in bench.call("ui", "runs/toy").error


def _i7(bench: Bench, environment: Mapping[str, str]) -> str:
    out = bench.call("doctor", "runs/toy", **environment).out
    (line,) = [x for x in out.splitlines() if x.startswith("I7")]
    return " ".join(line.split())


@pytest.mark.parametrize("driver", ["psycopg", "no_such_driver"])
def test_a_database_that_is_not_there_is_left_to_mlflow(driver: str) -> None:
    """The lock for creating tables must not hide, or put in other words, what MLflow says."""
    entered = []
    with creating_tables(f"postgresql+{driver}://nobody@127.0.0.1:1/nothing"):
        entered.append(driver)
    assert entered
