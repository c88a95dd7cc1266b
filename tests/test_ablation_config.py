"""Configurations of ablations: short forms, claims, profiles, resume, and every refusal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nasctl.ablation.claims import Claim, level_name, parse_claim
from nasctl.config import (
    LoadedAblation,
    ablation_diff,
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
from nasctl.config.profiles import _written
from nasctl.config.type_errors import fields_at
from nasctl.errors import ConfigError

BASED = "defaults: [ablate, _self_]\n"
STUDY = BASED + "baseline: {network: mobilenet_v2, width: 0.25}\n"
FACTOR = STUDY + "factors: {bottleneck_activation: [linear, relu6]}\n"
FACTORS = {"act": ["linear", "relu6"], "se": ["false", "true"], "last": ["relu6", "none"]}


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, *overrides: str, name: str = "my.yaml") -> LoadedAblation:
    Path(name).write_text(text)
    return load_config(name, overrides, kind="ablate")


def problems(text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


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


REFUSED = {
    "no baseline": (
        BASED + "factors: {a: [1, 2]}\n",
        "my.yaml: baseline: which network is varied?",
    ),
    "empty baseline": (
        BASED + "baseline: {options: {}}\nfactors: {a: [1, 2]}\n",
        "my.yaml:2: baseline: one of family, network, run, blocks is needed",
    ),
    "two baselines": (
        BASED + "baseline: {network: resnet18, family: staged}\nfactors: {a: [1, 2]}\n",
        "my.yaml:2: baseline.network: exactly one of family, network, run, blocks is given, not",
    ),
    "width of a family": (
        BASED + "baseline: {family: staged, width: 0.5}\nfactors: {a: [1, 2]}\n",
        "my.yaml:2: baseline.width: belongs to baseline.network, not to baseline.family",
    ),
    "width that is not there": (
        BASED + "baseline: {network: resnet18, width: 0.5}\nfactors: {a: [1, 2]}\n",
        "my.yaml:2: baseline.width: resnet18 has no width multiplier; these have: ",
    ),
    "unknown network": (
        BASED + "baseline: {network: resnet17}\nfactors: {a: [1, 2]}\n",
        "my.yaml:2: baseline.network: unknown network 'resnet17'; did you mean 'resnet1",
    ),
    "run alone": (
        BASED + "baseline: {run: runs/x}\nfactors: {a: [1, 2]}\n",
        "my.yaml:2: baseline.arch_id: missing",
    ),
    "key of a baseline": (
        BASED + "baseline: {netwrok: resnet18}\nfactors: {a: [1, 2]}\n",
        "my.yaml:2: baseline.netwrok: unknown key; did you mean 'baseline.network'?",
    ),
    "a block that is text": (
        BASED + "baseline: {blocks: [conv]}\nfactors: {a: [1, 2]}\n",
        "my.yaml:2: baseline.blocks.0: expected `key: value` lines, got 'conv'",
    ),
    "no factors": (STUDY, "my.yaml: factors: at least one is needed"),
    "one level": (STUDY + "factors: {a: [1]}\n", "my.yaml:3: factors.a: at least two are needed"),
    "a level twice": (
        STUDY + "factors: {a: {levels: [3, 5, 3.0]}}\n",
        "my.yaml:3: factors.a.levels.2: '3' is there twice",
    ),
    "a null level": (
        STUDY + "factors: {a: [3, null]}\n",
        "my.yaml:3: factors.a.1: expected a text, number or true/false, got None",
    ),
    "levels as text": (
        STUDY + "factors: {a: {levels: some}}\n",
        "my.yaml:3: factors.a.levels: expected a list of values, or names with the keys",
    ),
    "factor as text": (STUDY + "factors: {a: some}\n", "my.yaml:3: factors.a: expected `key: v"),
    "no levels": (STUDY + "factors: {a: {field: x}}\n", "my.yaml:3: factors.a.levels: missing"),
    "key of a factor": (
        STUDY + "factors: {a: {lvels: [1, 2], levels: [1, 2]}}\n",
        "my.yaml:3: factors.a.lvels: unknown key; did you mean 'factors.a.levels'?",
    ),
    "field and key": (
        STUDY + "factors: {a: {levels: [1, 2], field: b, key: recipe.epochs}}\n",
        "my.yaml:3: factors.a.key: field and key exclude each other",
    ),
    "field of named levels": (
        STUDY + "factors: {a: {levels: {x: {}, y: {recipe.epochs: 1}}, field: b}}\n",
        "my.yaml:3: factors.a.field: levels that name their keys need none",
    ),
    "scope of a key": (
        STUDY + "factors: {a: {levels: [1, 2], key: recipe.epochs, scope: block 1}}\n",
        "my.yaml:3: factors.a.scope: is for fields of blocks",
    ),
    "scope": (
        STUDY + "factors: {a: {levels: [1, 2], scope: stage 0}}\n",
        "my.yaml:3: factors.a.scope: expected all, `stage N`, `block N` or `blocks N-M` with N f",
    ),
    "scope backwards": (
        STUDY + "factors: {a: {levels: [1, 2], scope: blocks 4-2}}\n",
        "my.yaml:3: factors.a.scope: the first block comes after the last, got 'blocks 4-2'",
    ),
    "key elsewhere": (
        STUDY + "factors: {a: {levels: [1, 2], key: executor.cpus}}\n",
        "my.yaml:3: factors.a.key: 'executor.cpus' is in none of baseline, recipe, data",
    ),
    "misspelt section": (
        STUDY + "factors: {a: {levels: [1, 2], key: recpie.epochs}}\n",
        "my.yaml:3: factors.a.key: 'recpie.epochs' is in none of baseline, recipe, data; did you "
        "mean 'recipe.epochs'?",
    ),
    "misspelt key in a level": (
        STUDY + "factors:\n  a:\n    levels:\n      x: {}\n      y: {recipe.epohcs: 1}\n",
        "my.yaml:7: factors.a.levels.y.recipe.epohcs: recipe.epohcs: unknown key; did you mean "
        "'recipe.epochs'?",
    ),
    "no dots": (
        STUDY + "factors: {a: {levels: {x: {}, y: {recipe: 1}}}}\n",
        "my.yaml:3: factors.a.levels.y.recipe: 'recipe': expected a dotted key such as recipe.lr",
    ),
    "same changes": (
        STUDY + "factors: {a: {levels: {x: {}, y: {recipe.epochs: 1}, z: {recipe.epochs: 1}}}}\n",
        "my.yaml:3: factors.a.levels.z: is the same as level 'y'",
    ),
    "key as a name": (
        STUDY + "factors: {recipe.epochs: [1, 2]}\n",
        "my.yaml:3: factors.recipe.epochs: 'recipe.epochs' is no field of blocks; did you mean "
        "{key: recipe.epochs, levels: [...]}?",
    ),
    "name with a comma": (
        STUDY + "factors: {a: ['x,y', z]}\n",
        "my.yaml:3: factors.a.0: 'x,y': a name in claims has none of ()<>=,",
    ),
    "rate of tuned arms": (
        STUDY + "factors: {rate: {key: recipe.lr, levels: [0.4, 0.2]}}\n",
        "learning_rate.policy: tuned would undo factors.rate, which varies recipe.lr; use shared",
    ),
    "design": (
        FACTOR + "design: one_at_time\n",
        "my.yaml:4: design: unknown value 'one_at_time'; did you mean 'one_at_a_time'?",
    ),
    "misspelt level": (
        FACTOR + "claims:\n  - accuracy(linaer) > accuracy(relu6)\n",
        "my.yaml:5: claims.0: unknown level 'linaer'; did you mean 'linear'?",
    ),
    "no claim": (
        FACTOR + "claims: [linear is better]\n",
        "my.yaml:4: claims.0: cannot be read: 'linear is better'; expected METRIC(LEVEL) > METR",
    ),
    "other metric": (
        FACTOR + "claims: ['params(linear) < params(relu6)']\n",
        "my.yaml:4: claims.0: is about 'params', but decision.metric=accuracy",
    ),
    "claims as text": (FACTOR + "claims: x\n", "my.yaml:4: claims: expected a list, got 'x'"),
    "a claim that is a number": (
        FACTOR + "claims: [3]\n",
        "my.yaml:4: claims.0: expected text, got 3",
    ),
    "metric": (
        FACTOR + "decision: {metric: acuracy}\n",
        "my.yaml:4: decision.metric: unknown metric 'acuracy'; did you mean 'accuracy'?",
    ),
    "alpha": (
        FACTOR + "decision: {alpha: 0.5}\n",
        "my.yaml:4: decision.alpha: must be less than 0.5, got 0.5",
    ),
    "effect": (
        FACTOR + "decision: {smallest_effect: -0.1}\n",
        "my.yaml:4: decision.smallest_effect: must be at least 0, got -0.1",
    ),
    "one seed": (
        FACTOR + "seeds: 1\n",
        "my.yaml:4: seeds: expected a number from 2 to 1000, got 1",
    ),
    "seeds as text": (FACTOR + "seeds: x\n", "my.yaml:4: seeds: expected `key: value` lines"),
    "fewer at most": (
        FACTOR + "seeds: {min: 12}\n",
        "my.yaml:4: seeds.max: must be at least seeds.min=12, got 10",
    ),
    "too many seeds": (
        FACTOR + "seeds: {max: 1001}\n",
        "my.yaml:4: seeds.max: must be at most 1000, got 1001",
    ),
    "match": (FACTOR + "match: flops\n", "my.yaml:4: match: unknown value 'flops'"),
    "wide control": (
        FACTOR + "controls: {positive: {width: 1}}\n",
        "my.yaml:4: controls.positive.width: must be less than 1, got 1",
    ),
    "control that changes nothing": (
        FACTOR + "controls: {positive: {set: {}}}\n",
        "my.yaml:4: controls.positive.set: at least one key is needed",
    ),
    "both controls": (
        FACTOR + "controls: {positive: {width: 0.5, set: {recipe.epochs: 1}}}\n",
        "my.yaml:4: controls.positive.set: width and set exclude each other",
    ),
    "key of a control": (
        FACTOR + "controls: {positive: {set: {executor.cpus: 1}}}\n",
        "my.yaml:4: controls.positive.set.executor.cpus: 'executor.cpus' is in none of baseline",
    ),
    "rates without the configured one": (
        FACTOR + "learning_rate: {factors: [0.5, 2]}\n",
        "my.yaml:4: learning_rate.factors: 1 must be among them",
    ),
    "a rate twice": (
        FACTOR + "learning_rate: {factors: [1, 1.0]}\n",
        "my.yaml:4: learning_rate.factors: each one once",
    ),
    "a rate of 0": (
        FACTOR + "learning_rate: {factors: [1, 0]}\n",
        "my.yaml:4: learning_rate.factors.1: must be more than 0, got 0",
    ),
    "budget": (FACTOR + "budget_s: 0\n", "my.yaml:4: budget_s: must be more than 0, got 0"),
    "correlation": (
        FACTOR + "pilot: {correlation: 1}\n",
        "my.yaml:4: pilot.correlation: must be less than 1, got 1",
    ),
    "evaluator": (FACTOR + "evaluator: replay\n", "my.yaml:4: evaluator: replay is for searches"),
    "inline": (
        "defaults: [ablate, {override executor: inline}, _self_]\n"
        + FACTOR.partition("\n")[2]
        + "executor: {workers: 2}\n",
        "my.yaml:4: executor.workers: executor=inline has one worker; use ray",
    ),
    "latency": (
        "defaults: [ablate, {override latency: table}, _self_]\n"
        + FACTOR.partition("\n")[2]
        + "latency: {compile: true}\n",
        "my.yaml:4: latency.compile: ",
    ),
    "unknown key": (FACTOR + "trials: 3\n", "my.yaml:4: trials: unknown key"),
    "code": (
        FACTOR + "factors2: {_target_: os.system}\n",
        "my.yaml:4: factors2._target_: a configuration names things",
    ),
    "reference": (FACTOR + 'name: "x${seeed}"\n', "my.yaml:4: name: ${seeed}: unknown key 'seeed'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    text, expected = REFUSED[case]
    found = problems(text)
    assert len(found) == 1, found
    assert expected in found[0], found[0]


def test_all_problems_at_once() -> None:
    text = FACTOR.replace("linear, relu6", "linear") + "seeds: 1\nclaims: [x]\nsplits: 0\n"
    found = problems(text, "recipe.lr=0", "mtach=macs", "decision.alpha=2", "data=nope")
    assert sorted(": ".join(p.split(": ")[:2]) for p in found) == [
        "command line: data",
        "command line: decision.alpha",
        "command line: mtach",
        "command line: recipe.lr",
        "my.yaml:3: factors.bottleneck_activation",
        "my.yaml:4: seeds",
        "my.yaml:5: claims.0",
        "my.yaml:6: splits",
    ]


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
            ("seeds: 1", "seeds: expected a number from 2 to 1000, got 1"),
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
