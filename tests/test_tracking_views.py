"""What a run looks like in a store, and which stores there are."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from nasctl.arch import Cost
from nasctl.errors import ConfigError
from nasctl.tracking import (
    TrackingSettings,
    sync,
    ui_command,
)
from nasctl.tracking.project import explain
from nasctl.tracking.text import redact, safe_name, safe_names, show_number
from nasctl.tracking.view import Point, search_view, trial_view, view_run
from nasctl.trial import State
from tests.tracking_records import FakeRecords, make_trial


class TestViews:
    def test_of_a_trial(self) -> None:
        trial = make_trial(5)
        view = trial_view(trial, uid="u", recipe={"lr": 0.1}, pareto=True, live=True)
        assert view.name == f"005 {trial.arch_id}"
        assert view.params == {
            "width_multiplier": "0.5",
            "stage1.block1.kernel_size": "5",
            "arch_id": trial.arch_id,
            "trial": "5",
            "seed": "0",
            "epochs": "3",
            "recipe.lr": "0.1",
        }
        assert view.latest["params"] == 14_500
        assert (view.start_ms, view.end_ms) == (1_700_000_100_000, 1_700_000_112_000)
        assert view.points[4] == Point(
            key="accuracy", value=0.7 + 0.05 + 0.04, step=2, timestamp_ms=1_700_000_108_000
        )

    @pytest.mark.parametrize(
        ("state", "status"),
        [("COMPLETE", "FINISHED"), ("PRUNED", "KILLED"), ("FAILED", "FAILED")],
    )
    def test_every_final_state_has_a_status(self, state: str, status: str) -> None:
        trial = make_trial(0, state=State(state))
        view = trial_view(trial, uid="u", recipe={}, pareto=True, live=True)
        assert (view.status, view.tags["state"]) == (status, state)
        assert view.tags["pareto"] == str(state == "COMPLETE").lower()

    def test_of_the_search(self) -> None:
        trials = [make_trial(0), make_trial(1), make_trial(2, state=State.FAILED, error="x")]
        records = FakeRecords(trials, front={trials[0].arch_id})
        view = search_view(records, trials, records.front)
        assert view.params["space.stages"] == '[{"channels": 16, "depth": 1}]'
        assert view.params["recipe.lr"] == "0.1"
        assert "trials" not in view.params
        assert view.tags["env.torch"] == "2.13.0+cpu"
        assert view.latest["trials_complete"] == 2
        assert view.latest["trials_failed"] == 1
        assert view.latest["trials_rejected"] == 5
        assert view.latest["best_accuracy"] == pytest.approx(0.77)
        assert "best_params" not in view.latest
        note = view.tags["mlflow.note.content"]
        assert f"| `{trials[0].arch_id}` | 0 | 0.76 | 0.5 | 10,000 |" in note
        assert trials[1].arch_id not in note
        assert "nasctl search conf/mbv2_space.yaml" in note

    def test_secrets_stay_here(self) -> None:
        views = view_run(FakeRecords([make_trial(0)]))
        assert "secret" not in repr(views)
        assert redact("postgresql+psycopg://me:pw@host/db and a@b") == (
            "postgresql+psycopg://***@host/db and a@b"
        )

    def test_long_values_are_cut_to_the_limits(self) -> None:
        trial = make_trial(0, choices={"x" * 400: "v" * 9000}, error="e" * 9000)
        view = trial_view(trial, uid="u", recipe={}, pareto=False, live=True)
        assert max(map(len, view.params)) == 250
        assert max(map(len, view.params.values())) == 6000
        assert max(map(len, view.tags.values())) <= 8000
        many = [make_trial(n) for n in range(300)]
        view = search_view(FakeRecords(many), many, {t.arch_id for t in many})
        assert "270 more" in view.tags["mlflow.note.content"]
        assert len(view.tags["mlflow.note.content"]) <= 8000

    @pytest.mark.parametrize(
        ("name", "safe"),
        [
            ("stage1.block1.kernel_size", "stage1.block1.kernel_size"),
            ("acc@1", "acc_1"),
            ("../up", ".._up"),
            ("/root", "_root"),
            ("a//b", "a__b"),
            ('q"uote', "q_uote"),
            ("", "_"),
            ("..", "_"),
            ("größe", "größe"),
        ],
    )
    def test_names_are_made_safe(self, name: str, safe: str) -> None:
        assert safe_name(name) == safe

    def test_names_that_become_equal_stay_apart(self) -> None:
        assert len(safe_names({"a@b": 1, "a#b": 2, "a_b": 3})) == 3

    def test_numbers_are_readable(self) -> None:
        shown = [show_number(v) for v in (1234567.0, 0.87654, 12.3456, None, 0.0)]
        assert shown == ["1,234,567", "0.8765", "12.35", "–", "0"]


class TestSettings:
    def test_default_store_is_in_the_output_directory(self, tmp_path: Path) -> None:
        settings = TrackingSettings(output_dir=tmp_path)
        assert settings.store_uri == f"sqlite:///{tmp_path}/mlflow.db"
        other = TrackingSettings(output_dir=tmp_path, uri="sqlite:////data/all.db")
        assert other.artifact_root == Path("/data")

    @pytest.mark.parametrize(
        ("uri", "says"),
        [
            ("htp://host:5000", "did you mean http://?"),
            ("mlruns", "plain folders"),
            ("file:///tmp/mlruns", "sqlite:////tmp/mlruns/mlflow.db"),
            ("ftp://me:pw@host", "ftp://***@host"),
        ],
    )
    def test_wrong_addresses_are_refused(self, tmp_path: Path, uri: str, says: str) -> None:
        with pytest.raises(ConfigError, match=r"tracking\.uri") as caught:
            TrackingSettings(output_dir=tmp_path, uri=uri)
        assert says in str(caught.value)
        assert "pw" not in str(caught.value)

    def test_an_unwritable_store_is_explained(self, tmp_path: Path) -> None:
        settings = TrackingSettings(output_dir=tmp_path, uri="sqlite:////proc/nowhere/mlflow.db")
        result = sync(FakeRecords([make_trial(0)]), settings)
        assert result.pending == 2
        assert result.problem.startswith("MLflow at sqlite:////proc/nowhere/mlflow.db")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("failed with error code 401 != 200", "refuses the login of its address (401)"),
            ("API request failed with error code 403 != 200", "forbids it (403)"),
            ("error code 403. Response body: 'Invalid Host header'", "--allowed-hosts box:5000"),
            ("[Errno 111] Connection refused", "refused the connection"),
            ("RemoteDisconnected('Remote end closed')", "broke the connection"),
            ("Read timed out. (read timeout=5)", "does not answer within 5 s"),
            ("[Errno -2] Name or service not known", "unknown host 'box:5000'"),
            ("ResponseError('too many 503 error responses')", "(503); is its database running?"),
            ("FATAL:  password authentication failed for user", "wants a password, or another one"),
            ("No module named 'psycopg'", "pip install 'nasctl[cluster]'"),
            ("Detected out-of-date database schema", "mlflow db upgrade"),
            ("database or disk is full", "no space left"),
            ("something else", "RuntimeError: something else"),
        ],
    )
    def test_causes_are_named(self, tmp_path: Path, text: str, says: str) -> None:
        settings = TrackingSettings(output_dir=tmp_path, uri="http://me:pw@box:5000")
        line = explain(RuntimeError(text), settings)
        assert line.startswith("MLflow at http://***@box:5000")
        assert says in line

    def test_a_login_that_is_missing_is_no_wrong_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
        settings = TrackingSettings(output_dir=tmp_path, uri="http://box:5000")
        error = RuntimeError("failed with error code 401 != 200")
        assert "wants a login (401); set MLFLOW_TRACKING_USERNAME" in explain(error, settings)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        assert "refuses the login of MLFLOW_TRACKING_USERNAME" in explain(error, settings)

    def test_ui_listens_here_only_and_starts_no_jobs(self, tmp_path: Path) -> None:
        command = ui_command(TrackingSettings(output_dir=tmp_path))
        argv = command.argv
        # Not in the command, which everybody can read.
        assert command.env["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
        assert argv[argv.index("--host") + 1] == "127.0.0.1"
        assert command.url == "http://127.0.0.1:" + argv[argv.index("--port") + 1]
        assert command.env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
        assert command.env["MLFLOW_DISABLE_TELEMETRY"] == "true"
        remote = ui_command(TrackingSettings(output_dir=tmp_path, uri="http://mlflow:5000"))
        assert (remote.argv, remote.url) == (None, "http://mlflow:5000")

    def test_ui_opens_on_the_experiment(self, tmp_path: Path) -> None:
        settings = TrackingSettings(output_dir=tmp_path, experiment="mine")
        sync(FakeRecords([make_trial(0)]), settings)
        with sqlite3.connect(settings.output_dir / "mlflow.db") as db:
            ((number,),) = db.execute(
                "SELECT experiment_id FROM experiments WHERE name=?", (settings.experiment,)
            )
        db.close()
        url = ui_command(settings, port=5123).url
        assert url.startswith(f"http://127.0.0.1:5123/#/experiments/{number}/runs?")
        other = dataclasses.replace(settings, experiment="none of these")
        assert ui_command(other, port=5123).url == "http://127.0.0.1:5123"


def test_costs_of_a_table_need_no_training() -> None:
    trial = make_trial(0, epochs=0, cost=Cost(energy_mj=3.5), metrics={"accuracy": 0.9})
    view = trial_view(trial, uid="u", recipe={}, pareto=False, live=True)
    assert view.latest == {"energy_mj": 3.5, "accuracy": 0.9}


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, nasctl.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
