"""The state machine: order, duplicates, constraints, failures, retries, resume."""

from __future__ import annotations

import errno
import math
import random
from pathlib import Path

import pytest

from nasctl.arch import Architecture, Cost, Opaque, SpecError
from nasctl.engine import Engine, Signal
from nasctl.errors import EnvironmentProblemError, NothingFeasibleError, TooManyFailuresError
from nasctl.executors.base import failure
from nasctl.space import Choices, Decision, Family, SearchSpace
from nasctl.trial import Outcome, OutcomeKind, State, Work
from tests import toy
from tests.toy import Recorder, finish, history, make_engine, run

SAMPLERS = ["random", "tpe", "nsga2", "grid"]


def work(engine: Engine) -> Work:
    found = engine.next()
    assert isinstance(found, Work)
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_trains_each_network_once_and_ends(tmp_path: Path, sampler: str) -> None:
    engine = make_engine(tmp_path / "l.sqlite", sampler=sampler, trials=20)
    run(engine)
    assert engine.next() is Signal.DONE
    assert [t.number for t in engine.trials] == list(range(20))
    assert len({t.arch_id for t in engine.trials}) == 20
    assert {t.state for t in engine.trials} == {State.COMPLETE}
    best = engine.trials[3]
    assert best.metrics["accuracy"] == toy.accuracy(best.architecture)
    assert best.metrics["params"] == toy.cost(best.architecture)["params"]
    assert [e.epoch for e in best.evaluations] == [1, 2]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_trials_than_networks_ends_cleanly(tmp_path: Path, sampler: str) -> None:
    engine = make_engine(tmp_path / "l.sqlite", sampler=sampler, trials=100)
    run(engine)
    assert len(engine.trials) == 57  # 64 configurations, of which 8 build the same network
    assert engine.exhausted
    assert engine.fatal is None
    assert engine.duplicates > 0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_history_does_not_depend_on_timing(tmp_path: Path, sampler: str, workers: int) -> None:
    expected = make_engine(tmp_path / "a.sqlite", sampler=sampler, constraints={"params": 3000})
    run(expected)
    engine = make_engine(tmp_path / "b.sqlite", sampler=sampler, constraints={"params": 3000})
    rng = random.Random(workers)
    flying: list[Work] = []
    while True:
        found = engine.next() if len(flying) < workers else Signal.WAIT
        if isinstance(found, Work):
            flying.append(found)
        elif flying:
            finish(engine, flying.pop(rng.randrange(len(flying))))
        else:
            break
    assert history(engine) == history(expected)


