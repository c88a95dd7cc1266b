"""Configurations of ablations: packaged ones, forms of their parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nasctl.config import (
    list_ablations,
    list_configs,
    load_ablation,
    load_config,
    packaged_folder,
    recipe_problems,
    resolved_yaml,
)
from nasctl.config.ablation import GROUPS, AblationConfig
from nasctl.config.kinds import ABLATE, SEARCH
from nasctl.config.type_errors import fields_at
from nasctl.errors import ConfigError
from tests.ablation_configs import BASED, FACTOR, STUDY, load, problems

pytestmark = pytest.mark.usefixtures("own_folder")


class TestPackaged:
    def test_ablate_yaml_states_every_key(self) -> None:
        stated = yaml.safe_load((packaged_folder() / "ablate.yaml").read_text())
        groups = [next(iter(e)) for e in stated.pop("defaults") if isinstance(e, dict)]
        assert sorted(groups) == sorted(GROUPS)
        assert {*stated, *groups} == set(AblationConfig.model_fields)
        for section in ("decision", "seeds", "controls", "learning_rate", "pilot"):
            assert set(stated[section]) == set(fields_at(AblationConfig, (section,)) or {}), section

    def test_a_study_is_found_by_its_name_and_by_its_path(self) -> None:
        named = load_config("linear_bottleneck", kind="ablate")
        path = packaged_folder() / "ablation" / "linear_bottleneck.yaml"
        assert named.config == load_ablation(str(path)).config
        assert named.source == path
        config = named.config
        assert config.baseline.family == "staged"
        assert config.baseline.options["width_multiplier"] == 1
        assert [s["depth"] for s in config.baseline.options["stages"]] == [1, 2, 2]
        assert config.factors["bottleneck_activation"].levels == ["linear", "relu6"]
        assert config.claims == ["accuracy(linear) > accuracy(relu6)"]

    def test_its_baseline_is_one_network(self) -> None:
        from nasctl.ablation.baseline import build_network
        from nasctl.plugins import load_plugins

        config = load_ablation("linear_bottleneck").config
        network = build_network(
            config.baseline.model_dump(), load_plugins(()), input_shape=(1, 28, 28), num_classes=10
        )
        blocks = [b for b in network.blocks if b.op == "inverted_residual"]
        assert len(blocks) == 5
        assert {b.bottleneck_activation for b in blocks} == {"linear"}  # type: ignore[attr-defined]

    def test_every_packaged_study_is_valid_and_listed(self) -> None:
        listed = list_ablations()
        assert listed[0].name == "ablate"
        assert "linear_bottleneck" in [found.name for found in listed]
        assert all(found.description and found.group is None for found in listed)
        with_arms = [f.name for f in listed[1:] if f.name != "relu_information_loss"]
        for name in with_arms:
            assert load_ablation(name).config.name == name

    def test_searches_are_listed_without_them(self) -> None:
        names = {(found.group, found.name) for found in list_configs()}
        assert not names & {(None, "ablate"), ("ablation", "linear_bottleneck")}
        assert not any(group == "ablation" for group, _ in names)

    def test_a_users_file_starts_from_a_packaged_study(self) -> None:
        text = "defaults: [linear_bottleneck, _self_]\nseeds: 5\n"
        config = load(text).config
        assert config.claims == ["accuracy(linear) > accuracy(relu6)"]
        assert (config.seeds.min, config.seeds.max) == (5, 5)

    def test_nothing_heavy_is_imported(self) -> None:
        code = (
            "import sys\n"
            "from nasctl.config import load_ablation\n"
            "load_ablation('linear_bottleneck', ['seeds=4'])\n"
            "heavy = ('torch', 'ray', 'mlflow', 'optuna', 'numpy', 'scipy', 'sklearn', 'onnx')\n"
            "assert not [m for m in heavy if m in sys.modules]\n"
        )
        env = {**os.environ, "PYTHONWARNINGS": "error"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
        )
        assert done.returncode == 0, done.stderr


class TestWhichCommand:
    def test_a_search_is_no_ablation(self) -> None:
        Path("s.yaml").write_text("defaults: [search, _self_]\n")
        with pytest.raises(ConfigError, match=r"^s\.yaml:1: defaults: this is a search; nasctl se"):
            load_config("s.yaml", kind="ablate")
        with pytest.raises(ConfigError, match=r"^mbv2_space: is for `nasctl search mbv2_space`$"):
            load_config("mbv2_space", kind="ablate")

    def test_an_ablation_is_no_search(self) -> None:
        Path("a.yaml").write_text(FACTOR)
        with pytest.raises(ConfigError, match=r"^a\.yaml:1: defaults: this is an ablation; nasctl"):
            load_config("a.yaml")
        Path("b.yaml").write_text(resolved_yaml(load(FACTOR).config))
        with pytest.raises(ConfigError, match=r"^b\.yaml:2: defaults: this is an ablation"):
            load_config("b.yaml")
        with pytest.raises(ConfigError, match=r"for `nasctl ablate linear_bottleneck`$"):
            load_config("linear_bottleneck")

    def test_the_start_of_a_file(self) -> None:
        assert "start the file with `defaults: [ablate, _self_]`" in problems("seed: 1\n")[0]
        assert problems("") == ("my.yaml: empty; start with `defaults: [ablate, _self_]`",)
        assert "put it last, so that" in problems("defaults: [ablate]\nseed: 1\n")[0]
        assert "comes before `ablate`" in problems("defaults: [_self_, ablate]\nseed: 1\n")[0]

    def test_a_file_called_ablate(self) -> None:
        assert load(FACTOR + "seed: 3\n", name="ablate.yaml").config.seed == 3

    def test_groups_of_searches_are_unknown(self) -> None:
        (found,) = problems(FACTOR, "sampler=tpe")
        assert found.startswith("command line: sampler: unknown key")
        (found,) = problems(FACTOR, "ablation=linear_bottleneck")
        assert found.startswith("command line: ablation: unknown key")
        with pytest.raises(ConfigError, match=r"^command line: ablation: unknown key"):
            load_config("mbv2_space", ["ablation=linear_bottleneck"])

    def test_unknown_names(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'linear_bottleneck'"):
            load_config("linear_botleneck", kind="ablate")
        (found,) = problems("defaults: [abalte, _self_]\nseed: 1\n")
        assert found.startswith("my.yaml:1: defaults: unknown file 'abalte'; did you mean 'ablate'")
        (found,) = problems(FACTOR, "data=cifr10")
        assert found.startswith("command line: data: unknown option 'cifr10'; did you mean 'cifar")


class TestForms:
    def test_short_forms(self) -> None:
        config = load(FACTOR + "seeds: 7\n").config
        assert config.factors["bottleneck_activation"].levels == ["linear", "relu6"]
        assert (config.seeds.min, config.seeds.max) == (7, 7)
        assert load(FACTOR, "seeds=4").config.seeds.max == 4
        assert load(FACTOR, "seeds.max=40").config.seeds.min == 3

    def test_the_command_line_replaces_levels(self) -> None:
        config = load(FACTOR, "factors.bottleneck_activation=[relu6,linear]").config
        assert config.factors["bottleneck_activation"].levels == ["relu6", "linear"]
        config = load(FACTOR, "factors.kernel_size=[3,5]").config
        assert list(config.factors) == ["bottleneck_activation", "kernel_size"]
        assert config.factors["kernel_size"].levels == [3, 5]

    def test_several_keys_at_once(self) -> None:
        text = STUDY + (
            "factors:\n  length:\n    levels:\n      short:\n"
            "      long: {recipe.epochs: 6, recipe.warmup: 0.1, data.val_size: 10}\n"
            "      other: {baseline.width: 0.5, 'baseline.blocks.2': {op: conv}}\n"
        )
        factor = load(text).config.factors["length"]
        assert factor.levels == {
            "short": {},
            "long": {"recipe.epochs": 6, "recipe.warmup": 0.1, "data.val_size": 10},
            "other": {"baseline.width": 0.5, "baseline.blocks.2": {"op": "conv"}},
        }

    def test_keys_and_scopes(self) -> None:
        text = STUDY + (
            "factors:\n"
            "  depth: {key: baseline.options.stages.1.depth, levels: [1, 2]}\n"
            "  early: {field: kernel_size, levels: [3, 5], scope: blocks 1-4}\n"
        )
        factors = load(text).config.factors
        assert factors["depth"].key == "baseline.options.stages.1.depth"
        assert (factors["early"].field, factors["early"].scope) == ("kernel_size", "blocks 1-4")
        for scope in ("all", "stage 2", "block 12", "blocks 3-3"):
            assert load(text, f"factors.early.scope={scope}").config.factors["early"].scope == scope

    @pytest.mark.parametrize(
        "form",
        [
            "{family: staged, options: {stages: []}}",
            "{network: resnet18}",
            "{network: mobilenet_v2, width: 0.5, family: null}",
            "{run: runs/x, arch_id: 3f2a}",
            "{blocks: [{op: conv, out: 8}]}",
        ],
    )
    def test_baselines(self, form: str) -> None:
        assert load(BASED + f"baseline: {form}\nfactors: {{a: [1, 2]}}\n").config.baseline

    def test_the_control_that_is_named_replaces_the_packaged_one(self) -> None:
        by_file = load(FACTOR + "controls: {positive: {set: {recipe.epochs: 1}}}\n").config
        by_hand = load(FACTOR, "controls.positive.set={recipe.epochs: 1}").config
        for positive in (by_file.controls.positive, by_hand.controls.positive):
            assert positive is not None
            assert (positive.width, positive.set) == (None, {"recipe.epochs": 1})
        positive = load(FACTOR).config.controls.positive
        assert positive is not None
        assert (positive.width, positive.set) == (0.5, None)
        assert load(FACTOR, "controls.positive=null").config.controls.positive is None

    def test_the_control_of_a_file_replaces_that_of_its_base(self) -> None:
        Path("base.yaml").write_text(FACTOR + "controls: {positive: {width: 0.25}}\n")
        text = "defaults: [base, _self_]\ncontrols: {positive: {set: {recipe.epochs: 1}}}\n"
        positive = load(text).config.controls.positive
        assert positive is not None
        assert (positive.width, positive.set) == (None, {"recipe.epochs": 1})

    def test_splits(self) -> None:
        assert load(FACTOR, "splits=10").config.splits == 10
        (found,) = problems(FACTOR, "splits=9")
        assert found.startswith("command line: splits: expected 1, or at least seeds.max=10, got 9")
        assert "not independent" in found


def test_recipes_that_factors_have_changed() -> None:
    recipe = load(FACTOR).resolved["recipe"]
    assert recipe_problems(recipe) == []
    assert recipe_problems({**recipe, "lr": "fast", "schedule": "wds"}) == [
        "recipe.lr: expected a number, got 'fast'",
        "recipe.schedule: unknown value 'wds'; did you mean 'wsd'? (known: onecycle, cosine, wsd)",
    ]


def test_sections_are_found_in_lists_mappings_and_options() -> None:
    assert "levels" in (fields_at(AblationConfig, ("factors", "any")) or {})
    assert "width" in (fields_at(AblationConfig, ("controls", "positive")) or {})
    assert "width" in (fields_at(SEARCH.model, ("reference", "0")) or {})
    assert fields_at(ABLATE.model, ("factors", "any", "levels")) is None
