"""A verified front that is judged by int8 files: what decides, and on which data."""

from __future__ import annotations

import csv
import io
from statistics import fmean
from typing import Any

import pytest

from nasctl.report.verified_text import int8_lines
from nasctl.terminal_verified import verified_text
from nasctl.tracking.verification import verified_metrics
from nasctl.trial import Trial
from nasctl.verification.delivered import Images
from nasctl.verification.promised import promised, promised_csv
from nasctl.verification.settings import VerifySettings
from tests.verify_bench import entries
from tests.verify_samples import finalist, training, verified

INT8 = VerifySettings(front="int8")
IMAGES = Images(val=1000, test=1000)
SIZES = {"model_bytes": 4000.0, "params": 1000.0}


def network(number: int, latency_ms: float) -> Any:
    predicted = {"cost_intervals": {"latency_ms": (latency_ms * 0.9, latency_ms * 1.1)}}
    return finalist(number, 0.9, latency_ms, cost={"latency_ms": latency_ms, **SIZES}, **predicted)


QUICK, ROBUST, FRAGILE = network(1, 1.0), network(2, 2.0), network(3, 2.1)
# FRAGILE is the best in float, and loses most when it is quantised.
ALL = (QUICK, ROBUST, FRAGILE)
FLOAT = ((0.80, 0.81), (0.90, 0.91), (0.95, 0.96))
IN_INT8 = ((0.79, 0.80), (0.89, 0.90), (0.60, 0.99))
"""Validation and test accuracy of each."""


def trials(in_int8: Any = IN_INT8, *, quantised: bool = True) -> list[Trial]:
    """Three seeds of each."""
    return [
        training(
            3 * i + seed,
            of,
            FLOAT[i][0] + off,
            FLOAT[i][1] + off,
            seed=seed,
            int8=(in_int8[i][0] + off, in_int8[i][1] + off) if quantised else None,
        )
        for i, of in enumerate(ALL)
        for seed, off in enumerate((-0.001, 0.0, 0.001))
    ]


def timed(p50: float) -> dict[str, Any]:
    return {
        "p50_ms": p50,
        "p90_ms": 1.2 * p50,
        "interval": [0.99 * p50, 1.01 * p50],
        "p90_interval": [1.1 * p50, 1.3 * p50],
        "n": 3,
        "sessions_ms": [0.99 * p50, p50, 1.01 * p50],
        "bytes": 1100,
    }


FILES = {QUICK.arch_id: timed(0.6), ROBUST.arch_id: timed(1.0), FRAGILE.arch_id: timed(1.25)}
MEASURED = {f.arch_id: timed(f.cost["latency_ms"]) for f in ALL}


def found_of(settings: VerifySettings, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"measured": MEASURED, "files": FILES, "images": IMAGES, **more}
    return verified(ALL, given.pop("trials", trials()), settings=settings, **given)


def ids(found: dict[str, Any]) -> set[str]:
    return {m["arch_id"] for m in found["members"]}


def test_who_loses_too_much_in_int8_is_off_the_front_of_int8_files() -> None:
    assert ids(found_of(VerifySettings())) == {QUICK.arch_id, ROBUST.arch_id, FRAGILE.arch_id}
    found = found_of(INT8)
    assert found["front"] == "int8"
    assert ids(found) == {QUICK.arch_id, ROBUST.arch_id}
    (off,) = found["candidates"]
    assert off["status"] == "fell"
    assert off["probability"] < 0.01
    assert off["reason"] == f"dominated by {ROBUST.arch_id}: +29.00 points at 20.0 % less latency"
    assert found["pessimistic"] == [QUICK.arch_id, ROBUST.arch_id]
    assert found["members"][0]["arch_id"] == ROBUST.arch_id


