"""What a configuration means: composition, defaults, references, resume."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nasctl import config as module
from nasctl.config import (
    config_diff,
    list_configs,
    load_config,
    resolved_yaml,
    stored_config,
)
from nasctl.config.schema import SearchConfig, name_problem
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.recipe import Recipe
from tests.config_texts import BASED, load, problems

pytestmark = pytest.mark.usefixtures("own_folder")


class TestComposition:
    def test_two_lines_are_a_configuration(self) -> None:
        loaded = load(BASED)
        assert loaded.config.name == "my", "the name of the file"
        assert loaded.config.trials == 24
        assert loaded.config.objectives == {"accuracy": "max", "latency_ms": "min", "params": "min"}
        assert loaded.config.bounds == {}
        assert loaded.user_text == BASED
        assert loaded.source == Path("my.yaml")

    def test_a_file_changes_what_it_names(self) -> None:
        config = load(BASED + "recipe: {epochs: 9}\nconstraints: {params: 1000}\n").config
        assert config.recipe.epochs == 9
        assert config.recipe.batch_size == Recipe().batch_size
        assert config.bounds == {"params": 1000.0}

    def test_overrides_win_over_the_file(self) -> None:
        text = BASED + "trials: 5\nconstraints: {params: 1000}\n"
        config = load(
            text, "trials=7", "constraints.params=null", "constraints.macs=2e6", "recipe.lr=1e-3"
        ).config
        assert (config.trials, config.bounds, config.recipe.lr) == (7, {"macs": 2e6}, 1e-3)

    @pytest.mark.parametrize("group", ["sampler", "executor", "tracking", "data"])
    def test_every_packaged_option_can_be_chosen(self, group: str) -> None:
        for found in [c for c in list_configs() if c.group == group]:
            needs_path = ["data.path=/x"] if group == "data" else []
            loaded = load(BASED, f"{group}={found.name}", *needs_path[: found.name != "digits"])
            name = "image_folder" if found.name == "imagenet" else found.name
            assert loaded.resolved[group]["name"] == name, found

    def test_every_packaged_recipe_is_valid(self) -> None:
        for found in [c for c in list_configs() if c.group == "recipe"]:
            assert load(BASED, f"recipe={found.name}").config.recipe.to_recipe(), found

    def test_a_group_is_chosen_in_a_file(self) -> None:
        text = "defaults:\n  - search\n  - override sampler: nsga2\n  - _self_\n"
        config = load(text + "sampler: {population_size: 8}\n").config
        assert config.sampler.name == "nsga2"
        assert config.sampler.options["population_size"] == 8
        assert "startup_trials" not in config.sampler.options, "nothing of tpe is left"

    def test_own_group_files_beside_the_configuration(self) -> None:
        Path("recipe").mkdir()
        Path("recipe/quick.yaml").write_text("defaults: [default, _self_]\nepochs: 1\n")
        assert load(BASED, "recipe=quick").config.recipe.epochs == 1

    def test_own_base_files(self) -> None:
        Path("base.yaml").write_text(BASED + "trials: 5\nseed: 3\n")
        config = load("defaults: [base, _self_]\ntrials: 6\n").config
        assert (config.trials, config.seed) == (6, 3)

    def test_a_preset_with_a_package_header(self) -> None:
        Path("preset").mkdir()
        Path("preset/tiny.yaml").write_text("# @package _global_\ntrials: 2\nrecipe: {epochs: 1}\n")
        config = load(BASED, "+preset=tiny").config
        assert (config.trials, config.recipe.epochs) == (2, 1)
        assert problems(BASED, "preset=tiny") == (
            "command line: preset: not among the defaults; to draw it in: +preset=tiny",
        )

    def test_a_search_path_adds_a_folder(self) -> None:
        Path("shared/sampler").mkdir(parents=True)
        Path("shared/sampler/mine.yaml").write_text("name: random\n")
        text = BASED + "hydra: {searchpath: [shared]}\n"
        assert load(text, "sampler=mine").config.sampler.name == "random"

    def test_a_file_called_search_starts_from_the_packaged_one(self) -> None:
        assert load(BASED + "trials: 3\n", name="search.yaml").config.trials == 3
        assert load(BASED).config.trials == 24, "nor does it get in the way of its neighbours"

    def test_a_folder_called_like_a_key_is_no_group(self) -> None:
        Path("trials").mkdir()
        Path("trials/5.yaml").write_text("x: 1\n")
        assert load(BASED, "trials=5").config.trials == 5

    @pytest.mark.parametrize("name", ["a=b.yaml", "a b@c.yaml", "-x.yaml", "${x}.yaml", "ä.yaml"])
    def test_odd_file_names(self, name: str) -> None:
        assert load(BASED, "name=x", name=name).config.name == "x"

    def test_new_keys_of_open_sections_need_no_plus(self) -> None:
        config = load(
            BASED,
            "space.family=mine",
            "space.options.depth=[1,2]",
            "constraints.energy=3",
            "objectives.energy=min",
            "reference_point.energy=4",
            "data.mirror=true",
        ).config
        assert config.space.options == {"depth": [1, 2]}
        assert config.bounds == {"energy": 3.0}
        assert config.objectives["energy"] == "min"
        assert config.data.options["mirror"] is True

    def test_list_entries_by_position(self) -> None:
        text = BASED + "space: {options: {stages: [{depth: 1}, {depth: 2}]}}\n"
        config = load(text, "space.options.stages.1.depth=[3,4]").config
        assert config.space.options["stages"] == [{"depth": 1}, {"depth": [3, 4]}]

    def test_it_works_inside_a_hydra_application(self, tmp_path: Path) -> None:
        from hydra import compose, initialize_config_dir

        Path("outer.yaml").write_text("x: 1\n")
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            assert load(BASED).config.trials == 24
            assert compose("outer").x == 1, "the application's own Hydra goes on"

    def test_two_loads_do_not_see_each_other(self) -> None:
        load(BASED + "trials: 5\n", name="a.yaml")
        Path("my.yaml").write_text(BASED + "trials: 6\n")
        assert load_config("my.yaml").config.trials == 6
        Path("my.yaml").write_text(BASED + "trials: 7\n")
        assert load_config("my.yaml").config.trials == 7


class TestObjectives:
    def test_a_file_names_all_of_them(self) -> None:
        config = load(BASED + "objectives: {accuracy: max, macs: min}\n").config
        assert config.objectives == {"accuracy": "max", "macs": "min"}

    def test_an_override_adds_and_drops(self) -> None:
        config = load(BASED, "objectives.macs=min", "~objectives.latency_ms").config
        assert config.objectives == {"accuracy": "max", "params": "min", "macs": "min"}
        assert load(BASED, "objectives.params=null").config.objectives == {
            "accuracy": "max",
            "latency_ms": "min",
        }

    def test_no_latency_drops_the_default_objective_and_says_so(self) -> None:
        loaded = load(BASED, "latency=none")
        assert loaded.config.objectives == {"accuracy": "max", "params": "min"}
        assert loaded.notes == ("latency=none: latency_ms is not an objective of this search",)

    def test_the_command_line_is_stronger_than_a_file(self) -> None:
        text = BASED + "objectives: {accuracy: max, latency_ms: min}\n"
        text += "reference_point: {latency_ms: 9}\n"
        config = load(text, "latency=none").config
        assert config.objectives == {"accuracy": "max"}
        assert config.reference_point == {}

    def test_saying_both_is_a_contradiction(self) -> None:
        text = (
            "defaults: [search, {override latency: none}, _self_]\n"
            "objectives: {accuracy: max, latency_ms: min}\n"
        )
        assert problems(text) == (
            "my.yaml:2: objectives.latency_ms: needs a latency, but latency=none; "
            "drop it (~objectives.latency_ms) or use latency=table",
        )
        assert (
            "command line: objectives.latency_ms: needs a latency"
            in problems(BASED, "latency=none", "objectives.latency_ms=min")[0]
        )

    def test_a_latency_bound_needs_a_latency(self) -> None:
        found = problems(BASED + "constraints: {latency_ms: 5}\n", "latency=none")
        assert found == (
            "my.yaml:2: constraints.latency_ms: needs a latency, but latency=none; "
            "set it to null or use latency=table",
        )


class TestReferences:
    def test_whole_values_keep_their_type_and_parts_become_text(self) -> None:
        text = BASED + 'seed: 7\nname: "run_${seed}"\nsearch: {window: "${seed}"}\n'
        text += 'space: {options: {a: "${recipe.epochs}", b: [1, "${space.family}"]}}\n'
        config = load(text).config
        assert config.name == "run_7"
        assert config.search.window == 7
        assert config.space.options == {"a": Recipe().epochs, "b": [1, "staged"]}

    def test_they_follow_overrides_and_work_in_them(self) -> None:
        text = BASED + 'name: "run_${seed}"\n'
        assert load(text, "seed=8").config.name == "run_8"
        assert load(BASED, "name=run_${seed}", "seed=9").config.name == "run_9"

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("${sead}", "${sead}: unknown key 'sead'; did you mean 'seed'?"),
            ("${recipe}", "${recipe}: refers to a whole section"),
            ("${tracking.experiment}", "${tracking.experiment}: refers to another reference"),
            ("${name}", "${name}: refers to another reference"),
        ],
    )
    def test_only_plain_values(self, value: str, message: str) -> None:
        text = BASED + f'tracking: {{experiment: "x${{seed}}"}}\nname: "{value}"\n'
        (found,) = [p for p in problems(text) if "${" in p]
        assert found.startswith("my.yaml:3: name: ")
        assert message in found

    def test_doubling_references_do_not_grow(self) -> None:
        lines = "".join(f'    a{i}: "${{space.options.a{i - 1}}}{"x" * 9}"\n' for i in range(1, 40))
        text = BASED + "space:\n  options:\n    a0: y\n" + lines
        assert len(problems(text)) == 38, "each but the first refers to a reference"


class TestResolved:
    def test_it_loads_again_as_an_equal_configuration(self) -> None:
        text = BASED + "space: {options: {a: 1.0, b: [1, 2.5, true, '1e-3', 'on', null]}}\n"
        config = load(text, "name=123", "tracking.experiment='1e-3'", "recipe.lr=1e-5").config
        again = load(resolved_yaml(config), name="config.yaml").config
        assert again == config
        assert repr(again) == repr(config)
        assert config.name == "123"

    def test_the_order_of_keys_is_stable(self) -> None:
        values = yaml.safe_load(resolved_yaml(load(BASED).config))
        assert list(values) == list(SearchConfig.model_fields)

    def test_single_values_of_it_can_be_overridden(self) -> None:
        text = resolved_yaml(load(BASED).config)
        assert load(text, "trials=99", "constraints.macs=5").config.trials == 99
        assert problems(text, "executor=inline") == (
            "command line: executor: this file has no groups; set executor.name=...",
        )

    def test_plain_values_only(self) -> None:
        def leaves(value: Any) -> list[Any]:
            if isinstance(value, dict):
                return [x for v in value.values() for x in leaves(v)]
            return [x for v in value for x in leaves(v)] if isinstance(value, list) else [value]

        for leaf in leaves(load(BASED).resolved):
            assert leaf is None or type(leaf) in (str, int, float, bool)


class TestResume:
    def diff(self, *overrides: str) -> list[str]:
        return config_diff(load(BASED).resolved, load(BASED, *overrides).resolved)

    def test_what_may_change(self) -> None:
        assert self.diff() == []
        changed = ("executor=inline", "tracking=none", "trials=99", "output_dir=elsewhere")
        assert self.diff(*changed) == []
        assert self.diff("stop.marginal_gain=0.01", "stop.window=5", "price.core_hour=0.1") == []

    def test_a_run_of_before_there_were_prices_and_a_stop_rule(self) -> None:
        now = load(BASED)
        old = {k: v for k, v in now.resolved.items() if k not in ("stop", "price")}
        assert config_diff(old, now.resolved) == []
        again = stored_config(old, source="runs/old")
        assert again == now.config
        text = yaml.safe_dump(old)
        assert load(text).config == now.config

    def test_what_may_not(self) -> None:
        assert self.diff("recipe.epochs=9", "trials=3", "sampler=random", "seed=1") == [
            "seed: 0 -> 1",
            "trials: 24 -> 3 (may be raised, not lowered)",
            f"recipe.epochs: {Recipe().epochs} -> 9",
            "sampler.name: known_cost -> random",
            "sampler.startup_trials: 6 -> absent",
            "sampler.pool_size: 10000 -> absent",
        ]

    def test_equal_numbers_are_no_change(self) -> None:
        assert config_diff({"a": 1.0, "b": {}}, {"a": 1, "b": {}}) == []
        assert config_diff({"a": 1}, {"a": True}) == ["a: 1 -> True"]


def test_names() -> None:
    for good in ("a", "A-b_c.1", "1", "x" * 100, "console"):
        assert name_problem(good) is None, good
    bad = ("", ".a", "-a", "a/b", "a\\b", "a b", "ä", "a..b", "a.", "con", "NUL.txt", "x" * 101)
    for name in (*bad, "a\n", "a\0", "lpt1", "раypal"):
        assert name_problem(name), name


def test_loading_imports_nothing_heavy_and_runs_nothing() -> None:
    code = (
        "import sys\n"
        "import nasctl.config\n"
        "light = [m for m in ('hydra', 'omegaconf', 'pydantic', 'yaml') if m in sys.modules]\n"
        "assert not light, light\n"
        "nasctl.config.load_config('mbv2_space', ['sampler=nsga2'])\n"
        "heavy = ('torch', 'ray', 'mlflow', 'optuna', 'numpy', 'sklearn', 'onnx', 'rich')\n"
        "assert not [m for m in heavy if m in sys.modules]\n"
    )
    env = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_module_states_what_it_offers() -> None:
    assert {"load_config", "resolved_yaml", "config_diff", "list_configs"} <= set(vars(module))


def test_a_machine_that_cannot_read_is_not_blamed_on_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("nasctl.config.compose._compose", fail)
    with pytest.raises(EnvironmentProblemError, match=r"reading the configuration: .*Too many"):
        load_config("mbv2_space")


def test_a_name_that_no_file_can_have_is_blamed_on_the_configuration() -> None:
    with pytest.raises(ConfigError, match="sampler"):
        load_config("mbv2_space", [f"sampler={'x' * 300}"])
