"""`stop.marginal_gain`: the rule by hand, and searches that it ends, whatever the timing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from nasctl.config import load_config
from nasctl.engine import Engine, Signal
from nasctl.errors import ConfigError
from nasctl.history import history_hash
from nasctl.ledger import Ledger
from nasctl.stop_settings import StopSettings
from nasctl.stopping import MarginalGain, continued, stopped_line
from nasctl.trial import State, Trial, Work
from tests import toy
from tests.toy import OBJECTIVES, finish, make_engine, run

REFERENCE = {"accuracy": 0.0, "params": 1.0}
ONE = {"params": 0.0}


def told(values: list[float | None], *, window: int, since: int = 0) -> MarginalGain:
    """A rule that has heard of trainings whose networks cost nothing and have these accuracies, so
    that the hypervolume is the best of them; None: a failed training."""
    rule = MarginalGain(
        StopSettings(marginal_gain=0.01, window=window),
        objectives=OBJECTIVES,  # type: ignore[arg-type]
        reference_point=REFERENCE,
        since=since,
    )
    for number, value in enumerate(values):
        depth, width = divmod(number, 8)
        architecture = toy.decode({"depth": depth + 1, "width": width})
        rule.tell(
            Trial(
                number=number,
                state=State.FAILED if value is None else State.COMPLETE,
                choices={},
                architecture=architecture,
                seed=0,
                epochs=1,
                metrics={} if value is None else {"accuracy": value, **ONE},
            )
        )
    return rule


class TestRule:
    def test_nothing_is_said_before_two_windows(self) -> None:
        assert told([0.5] * 3, window=2).expected is None
        assert told([0.5] * 4, window=2).expected is not None

    def test_by_hand(self) -> None:
        # Gains of the last four: 0, 0.1, 0, 0.05; the last two brought 0.05, the largest is 0.1.
        rule = told([0.5, 0.5, 0.6, 0.6, 0.65], window=2)
        assert rule.expected == pytest.approx((0.05 + 0.1) / (3 * 0.65))
        assert not rule.is_enough

    def test_a_streak_does_not_end_a_search_that_still_jumps(self) -> None:
        jumpy: list[float | None] = [0.3, 0.3, 0.3, 0.3, 0.4, 0.4, 0.4, 0.4]
        assert not told(jumpy, window=4).is_enough  # the last four brought nothing
        assert told([*jumpy, *[0.4] * 5], window=4).is_enough  # eight did

    def test_failed_trainings_gained_nothing_and_repeats_that_correct_cost_nothing(self) -> None:
        assert told([0.5, None, None, None, None], window=2).expected == 0.0
        rule = told([0.5] * 5, window=2)
        again = Trial(
            number=5,
            state=State.COMPLETE,
            choices={},
            architecture=toy.decode({"depth": 1, "width": 0}),
            seed=1,
            epochs=1,
            metrics={"accuracy": 0.1, **ONE},
        )
        rule.tell(again)
        assert rule.expected == 0.0

    def test_without_hypervolume_nothing_is_enough(self) -> None:
        assert told([None] * 9, window=2).expected is None
        assert not told([None] * 9, window=2).is_enough

    def test_only_new_trials_count_after_more_were_asked_for(self) -> None:
        values: list[float | None] = [0.5] * 8
        assert told(values, window=2).is_enough
        assert told(values, window=2, since=5).expected is None
        assert told(values, window=2, since=4).is_enough


def rule_of(ledger: Path, trials: int = 57, **settings: Any) -> MarginalGain | None:
    opened = Ledger(ledger, {})
    if opened.meta("reference_point") is None:
        opened.set_meta(reference_point={"accuracy": 0.0, "params": 10_000.0})
    values = {"marginal_gain": 0.001, "window": 5} | settings
    stop = None if values["marginal_gain"] is None else StopSettings(**values)
    rule = continued(stop, opened, objectives=OBJECTIVES, trials=trials)  # type: ignore[arg-type]
    opened.close()
    return rule


def engine_at(path: Path, trials: int = 57, settings: dict[str, Any] | None = None) -> Engine:
    return make_engine(path, trials=trials, stop=rule_of(path, trials, **(settings or {})))


def hashed(engine: Engine) -> str:
    return history_hash(engine.trials)


def test_what_was_decided_stands_for_the_same_command_alone(tmp_path: Path) -> None:
    # In the order `async`, results that were on their way would else make it begin again.
    path = tmp_path / "l.sqlite"
    engine = engine_at(path)
    run(engine)
    stopped = engine.stopped
    assert stopped is not None
    again = rule_of(path, 57)
    assert again is not None
    assert again.decided == stopped
    assert engine_at(path).stopped == stopped
    changed = rule_of(path, 57, marginal_gain=0.0001)
    assert changed is not None
    assert changed.decided is None


def test_a_search_that_brings_little_ends_early(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "l.sqlite")
    run(engine)
    assert engine.next() is Signal.DONE
    assert engine.stopped is not None
    after = len(engine.trials)
    assert 10 + 4 <= after < 57
    assert engine.stopped["after"] == after
    assert not engine.exhausted
    assert stopped_line(engine.stopped).startswith(f"stopped after {after} of 57 trials: ")
    assert engine.stopped["expected_gain"] < 0.001
    free = make_engine(tmp_path / "free.sqlite", trials=after)
    run(free)
    assert hashed(free) == hashed(engine)  # until its end nothing was different


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_where_it_ends_does_not_depend_on_timing(tmp_path: Path, workers: int) -> None:
    expected = engine_at(tmp_path / "a.sqlite")
    run(expected)
    engine = engine_at(tmp_path / "b.sqlite")
    rng = random.Random(workers)
    flying: list[Work] = []
    while True:
        found = engine.next() if len(flying) < workers else Signal.WAIT
        if isinstance(found, Work):
            flying.append(found)
            if len(flying) == workers:
                engine.prefetch()
        elif flying:
            finish(engine, flying.pop(rng.randrange(len(flying))))
        else:
            assert found is Signal.DONE
            break
    assert hashed(engine) == hashed(expected)
    assert engine.stopped == expected.stopped


@pytest.mark.parametrize("lives", [1, 4])
def test_where_it_ends_does_not_depend_on_crashes(tmp_path: Path, lives: int) -> None:
    expected = engine_at(tmp_path / "a.sqlite")
    run(expected)
    path = tmp_path / "b.sqlite"
    for _ in range(60):  # each process trains so many networks and dies with one begun
        engine = engine_at(path)
        if not engine.has_work():
            break
        for _ in range(lives):
            if isinstance(work := engine.next(), Work):
                finish(engine, work)
        engine.next()
    assert hashed(engine) == hashed(expected)
    assert engine.stopped == expected.stopped


def test_the_same_command_says_the_same_and_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    first = engine_at(path)
    run(first)
    again = engine_at(path)
    assert not again.has_work()
    assert again.next() is Signal.DONE
    assert again.stopped == first.stopped
    assert hashed(again) == hashed(first)


def test_more_trials_continue_a_stopped_search_until_new_ones_bring_too_little(
    tmp_path: Path,
) -> None:
    path = tmp_path / "l.sqlite"
    first = engine_at(path, trials=30)
    run(first)
    after = len(first.trials)
    assert after < 30
    more = engine_at(path, trials=50)
    assert more.has_work()
    run(more)
    assert len(more.trials) >= after + 10  # twice the window is looked at before it stops again
    assert len(more.trials) < 50
    resumed = engine_at(path, trials=50)
    assert not resumed.has_work()
    assert resumed.stopped == more.stopped


def test_without_the_rule_a_stopped_search_goes_on_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    run(engine_at(path, trials=30))
    free = engine_at(path, trials=30, settings={"marginal_gain": None})
    run(free)
    assert len(free.trials) == 30
    assert free.stopped is None
    assert Ledger(path, {}, readonly=True).meta("stopped") is None
    plain = make_engine(tmp_path / "plain.sqlite", trials=30)
    run(plain)
    assert hashed(free) == hashed(plain)


def test_a_stricter_rule_stops_later(tmp_path: Path) -> None:
    ends = []
    for gain in (0.01, 0.001, 1e-9):
        engine = engine_at(tmp_path / f"{gain}.sqlite", settings={"marginal_gain": gain})
        run(engine)
        ends.append(len(engine.trials))
    assert ends == sorted(ends)
    assert ends[0] < ends[-1]


def test_async_ends_too(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    engine = make_engine(path, trials=57, order="async", stop=rule_of(path))
    run(engine)
    assert engine.stopped is not None
    assert len(engine.trials) < 57


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("stop.marginal_gain=0", "stop.marginal_gain: must be more than 0, got 0"),
        ("stop.marginal_gain=1", "stop.marginal_gain: must be less than 1, got 1"),
        ("stop.window=1", "stop.window: must be at least 2, got 1"),
        ("stop.marginal_gian=0.1", "did you mean 'stop.marginal_gain'"),
    ],
)
def test_bad_settings_are_one_line(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config("mbv2_space", [setting])
