"""The compute ledger of an ablation study: hours by purpose and by arm, and what people see."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nasctl.ablation.text import _spent
from nasctl.compute_study import study_compute_json
from nasctl.ledger import Ledger
from nasctl.records import RunRecords
from nasctl.report.compute import compute_html, compute_lines
from nasctl.resources import MEASURED, RESOURCES
from nasctl.trial import State, Trial
from tests.test_compute import CONFIG, trial

STUDY = {
    "arms": [
        {"name": "plain", "role": "baseline"},
        {"name": "wide", "role": "arm"},
        {"name": "narrow", "role": "positive_control"},
        {"name": "plain again", "role": "null_control"},
    ]
}


def training(
    number: int, arm: str, seconds: float, *, state: State = State.COMPLETE, **choices: Any
) -> Trial:
    known = {"arm": arm, "purpose": "verdict", **choices}
    made = trial(number, 1, state, seconds=seconds)
    return dataclasses.replace(made, choices=known)


TRIALS = [
    training(0, "plain", 36.0, purpose="learning_rate"),
    training(1, "wide", 72.0, purpose="learning_rate"),
    training(2, "plain", 100.0),
    training(3, "wide", 200.0),
    training(4, "narrow", 50.0),
    training(5, "plain again", 30.0),
    training(6, "wide", 7.0, state=State.FAILED),
    training(7, "plain", 0.1, shared_from="other:3"),
    training(8, "wide", 0.0, state=State.RUNNING),
]
EVENTS: list[tuple[float, str, dict[str, Any]]] = [
    (0.0, RESOURCES, {"cores": 2.0, "gpus": 0.0}),
    (900.0, "lost", {"number": 8, "attempt": 0, "seconds": 5.0}),
    (950.0, MEASURED, {"what": "networks", "n": 4, "seconds": 6.0, "cores": 1, "gpus": 0}),
]


def ledger(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "config": CONFIG,
        "study": STUDY,
        "trials": TRIALS,
        "events": EVENTS,
        "measured": 4,
        "wall_seconds": 400.0,
    }
    return study_compute_json(**(values | changes))


def test_every_second_is_counted_once_under_its_purpose() -> None:
    found = ledger()
    assert {r["purpose"]: (r["count"], r["seconds"]) for r in found["rows"]} == {
        "arms": (2, 300.0),
        "controls": (2, 80.0),
        "learning_rate": (2, 108.0),
        "failures": (1, 7.0),
        "lost": (1, 5.0),
        "latency": (4, 6.0),
    }
    assert found["total"]["seconds"] == 506.0
    assert found["total"]["core_hours"] == pytest.approx((2 * 500 + 6) / 3600)
    assert found["total"]["complete"] is True
    assert found["avoided"] == [
        {"reason": "shared_from", "count": 1, "seconds": None, "remark": "counted, not timed"}
    ]


def test_arms_have_all_that_was_trained_for_them() -> None:
    by_arm = {a["arm"]: (a["count"], a["seconds"], a["role"]) for a in ledger()["by_arm"]}
    assert by_arm == {
        "plain": (2, 136.0, "baseline"),
        "wide": (3, 279.0, "arm"),
        "narrow": (1, 50.0, "positive_control"),
        "plain again": (1, 30.0, "null_control"),
    }


def test_what_was_not_recorded_is_said() -> None:
    found = ledger(events=[])
    (latency,) = (r for r in found["rows"] if r["purpose"] == "latency")
    assert latency["seconds"] is None
    assert found["total"]["complete"] is False
    assert found["resources_recorded"] is False
    assert "of what was recorded" in _spent(found)


def test_hours_of_gpus_are_told_where_there_are_some() -> None:
    given = (0.0, RESOURCES, {"cores": 2.0, "gpus": 0.5})
    found = ledger(events=[given, *EVENTS[1:]])
    assert found["unit"] == "gpu_hour"
    assert found["total"]["gpu_hours"] == pytest.approx(0.5 * 500 / 3600)
    assert "GPU-hours by arm: plain" in "".join(compute_lines(found))


def test_people_see_it() -> None:
    found = ledger()
    lines = compute_lines(found)
    assert "| trainings of the controls | 2 | 1 min 20 s | 0.0444 |  |" in lines
    assert any(line.startswith("- Core-hours by arm: plain 0.0756") for line in lines)
    assert any("1 trainings taken over from earlier studies" in line for line in lines)
    page = compute_html(found)
    assert '<section id="compute">' in page
    assert "learning-rate search" in page
    assert _spent(found).startswith(
        "Compute: 0.279 core-hours: trainings of the arms 0.167 (n = 2)"
    )
    assert compute_html(None) == _spent(None) == ""
    assert compute_lines(None) == []


def test_it_is_read_from_the_ledger_of_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    made = Ledger(folder / "ledger.sqlite", {})
    made.set_meta(uid="u", status="FINISHED", seconds=9.0, config=CONFIG, study=STUDY)
    for t in TRIALS:
        made.put_trial(t)
    made.close()
    found = RunRecords(folder).compute
    assert found is not None
    assert found["wall_seconds"] == 9.0
    assert {r["purpose"]: r["count"] for r in found["rows"]}["controls"] == 2