def test_networks_keep_what_they_are_worth_in_float_beside_it() -> None:
    found = {e["arch_id"]: e for e in entries(found_of(INT8))}
    metrics, sure = found[ROBUST.arch_id]["metrics"], found[ROBUST.arch_id]["uncertainty"]
    assert metrics["accuracy"] == pytest.approx(0.91)
    assert metrics["accuracy_val"] == pytest.approx(0.90)
    assert metrics["accuracy_int8"] == pytest.approx(0.90)
    assert metrics["accuracy_int8_val"] == pytest.approx(0.89)
    assert (metrics["latency_ms"], metrics["latency_ms_int8"]) == (2.0, 1.0)
    assert metrics["latency_ms_int8_p90"] == pytest.approx(1.2)
    assert (metrics["model_bytes"], metrics["model_bytes_int8"]) == (4000, 1100)
    splits = {m: sure[m]["split"] for m in ("accuracy_int8", "accuracy_int8_val")}
    assert splits == {"accuracy_int8": "test", "accuracy_int8_val": "val"}
    low, high = sure["accuracy_int8_val"]["interval"]
    assert low < 0.89 < high
    assert sure["latency_ms_int8"] == {
        "interval": [0.99, 1.01], "n": 3, "split": None, "source": "measured"
    }  # fmt: skip


def test_members_are_chosen_on_validation_never_on_test_in_int8_too() -> None:
    """FRAGILE is the best of all on test images in int8, and stays off."""
    assert FRAGILE.arch_id not in ids(found_of(INT8))
    other = [(val, 0.99 - test / 2) for val, test in IN_INT8]
    one, two = found_of(INT8), found_of(INT8, trials=trials(other))
    orders = [[m["arch_id"] for m in v["members"]] for v in (one, two)]
    assert orders == [[ROBUST.arch_id, QUICK.arch_id]] * 2
    chances = [{e["arch_id"]: e["probability"] for e in entries(v)} for v in (one, two)]
    assert chances[0] == chances[1]
    assert one["hypervolume_val"] == two["hypervolume_val"]
    assert one["hypervolume"] != two["hypervolume"]


def test_chances_rest_on_sessions_of_the_files_and_not_of_the_networks() -> None:
    close = {**FILES, FRAGILE.arch_id: timed(1.001) | {"sessions_ms": [1.02, 0.993, 0.99]}}
    better = ((0.79, 0.80), (0.89, 0.90), (0.80, 0.99))  # FRAGILE's place is a matter of latency
    chances = [
        {e["arch_id"]: e["probability"] for e in entries(found_of(INT8, **given))}
        for given in (
            {"files": close, "trials": trials(better)},
            {"files": close, "trials": trials(better), "measured": {i: timed(9.0) for i in FILES}},
            {"files": FILES, "trials": trials(better)},
        )
    ]
    assert 0.1 < chances[0][FRAGILE.arch_id] < 0.9
    assert chances[0] == chances[1]
    assert chances[2][FRAGILE.arch_id] < 0.05


def test_the_median_of_a_file_decides_and_not_its_slowest_calls() -> None:
    files = {i: {**f, "p90_ms": 9.0 - f["p50_ms"]} for i, f in FILES.items()}
    found, usual = found_of(INT8, files=files), found_of(INT8)
    assert ids(found) == ids(usual)
    assert found["candidates"][0]["reason"] == usual["candidates"][0]["reason"]


def test_weights_are_those_of_the_seed_that_is_best_in_int8_on_validation() -> None:
    seeds = [
        training(0, ROBUST, 0.92, 0.90, seed=0, int8=(0.85, 0.99)),
        training(1, ROBUST, 0.90, 0.90, seed=1, int8=(0.89, 0.70)),
    ]
    (member,) = verified([ROBUST], seeds, files=FILES, settings=INT8, images=IMAGES)["members"]
    assert member["seed"] == 2**31 + 1
    (member,) = verified([ROBUST], seeds, images=IMAGES)["members"]
    assert member["seed"] == 2**31


