"""Who is on the verified front, on which data that is decided, and how much of it was luck."""

from __future__ import annotations

import csv
import io
import math
from statistics import fmean, stdev

import pytest
from scipy.stats import t as student

from nasctl.latency import WholeLatency
from nasctl.trial import State
from nasctl.verification.delivered import Images
from nasctl.verification.promised import promised, promised_csv
from nasctl.verification.settings import VerifySettings
from nasctl.verification.timing import combined, without_common_drift
from tests.verify_samples import finalist, training, trainings, verified

FAST, SLOW, NEAR = finalist(1, 0.90, 1.0), finalist(2, 0.95, 2.0), finalist(3, 0.94, 2.0, "near")
IMAGES = Images(val=1000, test=1000)


def ids(entries: list[dict[str, object]]) -> list[object]:
    return [e["arch_id"] for e in entries]


def test_members_are_chosen_on_validation_never_on_test() -> None:
    """NEAR is better on test by far, SLOW on validation: SLOW is the member."""
    trials = trainings(
        [
            (FAST, [(0.89, 0.99), (0.90, 0.99)]),
            (SLOW, [(0.95, 0.50), (0.951, 0.51)]),
            (NEAR, [(0.93, 0.98), (0.931, 0.97)]),
        ]
    )
    found = verified([FAST, SLOW, NEAR], trials, images=IMAGES)
    assert found["split"] == "test"
    assert set(ids(found["members"])) == {FAST.arch_id, SLOW.arch_id}
    (near,) = found["candidates"]
    assert (near["arch_id"], near["status"]) == (NEAR.arch_id, "near")
    assert near["dominated_by"] == SLOW.arch_id
    assert near["probability"] < 0.01
    by_id = {m["arch_id"]: m for m in found["members"]}
    slow = by_id[SLOW.arch_id]
    assert slow["metrics"]["accuracy"] == pytest.approx(0.505)
    assert slow["metrics"]["accuracy_val"] == pytest.approx(0.9505)
    assert slow["uncertainty"]["accuracy"]["split"] == "test"
    assert slow["uncertainty"]["accuracy_val"]["split"] == "val"
    assert by_id[FAST.arch_id]["metrics"]["accuracy"] == pytest.approx(0.99)


def test_weights_are_those_of_the_seed_that_is_best_on_validation() -> None:
    trials = trainings([(SLOW, [(0.95, 0.50), (0.96, 0.40), (0.96, 0.99)])])
    (member,) = verified([SLOW], trials, images=IMAGES)["members"]
    assert member["seed"] == 2**31 + 1
    assert member["weights"] == f"verify/weights/{SLOW.arch_id}-{2**31 + 1}"


def test_shrinkage_is_searched_less_fresh_with_networks_as_units() -> None:
    trials = trainings(
        [
            (FAST, [(0.88, 0.87), (0.90, 0.89)]),  # searched 0.90: shrinks by 0.01 and 0.02
            (SLOW, [(0.93, 0.91), (0.91, 0.93), (0.92, 0.92)]),  # 0.95: by 0.03 and 0.03
            (NEAR, [(0.95, 0.94), (0.95, 0.94)]),  # 0.94: by -0.01 and 0
        ]
    )
    found = verified([FAST, SLOW, NEAR], trials, images=IMAGES)["shrinkage"]
    assert found["unit"] == "network"
    everybody, members = found["val"]["finalists"], found["val"]["members"]
    assert everybody["networks"] == pytest.approx(
        {FAST.arch_id: 0.01, SLOW.arch_id: 0.03, NEAR.arch_id: -0.01}
    )
    assert everybody["mean"] == pytest.approx(0.01)
    half = student.ppf(0.95, 2) * 0.02 / math.sqrt(3)
    assert everybody["interval"] == pytest.approx([0.01 - half, 0.01 + half])
    assert (members["n"], members["mean"]) == (2, pytest.approx(0.02))
    half = student.ppf(0.95, 1) * stdev([0.01, 0.03]) / math.sqrt(2)
    assert members["interval"] == pytest.approx([0.02 - half, 0.02 + half])
    assert found["test"]["members"]["mean"] == pytest.approx(fmean([0.02, 0.03]))


