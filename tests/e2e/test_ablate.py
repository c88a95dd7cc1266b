"""`nasctl ablate` as users call it: real Ray, real MLflow, real files; and planted effects."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from nasctl.history import history_hash
from nasctl.records import RunRecords
from nasctl.trial import State
from tests.e2e.command import TABLE, TOY, Desk

ROOT = Path(__file__).parent.parent.parent
PLUGIN = ("--plugin", "tests.ablation_study")

DIGITS = """\
defaults: [ablate, _self_, override data: digits, override latency: table]
name: digits
question: Do large kernels help on tiny pictures?
baseline:
  blocks:
    - {op: conv_norm_act, out: 8, kernel_size: 3}
    - {op: inverted_residual, out: 16, kernel_size: 3, stride: 2, expand_ratio: 2}
    - {op: global_pool_linear, out: 10}
factors:
  kernel_size: [3, 5]
claims: [accuracy(5) > accuracy(3)]
seeds: {min: 2, max: 3}
learning_rate: {factors: [0.5, 1]}
recipe: {epochs: 2, batch_size: 32, lr: 0.3}
latency: {rounds: 8, calls: 2, budget_s: 0.2}
"""

PLANTED = """\
defaults: [ablate, _self_, override data: digits, override tracking: none,
           override executor: inline]
name: planted
baseline:
  blocks:
    - {op: conv_norm_act, out: 8}
    - {op: inverted_residual, out: 16, stride: 2}
    - {op: inverted_residual, out: 16}
    - {op: global_pool_linear, out: 10}
factors:
  kernel_size: [3, 5]
  bottleneck_activation: [linear, relu6]
  expand_ratio: [6, 3]
claims:
  - accuracy(kernel_size=5) > accuracy(kernel_size=3)
  - accuracy(relu6) > accuracy(linear)
  - accuracy(expand_ratio=3) > accuracy(expand_ratio=6)
