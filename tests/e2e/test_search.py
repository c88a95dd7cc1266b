"""`nasctl search` end to end: real training, real Ray, real MLflow, real files and signals."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from nasctl.trial import State
from search_spaces.blocks import BLOCKS
from tests.e2e.command import TABLE, Desk, completed, history

TOY = ("search", "toy.yaml", "--plugin", "toy_table")


def check_front(front: Any, trials: int) -> None:
    assert front["trials"]["COMPLETE"] == trials
    assert front["trials"]["RUNNING"] == 0
    assert front["hypervolume"] > 0
    for member in front["members"]:
        assert set(member) == {"arch_id", "architecture", "choices", "metrics", "uncertainty"}
        metrics, sure = member["metrics"], member["uncertainty"]
        assert 0 < metrics["accuracy"] <= 1
        low, high = sure["accuracy"]["interval"]
        assert low < metrics["accuracy"] < high
        assert sure["accuracy"]["split"] == "val"
        assert sure["params"]["source"] == "exact"
        assert sure["latency_ms"]["source"] == "predicted"
        assert sure["latency_ms_measured"]["source"] == "measured"
        assert metrics["latency_ms_measured"] > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's client and SQLAlchemy's
def test_a_search_from_yaml_to_front_report_and_mlflow(desk: Desk) -> None:
    out, err = desk.run("search", "digits.yaml", "--json")
    run = desk.folder / "runs" / "digits"
    front = json.loads(out)
    check_front(front, trials=6)
    assert json.loads((run / "front.json").read_text()) == front
    assert desk.json("front", "runs/digits") == front
    assert "[6/6]" in err
    assert "report    runs/digits/report.html" in err
    best = max(t.metrics["accuracy"] for t in desk.trials("digits"))
    assert best > 0.7  # two epochs on 1,000 digits; chance is 0.1

    for member in front["members"]:
        weights = run / "weights" / f"{member['arch_id']}-s0.safetensors"
        with safe_open(weights, framework="numpy") as stored:
            count = sum(
                stored.get_tensor(k).size
                for k in stored.keys()  # noqa: SIM118 - not a dict
                if "running_" not in k and "num_batches" not in k
            )
        assert count == member["metrics"]["params"]
        assert (
            json.loads((run / "weights" / f"{member['arch_id']}.json").read_text())
            == (member["architecture"])
        )
        assert {b["op"] for b in member["architecture"]["blocks"]} <= set(BLOCKS)

    report = (run / "report.html").read_text(encoding="utf-8")
    assert all(m["arch_id"] in report for m in front["members"])
    assert (run / "report.png").stat().st_size > 5000
    assert (run / "config.yaml").exists()
    check_mlflow(desk, front)
    check_export(desk, front["members"][-1])

    # The same command again has nothing to do, and says the same.
    again, err = desk.run("search", "digits.yaml", "--json")
    assert json.loads(again) == front
    assert len(desk.trials("digits")) == 6
    # More trials continue it, also without Ray.
    more = ("trials=7", "executor=inline", "--json")
    longer = json.loads(desk.run("search", "digits.yaml", *more)[0])
    assert longer["trials"]["COMPLETE"] == 7
    # Anything else is refused, and nothing is lost.
    _, err = desk.run("search", "digits.yaml", "trials=7", "recipe.epochs=3", code=2)
    assert "recipe.epochs: 2 -> 3" in err
    assert "--fresh" in err
    assert len(desk.trials("digits")) == 7


def check_mlflow(desk: Desk, front: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{desk.folder}/runs/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "nasctl"]
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(parents) == 1
    assert len(children) == 6
    assert {r.info.status for r in runs} == {"FINISHED"}
    members = {m["arch_id"]: m["metrics"] for m in front["members"]}
    marked = {r.data.params["arch_id"]: r for r in children if r.data.tags["pareto"] == "true"}
    assert set(marked) == set(members)
    for arch_id, run in marked.items():
        assert run.data.metrics["accuracy"] == pytest.approx(members[arch_id]["accuracy"])
        assert run.data.metrics["params"] == members[arch_id]["params"]
    assert len(client.get_metric_history(children[0].info.run_id, "accuracy")) >= 2
    names = {a.path for a in client.list_artifacts(parents[0].info.run_id)}
    assert {"front.json", "report.html", "config.yaml"} <= names


def check_export(desk: Desk, member: Any) -> None:
    """A plain model at the end, as accurate as the front says."""
    arch_id, accuracy = member["arch_id"], member["metrics"]["accuracy"]
    for more in ((), ("--format", "torch", "-o", "out/m.py")):
        found = desk.json("export", "runs/digits", arch_id[:6], *more)
        assert found["parity"]["exported_accuracy"] == found["parity"]["accuracy"]
        # Trained and validated in bfloat16 where that is faster.
        assert found["parity"]["accuracy"] == pytest.approx(accuracy, abs=0.02)
        assert found["parity"]["images"] == 300
        assert found["provenance"]["arch_id"] == arch_id
        assert found["provenance"]["metrics"]["accuracy"] == accuracy
        assert {f: (desk.folder / f).stat().st_size for f in found["files"]} == found["files"]
    assert sorted(p.name for p in (desk.folder / "out").iterdir()) == ["m.py", "m.safetensors"]
    assert (desk.folder / f"{arch_id}.onnx").is_file()
    _, err = desk.run("export", "runs/digits", code=2)
    assert "ARCH_ID or --at METRIC=VALUE, one of them: which network?" in err
    _, err = desk.run("export", "runs/digits", "--at", "params=1", code=3)
    assert "--at params=1: no member of the front is within it; the closest is" in err
    _, err = desk.run("export", "runs/digits", "zzzz", code=2)
    assert "runs/digits:zzzz: no such network among the" in err
    _, err = desk.run("export", "runs/digits", arch_id, "--format", "onx", code=2)
    assert "'onx' is not one of 'onnx', 'pt2', 'torch'" in err
    _, err = desk.run("export", "runs/digits", arch_id, "--format", "torch", "-o", "m.pt", code=2)
    assert "-o m.pt: a PyTorch file ends in .py" in err
    _, err = desk.run("export", "runs/digits", arch_id, "-o", "m.pt2", code=2)
    assert "-o m.pt2: .pt2 is the ending of --format pt2, and this is onnx; end it in" in err
    weights = desk.folder / "runs" / "digits" / "weights" / f"{arch_id}-s0.safetensors"
    weights.rename(weights.with_suffix(".away"))
    _, err = desk.run("export", "runs/digits", arch_id, "-o", "no.onnx", code=4)
    assert f"runs/digits: the weights of {arch_id} are gone; only a copy" in err
    weights.write_bytes(b"torn")
    _, err = desk.run("export", "runs/digits", arch_id, "-o", "no.onnx", code=4)
    assert f"cannot read the weights runs/digits/weights/{weights.name}" in err
    with safe_open(weights.with_suffix(".away"), framework="pt") as stored:
        tensors = {k: stored.get_tensor(k) for k in stored.keys()}  # noqa: SIM118 - not a dict
        about = stored.metadata()
    save_file(tensors, weights, {**about, "data": "of other pictures"})
    _, err = desk.run("export", "runs/digits", arch_id, "-o", "no.onnx", code=4)
    assert f"runs/digits: digits has changed since {arch_id} was trained" in err
    weights.with_suffix(".away").rename(weights)
    assert not (desk.folder / "no.onnx").exists()


def test_kill_9_and_the_same_command_give_the_history_of_an_undisturbed_run(desk: Desk) -> None:
    settings = ("tracking=none", "trials=8")
    desk.run("search", "digits.yaml", *settings, "name=calm", "executor=inline")
    for kill_after, executor in ((0, "inline"), (3, "ray")):
        process = desk.start("search", "digits.yaml", *settings, f"executor={executor}")
        desk.wait_for(
            "digits", process, lambda trials, n=kill_after: completed(trials) >= n and bool(trials)
        )
        process.kill()
        process.communicate()
        kept = [t for t in desk.trials("digits") if t.state is State.COMPLETE]
        assert len(kept) >= kill_after
    out, _ = desk.run("search", "digits.yaml", *settings, "--json")
    trials = desk.trials("digits")
    for before in kept:
        after = trials[before.number]
        assert (after.started_at, after.attempts) == (before.started_at, before.attempts)
    # Inline and on Ray, undisturbed and killed twice: the same networks, the same accuracies.
    assert history(trials) == history(desk.trials("calm"))
    assert json.loads(out)["trials"]["COMPLETE"] == 8


@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143)],
    ids=["SIGINT", "SIGTERM", "SIGTERM to all"],
)
@pytest.mark.parametrize("executor", ["ray", pytest.param("inline", marks=pytest.mark.slow)])
def test_a_signal_stops_gracefully_and_the_same_command_continues(
    desk: Desk, number: signal.Signals, to_group: bool, code: int, executor: str
) -> None:
    arguments = (*TOY, f"executor={executor}", "trials=10")
    process = desk.start(*arguments, TOY_SECONDS="0.7")
    desk.wait_for("toy", process, lambda trials: completed(trials) >= 2)
    began = time.monotonic()
    if to_group:  # as a terminal (Ctrl-C) and systemd do: what we started may get it too
        os.killpg(process.pid, number)
    else:  # as `docker stop` and `kill` do
        os.kill(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert time.monotonic() - began < 20
    assert "To continue: nasctl search toy.yaml --plugin toy_table" in err
    assert "Traceback" not in err
    assert "on the front of" in out
    states = [t.state for t in desk.trials("toy")]
    assert State.FAILED not in states
    assert states.count(State.COMPLETE) >= 2
    assert (desk.folder / "runs" / "toy" / "report.html").exists()
    if number == signal.SIGTERM:  # one start of Ray is enough to see that this goes on, too
        arguments = (*TOY, "executor=inline", "trials=10")
    desk.run(*arguments)
    assert [t.state for t in desk.trials("toy")] == [State.COMPLETE] * 10


def test_a_second_driver_is_refused_with_the_pid_of_the_first(desk: Desk) -> None:
    process = desk.start(*TOY, "executor=inline", TOY_SECONDS="1")
    try:
        desk.wait_for("toy", process, bool)
        _, err = desk.run(*TOY, "executor=inline", code=4)
        assert f"pid {process.pid}" in err
        assert err.count("\n") == 1
        assert desk.json("front", "runs/toy")["trials"]["FAILED"] == 0  # readers are welcome
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


REHEARSAL = """
import nasctl.outputs
rehearse = nasctl.outputs.rehearse

