"""Machines that die under a training, as the engine and the flights of the Ray executor see it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
)

from nasctl.engine import Engine, Signal
from nasctl.errors import EnvironmentProblemError
from nasctl.executors.attempt import Message
from nasctl.executors.ray_tune import Flights, _count_as_lost_workers, _lost
from nasctl.executors.travel import Inbox
from nasctl.trainings import NODE_LOSSES
from nasctl.trial import Outcome, OutcomeKind, State, Work
from tests.executor_jobs import RecordingEngine
from tests.toy import finish, make_engine

LEFT = Outcome(kind=OutcomeKind.NODE_LOST, error="its node left the cluster")
DIED = Outcome(kind=OutcomeKind.LOST, error="the worker process died")


def work(engine: Engine) -> Work:
    found = engine.next()
    assert isinstance(found, Work)
    return found


def test_a_lost_node_does_not_use_up_the_retries(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=1, retries=1)
    for outcome in (LEFT, DIED, LEFT, LEFT):
        engine.end(work(engine), outcome)
    last = work(engine)
    assert (last.number, last.attempt) == (0, 5)
    finish(engine, last)
    assert engine.trials[0].state is State.COMPLETE


def test_a_training_that_loses_every_node_fails_and_restarts_of_the_driver_do_not_help_it(
    tmp_path: Path,
) -> None:
    for _ in range(NODE_LOSSES):
        engine = make_engine(tmp_path / "l.sqlite", trials=1, retries=0)
        engine.end(work(engine), LEFT)
    assert engine.trials[0].state is State.RUNNING
    engine.end(work(engine), LEFT)
    assert engine.trials[0].state is State.FAILED
    assert engine.trials[0].error == f"its node died {NODE_LOSSES + 1} times: {LEFT.error}"
    assert engine.next() is Signal.DONE


def test_deaths_of_workers_are_counted_beside_those_of_nodes(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=1, retries=1)
    for outcome in (DIED, LEFT, DIED):
        engine.end(work(engine), outcome)
    assert engine.trials[0].error == "its worker died 2 times: the worker process died"


# -- what Ray says of a worker that is gone -------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "gone", "expected"),
    [
        (ActorDiedError(), False, DIED),
        (ActorDiedError(), True, LEFT),
        (RayActorError(error_msg="The actor died because its node has died."), False, LEFT),
        (RayActorError(preempted=True), False, LEFT),
        (ActorUnavailableError("connection reset", b"0" * 16), False, DIED),
        (ActorUnavailableError("connection reset", b"0" * 16), True, LEFT),
        # On one machine nothing but the worker can be lost.
        (RayActorError(error_msg="The actor died because its node has died."), None, DIED),
        (RayActorError(actor_init_failed=True), None, DIED),
        (
            RayActorError(error_msg="in task\nNo module named 'x'", actor_init_failed=True),
            False,
            Outcome(kind=OutcomeKind.BROKEN, error="a worker does not start: No module named 'x'"),
        ),
        (
            RayActorError(error_msg="killed, low on memory"),
            False,
            Outcome(
                kind=OutcomeKind.LOST,
                error="out of memory: the worker process died (killed, low on memory)",
            ),
        ),
        (None, False, DIED),
    ],
)
def test_what_is_lost(error: RayActorError | None, gone: bool | None, expected: Outcome) -> None:
    class Lost:
        def get_pickled_error(self) -> RayActorError | None:
            return error

    assert _lost(Lost(), gone) == expected


def test_a_result_that_died_on_its_way_is_a_lost_worker_and_not_the_end_of_the_search() -> None:
    told: list[Exception] = []

    class Manager:
        def _actor_task_failed(self, task: object, exception: Exception) -> None:
            told.append(exception)

    class Controller:
        _actor_manager = Manager()

    _count_as_lost_workers(Controller())
    failed = Controller._actor_manager._actor_task_failed
    for error in (OutOfMemoryError("low on memory"), ObjectLostError("ab", "", "call")):
        failed(None, error)
        assert isinstance(told[-1], RayActorError)
        assert str(told[-1]) == str(error)
    died = ActorDiedError()
    failed(None, died)
    assert told[-1] is died


# -- files arrive before the engine hears of the epoch --------------------------------------------


class _Looking(RecordingEngine):
    """Looks for the file when it hears of an epoch."""

    file: Path

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        assert self.file.read_bytes() == b"state"
        return super().report(work, epoch, metrics)


@pytest.fixture
def engine(tmp_path: Path) -> _Looking:
    found = _Looking(["fine"])
    found.file = tmp_path / "checkpoints" / "0" / "1.ckpt"
    (tmp_path / "checkpoints").mkdir()
    return found


@pytest.fixture
def flights(engine: _Looking, tmp_path: Path) -> Flights:
    inbox = Inbox({"checkpoints": str(tmp_path / "checkpoints")})
    found = Flights(engine=engine, workers=1, timeout_s=None, inbox=inbox)
    assert isinstance(found.take("a"), Work)
    return found


def message(name: str) -> Message:
    files = {name: np.frombuffer(b"state", dtype=np.uint8)}
    return Message(epoch=1, metrics={"accuracy": 0.5}, files=files)


def test_files_are_in_place_when_the_engine_hears_of_the_epoch_and_are_not_kept(
    engine: _Looking, flights: Flights
) -> None:
    told = message("checkpoints/0/1.ckpt")
    assert flights.told("a", told)
    assert len(engine.reports[0, 1]) == 1
    assert told.files == {}, "Tune keeps the last message of every trial"


def test_a_file_that_is_not_of_the_training_fails_it_alone(
    engine: _Looking, flights: Flights
) -> None:
    assert not flights.told("a", message("checkpoints/7/1.ckpt"))
    flights.gone("a", Outcome(kind=OutcomeKind.RELEASED))
    assert engine.reports == {}
    assert engine.outcomes[0, 1].kind is OutcomeKind.FAILED
    assert "'checkpoints/7/1.ckpt', which is refused" in str(engine.outcomes[0, 1].error)
    assert flights.error is None


def test_a_full_disk_of_the_driver_ends_the_run_before_the_epoch_counts(
    engine: _Looking, flights: Flights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise EnvironmentProblemError("no space left")

    monkeypatch.setattr(Inbox, "store", full)
    assert not flights.told("a", message("checkpoints/0/1.ckpt"))
    assert flights.take("b") is Signal.DONE
    flights.release()
    assert str(flights.error) == "no space left"
    assert engine.reports == {}
    assert engine.outcomes[0, 1].kind is OutcomeKind.RELEASED
