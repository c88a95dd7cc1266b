"""Claims, profiles, and what may change when a study continues."""

from __future__ import annotations

import time

import pytest
import yaml

from nasctl.ablation.claims import Claim, level_name, parse_claim
from nasctl.config import (
    ablation_diff,
    resolved_yaml,
)
from nasctl.config.ablation import AblationConfig
from nasctl.config.profiles import _written
from nasctl.errors import ConfigError
from tests.ablation_configs import FACTOR, FACTORS, STUDY, load, problems

pytestmark = pytest.mark.usefixtures("own_folder")


class TestClaims:
    def test_levels_by_name_and_by_factor(self) -> None:
        claim = parse_claim(" accuracy(linear) > accuracy( act = relu6 ) ", FACTORS)
        assert claim == Claim(
            text=" accuracy(linear) > accuracy( act = relu6 ) ",
            metric="accuracy",
            better=(("act", "linear"),),
            worse=(("act", "relu6"),),
        )

    def test_less_turns_the_sides_round(self) -> None:
        claim = parse_claim("accuracy(linear) < accuracy(act=relu6)", FACTORS)
        assert (claim.better, claim.worse) == ((("act", "relu6"),), (("act", "linear"),))

    def test_several_levels_in_the_order_of_the_factors(self) -> None:
        claim = parse_claim("a(se=true, act=relu6) > a(act=linear,se=false)", FACTORS)
        assert claim.better == (("act", "relu6"), ("se", "true"))
        assert claim.worse == (("act", "linear"), ("se", "false"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a(relu6) > a(linear)", "'relu6' is a level of act and last; write act=relu6 or last"),
            ("a(linear) > a(act=linear)", "both sides are the same"),
            ("a(linear) > b(act=relu6)", "compares 'a' with 'b'; name one metric twice"),
            ("a(atc=linear) > a(true)", "unknown factor 'atc'; did you mean 'act'?"),
            ("a(se=ture) > a(linear)", "unknown level of se 'ture'; did you mean 'true'?"),
            ("a(linear, se=true) > a(false)", "where several are named, write act=linear"),
            ("a(act=linear, act=relu6) > a(true)", "names two levels of 'act'"),
            ("a() > a(true)", "unknown level ''"),
            ("a(linear) >= a(true)", "cannot be read: 'a(linear) >= a(true)'"),
            ("a(linear) > a(true) > a(false)", "cannot be read"),
            ("", "expected METRIC(LEVEL) > METRIC(LEVEL), such as accuracy(linear) > accuracy(re"),
        ],
    )
    def test_refused(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_claim(text, FACTORS)
        assert message in str(caught.value)

    def test_a_long_text_is_refused_at_once(self) -> None:
        began = time.monotonic()
        with pytest.raises(ConfigError) as caught:
            parse_claim("a" * 200_000 + " " * 200_000 + "(", FACTORS)
        assert len(str(caught.value)) < 300
        assert time.monotonic() - began < 10, "it would take minutes"

    def test_names_of_levels(self) -> None:
        values = (3, 3.0, 0.25, 1e-5, True, "linear", 0.123456789)
        names = ["3", "3", "0.25", "1e-05", "true", "linear", "0.123456789"]
        assert [level_name(value) for value in values] == names

    def test_what_a_design_cannot_answer(self) -> None:
        text = STUDY + "factors: {a: [1, 2], b: [x, y]}\n"
        both = 'claims=["accuracy(a=2, b=y) > accuracy(a=1)"]'
        (found,) = problems(text, both)
        assert found == (
            "command line: claims.0: design=one_at_a_time has no arm with a=2, b=y; use factorial"
        )
        assert load(text, both, "design=factorial").config.claims
        (found,) = problems(text, 'claims=["accuracy(a=1) > accuracy(b=x)"]')
        assert "both sides are the same arm with design=one_at_a_time" in found


PROFILES = FACTOR + (
    "recipe: {epochs: 5}\n"
    "profiles:\n"
    "  gpu:\n"
    "    executor.gpus: 1\n"
    "    recipe.epochs: 30\n"
    "    name: 'it''s \\ ${seed}'\n"
)


class TestProfiles:
    TEXT = PROFILES.replace("it''s \\ ${seed}", "on_gpu_${seed}")

    def test_between_the_file_and_the_command_line(self) -> None:
        assert load(self.TEXT).config.recipe.epochs == 5
        config = load(self.TEXT, "profile=gpu", "seed=4").config
        assert (config.recipe.epochs, config.executor.gpus, config.name) == (30, 1.0, "on_gpu_4")
        config = load(self.TEXT, "profile=gpu", "recipe.epochs=2").config
        assert (config.recipe.epochs, config.executor.gpus) == (2, 1.0)
        assert load(self.TEXT + "profile: gpu\n").config.recipe.epochs == 30

    def test_groups_by_name(self) -> None:
        text = FACTOR + "profiles:\n  cpu: {}\n  gpu: {data: cifar10, data.path: /x, seeds: 4}\n"
        config = load(text, "profile=gpu").config
        assert (config.data.name, config.data.options["path"]) == ("cifar10", "/x")
        assert config.seeds.min == 4
        assert load(text, "profile=gpu", "data=digits", "++data.path=/y").config.data.name == (
            "digits"
        ), "what is typed wins over the profile"

    def test_lists_in_the_place_of_mappings(self) -> None:
        text = STUDY + "factors: {a: {levels: [1, 2]}}\nprofiles: {gpu: {factors.a: [3, 4]}}\n"
        assert load(text, "profile=gpu").config.factors["a"].levels == [3, 4]
        typed = load(text, "profile=gpu", "factors.a={levels: [5, 6]}")
        assert typed.config.factors["a"].levels == [5, 6]

    def test_a_resolved_study_does_not_apply_it_again(self) -> None:
        config = load(self.TEXT, "profile=gpu", "recipe.epochs=2").config
        assert config.profiles == {"cpu": {}, "gpu": {}}
        again = load(resolved_yaml(config), name="config.yaml").config
        assert again == config

    def test_unknown_names_are_answered_with_the_nearest(self) -> None:
        (found,) = problems(self.TEXT, "profile=gup")
        assert found.startswith("command line: profile: unknown profile 'gup'; did you mean 'gpu'?")
        (found,) = problems(self.TEXT + "profile: gup\n")
        assert found.startswith("my.yaml:10: profile: unknown profile 'gup'")

    def test_a_wrong_value_is_blamed_on_the_profile(self) -> None:
        text = self.TEXT.replace("30", "many")
        assert problems(text, "profile=gpu") == (
            "my.yaml:8: profiles.gpu.recipe.epochs: expected a whole number, got 'many'",
        )
        assert load(text).config.recipe.epochs == 5, "it is not in use"
        assert load(text, "profile=gpu", "recipe.epochs=3").config.recipe.epochs == 3

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (
                "recipe.epohcs: 3",
                "recipe.epohcs: recipe.epohcs: unknown key; did you mean 'recipe.",
            ),
            ("executr: ray", "executr: executr: unknown key; did you mean 'executor'?"),
            ("data: cifr10", "data: unknown option 'cifr10'; did you mean 'cifar10'?"),
            ("data: 3", "data: expected the name of an option, got 3"),
            ("profile: cpu", "profile: a profile cannot choose or change profiles"),
            ("'~seed': 3", "~seed: expected a dotted key such as recipe.epochs"),
            ("seeds: 1", "seeds: expected a whole number from 2 to 1000, or min and max, got 1"),
            ("data.path: ???", "data.path: needs a value; data.path=..."),
            ("recipe: {lr: 0}", "recipe.lr: must be more than 0, got 0"),
        ],
    )
    def test_errors_name_file_and_key(self, line: str, message: str) -> None:
        (found,) = problems(FACTOR + f"profile: gpu\nprofiles:\n  gpu:\n    {line}\n")
        assert found.startswith(f"my.yaml:7: profiles.gpu.{message}"), found

    def test_a_profile_that_is_no_mapping(self) -> None:
        (found,) = problems(FACTOR + "profile: gpu\nprofiles: {gpu: 3}\n")
        assert found == "my.yaml:5: profiles.gpu: expected `key: value` lines, got 3"
        (found,) = problems(FACTOR + "profiles: fast\n")
        assert found == "my.yaml:4: profiles: expected `key: value` lines, got 'fast'"

    @pytest.mark.parametrize(
        "value",
        ["it's", "a\\", "a\\'b", "x=1, [y] {z}", "true", "null", "1e-3", " x ", "", "é/ü", "nan",
         None, True, 3, 0.25, 1e-7, [1, "a b", None], {"a": [1, {"b": "c d"}]}, [], {}],
    )  # fmt: skip
    def test_values_survive_the_grammar(self, value: object) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        parsed = OverridesParser.create().parse_override(f"x={_written(value)}").value()
        assert parsed == value
        assert type(parsed) is type(value)