def noted(records):
    rehearse(records)
    with open("rehearsed", "a") as file:
        file.write(f"{sum(t.state.is_final for t in records.trials())} of {len(records.trials())}")

nasctl.outputs.rehearse = noted
"""


def test_the_report_is_drawn_once_while_the_last_training_runs(desk: Desk) -> None:
    desk.write("toy_table.py", TABLE + REHEARSAL)
    desk.run(*TOY, "trials=3", "executor.workers=1", TOY_SECONDS="0.6")
    assert (desk.folder / "rehearsed").read_text() == "2 of 3"
    assert (desk.folder / "runs" / "toy" / "report.html").exists()


def test_a_bad_trial_costs_only_itself(desk: Desk) -> None:
    front = desk.json(*TOY, "evaluator=moody", "trials=25", "executor=ray", "sampler=random")
    assert front["trials"] == {
        "RUNNING": 0, "COMPLETE": 15, "PRUNED": 0, "FAILED": 10, "REJECTED": 0,
    }  # fmt: skip
    errors = {t.choices["depth"]: t.error for t in desk.trials("toy") if t.state is State.FAILED}
    assert errors == {
        1: "ValueError: no such network <b>here</b>",
        2: "evaluator 'moody' gave accuracy = nan",
    }
    report = (desk.folder / "runs" / "toy" / "report.html").read_text(encoding="utf-8")
    assert "<b>here</b>" not in report


def test_a_diverging_training_fails_with_its_reason(desk: Desk) -> None:
    _, err = desk.run(
        "search", "digits.yaml", "recipe.lr=1e12", "recipe.grad_clip=0", "latency=none",
        "tracking=none", "executor=inline", "search.max_failures=3", "trials=9", code=3,
    )  # fmt: skip
    assert "3 trials in a row failed" in err
    assert [t.state for t in desk.trials("digits")] == [State.FAILED] * 3
    assert all("loss" in (t.error or "") for t in desk.trials("digits"))


def test_an_evaluator_on_a_staged_space_that_prints(desk: Desk) -> None:
    front = desk.json(
        "search", "digits.yaml", "--plugin", "toy_table", "evaluator=noisy", "executor=inline",
        "tracking=none", "latency=none", "trials=3",
    )  # fmt: skip
    assert front["trials"]["COMPLETE"] == 3
    assert all(m["architecture"]["input_shape"] == [1, 8, 8] for m in front["members"])


def test_constraints_and_exhaustion(desk: Desk) -> None:
    settings = ("executor=inline", "trials=50", "search.max_seeds=1")  # or doubtful ones again
    front = desk.json(*TOY, *settings, "constraints.params=11")
    assert front["trials"]["COMPLETE"] == 10
    assert front["trials"]["REJECTED"] == 15
    assert all(m["metrics"]["params"] <= 11 for m in front["members"])
    _, err = desk.run(*TOY, "executor=inline", "constraints.params=5", "name=none", code=3)
    assert "no candidate satisfies the constraints; closest: " in err
    assert "params 10 is over 5" in err


def test_a_dry_run_says_what_would_happen_and_writes_nothing(desk: Desk) -> None:
    outlook = desk.json("search", "digits.yaml", "--dry-run")
    assert outlook["configurations"] >= outlook["networks"] > 10
    assert outlook["networks_exact"] is True
    low, high = outlook["cost_range"]["params"]
    assert 100 < low < high < 100_000
    assert outlook["cost_range"]["latency_ms"][0] > 0
    assert outlook["seconds"] > 0
    out, _ = desk.run("search", "digits.yaml", "--dry-run")
    assert "distinct networks" in out
    assert "batch_size: 32" in out
    assert not (desk.folder / "runs").exists()


def test_an_impossible_shape_is_named_by_its_whole_key(desk: Desk) -> None:
    _, err = desk.run("search", "digits.yaml", "space.options.stages.1.stride=9", code=2)
    assert err.startswith("Error: space.options.stages.1.stride: ")
    assert "cannot stand in stage2 on a 8x8x8 map: stride 9 is larger" in err


def test_front_and_report_of_a_run(desk: Desk) -> None:
    desk.run(*TOY, "executor=inline", "trials=25")
    out, _ = desk.run("front", "runs/toy")
    assert "25 trials" in out
    within = desk.json("front", "runs/toy", "--at", "latency_ms=2.5")
    (member,) = within["members"]
    assert member["metrics"]["latency_ms"] == 2
    assert member["metrics"]["accuracy"] == pytest.approx(0.5 + 0.04 + 0.08)
    _, err = desk.run("front", "runs/toy", "--at", "latency=2", code=2)
    assert "did you mean 'latency_ms'" in err
    _, err = desk.run("front", "runs/toy", "--at", "latency_ms=0.5", code=3)
    assert "the closest is" in err
    (best,) = desk.json("front", "runs/toy", "--at", "accuracy=0.6")["members"]
    assert best["metrics"]["accuracy"] == pytest.approx(0.62)  # the fastest that is good enough
    assert best["metrics"]["latency_ms"] == 2
    _, err = desk.run("front", "runs/toy", "--at", "accuracy=0.99", code=3)
    assert "the closest is" in err
    _, err = desk.run("ui", "runs/toy", code=4)
    assert "no MLflow store here yet; nasctl sync runs/toy" in err
    out, _ = desk.run("report", "runs/toy", "-o", "elsewhere/r.html")
    assert Path(out.splitlines()[0]) == Path("elsewhere/r.html")
    assert (desk.folder / "elsewhere" / "r.html").exists()
    _, err = desk.run("front", "runs/tyo", code=4)
    assert "did you mean runs/toy" in err