def test_a_slow_trial_makes_others_wait_only_after_the_window(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", window=4)
    slow = work(engine)
    for _ in range(4):  # trials 1 to 4 need nothing of trial 0
        finish(engine, work(engine))
    assert engine.next() is Signal.WAIT
    finish(engine, slow)
    assert work(engine).number == 5


def test_async_order_never_waits_for_a_slow_trial(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", order="async", trials=9)
    slow = work(engine)
    for _ in range(8):
        finish(engine, work(engine))
    assert engine.next() is Signal.WAIT  # the slow one may be lost and need a second try
    finish(engine, slow)
    assert engine.next() is Signal.DONE


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("crash", [0, 1, 5, 11])
def test_resume_continues_the_same_history(tmp_path: Path, sampler: str, crash: int) -> None:
    constraints = {"params": 3000.0}
    expected = make_engine(tmp_path / "a.sqlite", sampler=sampler, constraints=constraints)
    run(expected)
    first = make_engine(tmp_path / "b.sqlite", sampler=sampler, constraints=constraints)
    for _ in range(crash):
        finish(first, work(first))
    lost = work(first)  # in flight when the driver dies
    first.report(lost, 1, {"accuracy": 0.1})
    second = make_engine(tmp_path / "b.sqlite", sampler=sampler, constraints=constraints)
    again = work(second)
    assert (again.number, again.architecture.id) == (lost.number, lost.architecture.id)
    assert again.attempt == lost.attempt + 1
    assert second.trials[again.number].evaluations == ()
    finish(second, again)
    run(second)
    assert history(second) == history(expected)


@pytest.mark.parametrize("constraints", [{}, {"params": 1500.0}])
def test_resume_while_a_space_is_exhausted(tmp_path: Path, constraints: dict[str, float]) -> None:
    """Near the end proposals are known, and what is left is looked for in a fixed order."""
    expected = make_engine(tmp_path / "a.sqlite", trials=57, constraints=constraints)
    run(expected)
    assert expected.exhausted == bool(constraints)
    for _ in range(60):  # each process does one trial and dies
        engine = make_engine(tmp_path / "b.sqlite", trials=57, constraints=constraints)
        found = engine.next()
        if not isinstance(found, Work):
            break
        finish(engine, found)
    assert history(engine) == history(expected)


def test_trials_can_be_raised_after_the_end(tmp_path: Path) -> None:
    run(make_engine(tmp_path / "a.sqlite", sampler="tpe", trials=8))
    longer = make_engine(tmp_path / "a.sqlite", sampler="tpe", trials=14)
    run(longer)
    expected = make_engine(tmp_path / "b.sqlite", sampler="tpe", trials=14)
    run(expected)
    assert history(longer) == history(expected)


def test_constraints_reject_before_training(tmp_path: Path) -> None:
    recorder = Recorder()
    engine = make_engine(
        tmp_path / "l.sqlite", constraints={"params": 500}, trials=30, observer=recorder
    )
    run(engine)
    assert all(t.cost["params"] <= 500 for t in engine.trials)
    # Feasible: depth 0, and depth * (width + 1) <= 4.9, that is 4 + 2 + 1 + 1 networks.
    assert len(engine.trials) == 9
    assert recorder.rejections == 57 - 9


def test_nothing_feasible_names_the_closest(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", constraints={"params": 5})
    assert engine.next() is Signal.DONE
    assert isinstance(engine.fatal, NothingFeasibleError)
    assert engine.fatal.exit_code == 3
    assert "params 10 is over 5" in str(engine.fatal)
    assert "depth=0" in str(engine.fatal)


def test_a_needle_in_a_large_space_is_found_downhill(tmp_path: Path) -> None:
    decisions = tuple(Decision(f"d{i}", (8, 4, 2, 1)) for i in range(30))

    def decode(choices: dict) -> object:  # type: ignore[type-arg]
        return toy.Architecture(
            input_shape=(1,), num_classes=1, blocks=(toy.Opaque("sum", **choices),)
        )

    family = Family(
        space=SearchSpace(decisions),
        decode=decode,  # type: ignore[arg-type]
        cost=lambda a: toy.Cost(params=float(sum(v for _, v in a.blocks[0].values))),  # type: ignore[attr-defined]
    )
    engine = make_engine(tmp_path / "l.sqlite", family=family, constraints={"params": 31}, trials=3)
    assert work(engine).architecture.blocks[0].values is not None  # type: ignore[attr-defined]
    assert engine.trials[0].cost["params"] <= 31


def test_configurations_that_cannot_be_built_are_rejected(tmp_path: Path) -> None:
    def decode(choices: dict) -> toy.Architecture:  # type: ignore[type-arg]
        if choices["depth"] == 3:
            raise SpecError("depth 3 does not fit")
        return toy.decode(choices)

    family = Family(space=toy.toy_family().space, decode=decode, cost=toy.cost)
    engine = make_engine(tmp_path / "l.sqlite", family=family, trials=100)
    run(engine)
    assert len(engine.trials) == 57 - 8
    assert {r.reason for r in engine._ledger.rejections()} == {"depth 3 does not fit"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails_the_trial_only(tmp_path: Path, value: float) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=3)
    bad = work(engine)
    assert engine.report(bad, 1, {"accuracy": 0.4, "loss": 2.0})
    assert not engine.report(bad, 2, {"accuracy": 0.5, "loss": value})
    engine.end(bad, Outcome(kind=OutcomeKind.STOPPED))
    run(engine)
    assert [t.state for t in engine.trials] == [State.FAILED, State.COMPLETE, State.COMPLETE]
    assert engine.trials[0].error == f"epoch 2: loss is {value}"
    assert engine.trials[0].metrics == {}


def test_a_missing_objective_fails_the_trial(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=2)
    first, second = work(engine), work(engine)
    engine.report(first, 1, {"loss": 1.0})
    engine.end(first, Outcome(kind=OutcomeKind.COMPLETE))
    engine.end(second, Outcome(kind=OutcomeKind.COMPLETE))
    assert [t.error for t in engine.trials] == [
        "did not report accuracy",
        "ended without reporting anything",
    ]


def test_lost_work_is_tried_again_and_then_fails(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=1, retries=1)
    first = work(engine)
    engine.report(first, 1, {"accuracy": 0.2})
    engine.end(first, Outcome(kind=OutcomeKind.LOST))
    second = work(engine)
    assert (second.number, second.attempt) == (0, 2)
    assert engine.trials[0].evaluations == ()
    engine.end(first, Outcome(kind=OutcomeKind.COMPLETE))  # a late message of the dead worker
    assert engine.trials[0].state is State.RUNNING
    engine.end(second, Outcome(kind=OutcomeKind.LOST))
    assert engine.trials[0].error == "its worker died 2 times"
    assert engine.next() is Signal.DONE


def test_restarts_of_the_driver_are_not_counted_as_deaths_of_a_worker(tmp_path: Path) -> None:
    for _ in range(3):
        engine = make_engine(tmp_path / "l.sqlite", trials=1, retries=1)
        current = work(engine)
    assert current.attempt == 3
    engine.end(current, Outcome(kind=OutcomeKind.LOST))
    assert work(engine).attempt == 4


def test_failures_in_a_row_stop_the_search(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=50, max_failures=3)
    finish(engine, work(engine))
    for _ in range(3):
        engine.end(work(engine), Outcome(kind=OutcomeKind.FAILED, error="no memory"))
    assert engine.next() is Signal.DONE
    assert isinstance(engine.fatal, TooManyFailuresError)
    assert str(engine.fatal) == "3 trials in a row failed; the last one: no memory"


@pytest.mark.parametrize("first", [3, 4])
def test_a_trial_that_still_runs_ends_a_row_of_failures(tmp_path: Path, first: int) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=50, max_failures=3)
    works = [work(engine) for _ in range(4)]
    finish(engine, works[0])
    works.append(work(engine))
    for number in [1, 2, *([3, 4] if first == 3 else [4, 3])]:
        if number == 3:
            finish(engine, works[3])
        else:
            engine.end(works[number], Outcome(kind=OutcomeKind.FAILED, error="no memory"))
    assert engine.fatal is None


def test_a_row_of_failures_is_found_from_its_middle(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=50, max_failures=3)
    works = [work(engine) for _ in range(4)]
    for number in (1, 3):
        engine.end(works[number], Outcome(kind=OutcomeKind.FAILED, error=f"no memory {number}"))
        assert engine.fatal is None
    engine.end(works[2], Outcome(kind=OutcomeKind.FAILED, error="no memory 2"))
    assert str(engine.fatal) == "3 trials in a row failed; the last one: no memory 3"


def narrow_family() -> Family:
    """A space of 10^9 configurations; a trial in a million keeps to a few params."""
    names = [f"d{i}" for i in range(9)]
    space = SearchSpace(tuple(Decision(n, tuple(range(10))) for n in names))

    def decode(choices: Choices) -> Architecture:
        block = Opaque("toy", **choices, depth=1, width=1)
        return Architecture(input_shape=(1, 8, 8), blocks=(block,), num_classes=10)

    def cost(architecture: Architecture) -> Cost:
        values = dict(architecture.blocks[0].values)  # type: ignore[attr-defined]
        return Cost(params=float(sum(values[n] ** 2 for n in names)))

    return Family(space=space, decode=decode, cost=cost)


def test_a_narrow_part_of_a_large_space_is_searched_from_what_was_found(tmp_path: Path) -> None:
    """799 networks have 6 params and fewer, one configuration in 1.25 million."""
    common = {"family": narrow_family(), "constraints": {"params": 6.0}, "trials": 30}
    whole = make_engine(tmp_path / "a.sqlite", **common)
    run(whole)
    assert not whole.exhausted
    assert [t.state for t in whole.trials] == [State.COMPLETE] * 30
    for _ in range(7):
        part = make_engine(tmp_path / "b.sqlite", **common)
        finish(part, work(part))
    again = make_engine(tmp_path / "b.sqlite", **common)
    run(again)
    assert history(again) == history(whole)


def test_checkpoints_that_a_killed_driver_left_are_removed(tmp_path: Path) -> None:
    for _ in range(2):
        engine = make_engine(tmp_path / "l.sqlite")
        finish(engine, work(engine))
    work(engine)  # trial 2 goes on
    for number in range(3):
        (tmp_path / "kept" / str(number)).mkdir(parents=True)
        (tmp_path / "kept" / str(number) / "1.ckpt").write_bytes(b"state")
    make_engine(tmp_path / "l.sqlite", checkpoints=tmp_path / "kept")
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["2"]


def test_released_work_stays_running_and_is_given_out_first(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite")
    first, second = work(engine), work(engine)
    engine.stop_requested = True
    engine.end(first, Outcome(kind=OutcomeKind.RELEASED))
    finish(engine, second)
    assert engine.next() is Signal.DONE
    assert [t.state for t in engine.trials] == [State.RUNNING, State.COMPLETE]
    again = make_engine(tmp_path / "l.sqlite")
    assert work(again).number == 0


def test_a_finished_search_has_nothing_left(tmp_path: Path) -> None:
    run(make_engine(tmp_path / "l.sqlite", trials=4))
    assert make_engine(tmp_path / "l.sqlite", trials=4).next() is Signal.DONE


@pytest.mark.parametrize("value", [93.1, -0.25, 1e300])
def test_an_accuracy_that_is_no_fraction_fails_the_trial_only(tmp_path: Path, value: float) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=2)
    given = work(engine)
    assert not engine.report(given, 1, {"accuracy": value})
    engine.end(given, Outcome(kind=OutcomeKind.STOPPED))
    (trial,) = engine.trials
    assert trial.state is State.FAILED
    assert trial.evaluations == ()
    hint = " (divide percent by 100)" if value == 93.1 else ""
    assert trial.error == (
        f"epoch 1: accuracy must be a fraction between 0 and 1, got {value:.6g}{hint}"
    )
    run(engine)
    assert engine.trials[1].state is State.COMPLETE


def test_a_broken_machine_ends_the_search_and_not_the_trial(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=3)
    engine.end(work(engine), failure(OSError(errno.ENOSPC, "No space left on device")))
    assert engine.next() is Signal.DONE
    assert isinstance(engine.fatal, EnvironmentProblemError)
    assert "No space left on device; nothing finished is lost" in str(engine.fatal)
    again = make_engine(tmp_path / "l.sqlite", trials=3)
    run(again)
    assert [t.state for t in again.trials] == [State.COMPLETE] * 3
    assert again.trials[0].attempts == 2


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("no\ngood"), "FAILED", "ValueError: no good"),
        (MemoryError(), "FAILED", "out of memory"),
        (ValueError("in \x1b[31mred\x07"), "FAILED", "ValueError: in [31mred"),
        (FileNotFoundError(errno.ENOENT, "gone"), "FAILED", "FileNotFoundError: [Errno 2] gone"),
        (OSError(errno.EROFS, "read-only"), "BROKEN", "OSError: [Errno 30] read-only"),
        (EnvironmentProblemError("cannot write x"), "BROKEN", "cannot write x"),
    ],
)
def test_what_ends_a_training_and_what_ends_the_search(
    error: Exception, kind: str, text: str
) -> None:
    assert failure(error) == Outcome(kind=OutcomeKind[kind], error=text)
