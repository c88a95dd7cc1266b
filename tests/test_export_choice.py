"""`nasctl export --at`: by what is known best of each network."""

from __future__ import annotations

from typing import Any

import pytest

from nasctl.errors import NothingFeasibleError
from nasctl.export.choice import choose, known_front


class Records:
    """As much of a run as a choice looks at."""

    objectives = {"accuracy": "max", "latency_ms": "min"}  # noqa: RUF012 - nobody changes it

    def __init__(self, verified: dict[str, Any] | None) -> None:
        self.verified = verified
        self.front = {
            "objectives": self.objectives,
            "members": [
                {"arch_id": "big", "metrics": {"accuracy": 0.93, "latency_ms": 4.0}},
                {"arch_id": "lucky", "metrics": {"accuracy": 0.92, "latency_ms": 2.0}},
                {"arch_id": "small", "metrics": {"accuracy": 0.90, "latency_ms": 1.0}},
            ],
        }


def entry(arch_id: str, status: str, val: float, test: float, ms: float) -> dict[str, Any]:
    metrics = {"accuracy": test, "accuracy_val": val, "latency_ms": ms}
    return {"arch_id": arch_id, "status": status, "metrics": metrics}


VERIFIED = {
    "members": [
        entry("big", "kept", 0.92, 0.90, 4.4),
        entry("near", "joined", 0.91, 0.905, 2.5),
        entry("small", "kept", 0.89, 0.91, 1.1),
    ],
    "candidates": [entry("lucky", "fell", 0.88, 0.95, 2.6)],
}


def chosen(at: str, verified: dict[str, Any] | None) -> tuple[str, str]:
    found = choose(Records(verified), at)  # type: ignore[arg-type]
    return found.arch_id, found.values_of


def test_without_a_verification_by_the_search() -> None:
    assert chosen("latency_ms=2.2", None) == ("lucky", "search")


def test_verified_values_count_where_there_are_some() -> None:
    # Its latency was 1.0 in the search and is 1.1; 4.0 became 4.4.
    assert chosen("latency_ms=1.2", VERIFIED) == ("small", "verification")
    assert chosen("latency_ms=4.2", VERIFIED) == ("near", "verification")
    with pytest.raises(NothingFeasibleError, match=r"closest is small with latency_ms 1\.1$"):
        choose(Records(VERIFIED), "latency_ms=1.05")  # type: ignore[arg-type]


def test_what_fell_off_the_front_is_not_chosen() -> None:
    ids = [m["arch_id"] for m in known_front(Records(VERIFIED))["members"]]  # type: ignore[arg-type]
    assert ids == ["big", "near", "small"]


def test_test_images_choose_nothing() -> None:
    # On them `small` is the best of all.
    assert chosen("latency_ms=10", VERIFIED) == ("big", "verification")
    assert chosen("accuracy=0.915", VERIFIED) == ("big", "verification")


def test_a_verification_of_one_network_says_nothing_of_the_others() -> None:
    one = {"members": [entry("big", "kept", 0.92, 0.9, 4.4)], "candidates": []}
    assert chosen("latency_ms=2.2", one) == ("lucky", "search")
    assert chosen("accuracy=0.925", None) == ("big", "search")
    with pytest.raises(NothingFeasibleError, match=r"closest is big with accuracy 0\.92$"):
        choose(Records(one), "accuracy=0.925")  # type: ignore[arg-type]


def test_what_could_not_be_judged_keeps_its_searched_values() -> None:
    failed = {"members": [], "candidates": [entry("lucky", "failed", 0.0, 0.0, 9.0)]}
    assert chosen("latency_ms=2.2", failed) == ("lucky", "search")


def in_int8(arch_id: str, val: float, test: float, ms: float, size: float) -> dict[str, Any]:
    """One that is better, slower and larger in float."""
    found = entry(arch_id, "kept", 0.99 - val / 10, 0.5, 10 * ms)
    own = {"accuracy_int8": test, "accuracy_int8_val": val}
    own |= {"latency_ms_int8": ms, "model_bytes": 9e6, "model_bytes_int8": size}
    return {**found, "metrics": {**found["metrics"], **own}}


IN_INT8 = {
    "front": "int8",
    "members": [in_int8("big", 0.90, 0.70, 2.0, 400.0), in_int8("small", 0.80, 0.95, 1.0, 300.0)],
    "candidates": [entry("lucky", "fell", 0.88, 0.95, 2.6)],
}


def test_from_a_front_of_int8_files_by_their_values() -> None:
    who = "verification, in int8"
    assert chosen("latency_ms=5", IN_INT8) == ("big", who)  # in float both are slower
    assert chosen("latency_ms=1.5", IN_INT8) == ("small", who)
    assert chosen("model_bytes=350", IN_INT8) == ("small", who)
    assert chosen("accuracy=0.85", IN_INT8) == ("big", who)  # on test images it is 0.70
    # No objective by that name, so the largest allowed value; on test images `small` has 0.95.
    assert chosen("accuracy_int8=0.85", IN_INT8) == ("small", who)
    assert choose(Records(IN_INT8), "latency_ms=5").line().endswith("verification, in int8")  # type: ignore[arg-type]


def test_it_is_said() -> None:
    found = choose(Records(VERIFIED), "latency_ms=1.2")  # type: ignore[arg-type]
    assert found.line() == "small is the best at latency_ms=1.2, by the values of the verification"
    assert found.to_json() == {"at": "latency_ms=1.2", "values_of": "verification"}
