"""What every sampler promises; a new one needs a line in `CASES`.

A proposal is a pure function of (seed, number, attempt, pending, told observations): a sampler
rebuilt from the ledger after a kill continues as the one that lived through everything.
"""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nasctl.samplers import (
    SAMPLERS,
    Observation,
    Proposal,
    Sampler,
    SamplerContext,
    create_sampler,
)
from nasctl.samplers.base import Known
from nasctl.space import Choices, Decision, SearchSpace

CASES: dict[str, tuple[dict[str, Any], int]] = {  # options, and trials of a run
    "random": ({}, 30),
    "grid": ({}, 30),
    "tpe": ({"startup_trials": 5}, 40),
    "nsga2": ({"population_size": 6}, 60),
    "nsga3": ({"population_size": 6}, 60),
    "known_cost": ({"startup_trials": 4}, 30),
    "gp": ({"startup_trials": 2}, 6),  # slow: the model answers for the last one only
}
LEARNING = ("tpe", "nsga2", "nsga3", "gp", "known_cost")
SPACE = SearchSpace(
    (
        Decision("depth", (1, 2, 3)),
        Decision("block1.type", ("conv", "skip")),
        Decision("block1.kernel", (3, 5, 7), when={"block1.type": ("conv",)}),
        Decision("block2.type", ("conv", "skip"), when={"depth": (2, 3)}),
        Decision("block2.kernel", (3, 5, 7), when={"block2.type": ("conv",)}),
        Decision("width", (0.5, 1, 1.5)),
        Decision("fixed", ("only",)),
        Decision("bias", (True, False)),
    )
)
WINDOW = 3


def make(name: str, seed: int = 1) -> Sampler:
    context = SamplerContext(
        space=SPACE,
        directions=("max", "min"),
        seed=seed,
        trials=100,
        objectives=("quality", "size"),
        reference_point={"quality": 0.0, "size": 20.0},
        price=price,
        max_seeds=2,
    )
    return create_sampler(name, CASES[name][0], context)


def size_of(choices: Choices) -> float:
    size = float(choices["width"]) * sum(3.0 for c in choices.values() if c == "conv")
    return size + sum(float(v) for n, v in choices.items() if n.endswith("kernel"))


def price(choices: Choices) -> Known:
    """Says nothing of the constraint, so that samplers hear of rejections."""
    name = json.dumps(choices, sort_keys=True)
    return Known(id=name, costs={"size": size_of(choices)}, feasible=True)


def observe(number: int, proposal: Proposal) -> Observation:
    """A made-up landscape with failures and a constraint."""
    choices = proposal.choices
    size = size_of(choices)
    told = {"number": number, "choices": choices, "state": proposal.state}
    if size > 18:
        return Observation(**told, violations={"size": size / 18 - 1}, rejected=True)
    if size == 10:
        return Observation(**told)
    return Observation(**told, values=(size**0.5 + choices["depth"], size))


def live(name: str, *, trials: int | None = None, noise: bool = False, seed: int = 1) -> list[Any]:
    """Runs a search with trials in flight; everything that happened, in order."""
    sampler = make(name, seed)
    events: list[Any] = []
    flying: list[Observation] = []
    for number in range(trials or CASES[name][1]):
        if len(flying) > WINDOW:
            sampler.tell(flying[0])
            events.append(flying.pop(0))
        for attempt in range(4):
            pending = tuple(o.choices for o in flying)
            if noise:  # asking must leave no trace, wherever it happens
                for other in range(3 if name != "gp" else 1):
                    sampler.ask(number + other, attempt + 2 * other)
            proposal = sampler.ask(number, attempt, pending)
            if proposal is None:
                return events
            events.append((number, attempt, pending, proposal))
            observation = observe(number, proposal)
            if not observation.rejected:
                flying.append(observation)
                break
            sampler.tell(observation)
            events.append(observation)
    return events


def asks(events: list[Any]) -> list[Any]:
    return [e for e in events if not isinstance(e, Observation)]


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_known_cost_is_not_its_stand_in() -> None:
    assert type(make("known_cost")).__name__ == "KnownCostSampler"


