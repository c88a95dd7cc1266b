"""Latencies without repeats: kept from the search, or of one session: how sure, at what level."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy.stats import norm
from scipy.stats import t as student

from nasctl.latency import WholeLatency
from nasctl.verification.finalists import Finalist
from nasctl.verification.promised import promised
from nasctl.verification.settings import VerifySettings
from nasctl.verification.single import SingleLatency, searched_latency
from nasctl.verification.timing import combined
from tests.verify_bench import entries
from tests.verify_samples import finalist, trainings, verified

KEPT = VerifySettings(latency="search")


def predicted(number: int, ms: float, *, n: int = 10, relative: float = 0.1) -> Finalist:
    ends = (ms * (1 - relative), ms * (1 + relative))
    known = {"interval": list(ends), "n": n, "split": None, "source": "predicted"}
    return finalist(
        number, 0.9, ms,
        cost_intervals={"latency_ms": ends}, searched_uncertainty={"latency_ms": known},
    )  # fmt: skip


def measured_in_search(number: int, ms: float, low: float, high: float) -> Finalist:
    known = {"interval": [low, high], "n": 64, "split": None, "source": "measured"}
    return finalist(
        number, 0.9, 1.1 * ms,
        cost_intervals={"latency_ms": (ms, 1.2 * ms)},
        searched={"accuracy": 0.9, "latency_ms": 1.1 * ms, "latency_ms_measured": ms},
        searched_uncertainty={"latency_ms_measured": known},
    )  # fmt: skip


def found_of(*finalists: Finalist, settings: VerifySettings = KEPT, **more: Any) -> dict[str, Any]:
    """All with nearly the same accuracies, those of later ones a little lower."""
    values = [
        (f, [(0.9 - 0.01 * i + off, None) for off in (-1e-6, 0.0, 1e-6)])
        for i, f in enumerate(finalists)
    ]
    return verified(finalists, trainings(values), settings=settings, **more)


def test_a_95_percent_interval_is_shown_as_one_of_the_verification() -> None:
    found = {e["arch_id"]: e for e in entries(found_of(predicted(1, 2.0), predicted(2, 1.0)))}
    known = found[predicted(1, 2.0).arch_id]["uncertainty"]["latency_ms"]
    half = 0.2 * student.ppf(0.95, 8) / student.ppf(0.975, 8)  # 90 %, ten calibration networks
    assert known["interval"] == pytest.approx([2.0 - half, 2.0 + half])
    assert (known["source"], known["n"]) == ("predicted", 10)
    (entry,) = entries(found_of(measured_in_search(1, 2.0, 1.9, 2.3)))
    ratio = norm.ppf(0.95) / norm.ppf(0.975)
    assert entry["metrics"]["latency_ms"] == 2.0
    ends = entry["uncertainty"]["latency_ms"]["interval"]
    assert ends == pytest.approx([2.0 - 0.1 * ratio, 2.0 + 0.3 * ratio])
    at_95 = VerifySettings(latency="search", confidence=0.95)
    (entry,) = entries(found_of(measured_in_search(1, 2.0, 1.9, 2.3), settings=at_95))
    assert entry["uncertainty"]["latency_ms"]["interval"] == pytest.approx([1.9, 2.3])


def test_what_the_search_was_not_sure_of_is_not_exact_in_the_draws() -> None:
    """The second is less accurate, and on the front only where it is the faster one."""
    one, other = predicted(1, 1.05), predicted(2, 1.0)
    found = {e["arch_id"]: e for e in entries(found_of(one, other))}
    half = math.log(1.1 / 0.9) / 2 / student.ppf(0.975, 8)
    expected = student.cdf(math.log(1.05) / (half * math.sqrt(2)), 8)
    assert found[other.arch_id]["on_front"]
    assert found[other.arch_id]["probability"] == pytest.approx(expected, abs=0.03)
    assert 0.1 < found[other.arch_id]["probability"] < 0.9  # open: more seeds do not hurt
    surer = [predicted(1, 1.05, relative=0.001), predicted(2, 1.0, relative=0.001)]
    found = {e["arch_id"]: e for e in entries(found_of(*surer))}
    assert found[other.arch_id]["probability"] == 1.0


def test_it_is_not_called_measured_now() -> None:
    kept = measured_in_search(1, 2.0, 1.9, 2.3)
    (row,) = promised(found_of(kept))
    assert set(row.latency) == {"searched"}
    (row,) = promised(found_of(predicted(1, 2.0)))
    assert set(row.latency) == {"predicted"}
    (row,) = promised(found_of(finalist(1, 0.9, 2.0)))  # exact: of the table
    assert row.latency["p50"].value == 2.0


def session(**p50: float) -> dict[str, WholeLatency]:
    return {
        name: WholeLatency(
            p50_ms=v,
            p90_ms=2 * v,
            interval=(0.8 * v, 1.2 * v),
            p90_interval=(1.5 * v, 2.5 * v),
            n=64,
            rounds=16,
        )
        for name, v in p50.items()
    }


def test_a_single_session_has_the_interval_of_its_calls_at_that_confidence() -> None:
    found = combined([session(a=1.0)], 0.9)["a"]
    ratio = norm.ppf(0.95) / norm.ppf(0.975)
    assert found["interval"] == pytest.approx([1 - 0.2 * ratio, 1 + 0.2 * ratio])
    assert found["p90_interval"] == pytest.approx([2 - 0.5 * ratio, 2 + 0.5 * ratio])
    assert combined([session(a=1.0)], 0.95)["a"]["interval"] == pytest.approx([0.8, 1.2])


def test_a_single_session_is_not_exact_in_the_draws() -> None:
    one, other = predicted(1, 1.05), predicted(2, 1.0)
    once = session(**{one.arch_id: 1.05, other.arch_id: 1.0})
    found = found_of(one, other, settings=VerifySettings(), measured=combined([once], 0.9))
    chances = {e["arch_id"]: e["probability"] for e in entries(found)}
    sd = math.log(
        (1 + 0.2 * norm.ppf(0.95) / norm.ppf(0.975)) / (1 - 0.2 * norm.ppf(0.95) / norm.ppf(0.975))
    ) / 2 / norm.ppf(0.95)  # fmt: skip
    expected = norm.cdf(math.log(1.05) / (sd * math.sqrt(2)))
    assert chances[other.arch_id] == pytest.approx(expected, abs=0.03)


def test_an_exact_latency_is_exact_and_wide_intervals_stay_above_zero() -> None:
    assert searched_latency(finalist(1, 0.9, 2.0)) is None
    wide = SingleLatency(
        value=1.0, interval=(0.1, 1.9), confidence=0.95, n=3, source="predicted", degrees=1
    )
    assert wide.at(0.99)[0] == 0.0
    assert wide.at(0.99)[1] > 1.9
    assert wide.error == pytest.approx(math.log(19) / 2 / student.ppf(0.975, 1))
    at_zero = SingleLatency(value=1.0, interval=(0.0, 1.9), confidence=0.95, n=3, source="measured")
    assert at_zero.error == pytest.approx(math.log(1.9) / norm.ppf(0.975))
