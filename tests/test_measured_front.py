"""The front on measured latencies, and what of it is done before the last training is over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nasctl import latency_bench, measured_front
from nasctl.arch import Architecture, Cost
from nasctl.errors import EnvironmentProblemError
from nasctl.executors.inline import InlineExecutor
from nasctl.executors.place import ExecutorPlace
from nasctl.latency_settings import LatencySettings
from nasctl.ledger import Ledger
from nasctl.measured_front import MeasuredFront
from nasctl.trial import State, Trial
from tests.latency_device import Device as PaperDevice
from tests.latency_device import Work, measure, network_of

OBJECTIVES: dict[str, Any] = {"accuracy": "max", "latency_ms": "min"}
FAST, SLOW, WORST = network_of(10, 10), network_of(60, 60), network_of(100, 100)


class Phases:
    def __init__(self) -> None:
        self.phases: list[str] = []

    def phase(self, text: str) -> None:
        self.phases.append(text)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Two networks on the front, and one that is slow and bad."""
    with contextlib.closing(Ledger(tmp_path / "ledger.sqlite", {"work": Work})) as ledger:
        ledger.set_meta(validation_images=1000)
        for number, (architecture, accuracy, ms) in enumerate(
            [(FAST, 0.7, 0.1), (SLOW, 0.9, 0.2), (WORST, 0.2, 0.9)]
        ):
            trial = Trial(
                number=number,
                state=State.COMPLETE,
                choices={"n": number},
                architecture=architecture,
                seed=0,
                epochs=1,
                cost=Cost(latency_ms=ms),
                metrics={"accuracy": accuracy, "latency_ms": ms},
            )
            ledger.put_trial(trial)
        yield ledger


def front_of(ledger: Ledger, build: Any, *, node: str | None = None) -> MeasuredFront:
    return MeasuredFront(
        measure(PaperDevice()),
        LatencySettings(rounds=2, calls=2, budget_s=1000.0),
        objectives=OBJECTIVES,
        build_network=build,
        place=ExecutorPlace(executor=InlineExecutor(), node=node, plugins={}),
        ledger=ledger,
        display=Phases(),  # type: ignore[arg-type]
    )


def linear(architecture: Architecture) -> Any:
    from torch import nn

    return nn.Sequential(*(nn.Linear(7, 7) for _ in architecture.blocks))


def test_what_was_prepared_in_steps_is_only_timed_at_the_end(ledger: Ledger) -> None:
    built = []

    def build(architecture: Architecture) -> Any:
        built.append(architecture.id)
        return linear(architecture)

    front = front_of(ledger, build)
    steps = front.ahead()
    next(steps)
    assert built == []  # the first one imports
    next(steps)
    assert len(built) == 1
    assert len(list(steps)) == 1
    assert set(built) == {FAST.id, SLOW.id}
    assert ledger.measurements() == {}

    front.measure()
    assert set(ledger.measurements()) == {FAST.id, SLOW.id}
    assert len(built) == 2


def test_what_was_not_prepared_ahead_is_prepared_at_the_end(ledger: Ledger) -> None:
    front = front_of(ledger, linear)
    front.measure()
    assert set(ledger.measurements()) == {FAST.id, SLOW.id}


def test_what_fails_ahead_is_said_when_its_turn_comes(ledger: Ledger) -> None:
    def broken(architecture: Architecture) -> Any:
        del architecture
        raise EnvironmentProblemError("no such operation")

    front = front_of(ledger, broken)
    assert len(list(front.ahead())) == 1  # the imports
    with pytest.raises(EnvironmentProblemError, match="no such operation"):
        front.measure()
    assert ledger.measurements() == {}


def test_for_a_node_of_a_cluster_nothing_is_prepared_here(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError(args)

    for module in (latency_bench, measured_front):
        monkeypatch.setattr(module, "warm_up", never)
    assert list(front_of(ledger, never, node="board").ahead()) == []
