"""`nasctl verify` end to end: training on Ray, measured latency, MLflow, and a killed driver."""

from __future__ import annotations

import csv
import io
import json
import os
import signal

import pytest

from nasctl.doctor import examine
from nasctl.ledger import Ledger
from nasctl.records import LEDGER
from nasctl.trial import State
from tests.e2e.command import Desk, completed

SMALL = ("verify.seeds=2", "verify.max_seeds=3", "verify.near=0", "verify.sessions=2")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's client and SQLAlchemy's
def test_a_verification_that_is_killed_goes_on_and_ends_with_everything(desk: Desk) -> None:
    desk.run("search", "digits.yaml", "trials=4", "executor=inline", "tracking=none")
    command = ("verify", "runs/digits", *SMALL, "executor=ray", "executor.workers=2",
               "executor.cpus=0.5", "tracking=mlflow")  # fmt: skip
    process = desk.start(*command)
    desk.wait_for("digits/verify", process, lambda trials: completed(trials) >= 2)
    os.killpg(process.pid, signal.SIGKILL)  # the driver and all of its workers, at once
    process.communicate()
    run = desk.folder / "runs" / "digits"
    assert not (run / "verified.json").exists()
    begun = [(t.arch_id, t.seed) for t in desk.trials("digits/verify")]

    out, err = desk.run(*command, "--json")
    verified = json.loads(out)
    assert json.loads((run / "verified.json").read_text()) == verified
    trials = desk.trials("digits/verify")
    assert [(t.arch_id, t.seed) for t in trials[: len(begun)]] == begun
    assert {t.state for t in trials} == {State.COMPLETE}
    finalists = [*verified["members"], *verified["candidates"]]
    assert all(len(f["trainings"]) in (2, 3) for f in finalists)
    assert len(verified["test_openings"]) == 2
    assert verified["test_evaluations"] == len(trials) + 2 * len(finalists)
    assert all(f["delivered"]["int8_latency_ms"] > 0 for f in finalists)
    assert verified["status"] == "FINISHED"

    for member in verified["members"]:
        metrics, sure = member["metrics"], member["uncertainty"]
        assert 0.3 < metrics["accuracy"] <= 1  # chance is 0.1
        assert (sure["accuracy"]["split"], sure["accuracy_val"]["split"]) == ("test", "val")
        assert 0 < metrics["latency_ms"] <= metrics["latency_ms_p90"]
        assert (sure["latency_ms"]["source"], sure["latency_ms"]["n"]) == ("measured", 2)
        low, high = sure["latency_ms"]["interval"]
        assert low < metrics["latency_ms"] < high
        assert 0 <= member["probability"] <= 1
        assert (run / member["weights"]).is_file()
    rows = list(csv.DictReader(io.StringIO((run / "promised.csv").read_text())))
    assert {r["arch_id"] for r in rows} == {f["arch_id"] for f in finalists}
    assert all(float(r["latency_p50_ms"]) > 0 for r in rows)
    assert "verified  runs/digits/verified.json" in err
    check_mlflow(desk, verified)
    assert '"id":' in (run / "report.html").read_text(encoding="utf-8")
    found = {c.id: c for c in examine(run / "verify").checks}
    assert {c.state for c in found.values() if c.id != "I8"} == {"ok"}, found


def check_mlflow(desk: Desk, verified: dict[str, object]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{desk.folder / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("nasctl")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [r for r in runs if "nasctl.run_uid" in r.data.tags]
    ledger = Ledger(desk.folder / "runs" / "digits" / LEDGER, {}, readonly=True)
    assert parent.data.tags["nasctl.verifies_uid"] == ledger.meta("uid")
    ledger.close()
    assert parent.info.run_name == "digits verified"
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["test_evaluations"] == verified["test_evaluations"]
    assert parent.data.metrics["members_kept"] == verified["places"]["kept"]  # type: ignore[index]
    assert "test_accuracy_best" in parent.data.metrics
    children = [r for r in runs if r.info.run_id != parent.info.run_id]
    assert len(children) == len(desk.trials("digits/verify"))
    assert all("test_accuracy" in r.data.metrics for r in children)
    names = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"verified.json", "promised.csv", "config.yaml"} <= names
    models = client.search_logged_models([experiment.experiment_id])
    assert {m.name for m in models} == {m["arch_id"] for m in verified["members"]}  # type: ignore[attr-defined]


def test_an_interrupt_leaves_what_is_known_and_the_same_command_goes_on(desk: Desk) -> None:
    desk.run("search", "toy.yaml", "--plugin", "toy_table", "executor=inline")
    command = ("verify", "runs/toy", "--plugin", "toy_table", *SMALL)
    process = desk.start(*command, TOY_SECONDS="0.3")
    desk.wait_for("toy/verify", process, lambda trials: completed(trials) >= 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "To continue: nasctl verify runs/toy" in err
    assert "not trained yet" in out
    path = desk.folder / "runs" / "toy" / "verified.json"
    stopped = json.loads(path.read_text())
    assert stopped["status"] == "INTERRUPTED"
    assert stopped["places"]["unfinished"] > 0
    verified = desk.json(*command)
    assert (verified["status"], verified["places"]["unfinished"]) == ("FINISHED", 0)
    assert verified["split"] == "val"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's client and SQLAlchemy's
def test_a_front_of_int8_files_survives_a_kill_and_is_measured(desk: Desk) -> None:
    desk.run("search", "digits.yaml", "trials=3", "executor=inline", "tracking=none")
    command = ("verify", "runs/digits", *SMALL, "verify.front=int8", "executor=ray",
               "executor.workers=2", "executor.cpus=0.5", "tracking=mlflow")  # fmt: skip
    process = desk.start(*command)
    desk.wait_for("digits/verify", process, lambda trials: completed(trials) >= 1, 400)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run = desk.folder / "runs" / "digits"
    ledger = Ledger(run / "verify" / LEDGER, {}, readonly=True)
    before = ledger.meta("verification")["files"]
    ledger.close()
    verified = desk.json(*command)
    assert (verified["status"], verified["front"]) == ("FINISHED", "int8")
    finalists = [*verified["members"], *verified["candidates"]]
    for one in finalists:
        metrics, file = one["metrics"], before[one["arch_id"]]  # measured once, before the kill
        assert metrics["latency_ms_int8"] == file["p50_ms"]
        assert metrics["model_bytes_int8"] == file["bytes"]
        assert (len(file["sessions_ms"]), one["uncertainty"]["latency_ms_int8"]["n"]) == (2, 2)
        assert metrics["accuracy_int8"] == pytest.approx(metrics["accuracy"], abs=0.1)
        (own,) = [t for t in one["trainings"] if t["seed"] == one["seed"]]
        assert one["delivered"]["int8_accuracy"] == own["test_accuracy_int8"]
    trials = desk.trials("digits/verify")
    assert verified["test_evaluations"] == 2 * len(trials) + 2 * len(finalists)
    found = {c.id: c for c in examine(run / "verify").checks}
    assert {c.state for c in found.values() if c.id != "I8"} == {"ok"}, found
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{desk.folder / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("nasctl")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [r for r in runs if "nasctl.run_uid" in r.data.tags]
    assert 0 < parent.data.metrics["latency_ms_int8_fastest"] < 10
    assert "int8 validation" in parent.data.tags["mlflow.note.content"]
    children = [r for r in runs if r.info.run_id != parent.info.run_id]
    assert all("test_accuracy_int8" in r.data.metrics for r in children)
