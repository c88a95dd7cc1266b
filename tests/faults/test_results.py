"""Results that are none fail their trial, with a reason, and go no further: F10 and F29."""

from __future__ import annotations

import json

from nasctl.trial import State
from tests.faults.drive import INLINE, SEARCH, Bench, states

REASONS = (
    "evaluator 'odd_values' gave accuracy = nan",
    "evaluator 'odd_values' gave accuracy = inf",
    "epoch 2: accuracy must be a fraction between 0 and 1, got 1e+308",
    "epoch 2: accuracy must be a fraction between 0 and 1, got 93.1 (divide percent by 100)",
    "did not report accuracy",
    "epoch 2: accuracy must be a fraction between 0 and 1, got -0.25",
)
"""By width."""


def test_f10_odd_values_never_reach_the_front(bench: Bench) -> None:
    said = bench.call(
        *SEARCH, INLINE, "evaluator=odd_values", "space.options.size=6", "trials=36",
        "search.max_failures=0", "constraints.latency_ms=2",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert states(bench) == {"COMPLETE": 6, "FAILED": 6, "REJECTED": 24}
    errors = {t.choices["width"]: t.error for t in bench.toy.trials() if t.state is State.FAILED}
    assert errors == dict(enumerate(REASONS))
    front = json.loads((bench.run_dir / "front.json").read_text())
    assert {m["choices"]["depth"] for m in front["members"]} == {0}
    bench.assert_sound()
    # Stopped at once: an epoch with such a value is no epoch.
    assert {len(t.evaluations) for t in bench.toy.trials() if t.error} == {1, 2}
    seen = [e.metrics.get("accuracy", 0.0) for t in bench.toy.trials() for e in t.evaluations]
    assert 0 <= min(seen) <= max(seen) <= 1


def test_f10_where_all_trials_fail_the_front_is_empty(bench: Bench) -> None:
    said = bench.call(*SEARCH, INLINE, "evaluator=percent", "search.max_failures=3")
    assert said.code == 3
    assert "3 trials in a row failed; the last one: epoch 2: accuracy must be" in said.error
    assert "divide percent by 100" in (bench.run_dir / "report.html").read_text(encoding="utf-8")
    assert json.loads((bench.run_dir / "front.json").read_text())["members"] == []
    bench.assert_sound()


def test_f10_few_trials_that_all_fail_are_no_success(bench: Bench) -> None:
    for _ in range(2):  # also when there is nothing left to do
        said = bench.call(*SEARCH, INLINE, "evaluator=percent", "trials=2")
        assert said.code == 3
        assert "nothing came of it: 2 of 2 trials failed; the last one: epoch 2: acc" in said.error
        assert states(bench) == {"FAILED": 2}
        assert json.loads((bench.run_dir / "front.json").read_text())["members"] == []
        bench.assert_sound()


def test_f29_an_exhausted_space_ends_well_and_says_so(bench: Bench) -> None:
    said = bench.call(*SEARCH, INLINE, "space.options.size=2", "trials=9")
    assert said.code == 0
    assert "the space is exhausted after 4 of 9 trials" in said.err
    assert states(bench) == {"COMPLETE": 4}
    bench.assert_sound()
    assert bench.call(*SEARCH, INLINE, "space.options.size=2", "trials=10").code == 0


def test_f29_nothing_feasible_is_3_with_an_empty_front(bench: Bench) -> None:
    said = bench.call(*SEARCH, INLINE, "constraints.params=9")
    assert said.code == 3
    assert "no candidate satisfies the constraints; closest: " in said.error
    front = bench.call("front", "runs/toy", "--json")
    assert json.loads(front.out)["members"] == []
    assert bench.call("front", "runs/toy").code == 0
    assert bench.call("report", "runs/toy").code == 0
    assert "nasctl ui" not in (bench.run_dir / "report.html").read_text()  # tracking: none
    refused = bench.call("report", "runs/toy", "-o", "-")
    assert (refused.code, refused.error.startswith("Error: -o -: ")) == (2, True)
    assert not (bench.folder / "-").exists()
    assert bench.assert_sound().status == "FAILED"
