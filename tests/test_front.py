"""From trials to the front: which numbers decide, and how sure they are said to be."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from nasctl import stats
from nasctl.arch import Cost
from nasctl.front import (
    accuracy_interval,
    collect_entries,
    count_states,
    front_entries,
    front_json,
    hypervolume_history,
    near_front_entries,
)
from nasctl.trial import Evaluation, Objectives, State, Trial
from tests import toy

OBJECTIVES: Objectives = {"accuracy": "max", "latency_ms": "min"}
REFERENCE = {"accuracy": 0.0, "latency_ms": 10.0}


def trial(number: int, accuracy: float, latency: float, **changes: Any) -> Trial:
    choices = {"depth": 1 + number, "width": 0}
    made = Trial(
        number=number,
        state=State.COMPLETE,
        choices=choices,
        architecture=toy.decode(choices),
        seed=0,
        epochs=1,
        cost=Cost(params=100.0, latency_ms=latency),
        cost_intervals={"latency_ms": (latency * 0.9, latency * 1.1)},
        evaluations=(Evaluation(epoch=1, metrics={"accuracy": accuracy}),),
        metrics={"accuracy": accuracy, "params": 100.0, "latency_ms": latency},
    )
    return dataclasses.replace(made, **changes)


def entries(trials: list[Trial], measured: dict[str, Any] | None = None) -> list[Any]:
    return collect_entries(
        trials, measured=measured or {}, validation_images=2000, calibration_networks=10
    )


def whole(ms: float) -> dict[str, Any]:
    return {"p50_ms": ms, "interval": [ms * 0.98, ms * 1.02], "n": 40}


def test_only_complete_trials_can_be_members() -> None:
    trials = [
        trial(0, 0.8, 2.0),
        trial(1, 0.99, 0.1, state=State.PRUNED),
        trial(2, 0.99, 0.1, state=State.FAILED, metrics={}),
        trial(3, 0.99, 0.1, state=State.RUNNING, metrics={}),
    ]
    assert [e.arch_id for e in front_entries(entries(trials), OBJECTIVES)] == [trials[0].arch_id]
    assert count_states(trials, rejected=7) == {
        "RUNNING": 1, "COMPLETE": 1, "PRUNED": 1, "FAILED": 1, "REJECTED": 7,
    }  # fmt: skip


def test_the_measured_latency_decides_and_both_are_shown() -> None:
    trials = [trial(0, 0.80, 2.0), trial(1, 0.82, 1.9)]
    assert len(front_entries(entries(trials), OBJECTIVES)) == 1
    measured = {trials[0].arch_id: whole(1.5), trials[1].arch_id: whole(1.95)}
    found = front_json(
        entries(trials, measured),
        objectives=OBJECTIVES,
        reference_point=REFERENCE,
        counts=count_states(trials, 0),
    )
    best, second = found["members"]
    assert best["arch_id"] == trials[1].arch_id
    assert best["metrics"]["latency_ms"] == 1.9
    assert best["metrics"]["latency_ms_measured"] == 1.95
    assert second["metrics"]["latency_ms_measured"] == 1.5
    assert found["hypervolume"] == pytest.approx(0.8 * 8.5 + 0.02 * 8.05)
    assert best["uncertainty"]["latency_ms"] == {
        "interval": [1.9 * 0.9, 1.9 * 1.1], "n": 10, "split": None, "source": "predicted",
    }  # fmt: skip
    assert best["uncertainty"]["latency_ms_measured"]["source"] == "measured"
    assert best["uncertainty"]["latency_ms_measured"]["n"] == 40
    assert best["uncertainty"]["params"] == {
        "interval": [100.0, 100.0], "n": 1, "split": None, "source": "exact",
    }  # fmt: skip


def test_seeds_of_one_network_are_one_entry() -> None:
    first = trial(0, 0.80, 2.0)
    second = dataclasses.replace(trial(0, 0.84, 2.0), number=1, seed=1)
    (entry,) = entries([first, second])
    assert entry.metrics["accuracy"] == pytest.approx(0.82)
    assert entry.uncertainty["accuracy"].n == 2
    low, high = entry.uncertainty["accuracy"].interval
    # Seeds: 12.706 * sd / sqrt(2) with one degree of freedom; images: Wilson's interval of .82.
    wilson = 0.82 - stats.wilson_interval(1640, 2000)[0]
    assert (low, high) == pytest.approx((0.82 - math.hypot(0.25412, wilson), 1.0), abs=1e-4)
    # An evaluator that says nothing of its images: Student's t interval alone.
    assert accuracy_interval([80.0, 84.0], None) == pytest.approx(stats.t_interval([80.0, 84.0]))


def test_single_trainings_have_the_spread_of_the_others_from_three_degrees_of_freedom_on() -> None:
    def seeds(number: int, *values: float) -> list[Trial]:
        return [
            dataclasses.replace(trial(number, v, 2.0), number=10 * number + i, seed=i)
            for i, v in enumerate(values)
        ]

    alone = seeds(0, 0.80)
    wilson = stats.wilson_interval(1600, 2000)
    two_df = entries([*alone, *seeds(1, 0.80, 0.82), *seeds(2, 0.70, 0.74)])
    assert two_df[0].uncertainty["accuracy"].interval == pytest.approx(wilson)
    three_df = entries([*alone, *seeds(1, 0.80, 0.82), *seeds(2, 0.70, 0.74, 0.75)])
    # Squares about the means: .0002 and .0014, over 1 + 2 degrees of freedom; t(.975, 3) = 3.1824.
    half = 3.182446 * math.sqrt((0.0002 + 0.0014) / 3)
    low, high = three_df[0].uncertainty["accuracy"].interval
    assert 0.80 - low == pytest.approx(math.hypot(0.80 - wilson[0], half), rel=1e-6)
    assert high - 0.80 == pytest.approx(math.hypot(wilson[1] - 0.80, half), rel=1e-6)
    # With seeds of its own a network has the pooled spread too, over the root of their number.
    low, high = three_df[2].uncertainty["accuracy"].interval
    wilson = stats.wilson_interval(0.73 * 2000, 2000)
    assert 0.73 - low == pytest.approx(math.hypot(0.73 - wilson[0], half / math.sqrt(3)), rel=1e-6)
    assert high > 0.73


def test_a_repeat_that_corrects_a_lucky_value_lowers_the_hypervolume() -> None:
    def again(number: int, accuracy: float) -> Trial:
        metrics = {**lucky.metrics, "accuracy": accuracy}
        return dataclasses.replace(lucky, number=number, seed=number, metrics=metrics)

    lucky = trial(0, 0.9, 5.0)
    other = trial(1, 0.7, 5.0)  # dominated by the lucky one until that is corrected
    trials = [lucky, other, again(2, 0.6), again(3, 0.45)]  # means: .9, .75, .65
    assert hypervolume_history(trials, OBJECTIVES, REFERENCE) == [
        (0, pytest.approx(0.9 * 5)),
        (1, pytest.approx(0.9 * 5)),
        (2, pytest.approx(0.75 * 5)),
        (3, pytest.approx(0.7 * 5)),
    ]
    last = front_json(entries(trials), objectives=OBJECTIVES, reference_point=REFERENCE, counts={})
    assert last["hypervolume"] == pytest.approx(0.7 * 5)
    assert [m["arch_id"] for m in last["members"]] == [other.arch_id]


def test_one_training_is_as_sure_as_its_validation_images() -> None:
    low, high = accuracy_interval([0.9], 2000)
    assert (low, high) == pytest.approx((0.88607, 0.91239), abs=1e-4)  # Wilson 1927
    assert accuracy_interval([0.9], None) == (0.9, 0.9)
    assert accuracy_interval([93.1], 2000) == (93.1, 93.1)  # a table in percent


def test_near_front_candidates_are_those_whose_intervals_reach_it() -> None:
    trials = [trial(0, 0.90, 2.0), trial(1, 0.895, 2.1), trial(2, 0.50, 2.6), trial(3, 0.90, 9.0)]
    found = entries(trials)
    members = front_entries(found, OBJECTIVES)
    near = near_front_entries(found, members, OBJECTIVES)
    assert [e.arch_id for e in members] == [trials[0].arch_id]
    # The fourth is slower beyond doubt; but it may be more accurate, and then it is a member too.
    assert [e.arch_id for e in near] == [trials[1].arch_id, trials[3].arch_id]


def test_hypervolume_history_grows_and_skips_what_failed() -> None:
    trials = [
        trial(0, 0.5, 5.0),
        trial(1, 0.9, 1.0, state=State.FAILED, metrics={}),
        trial(2, 0.4, 6.0),
        trial(3, 0.6, 4.0),
        trial(4, 0.9, 12.0),  # beyond the reference
    ]
    history = hypervolume_history(trials, OBJECTIVES, REFERENCE)
    assert history == [
        (0, pytest.approx(2.5)),
        (2, pytest.approx(2.5)),
        (3, pytest.approx(3.6)),
        (4, pytest.approx(3.6)),
    ]


def test_a_run_without_results_has_an_empty_front() -> None:
    found = front_json([], objectives=OBJECTIVES, reference_point=REFERENCE, counts={})
    assert found["members"] == []
    assert found["hypervolume"] == 0
