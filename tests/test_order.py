"""The history of a search is a function of its settings, whatever the timing, and nobody waits in
vain for it."""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nasctl.engine import Engine, Signal
from nasctl.errors import NasctlError
from nasctl.executors.ray_tune import Flights
from nasctl.halving import DECISION, RAISED, Decision
from nasctl.history import history_hash
from nasctl.ledger import Ledger
from nasctl.trial import Outcome, OutcomeKind, State, Trial, Work
from tests.executor_jobs import RecordingEngine
from tests.order_history import hash_of
from tests.order_job import SEARCH, result
from tests.toy import make_engine

Duration = Callable[[int], float]


# -- a cluster on paper ---------------------------------------------------------------------------


def train(engine: Engine, work: Work) -> None:
    for epoch in range(1, work.epochs + 1):
        engine.report(work, epoch, {"accuracy": result(work) * epoch / work.epochs})
    engine.end(work, Outcome(kind=OutcomeKind.COMPLETE))


@dataclasses.dataclass(kw_only=True)
class Simulation:
    """What happened on a simulated cluster.

    Attributes:
        waits: (trial that could not be proposed, numbers of the trials that ran meanwhile).
        seconds: simulated.
        idle: worker-seconds of waiting, before the last trial was handed out.
    """

    waits: list[tuple[int, list[int]]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    idle: float = 0.0


def simulate(
    engine: Engine, *, workers: int, duration: Duration, prefetch: bool = False
) -> Simulation:
    """Runs the engine on `workers` workers, on which trial n takes `duration(n)`."""
    run = Simulation()
    flying: list[tuple[float, int, Work]] = []
    now = 0.0
    while True:
        waiting = 0
        while len(flying) < workers:
            found = engine.next()
            if not isinstance(found, Work):
                waiting = workers - len(flying)
                break
            heapq.heappush(flying, (now + duration(found.number), found.number, found))
        if prefetch and len(flying) == workers:
            engine.prefetch()
        if not flying:
            run.seconds = now
            return run
        proposed = len(engine.trials)
        more = proposed < engine._settings.trials and not engine.exhausted
        if waiting and more:
            run.waits.append((proposed, sorted(n for _, n, _ in flying)))
        end, _, work = heapq.heappop(flying)
        run.idle += waiting * (end - now) if more else 0.0
        now = end
        train(engine, work)


def steady(seed: int) -> Duration:
    """Durations of which none is twice another."""
    return lambda number: random.Random(f"{seed}-{number}").uniform(1.0, 1.9)


def wild(seed: int) -> Duration:
    """Durations of which some are fifty times others."""
    return lambda number: random.Random(f"{seed}-{number}").choice([0.1, 0.1, 0.1, 0.2, 5.0])


def one_slow(slow: int, seconds: float) -> Duration:
    return lambda number: seconds if number == slow else 1.0


@pytest.mark.parametrize("window", [1, 4, 8])
def test_one_window_one_history(tmp_path: Path, window: int) -> None:
    hashes = set()
    for case, (workers, duration) in enumerate(
        [(1, steady(0)), (2, wild(1)), (3, wild(2)), (8, steady(3)), (12, wild(4))]
    ):
        engine = make_engine(tmp_path / f"{case}", window=window, **SEARCH)
        simulate(engine, workers=workers, duration=duration)
        assert len(engine.trials) == 24
        hashes.add(hash_of(engine))
    assert len(hashes) == 1


def test_another_window_is_another_history(tmp_path: Path) -> None:
    hashes = set()
    for window in (1, 4, 8):
        engine = make_engine(tmp_path / f"{window}", window=window, **SEARCH)
        simulate(engine, workers=1, duration=steady(0))
        hashes.add(hash_of(engine))
    assert len(hashes) == 3


@pytest.mark.parametrize(("workers", "window"), [(1, 1), (2, 4), (4, 8), (2, 8)])
def test_no_worker_waits_while_no_trial_is_slower_than_the_window(
    tmp_path: Path, workers: int, window: int
) -> None:
    engine = make_engine(tmp_path / "l", trials=50, window=window)
    run = simulate(engine, workers=workers, duration=steady(workers))
    assert run.waits == []
    assert run.idle == 0


@pytest.mark.parametrize("window", [1, 4, 8])
@pytest.mark.parametrize("workers", [2, 3, 12])
def test_who_waits_waits_for_a_trial_that_is_further_back_than_the_window(
    tmp_path: Path, workers: int, window: int
) -> None:
    engine = make_engine(tmp_path / "l", trials=50, window=window)
    run = simulate(engine, workers=workers, duration=wild(window))
    assert run.waits
    assert all(min(running) < number - window for number, running in run.waits)


def test_one_slow_trial_stops_the_others_only_after_the_window(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "a", trials=20, window=4)
    run = simulate(engine, workers=2, duration=one_slow(3, 4.0))
    assert run.waits == []  # as long as four others
    engine = make_engine(tmp_path / "b", trials=20, window=4)
    run = simulate(engine, workers=2, duration=one_slow(3, 10.0))
    assert run.waits == [(8, [3])]
    assert run.idle == 5.0  # trial 3 runs from 1 to 11; 4 to 7 have ended by 6


def test_more_workers_than_the_window_are_wasted_and_both_remedies_help(tmp_path: Path) -> None:
    def idle(**settings: Any) -> float:
        name = "-".join(f"{k}{v}" for k, v in settings.items()) or "default"
        engine = make_engine(tmp_path / name, trials=50, **settings)
        return simulate(engine, workers=8, duration=steady(0)).idle

    wasted = idle(window=4)
    assert wasted > 0
    assert idle(window=16) == 0
    assert idle(order="async") == 0


def test_the_async_order_uses_results_at_once_and_ends(tmp_path: Path) -> None:
    hashes = set()
    for case, duration in enumerate((steady(0), wild(1), one_slow(0, 100.0))):
        engine = make_engine(tmp_path / f"{case}", order="async", **SEARCH)
        run = simulate(engine, workers=3, duration=duration)
        assert run.waits == []
        assert [t.number for t in engine.trials] == list(range(24))
        hashes.add(hash_of(engine))
    assert len(hashes) > 1  # which is what the other order is for


# -- proposals ahead ------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "grid"])
def test_proposals_made_ahead_are_the_same(tmp_path: Path, sampler: str) -> None:
    settings = {**SEARCH, "sampler": sampler, "options": {}}
    made = []
    for prefetch in (False, True):
        engine = make_engine(tmp_path / f"{prefetch}", **settings)
        simulate(engine, workers=2, duration=wild(0), prefetch=prefetch)
        rejections = [(r.before, r.attempt, dict(r.choices)) for r in engine._ledger.rejections()]
        made.append((hash_of(engine), engine.duplicates, rejections))
    assert made[0] == made[1]


class _Counting:
    """A sampler that counts how often it is asked."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self.exhaustive = sampler.exhaustive
        self.asked = 0

    def ask(self, *arguments: Any) -> Any:
        self.asked += 1
        return self._sampler.ask(*arguments)

    def tell(self, observation: Any) -> None:
        self._sampler.tell(observation)


def test_a_proposal_made_ahead_is_handed_out_without_asking_and_leaves_no_trace_before(
    tmp_path: Path,
) -> None:
    engine = make_engine(tmp_path / "l", constraints={"params": 500}, trials=9, window=2)
    sampler = engine._sampler = _Counting(engine._sampler)  # type: ignore[assignment]
    works = [engine.next(), engine.next()]
    engine.prefetch()
    asked, rejections = sampler.asked, len(engine._ledger.rejections())
    engine.prefetch()  # once is enough
    reader = Ledger(tmp_path / "l", {}, readonly=True)
    assert (len(reader.trials()), len(reader.rejections())) == (2, rejections)
    third = engine.next()
    assert isinstance(third, Work)
    assert sampler.asked == asked
    assert len(reader.trials()) == 3
    engine.prefetch()  # trial 3 needs trial 0
    assert sampler.asked == asked
    assert isinstance(works[0], Work)
    train(engine, works[0])
    engine.prefetch()
    assert sampler.asked > asked


def test_nothing_is_proposed_ahead_in_vain(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "async", order="async")
    sampler = engine._sampler = _Counting(engine._sampler)  # type: ignore[assignment]
    engine.prefetch()
    assert sampler.asked == 0  # the next result may still be used
    engine = make_engine(tmp_path / "last", trials=1)
    engine.next()
    sampler = engine._sampler = _Counting(engine._sampler)  # type: ignore[assignment]
    engine.prefetch()
    engine.stop_requested = True
    engine.prefetch()
    assert sampler.asked == 0


# -- the hash itself ------------------------------------------------------------------------------


def test_the_hash_covers_what_was_tried_and_what_came_out_and_no_timing(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l", trials=3)
    simulate(engine, workers=1, duration=steady(0))
    trials = engine.trials
    first = trials[0]

    def with_first(**changes: Any) -> str:
        changed: Trial = dataclasses.replace(first, **changes)
        return history_hash([changed, *trials[1:]])

    expected = history_hash(trials)
    assert history_hash(reversed(trials)) == expected
    metrics = dict(first.metrics)
    same: list[dict[str, Any]] = [
        {"attempts": 3},
        {"seconds": 99.0, "started_at": 1.0},
        {"metrics": {**metrics, "seconds": 3.0, "images_per_second": 7.0}},
        {"sampler_state": {"generation": 3}},
    ]
    assert {with_first(**changes) for changes in same} == {expected}
    different: list[dict[str, Any]] = [
        {"number": 7},
        {"seed": 5},
        {"state": State.PRUNED},
        {"architecture": trials[1].architecture},
        {"choices": {**first.choices, "width": 9}},
        {"metrics": {**metrics, "accuracy": 0.123}},
        {"metrics": {**metrics, "params": 1.0}},
    ]
    hashes = {with_first(**changes) for changes in different}
    assert len(hashes) == len(different)
    assert expected not in hashes
    assert history_hash(trials[:2]) != expected
    assert history_hash([]) == history_hash(iter(()))


def test_next_says_wait_and_not_done_while_trials_are_out(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l", window=1, trials=3)
    first, second = engine.next(), engine.next()
    assert isinstance(first, Work)
    assert isinstance(second, Work)
    train(engine, second)
    assert engine.next() is Signal.WAIT
    train(engine, first)
    assert isinstance(engine.next(), Work)


def test_the_hash_covers_decisions_in_whatever_order_they_were_made() -> None:
    def decided(number: int, *, wanted: bool = True, seconds: float = 1.0) -> tuple[Any, ...]:
        decision = Decision(
            number=number, rung=2, value=0.5, cohort=3, pairs=1, probability=0.01, survives=False,
            wanted=wanted, exempt=None, seconds=seconds,
        )  # fmt: skip
        return 7.0 * number, DECISION, dataclasses.asdict(decision)

    raised = (3.0, RAISED, {"before": 4, "rung": 1})
    expected = history_hash([], [decided(1), decided(2), raised])
    assert history_hash([], [raised, decided(2, seconds=9.0), decided(1)]) == expected
    assert history_hash([], [decided(1), decided(2), (9.0, "resumed", {}), raised]) == expected
    different = [
        [decided(1), decided(2, wanted=False), raised],
        [decided(1), raised],
        [decided(1), decided(2)],
        [decided(1), decided(2), (3.0, RAISED, {"before": 5, "rung": 1})],
    ]
    assert len({expected, *(history_hash([], events) for events in different)}) == 5


def test_what_comes_after_the_last_training_is_begun_in_steps_while_it_runs(
    tmp_path: Path,
) -> None:
    engine = make_engine(tmp_path / "l", trials=2)
    calls: list[str] = []
    engine._at_last = (calls.append(step) for step in ("first", "second"))
    works = [engine.next()]
    engine.prefetch()
    assert calls == []  # another training is to come
    works.append(engine.next())
    engine.prefetch()
    assert calls == ["first"]  # in between results are heard
    for _ in range(3):
        engine.prefetch()
    assert calls == ["first", "second"]
    for work in works:
        assert isinstance(work, Work)
        train(engine, work)
    assert engine.next() is Signal.DONE


# -- when the executor on Ray asks for proposals ahead --------------------------------------------


def test_proposals_are_made_ahead_once_all_workers_train() -> None:
    engine = RecordingEngine(["fine"] * 4)
    calls: list[str] = []
    engine.prefetch = lambda: calls.append("prefetch")  # type: ignore[method-assign]
    flights = Flights(engine=engine, workers=2, timeout_s=None)
    assert isinstance(flights.take("a"), Work)
    assert isinstance(flights.take("b"), Work)
    flights.overdue({"a"})
    assert flights.take("c") is Signal.WAIT
    assert calls == []  # one of them has still to be started by the same thread
    flights.overdue({"a", "b"})
    assert flights.take("c") is Signal.WAIT
    assert calls == ["prefetch"]
    assert flights.error is None


def test_a_worker_that_has_only_to_wait_leaves_time_for_what_comes_next() -> None:
    engine = RecordingEngine(["fine"])
    calls: list[str] = []
    engine.prefetch = lambda: calls.append("prefetch")  # type: ignore[method-assign]
    flights = Flights(engine=engine, workers=2, timeout_s=None)
    assert isinstance(flights.take("a"), Work)
    assert flights.take("b") is Signal.WAIT
    assert calls == []  # the other one has still to be started
    flights.overdue({"a"})
    assert flights.take("b") is Signal.WAIT
    assert calls == ["prefetch"]


def test_an_error_while_proposing_ahead_ends_the_run_as_any_other() -> None:
    engine = RecordingEngine(["fine"] * 4)

    def fails() -> None:
        raise NasctlError("no such thing")

    engine.prefetch = fails  # type: ignore[method-assign]
    flights = Flights(engine=engine, workers=1, timeout_s=None)
    assert isinstance(flights.take("a"), Work)
    flights.overdue({"a"})
    assert flights.take("b") is Signal.DONE
    assert str(flights.error) == "no such thing"
