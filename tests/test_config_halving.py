"""Options of `fidelity=halving` in configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasctl.config import (
    load_config,
    resolved_yaml,
)
from nasctl.errors import ConfigError


def test_halving_chooses_a_schedule_and_says_so() -> None:
    loaded = load_config("mbv2_space", ["fidelity=halving", "recipe.epochs=9"])
    recipe = loaded.config.recipe
    assert (recipe.schedule, recipe.warmup, recipe.decay) == ("wsd", 0.0555, 0.3)
    (note,) = loaded.notes
    assert note.startswith("fidelity=halving: recipe.schedule=wsd, recipe.warmup=0.0555, so that")
    assert load_config("mbv2_space", ["recipe.epochs=9"]).config.recipe.schedule == "onecycle"


def test_halving_leaves_what_the_user_chose(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "defaults: [search, _self_, override fidelity: halving]\n"
        "recipe: {epochs: 9, schedule: wsd, warmup: 0.1, decay: 0.5}\n"
    )
    loaded = load_config(str(path))
    recipe = loaded.config.recipe
    assert (recipe.schedule, recipe.warmup, recipe.decay) == ("wsd", 0.1, 0.5)
    assert loaded.notes == ()


def test_a_late_rung_shortens_a_decay_that_nobody_chose() -> None:
    overrides = ["fidelity=halving", "fidelity.cooldown=0.1", "recipe.epochs=4"]
    assert load_config("mbv2_space", overrides).config.recipe.decay == 0.25


def test_the_resolved_config_of_a_halving_run_can_be_searched_again(tmp_path: Path) -> None:
    loaded = load_config("mbv2_space", ["fidelity=halving"])
    path = tmp_path / "again.yaml"
    path.write_text(resolved_yaml(loaded.config))
    again = load_config(str(path))
    assert again.config.recipe == loaded.config.recipe
    assert again.config.fidelity == loaded.config.fidelity


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["recipe.schedule=cosine"], "recipe.schedule: 'cosine' cannot be cut short"),
        (["recipe.epochs=1"], "fidelity.first: no rung below recipe.epochs=1 could save"),
        (["fidelity.first=3"], "fidelity.first: no rung below recipe.epochs=3 could save what its"),
        (["recipe.warmup=0.5"], "recipe.warmup: 0.5 of 3 epochs is longer than the first rung"),
        (["recipe.decay=0.8"], "recipe.decay: begins before the rung at epoch 1 of 3; at most"),
        (["fidelity.eta=1"], "fidelity.eta: must be at least 2, got 1"),
        (["fidelity.cooldown=0"], "fidelity.cooldown: must be more than 0, got 0"),
        (["fidelity.p_stop=1"], "fidelity.p_stop: must be less than 1, got 1"),
        (["fidelity.etta=2"], "did you mean 'fidelity.eta'"),
    ],
)
def test_impossible_rungs(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("mbv2_space", ["fidelity=halving", *overrides])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "use"),
    [
        (["recipe.epochs=9", "fidelity.first=9"], "got 9; use at most 4, or fidelity=full, or at "),
        (["recipe.epochs=9", "fidelity.first=9"], "at least 18 epochs"),
        (["recipe.epochs=1"], "got 1; use fidelity=full, or at least 2 epochs"),
        (["fidelity.cooldown=10"], "got 1; use fidelity=full, or at least 31 epochs"),
    ],
)
def test_the_nearest_rung_that_could_be_is_named(overrides: list[str], use: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("mbv2_space", ["fidelity=halving", *overrides])
    assert use in str(caught.value)


@pytest.mark.parametrize(
    "valid",
    [
        ["recipe.epochs=9", "fidelity.first=4"],
        ["recipe.epochs=18", "fidelity.first=9"],
        ["recipe.epochs=2"],
        ["recipe.epochs=31", "fidelity.cooldown=10"],
    ],
)
def test_what_is_named_as_the_nearest_is_accepted(valid: list[str]) -> None:
    load_config("mbv2_space", ["fidelity=halving", *valid])


@pytest.mark.parametrize(
    "setting", ["cooldown=nan", "cooldown=inf", "cooldown=11", "cooldown=-1", "eta=99999999"]
)
def test_a_value_out_of_its_range_is_one_problem(setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("mbv2_space", ["fidelity=halving", "recipe.epochs=9", f"fidelity.{setting}"])
    (problem,) = caught.value.problems
    assert f"fidelity.{setting.split('=', maxsplit=1)[0]}: " in problem


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["fidelity.p_stop=0"], "fidelity.p_stop=0 stops no trial"),
        (["fidelity.control_every=1"], "fidelity.control_every=1 stops no trial: every one is a c"),
        (["trials=6"], "fidelity.min_pairs=6 of trials=6 have to finish before one can stop: none"),
    ],
)
def test_settings_that_stop_nothing_are_said(settings: list[str], said: str) -> None:
    common = ["fidelity=halving", "recipe.epochs=9", "recipe.schedule=wsd", "recipe.warmup=0.05"]
    (note,) = load_config("mbv2_space", [*common, *settings]).notes
    assert note.startswith(said)
    assert load_config("mbv2_space", [*common, "trials=7"]).notes == ()
