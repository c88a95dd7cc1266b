"""What nasctl relies on in Optuna, and the traps that shaped `nasctl.samplers`."""

from __future__ import annotations

import logging

import optuna
import pytest
from optuna.samplers import GPSampler, NSGAIISampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from nasctl.samplers.optuna_history import History, frozen_trial, open_study

SPACE = {f"x{i}": optuna.distributions.CategoricalDistribution(["a", "b", "c"]) for i in range(4)}


def told(number: int, values: tuple[float, ...], violation: float = 0.0):
    params = {name: "abc"[(number * 7 + i * number) % 3] for i, name in enumerate(SPACE)}
    return frozen_trial(
        number,
        TrialState.COMPLETE,
        params,
        dict(SPACE),
        values=values,
        constraints={"violation": violation},
    )


def test_history_needs_no_more_than_this() -> None:
    """A new abstract method of storages would need an answer here."""
    missing = getattr(History, "__abstractmethods__", frozenset())
    assert missing == frozenset()
    assert issubclass(History, BaseStorage)
    history = History(["max"], [told(0, (1.0,))])
    with pytest.raises(RuntimeError, match="cannot be changed"):
        history.set_trial_state_values(0, TrialState.FAIL)
    with pytest.raises(KeyError):
        history.set_trial_param(0, "x0", 0.0, SPACE["x0"])


def test_study_constructor_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        open_study(TPESampler(seed=0), ["max"], []).ask(SPACE)
    assert caplog.records == []


def test_tpe_never_looks_at_the_values_of_infeasible_trials() -> None:
    proposals = []
    for stand_in in (-1e9, 0.0, 1e9):
        trials = [told(n, (float(n), -float(n))) for n in range(12)]
        trials += [told(12 + n, (stand_in, stand_in), violation=1.0 + n) for n in range(6)]
        asked = [
            open_study(TPESampler(seed=s, multivariate=True), ["max", "max"], trials).ask(SPACE)
            for s in range(8)
        ]
        proposals.append([t.params for t in asked])
    assert proposals[0] == proposals[1] == proposals[2]


def test_gp_fits_objectives_to_infeasible_trials_too() -> None:
    """Why rejected candidates reach it with the mean of the results as their values."""
    proposals = []
    for stand_in in (-100.0, 0.0):
        trials = [told(n, (float(n % 5), -float(n % 7))) for n in range(8)]
        trials += [told(8 + n, (stand_in, stand_in), violation=1.0) for n in range(4)]
        sampler = GPSampler(seed=0, n_startup_trials=1)
        proposals.append(open_study(sampler, ["max", "max"], trials).ask(SPACE).params)
    assert proposals[0] != proposals[1]


def test_stock_nsga_freezes_parents_at_the_first_ask_of_a_generation() -> None:
    """So a study rebuilt later has other parents: a straggler is in or out by timing."""

    def parents(ask_before_straggler: bool) -> set[int]:
        sampler = NSGAIISampler(population_size=4, seed=0)
        study = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
        asked = [study.ask(SPACE) for _ in range(5)]
        for trial in asked[:4]:
            study.tell(trial, [0.0, 0.0])
        if ask_before_straggler:
            study.ask(SPACE)
        study.tell(asked[4], [9.0, 9.0])
        study.ask(SPACE)
        return {t.number for t in sampler.get_parent_population(study, 1)}

    assert 4 not in parents(True)
    assert 4 in parents(False)


def test_categorical_takes_true_for_one() -> None:
    """Why every choice reaches Optuna as text."""
    mixed = optuna.distributions.CategoricalDistribution([1, True])
    assert mixed.to_internal_repr(True) == 0


def test_constraints_on_frozen_trials() -> None:
    trial = told(0, (1.0,), violation=0.5)
    assert trial.constraints == {"violation": 0.5}
    made = create_trial(
        params=trial.params,
        distributions=trial.distributions,
        values=[1.0],
        constraints={"violation": 0.5},
    )
    assert made.constraints == trial.constraints