class TestResume:
    def diff(self, *overrides: str) -> list[str]:
        return ablation_diff(load(FACTOR).resolved, load(FACTOR, *overrides).resolved)

    def test_what_may_change(self) -> None:
        assert self.diff() == []
        assert self.diff("executor=inline", "tracking=none", "output_dir=x", "budget_s=9") == []
        assert self.diff("seeds.max=11", "profiles.tpu={}") == []

    def test_what_may_not(self) -> None:
        assert self.diff(
            "seeds.max=9", "seed=1", 'claims=["accuracy(relu6) > accuracy(linear)"]'
        ) == [
            "seed: 0 -> 1",
            "claims: [] -> ['accuracy(relu6) > accuracy(linear)']",
            "seeds.max: 10 -> 9 (may be raised, not lowered)",
        ]
        assert self.diff("seeds.min=4", "profile=gpu", "splits=10") == [
            "seeds.min: 3 -> 4",
            "splits: 1 -> 10",
            "profile: cpu -> gpu",
        ]

    def test_the_stored_configuration_runs_again(self) -> None:
        text = STUDY + (
            "factors: {a: {levels: {x: {}, y: {recipe.lr: 1.0, recipe.epochs: 2}}},"
            " b: {key: recipe.flip, levels: [false, true]}, c: ['1e-3', 'on']}\n"
            "learning_rate: {policy: shared}\nquestion: 'why: not?'\n"
        )
        config = load(text, "controls.positive=null").config
        again = load(resolved_yaml(config), name="config.yaml").config
        assert again == config
        assert repr(again) == repr(config)
        assert list(yaml.safe_load(resolved_yaml(config))) == list(AblationConfig.model_fields)
        assert "run again as it is" in resolved_yaml(config)