def test_one_network_alone_has_no_interval_of_shrinkage() -> None:
    found = verified([SLOW], trainings([(SLOW, [(0.9, None), (0.8, None)])]))["shrinkage"]
    assert found["val"]["members"]["mean"] == pytest.approx(0.1)
    assert found["val"]["members"]["interval"] is None
    assert "test" not in found


def test_what_became_of_each() -> None:
    gone = finalist(4, 0.96, 3.0)
    broken = finalist(5, 0.97, 4.0)
    reference = finalist(6, 0.99, 0.5, "reference", name="lenet5", choices={})
    everybody = [FAST, SLOW, NEAR, gone, broken, reference]
    trials = trainings(
        [
            (FAST, [(0.90, None), (0.90, None)]),
            (SLOW, [(0.92, None), (0.92, None)]),
            (NEAR, [(0.95, None), (0.96, None)]),
            (gone, [(0.94, None), (0.93, None)]),
            (reference, [(0.99, None), (0.99, None)]),
        ]
    )
    trials += [training(20 + i, broken, 0.0, seed=i, state=State.FAILED) for i in range(2)]
    found = verified(everybody, trials)
    statuses = {e["arch_id"]: e["status"] for e in (*found["members"], *found["candidates"])}
    assert statuses == {
        FAST.arch_id: "kept",
        NEAR.arch_id: "joined",
        SLOW.arch_id: "fell",
        gone.arch_id: "fell",
        broken.arch_id: "failed",
    }
    assert found["places"] == {
        "members": 4, "kept": 1, "fell": 2, "joined": 1, "failed": 1, "unfinished": 0
    }  # fmt: skip
    reasons = {e["arch_id"]: e["reason"] for e in found["candidates"]}
    assert reasons[SLOW.arch_id] == (
        f"dominated by {NEAR.arch_id}: +3.50 points at the same latency"
    )
    assert reasons[gone.arch_id].endswith("at 33.3 % less latency")
    assert reasons[broken.arch_id] == "all 2 trainings failed: no luck"
    (compared,) = found["references"]
    assert (compared["name"], compared["on_front"]) == ("lenet5", False)
    assert compared["probability"] is None


def test_who_is_not_trained_yet_is_said_to_be_unfinished() -> None:
    found = verified([FAST, SLOW], trainings([(FAST, [(0.9, None), (0.9, None)])]))
    assert found["places"]["unfinished"] == 1
    assert ids(found["members"]) == [FAST.arch_id]


def test_a_close_race_is_open_and_both_ends_are_shown() -> None:
    trials = trainings(
        [
            (SLOW, [(0.940, None), (0.950, None), (0.945, None)]),
            (NEAR, [(0.941, None), (0.951, None), (0.943, None)]),
        ]
    )
    found = verified([SLOW, NEAR], trials)
    chances = {e["arch_id"]: e["probability"] for e in (*found["members"], *found["candidates"])}
    assert all(VerifySettings().is_open(p) for p in chances.values())
    assert sum(chances.values()) == pytest.approx(1.0)  # at the same latency one of them is best
    assert set(found["optimistic"]) == {SLOW.arch_id, NEAR.arch_id}
    assert found["pessimistic"] == []


def test_attainment_surfaces_lie_inside_each_other() -> None:
    trials = trainings(
        [
            (FAST, [(0.89, None), (0.91, None), (0.90, None)]),
            (SLOW, [(0.94, None), (0.96, None), (0.95, None)]),
        ]
    )
    found = verified([FAST, SLOW], trials)["attainment"]
    assert (found["x"], found["y"]) == ("latency_ms", "accuracy")
    best, median, worst = (
        [tuple(p) for p in found["surfaces"][name]["points"]]
        for name in ("best", "median", "worst")
    )
    assert [x for x, _ in median] == [1.0, 2.0]  # exact latencies: one corner for each
    for (_, high), (_, middle), (_, low) in zip(best, median, worst, strict=True):
        assert high > middle > low
    assert median[0][1] == pytest.approx(0.90, abs=0.01)
    assert median[1][1] == pytest.approx(0.95, abs=0.01)