seeds: {min: 3, max: 14}
decision: {smallest_effect: 0.006}
evaluator: noisy
"""
"""Kernels of 5 help by 1 point a block, ReLU6 harms by .5 a block, the expansion does nothing."""


@pytest.fixture
def desk(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = Desk(tmp_path, tmp_path_factory.getbasetemp() / "ablation_cache")
    made.write("digits.yaml", DIGITS)
    made.write("planted.yaml", PLANTED)
    return made


def ablate(desk: Desk, *arguments: str, code: int = 0, **environment: str) -> tuple[str, str]:
    return desk.run("ablate", *arguments, code=code, PYTHONPATH=str(ROOT), **environment)


def view(desk: Desk, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (desk.folder / "runs" / name / "ablation.json").read_text(encoding="utf-8")
    )
    return found


def verdicts(desk: Desk, name: str) -> dict[str, dict[str, Any]]:
    path = desk.folder / "runs" / name / "verdicts.json"
    return {v["name"]: v for v in json.loads(path.read_text(encoding="utf-8"))}


# -- real trainings -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's client and SQLAlchemy's
def test_a_study_of_real_trainings_leaves_everything(desk: Desk) -> None:
    out, err = ablate(desk, "digits.yaml", "executor.workers=2")
    assert "accuracy(5) > accuracy(3): " in out
    assert "in this setting (" in out
    assert "null control (the baseline again, on other seeds)" in out
    assert "report    runs/digits/report.html" in err
    folder = desk.folder / "runs" / "digits"
    for name in ("verdicts.json", "ablation.json", "report.html", "report.md", "report.png"):
        assert (folder / name).stat().st_size > 100, name
    found = verdicts(desk, "digits")
    assert list(found) == ["accuracy(5) > accuracy(3)", "positive control", "baseline again"]
    claim = found["accuracy(5) > accuracy(3)"]
    assert (claim["factor"], claim["levels"], claim["metric"]) == (
        "kernel_size",
        ["3", "5"],
        "accuracy",
    )
    assert 2 <= claim["n"] <= 3
    assert claim["interval"][0] < claim["effect"] < claim["interval"][1]
    assert claim["cost_difference"]["macs"]["relative"] > 0.5
    study = view(desk, "digits")
    arms = {a["name"]: a for a in study["arms"]}
    assert set(arms) == {"baseline", "kernel_size=5", "positive control", "baseline again"}
    for arm in arms.values():
        assert arm["cost"]["latency_ms"] > 0  # measured whole
        assert {round(r["lr"], 3) for r in arm["lr_search"]} == {0.15, 0.3}
        assert arm["lr"] == max(arm["lr_search"], key=lambda r: (r["accuracy"], -r["lr"]))["lr"]
        assert len(arm["curve"]["epochs"]) == 2
    effect = arms["kernel_size=5"]["mean"] - arms["baseline"]["mean"]
    if claim["n"] == arms["baseline"]["n"]:
        assert claim["effect"] == pytest.approx(effect)
    with open(folder / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 8
    trials = desk.trials("digits")
    assert all(t.state is State.COMPLETE for t in trials)
    # Pairs: the same seeds in both arms; rates were chosen on others.
    seeds = {
        name: {t.seed for t in trials if t.choices["arm"] == name and t.choices["replicate"] < 2
               and t.choices["purpose"] == "verdict"}
        for name in arms
    }  # fmt: skip
    assert seeds["baseline"] == seeds["kernel_size=5"] == {0, 1}
    assert not seeds["baseline"] & seeds["baseline again"]
    assert desk.json("doctor", "runs/digits")["ok"]
    _in_mlflow(desk, len(trials))
    # Again: nothing is trained, and the verdicts are the same.
    _, err = ablate(desk, "digits.yaml", "executor.workers=2")
    assert "starting workers" not in err
    assert verdicts(desk, "digits") == found
    out, _ = desk.run("report", "runs/digits", "-o", "elsewhere/r.html")
    assert (desk.folder / "elsewhere" / "r.html").is_file()
    _, err = desk.run("front", "runs/digits", code=2)
    assert "an ablation study has verdicts and no front" in err
    _, err = desk.run("profile", "runs/digits:zzz", code=2)
    assert "runs/digits:zzz: no such network among the" in err
    assert err.endswith("here; its report.csv has those of all arms\n")


def _in_mlflow(desk: Desk, trainings: int) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{desk.folder / 'runs' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "nasctl"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert len(runs) == trainings + 1
    assert "accuracy(5) > accuracy(3): " in parent.data.tags["mlflow.note.content"]
    assert any(k.startswith("effect/") for k in parent.data.metrics)
    files = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert {"verdicts.json", "ablation.json", "report.html", "report.png"} <= files
    names = {r.info.run_name for r in runs}
    assert "002 kernel_size=5, lr 0.15, seed 1000003" in names


@pytest.mark.parametrize("executor", ["ray", pytest.param("inline", marks=pytest.mark.slow)])
def test_kill_9_does_not_change_a_study(desk: Desk, executor: str) -> None:
    plain = ("digits.yaml", "latency=none", "tracking=none")
    quick = (*plain, f"executor={executor}")
    ablate(desk, *plain, "executor=inline", "output_dir=elsewhere", "name=whole")
    (desk.folder / "elsewhere").rename(desk.folder / "apart")  # nothing to be shared
    process = desk.start("ablate", *quick, "name=killed")
    desk.wait_for("killed", process, lambda trials: len(trials) > 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    whole = RunRecords(desk.folder / "apart" / "whole")
    assert len(desk.trials("killed")) < len(whole.trials())
    ablate(desk, *quick, "name=killed")
    assert history_hash(desk.trials("killed")) == history_hash(whole.trials())
    found = {v["name"]: v["interval"] for v in whole.verdicts}
    assert {k: v["interval"] for k, v in verdicts(desk, "killed").items()} == found


def test_an_interrupted_study_shows_what_it_has(desk: Desk) -> None:
    quick = ("digits.yaml", "latency=none", "tracking=none", "executor=inline", "recipe.epochs=6")
    process = desk.start("ablate", *quick)
    desk.wait_for("digits", process, lambda trials: len(trials) > 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To continue: nasctl ablate digits.yaml" in err
    assert "no verdict yet" in out
    assert view(desk, "digits")["status"] == "INTERRUPTED"
    assert desk.json("doctor", "runs/digits")["ok"]


# -- planted effects ------------------------------------------------------------------------------


def test_planted_effects_are_found_and_seeds_go_where_they_are_needed(desk: Desk) -> None:
    out, _ = ablate(desk, "planted.yaml", *PLUGIN)
    found = verdicts(desk, "planted")
    helps = found["accuracy(kernel_size=5) > accuracy(kernel_size=3)"]
    harms = found["accuracy(relu6) > accuracy(linear)"]
    nothing = found["accuracy(expand_ratio=3) > accuracy(expand_ratio=6)"]
    assert helps["verdict"] == "supported"
    assert harms["verdict"] == "refuted"
    assert nothing["verdict"] in ("equivalent", "inconclusive")
    assert helps["interval"][0] < 0.03 < helps["interval"][1]
    assert harms["interval"][0] < -0.01 < harms["interval"][1]
    assert helps["n"] < nothing["n"]
    assert helps["p_adjusted"] < 0.05 < nothing["p_adjusted"]
    assert "refuted in this setting: the opposite holds" in out
    controls = view(desk, "planted")["controls"]
    assert controls["positive"]["found"]


def test_a_factorial_estimates_main_effects_and_interactions(desk: Desk) -> None:
    ablate(
        desk,
        "planted.yaml",
        "design=factorial",
        "~factors.expand_ratio",
        "claims=[]",
        "seeds=8",
        *PLUGIN,
    )
    found = verdicts(desk, "planted")
    kinds = {name: v["kind"] for name, v in found.items()}
    assert sorted(kinds.values()) == [
        "interaction",
        "main_effect",
        "main_effect",
        "null_control",
        "positive_control",
    ]
    main = {v["factor"]: v for v in found.values() if v["kind"] == "main_effect"}
    assert main["kernel_size"]["verdict"] == "supported"
    assert main["bottleneck_activation"]["verdict"] == "refuted"
    (both,) = view(desk, "planted")["interactions"]
    assert both["levels"] == [["3", "5"], ["linear", "relu6"]]


def test_arms_of_equal_cost(desk: Desk) -> None:
    ablate(desk, "planted.yaml", "match=macs", "match_tolerance=0.05", "seeds=3", *PLUGIN)
    study = view(desk, "planted")
    arms = {a["name"]: a for a in study["arms"]}
    macs = arms["baseline"]["cost"]["macs"]
    for arm in arms.values():
        if arm["role"] == "arm":
            assert arm["cost"]["macs"] == pytest.approx(macs, rel=0.05)
    assert arms["kernel_size=5"]["width_factor"] < 1 < arms["expand_ratio=3"]["width_factor"]


def test_trainings_of_another_study_are_not_done_again(desk: Desk) -> None:
    ablate(desk, "planted.yaml", "seeds=3", "name=first", *PLUGIN)
    less = ("~factors.expand_ratio", 'claims=["accuracy(5) > accuracy(3)"]')
    ablate(desk, "planted.yaml", *less, "seeds=4", "name=second", *PLUGIN)
    trials = desk.trials("second")
    shared = {t.choices.get("shared_from") for t in trials if t.choices["replicate"] < 3}
    assert all(s is not None and s.startswith("first #") for s in shared if s), shared
    assert sum("shared_from" in t.choices for t in trials) >= 12
    assert not any("shared_from" in t.choices for t in trials if t.choices["replicate"] == 3)
    assert view(desk, "second")["trainings"]["shared"] >= 12
    one = {(t.choices["arm"], t.seed): t.metrics["accuracy"] for t in desk.trials("first")}
    for trial in trials:
        key = (trial.choices["arm"], trial.seed)
        assert trial.metrics["accuracy"] == one.get(key, trial.metrics["accuracy"])


def test_more_seeds_continue_a_study_and_nothing_else_may_change(desk: Desk) -> None:
    ablate(desk, "planted.yaml", "seeds.max=3", *PLUGIN)
    before = len(desk.trials("planted"))
    _, err = ablate(desk, "planted.yaml", "seeds.max=3", "decision.alpha=0.1", *PLUGIN, code=2)
    assert "decision.alpha: 0.05 -> 0.1" in err
    assert "--fresh moves it aside" in err
    ablate(desk, "planted.yaml", "seeds.max=5", *PLUGIN)
    assert len(desk.trials("planted")) > before


def test_the_name_of_a_search_is_taken(desk: Desk) -> None:
    desk.write("toy.py", TABLE)
    desk.write("toy.yaml", TOY)
    desk.run("search", "toy.yaml", "--plugin", "toy", "executor=inline", "trials=2")
    _, err = ablate(desk, "planted.yaml", "name=toy", *PLUGIN, code=2)
    assert "name: the run of this name is a search" in err
    assert err.count("->") == 0
    ablate(desk, "planted.yaml", "seeds=2", *PLUGIN)
    _, err = desk.run("search", "toy.yaml", "--plugin", "toy", "name=planted", code=2)
    assert "name: the run of this name is an ablation study" in err


def test_a_dry_run_says_what_it_would_take(desk: Desk) -> None:
    out, _ = ablate(desk, "digits.yaml", "--dry-run")
    assert "kernel_size=5" in out
    assert "2 seeds: 14 trainings, about" in out
    assert "see a difference of" in out
    assert not (desk.folder / "runs").exists()
    found = json.loads(ablate(desk, "planted.yaml", "--dry-run", "--json", *PLUGIN)[0])
    assert found["trainings"] == {"min": 3 * 10, "max": 14 * 10}
    assert found["detectable"]["3"] > found["detectable"]["14"]


def test_verdicts_as_json(desk: Desk) -> None:
    out, _ = ablate(desk, "planted.yaml", "seeds=3", "--json", *PLUGIN)
    assert json.loads(out) == list(verdicts(desk, "planted").values())


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["factors.kernel=[3,5]"], "factors.kernel: unknown field of the blocks 'kernel'; did you"),
        (['claims=["accuracy(relu7) > accuracy(linear)"]'], "unknown level 'relu7'; did you mean"),
        (['claims=["accuracy(3) > accuracy(linear)"]'], "claims.0"),
        (
            ["factors.kernel_size=[3,3.0]"],
            "factors.kernel_size",
        ),
        (["match=macs", "match_tolerance=0.0001"], "match: "),
        (
            ['claims=["accuracy(relu6) > accuracy(linear)", "accuracy(linear) > accuracy(relu6)"]'],
            "asks what 'accuracy(relu6) > accuracy(linear)' asks",
        ),
        (["baseline.blocks.0.op=conv_norm"], "blocks.0.op: unknown block 'conv_norm'"),
        (["evaluator=noisi"], "evaluator: unknown evaluator 'noisi'; did you mean 'noisy'?"),
        (["design=factorials"], "design: unknown value 'factorials'; did you mean 'factorial'?"),
        (["decision.alpha=0.7"], "decision.alpha: must be less than 0.5, got 0.7"),
        (["seeds.min=1"], "seeds.min: must be at least 2, got 1"),
        (["splits=5"], "splits: "),
    ],
)
def test_bad_input_is_one_clear_line(desk: Desk, overrides: list[str], problem: str) -> None:
    out, err = ablate(desk, "planted.yaml", *overrides, *PLUGIN, code=2)
    assert problem in err
    assert "Traceback" not in err
    assert out == ""
    assert not (desk.folder / "runs").exists()