def test_every_sampler_has_a_case() -> None:
    assert set(CASES) == set(SAMPLERS)


def test_rebuilt_sampler_continues_as_the_one_that_lived(name: str) -> None:
    events = live(name)
    for number, attempt, pending, proposal in asks(events)[0 if name != "gp" else -2 :]:
        fresh = make(name)
        before = events[: events.index((number, attempt, pending, proposal))]
        for event in before:
            if isinstance(event, Observation):
                # Through JSON, as the ledger keeps it.
                state = json.loads(json.dumps(event.state))
                fresh.tell(
                    Observation(
                        number=event.number,
                        choices=json.loads(json.dumps(event.choices, sort_keys=True)),
                        state=state,
                        values=event.values,
                        violations=event.violations,
                        rejected=event.rejected,
                    )
                )
        assert fresh.ask(number, attempt, pending) == proposal


def test_asking_leaves_no_trace(name: str) -> None:
    trials = CASES[name][1]
    assert live(name, trials=trials, noise=True) == live(name, trials=trials)


def test_proposals_are_valid_and_plain(name: str) -> None:
    for _, _, _, proposal in asks(live(name)):
        checked = SPACE.validate(proposal.choices)
        assert [(k, v, type(v)) for k, v in checked.items()] == [
            (k, v, type(v)) for k, v in proposal.choices.items()
        ]
        assert json.loads(json.dumps(proposal.state, allow_nan=False)) == proposal.state


def test_seed_and_attempt_matter(name: str) -> None:
    first = {json.dumps(make(name, seed).ask(0, 0).choices) for seed in range(12)}
    assert len(first) > 4
    sampler = make(name)
    assert len({json.dumps(sampler.ask(0, attempt).choices) for attempt in range(12)}) > 4


def test_global_random_state_is_neither_read_nor_changed(name: str) -> None:
    trials = CASES[name][1]
    expected = live(name, trials=trials)
    random.seed(1234)
    np.random.seed(1234)
    before = random.getstate(), np.random.get_state()[1].tolist()
    assert live(name, trials=trials) == expected
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_quiet(name: str, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    """Nothing is logged or printed, and no logger or warning filter of the user is changed."""
    import warnings

    root = logging.getLogger("optuna")
    settings = root.level, root.propagate, list(root.handlers), list(warnings.filters)
    with caplog.at_level(logging.DEBUG):
        live(name, trials=6)
    assert caplog.records == []
    assert tuple(capfd.readouterr()) == ("", "")
    assert (root.level, root.propagate, list(root.handlers), list(warnings.filters)) == settings


@pytest.mark.parametrize("learning", LEARNING)
@pytest.mark.parametrize("values", [(1.0,), (1.0, float("nan")), (float("inf"), 1.0)])
def test_bad_values_are_refused(learning: str, values: tuple[float, ...]) -> None:
    sampler = make(learning)
    proposal = sampler.ask(0, 0)
    assert proposal is not None
    with pytest.raises(ValueError, match="trial 0: expected 2 finite objective values"):
        sampler.tell(
            Observation(number=0, choices=proposal.choices, state=proposal.state, values=values)
        )


def test_foreign_observations_are_welcome(name: str) -> None:
    """Configurations that no sampler proposed come without state (drawn by the engine)."""
    rng = random.Random(0)
    first, second = make(name), make(name)
    for number in range(8):
        observation = observe(number, Proposal(choices=SPACE.sample(rng)))
        first.tell(observation)
        second.tell(observation)
    assert first.ask(8, 0) == second.ask(8, 0)
    assert first.ask(8, 0) is not None


def _digest() -> Iterator[str]:
    for name in CASES:
        for number, attempt, _, proposal in asks(live(name, trials=min(12, CASES[name][1]))):
            yield json.dumps([name, number, attempt, proposal.choices, dict(proposal.state)])


def test_processes_agree() -> None:
    """Text hashing and global random state differ between processes; proposals do not."""
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == list(_digest())


if __name__ == "__main__":
    random.seed(os.environ["PYTHONHASHSEED"])
    np.random.seed(int(os.environ["PYTHONHASHSEED"]))
    for line in _digest():
        print(line)