def test_what_int8_costs_is_over_networks() -> None:
    found = found_of(INT8)["quantisation"]
    lost = [0.01, 0.01, 0.35]
    assert found["val"]["mean"] == pytest.approx(fmean(lost))
    assert (found["val"]["n"], found["unit"]) == (3, "network")
    assert found["val"]["interval"][0] < fmean(lost) < found["val"]["interval"][1]
    assert found["test"]["networks"][FRAGILE.arch_id] == pytest.approx(-0.03)
    assert "quantisation" not in found_of(VerifySettings())


def test_size_of_the_file_may_be_an_objective() -> None:
    objectives = {"accuracy": "max", "model_bytes": "min"}
    files = {f.arch_id: {"bytes": n} for f, n in zip(ALL, (900, 1100, 800), strict=True)}
    found = found_of(INT8, objectives=objectives, files=files)
    assert ids(found) == {f.arch_id for f in ALL}
    assert ids(found_of(VerifySettings(), objectives=objectives)) == {FRAGILE.arch_id}  # as large


def test_without_a_file_or_its_judgement_a_network_is_on_no_front() -> None:
    files = {**FILES, ROBUST.arch_id: {"error": "Frobnicate cannot be quantised"}}
    some = [t for t in trials() if t.arch_id != ROBUST.arch_id]
    found = {e["arch_id"]: e for e in entries(found_of(INT8, files=files, trials=some))}
    gone = found[ROBUST.arch_id]
    assert (gone["status"], gone["on_front"]) == ("failed", False)
    assert gone["reason"] == "not in int8, so not trained: Frobnicate cannot be quantised"
    some += [training(20, ROBUST, 0.99, 0.99)]  # a trainer that ended early: nothing in int8
    found = {e["arch_id"]: e for e in entries(found_of(INT8, trials=some))}
    assert found[ROBUST.arch_id]["status"] == "failed"
    assert "its trainer ended before the last epoch" in found[ROBUST.arch_id]["reason"]


def test_a_trained_front_takes_no_notice_of_int8() -> None:
    one = verified(ALL, trials(quantised=False), measured=MEASURED, images=IMAGES)
    assert one["front"] == "trained"
    assert all("int8" not in key for e in entries(one) for key in e["metrics"])
    two = found_of(VerifySettings())
    for a, b in zip(entries(one), entries(two), strict=True):
        assert (a["probability"], a["on_front"]) == (b["probability"], b["on_front"])
    assert one["attainment"] == two["attainment"]


def test_table_terminal_and_tracking_show_both() -> None:
    found = found_of(INT8)
    rows = {r["arch_id"]: r for r in csv.DictReader(io.StringIO(promised_csv(found)))}
    row = rows[ROBUST.arch_id]
    assert float(row["retrained_accuracy"]) == pytest.approx(0.90)
    assert float(row["retrained_accuracy_int8"]) == pytest.approx(0.89)
    assert float(row["test_accuracy_int8"]) == pytest.approx(0.90)
    assert row["test_accuracy_int8_n"] == "3"
    assert (row["latency_p50_ms"], row["latency_p50_ms_int8"]) == ("2.0", "1.0")
    assert row["model_bytes_int8"] == "1100.0"
    (shown,) = [r for r in promised(found) if r.arch_id == ROBUST.arch_id]
    assert shown.decides.value == pytest.approx(0.89)
    wide = verified_text(found, width=400)
    assert "accuracy" in wide
    assert "0.8900" in wide
    assert "the front is that of int8 files: accuracy and latency decided" in wide
    lines = list(int8_lines(found))
    assert lines[1].startswith("trained less int8 validation accuracy: +12.33 points (90 %")
    assert list(int8_lines(found_of(VerifySettings()))) == []
    metrics = verified_metrics(found)
    assert metrics["test_accuracy_int8_best"] == pytest.approx(0.90)  # ROBUST, by validation
    assert metrics["latency_ms_int8_fastest"] == 0.6
    plain = found_of(VerifySettings(), trials=trials(quantised=False), files={})
    assert not any("int8" in name for name in verified_metrics(plain))
