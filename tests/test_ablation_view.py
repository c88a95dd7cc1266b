"""What a study says: the list of verdicts, the view of the report, sentences, the terminal."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from nasctl.ablation.analysis import analyse
from nasctl.ablation.arms import BASELINE, POSITIVE, SAME
from nasctl.ablation.plan import Planned
from nasctl.ablation.study import Study
from nasctl.ablation.text import summary
from nasctl.ablation.view import ablation_json
from nasctl.arch import Cost
from nasctl.trial import Trial
from search_spaces.blocks import BLOCKS
from tests.ablation_study import arm, difference, make_study, play

CLAIM = "accuracy(better) > accuracy(baseline)"
SETTING: dict[str, Any] = {
    "data": "digits",
    "split": "val",
    "validation_images": 300,
    "splits": 1,
    "recipe": {"epochs": 2},
    "evaluator": "train",
    "environment": {},
    "learning_rate": "shared",
    "match": "none",
    "smallest_effect": 0.005,
    "metric": "accuracy",
    "alpha": 0.05,
    "seeds": {"min": 3, "max": 10},
    "design": "one_at_a_time",
    "seeds_raised": [],
    "boundary": "Wang-Tsiatis, Delta 0.25",
}


def study(**changes: Any) -> Study:
    dear = dataclasses.replace(arm("better"), cost=Cost(params=1500, macs=10000))
    return make_study(
        difference("better", BASELINE, claim=CLAIM),
        difference(BASELINE, POSITIVE, kind="positive_control"),
        difference(SAME, BASELINE, kind="null_control"),
        arms=(
            arm(BASELINE, "baseline"),
            dear,
            arm(POSITIVE, "positive_control"),
            arm(SAME, "null_control"),
        ),
        **changes,
    )


def outcomes(effect: float, harm: float, noise: float = 0.004) -> Callable[[Planned], float]:
    effects = {"better": effect, POSITIVE: -harm}

    def of(row: Planned) -> float:
        own = random.Random(f"{row.arm.name}{row.seed}").gauss(0, noise)
        return 0.8 + effects.get(row.arm.name, 0.0) + own

    return of


def view_of(found: Study, trials: list[Trial], **setting: Any) -> dict[str, Any]:
    about = {"name": "s", "command": "nasctl ablate s", "status": "FINISHED", "question": "Is it?"}
    view = ablation_json(
        analyse(found, trials),
        trials,
        about=about,
        setting={**SETTING, **setting},
        measured={found.arms["better"].architecture.id: {"p50_ms": 0.5}},
        seconds=12.0,
    )
    json.dumps(view, allow_nan=False)  # plain and finite
    return view


def verdict(view: dict[str, Any], name: str = CLAIM) -> dict[str, Any]:
    (found,) = [c for c in view["comparisons"] if c["name"] == name]
    return dict(found)


def test_a_supported_claim_is_written_out() -> None:
    view = view_of(study(), play(study(), outcomes(0.05, 0.1)))
    found = verdict(view)
    assert found["verdict"] == "supported"
    assert found["levels"] == [BASELINE, "better"]
    assert found["effect"] == pytest.approx(sum(found["differences"]) / found["n"])
    low, high = found["interval"]
    assert 0 < low < 0.05 < high
    assert found["sentence"].startswith(f"{CLAIM}: supported in this setting (+")
    assert f"95 % interval +{100 * low:.2f} to +{100 * high:.2f}" in found["sentence"]
    assert f"n = {found['n']} seeds, paired t-test, Holm-adjusted p" in found["sentence"]
    assert found["sentence"].endswith("; at +50.0 % parameters, +100.0 % MACs.")
    assert found["cost_difference"]["macs"] == {"absolute": 5000.0, "relative": 1.0}
    assert "latency_ms" not in found["cost_difference"]  # not measured for both


@pytest.mark.parametrize(
    ("effect", "word", "sentence"),
    [
        (-0.05, "refuted", "refuted in this setting: the opposite holds (-"),
        (0.0, "equivalent", "equivalent in this setting: the difference is below 2.00 points ("),
    ],
)
def test_other_verdicts(effect: float, word: str, sentence: str) -> None:
    least = 0.02
    found = study(smallest_effect=least)
    view = view_of(found, play(found, outcomes(effect, 0.1)), smallest_effect=least)
    assert verdict(view)["verdict"] == word
    assert sentence in verdict(view)["sentence"]


def test_controls_say_what_they_mean() -> None:
    good = view_of(study(), play(study(), outcomes(0.0, 0.1)))["controls"]
    assert good["positive"]["found"]
    assert good["positive"]["sentence"].startswith(f"positive control ({POSITIVE}): found")
    assert good["null"]["clear"]
    assert "no difference found, as it should be" in good["null"]["sentence"]
    blind = view_of(study(), play(study(), outcomes(0.0, 0.0)))["controls"]
    assert not blind["positive"]["found"]
    assert "means nothing" in blind["positive"]["sentence"]

    def leak(row: Planned) -> float:
        return outcomes(0.0, 0.1)(row) + 0.05 * (row.arm.name == SAME)

    odd = view_of(study(), play(study(), leak))["controls"]
    assert odd["null"]["clear"] is False
    assert "DIFFERENT" in odd["null"]["sentence"]
    assert "do not trust the verdicts" in odd["null"]["sentence"]


def test_equal_differences_are_no_verdict() -> None:
    found = study(last=3)
    view = view_of(found, play(found, lambda row: 0.8 + 0.05 * (row.arm.name == "better")))
    assert verdict(view)["verdict"] == "inconclusive"
    assert verdict(view)["interval"] is None
    assert "all 3 differences are equal: too coarse" in verdict(view)["sentence"]
    table = dataclasses.replace(found, chance=None)  # of an evaluator they are the truth
    trials = play(table, lambda row: 0.8 + 0.05 * (row.arm.name == "better"))
    sure = verdict(view_of(table, trials))
    assert sure["verdict"] == "supported"
    assert "; the results differ by the same in every seed)" in sure["sentence"]


def test_of_an_evaluator_a_divergence_is_a_failure() -> None:
    def one_arm(row: Planned) -> float | str:
        bad = row.arm.name == "better"
        return "epoch 1: accuracy is nan" if bad else outcomes(0.0, 0.1)(row)

    found = dataclasses.replace(study(last=3), chance=None)
    view = view_of(found, play(found, one_arm))
    assert view["failures"] == ["better: 3 of 3 trainings failed: epoch 1: accuracy is nan."]


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        ("the loss is not finite: nan in epoch 1, step 3", True),
        ("the loss exploded: 812 in epoch 2, step 1", True),
        ("epoch 2: accuracy is nan, loss is inf", True),
        ("ValueError: host gpu3 is informed of a fault", False),
        ("ValueError: the loss is not finite: nan", False),
        ("epoch 1: accuracy is 7.0, which is no fraction", False),
    ],
)
def test_failed_trainings_are_told_and_only_a_divergence_counts(error: str, counts: bool) -> None:
    def one_arm(row: Planned) -> float | str:
        return error if row.arm.name == "better" else outcomes(0.0, 0.1)(row)

    found = study(last=3)
    view = view_of(found, play(found, one_arm))
    bad = next(a for a in view["arms"] if a["name"] == "better")
    assert (bad["n"], bad["failed"], bad["diverged"]) == (3 * counts, 3, 3 * counts)
    told = "diverged and count as guessing (0.1)." if counts else f"failed: {error}."
    assert view["failures"] == [f"better: 3 of 3 trainings {told}"]
    assert (verdict(view)["interval"] is not None) == counts


def test_before_the_first_look_nothing_is_said() -> None:
    whole = play(study(), outcomes(0.05, 0.1))
    for cut in (1, 5, 8):
        view = view_of(study(), whole[:cut])
        assert verdict(view)["verdict"] == "inconclusive"
        assert "no verdict yet" in verdict(view)["sentence"]
        assert view["looks"] == []
        assert view["controls"]["positive"]["found"] is None
        assert "no verdict yet" in summary(view)


def test_arms_have_means_costs_and_every_value() -> None:
    trials = play(study(), outcomes(0.05, 0.1))
    view = view_of(study(), trials)
    arms = {a["name"]: a for a in view["arms"]}
    better = arms["better"]
    values = [v["accuracy"] for v in better["values"]]
    assert better["mean"] == pytest.approx(sum(values) / len(values))
    assert better["n"] == len(values) == verdict(view)["n"]
    assert better["cost"] == {"params": 1500, "macs": 10000, "latency_ms": 0.5}
    assert better["interval"][0] < better["mean"] < better["interval"][1]
    assert view["trainings"]["verdict"] == len(trials)
    assert view["power"]["units"] >= 3
    assert 0 < view["power"]["detectable"] < 0.1


def test_the_baseline_says_what_it_has_where_other_arms_differ() -> None:
    made = study()
    made = dataclasses.replace(made, arms={**made.arms, BASELINE: arm(BASELINE, "baseline", k="3")})
    view = view_of(made, play(made, outcomes(0.05, 0.1)))
    assert [a["label"] for a in view["arms"]] == ["baseline (k=3)", "better", POSITIVE, SAME]
    assert view["arms"][0]["name"] == view["baseline"] == BASELINE
    assert any(line.startswith("baseline (k=3)  ") for line in summary(view).splitlines())


def test_the_terminal_shows_verdicts_controls_arms_and_the_setting() -> None:
    text = summary(view_of(study(), play(study(), outcomes(0.05, 0.1))))
    lines = text.splitlines()
    assert lines[0] == "Is it?"
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("arm ") and line.endswith("lr") for line in lines)
    assert any(line.startswith("better ") and "1,500" in line for line in lines)
    assert "In this setting: digits (val), 2 epochs; one learning rate; as they are;" in text
    raised = view_of(study(), play(study(), outcomes(0.05, 0.1)), seeds_raised=[[5, 10]])
    assert "After results had been seen, seeds.max was raised" in " ".join(summary(raised).split())


def test_a_broken_arm_is_refuted_quickly() -> None:
    found = study(last=20)
    trials = play(found, outcomes(-0.3, 0.1))
    assert verdict(view_of(found, trials))["verdict"] == "refuted"
    assert verdict(view_of(found, trials))["n"] <= 5


def test_a_study_survives_its_json() -> None:
    made = study()
    again = Study.from_json(json.loads(json.dumps(made.to_json())), BLOCKS)
    assert again.to_json() == made.to_json()
    trials = play(made, outcomes(0.05, 0.1))
    assert view_of(again, trials) == view_of(made, trials)