def test_a_table_of_promises_has_a_line_for_each_and_intervals() -> None:
    trials = trainings([(FAST, [(0.88, 0.86), (0.90, 0.88)]), (SLOW, [(0.9, 0.9), (0.9, 0.9)])])
    found = verified([FAST, SLOW], trials, images=IMAGES)
    rows = list(csv.DictReader(io.StringIO(promised_csv(found))))
    assert {r["arch_id"] for r in rows} == {FAST.arch_id, SLOW.arch_id}
    fast = next(r for r in rows if r["arch_id"] == FAST.arch_id)
    assert float(fast["searched_accuracy"]) == 0.90
    assert float(fast["retrained_accuracy"]) == pytest.approx(0.89)
    assert float(fast["test_accuracy_low"]) < 0.87 < float(fast["test_accuracy_high"])
    assert fast["retrained_accuracy_n"] == "2"
    assert "int8_accuracy" not in fast
    assert [r.word for r in promised(found)] == ["kept", "kept"]


def test_columns_of_later_steps_are_there_once_they_are_known() -> None:
    found = verified([FAST], trainings([(FAST, [(0.9, 0.9), (0.91, 0.9)])]), images=IMAGES)
    found["members"][0]["delivered"] = {"int8_accuracy": 0.85, "int8_bytes": 1234}
    (row,) = csv.DictReader(io.StringIO(promised_csv(found)))
    assert (row["int8_accuracy"], row["int8_bytes"]) == ("0.85", "1234")
    assert "exported_accuracy" not in row


# -- latency --------------------------------------------------------------------------------------


def session(**p50: float) -> dict[str, WholeLatency]:
    return {
        name: WholeLatency(
            p50_ms=v,
            p90_ms=2 * v,
            interval=(v, v),
            p90_interval=(2 * v, 2 * v),
            n=64,
            rounds=16,
        )
        for name, v in p50.items()
    }


def test_latency_over_sessions_is_a_geometric_mean_with_a_pooled_interval() -> None:
    found = combined([session(a=1.0, b=4.0), session(a=1.21, b=4.84)], 0.9)
    a, b = found["a"], found["b"]
    assert (a["p50_ms"], a["p90_ms"]) == (pytest.approx(1.1), pytest.approx(2.2))
    assert (a["n"], a["calls"], a["sessions_ms"]) == (2, 128, [1.0, 1.21])
    sd = stdev([math.log(1.0), math.log(1.21)])
    half = student.ppf(0.95, 2) * sd / math.sqrt(2)
    assert a["interval"] == pytest.approx([1.1 * math.exp(-half), 1.1 * math.exp(half)])
    assert b["interval"][1] / b["p50_ms"] == pytest.approx(a["interval"][1] / a["p50_ms"])


def test_what_all_networks_share_in_a_session_says_nothing_about_their_order() -> None:
    found = without_common_drift([[1.0, 1.1], [2.0, 2.2], [3.0, 3.3]])
    for low, high in found:
        assert low == pytest.approx(high)
    assert found[1][0] / found[0][0] == pytest.approx(2.0)
    assert without_common_drift([[1.0, 1.1], [2.0, 2.2]]) == [[1.0, 1.1], [2.0, 2.2]]


def test_measured_latency_replaces_the_predicted_one_and_can_change_the_front() -> None:
    predicted = {"cost_intervals": {"latency_ms": (0.9, 1.1)}}
    one, other = finalist(1, 0.9, 1.0, **predicted), finalist(2, 0.8, 0.9, **predicted)
    trials = trainings([(one, [(0.9, None), (0.9, None)]), (other, [(0.8, None), (0.8, None)])])
    sessions = [session(a=1.0, b=1.2), session(a=1.01, b=1.19)]
    measured = combined([{one.arch_id: s["a"], other.arch_id: s["b"]} for s in sessions], 0.9)
    found = verified([one, other], trials, measured=measured)
    assert ids(found["members"]) == [one.arch_id]
    assert found["members"][0]["metrics"]["latency_ms_p90"] == pytest.approx(2.01, abs=0.01)
    assert found["members"][0]["uncertainty"]["latency_ms"]["n"] == 2
    assert ids(found["candidates"]) == [other.arch_id]
    assert found["candidates"][0]["reason"].endswith("at 15.9 % less latency")
