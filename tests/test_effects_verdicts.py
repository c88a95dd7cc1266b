"""Holm's procedure and the verdicts of families."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasctl.effects.multiple import holm
from nasctl.effects.paired import t_test
from nasctl.effects.sequential import Looks
from nasctl.effects.verdicts import Verdict, judge, verdict
from nasctl.stats import t_interval


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}, alpha=0.05)
    assert {k: v.p for k, v in found.items()} == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    # c is the first that fails, at alpha / 2; b, after it, has its level.
    assert {k: v.level for k, v in found.items()} == pytest.approx(
        {"d": 0.05 / 4, "a": 0.05 / 3, "c": 0.05 / 2, "b": 0.05 / 2}
    )
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({}, 0.05) == {}
    assert holm({"a": 0.04}, 0.05)["a"].p == 0.04


@given(st.lists(st.sampled_from([0.0, 0.004, 0.01, 0.012, 0.02, 0.03, 0.04, 0.3, 1.0]), min_size=1))
def test_holm_levels_say_the_same_as_adjusted_p_values(p_values: list[float]) -> None:
    alpha = 0.05
    family = {str(i): p for i, p in enumerate(p_values)}
    found = holm(family, alpha)
    for name, p in family.items():
        assert (p < found[name].level) == (found[name].p < alpha)
        assert alpha / len(p_values) <= found[name].level <= alpha
        assert found[name].p >= p
    backwards = holm(dict(reversed(family.items())), alpha)
    assert backwards == found  # the order of equal p-values does not matter


def test_holm_ranges() -> None:
    with pytest.raises(ValueError, match=r"b: p-value 1\.2"):
        holm({"a": 0.1, "b": 1.2})
    with pytest.raises(ValueError, match="alpha"):
        holm({"a": 0.1}, alpha=1.0)


@pytest.mark.parametrize(
    ("interval", "smallest", "expected"),
    [
        ((-0.5, 0.9), 1.0, "equivalent"),
        ((0.1, 0.9), 1.0, "equivalent"),
        ((0.1, 1.0), 1.0, "inconclusive"),
        ((0.1, 1.1), 1.0, "supported"),
        ((1.5, 2.0), 1.0, "supported"),
        ((0.0, 2.0), 1.0, "inconclusive"),
        ((-0.1, 2.0), 1.0, "inconclusive"),
        ((-3.0, 2.0), 1.0, "inconclusive"),
        ((-1.1, -0.1), 1.0, "refuted"),
        ((-0.9, -0.1), 1.0, "equivalent"),
        ((0.1, 0.2), 0.0, "supported"),
        ((-0.2, -0.1), 0.0, "refuted"),
        ((0.0, 0.0), 0.0, "inconclusive"),
        ((0.0, 0.0), 0.1, "equivalent"),
        (None, 1.0, "inconclusive"),
    ],
)
def test_verdicts(interval: tuple[float, float] | None, smallest: float, expected: str) -> None:
    assert verdict(interval, smallest) == expected


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0, 5))
def test_verdicts_mirror(a: float, b: float, smallest: float) -> None:
    low, high = min(a, b), max(a, b)
    mirrored = {
        Verdict.SUPPORTED: Verdict.REFUTED,
        Verdict.REFUTED: Verdict.SUPPORTED,
    }
    found = verdict((low, high), smallest)
    assert verdict((-high, -low), smallest) == mirrored.get(found, found)


def test_a_family_at_one_look() -> None:
    family = {
        "large": [1.1, 1.3, 0.9, 1.2, 1.0],
        "none": [0.3, -0.4, 0.1, -0.2, 0.05],
        "against": [-2.0, -2.5, -2.2, -1.9, -2.4],
    }
    found = judge(family, alpha=0.05, smallest_effect=0.9)
    assert [e.verdict for e in found.values()] == ["supported", "equivalent", "refuted"]
    large, against = found["large"], found["against"]
    assert large.p_value == t_test(family["large"])
    assert large.interval == pytest.approx(t_interval(family["large"], 1 - 0.05 / 2))
    assert large.level == pytest.approx(1 - 0.05 / 2)
    assert large.p_adjusted == pytest.approx(2 * large.p_value)
    assert against.level == pytest.approx(1 - 0.05 / 3)  # the smaller p-value
    assert (large.n, large.effect) == (5, pytest.approx(1.1))
    assert (large.sd, large.adjusted_effect) == (pytest.approx(0.1581, abs=1e-4), large.effect)
    assert (large.superiority, against.superiority) == (1, 0)
    assert large.sign_flip_p == large.sign_flip_smallest == 0.0625
    assert large.bootstrap is None
    assert found["none"].equivalence_p is not None
    assert found["none"].equivalence_p < 0.01
    assert judge(family)["none"].equivalence_p is None


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([None, Looks((3, 5, 7))]))
def test_zero_is_outside_exactly_when_holm_rejects(seed: int, looks: Looks | None) -> None:
    rng = np.random.default_rng(seed)
    family = {
        str(i): list(rng.normal(effect, 1, rng.integers(3, 8)))
        for i, effect in enumerate((0, 1, 2, 4))
    }
    for evidence in judge(family, alpha=0.1, looks=looks).values():
        assert evidence.interval is not None
        low, high = evidence.interval
        assert (low > 0 or high < 0) == (evidence.p_adjusted < 0.1)
        assert (evidence.verdict is not Verdict.INCONCLUSIVE) == (evidence.p_adjusted < 0.1)
        assert low < evidence.effect < high


@pytest.mark.parametrize("looks", [None, Looks((3, 5))])
def test_too_few_units_say_nothing(looks: Looks | None) -> None:
    found = judge({"no": [], "one": [2.0], "more": [2.0, 2.1, 1.9]}, looks=looks)
    for name in ("no", "one"):
        assert found[name].interval is None
        assert found[name].p_value == found[name].p_adjusted == 1
        assert found[name].verdict == "inconclusive"
        assert found[name].adjusted_effect is None
    assert (found["no"].effect, found["one"].effect) == (None, 2.0)
    # They still belong to the family.
    assert found["more"].level == pytest.approx(1 - 0.05 / 3)
    encoded = json.loads(json.dumps({k: dataclasses.asdict(v) for k, v in found.items()}))
    assert encoded["one"]["interval"] is None
    assert encoded["more"]["verdict"] in set(Verdict)


def test_equal_differences_are_judged_as_a_point() -> None:
    found = judge({"fewer": [5.0] * 4, "same": [0.0] * 4}, smallest_effect=1.0)
    assert found["fewer"].interval == (5.0, 5.0)
    assert [e.verdict for e in found.values()] == ["supported", "equivalent"]
    assert found["fewer"].effect_size is None
    assert all(
        math.isfinite(v) for e in found.values() for v in (e.p_value, e.p_adjusted, e.effect or 0)
    )


def test_units_after_a_look_wait_for_the_next() -> None:
    looks = Looks((3, 5))
    values = [1.0, 2.0, 3.0, 40.0]
    four, three = judge({"a": values}, looks=looks), judge({"a": values[:3]}, looks=looks)
    assert four == three
    assert four["a"].n == 3
    two = judge({"a": values[:2]}, looks=looks)["a"]
    assert (two.n, two.interval, two.verdict) == (2, None, "inconclusive")
    with pytest.raises(ValueError, match="a: 6 units"):
        judge({"a": [1.0] * 6}, looks=looks)


def test_what_was_seen_earlier_does_not_stand_against_the_interval() -> None:
    looks = Looks((3, 5))
    values = [1.0, 1.01, 0.99, -3.0, 2.0]
    assert judge({"a": values[:3]}, looks=looks)["a"].verdict == "supported"
    found = judge({"a": values}, looks=looks)["a"]
    assert (found.verdict, found.p_adjusted > 0.5) == ("inconclusive", True)


def test_looks_widen_intervals() -> None:
    values = list(np.random.default_rng(0).normal(1, 1, 5))
    once, early = judge({"a": values})["a"], judge({"a": values}, looks=Looks.every(3, 10))["a"]
    assert once.interval is not None
    assert early.interval is not None
    assert early.interval[0] < once.interval[0] < once.interval[1] < early.interval[1]
    assert early.p_value > once.p_value


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_differences_are_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="a: differences must be finite"):
        judge({"a": [1.0, bad]})
    with pytest.raises(ValueError, match="smallest effect"):
        judge({"a": [1.0, 2.0]}, smallest_effect=bad)
    with pytest.raises(ValueError, match="smallest effect"):
        verdict((0.0, 1.0), -0.1)


def test_wrong_rejections_of_a_family_that_stops_at_different_times() -> None:
    """Stop each comparison when it is decided, judge again: at most alpha of families err."""
    looks, alpha, families = Looks((3, 6)), 0.3, 60
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(families):
        baseline = rng.normal(0, 1, 6)
        family = {
            name: rng.normal(e, 1, 6) - baseline for name, e in (("0", 0), ("00", 0), ("3", 4))
        }
        stopped: dict[str, list[float]] = {}
        for n in looks.schedule:
            seen = {k: stopped.get(k, list(v[:n])) for k, v in family.items()}
            found = judge(seen, alpha=alpha, looks=looks)
            stopped |= {
                k: seen[k] for k, e in found.items() if e.verdict is not Verdict.INCONCLUSIVE
            }
        wrong += bool({"0", "00"} & set(stopped))
    assert 0 < wrong / families < alpha + 3 * math.sqrt(alpha * (1 - alpha) / families)
