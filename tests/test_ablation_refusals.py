"""Configurations of ablations that cannot be: each is one line."""

from __future__ import annotations

import dataclasses

import pytest

from nasctl.ablation.build import prepare_study
from nasctl.config import recipe_problems
from nasctl.errors import ConfigError
from nasctl.plugins import load_plugins
from tests.ablation_configs import BASED, FACTOR, STUDY, load, problems

pytestmark = pytest.mark.usefixtures("own_folder")


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
    "an effect in points": (
        FACTOR + "decision: {smallest_effect: 2}\n",
        "my.yaml:4: decision.smallest_effect: accuracy is a fraction: 2 would be 200 points",
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
        "my.yaml:4: seeds: expected a whole number from 2 to 1000, or min and max, got 1",
    ),
    "seeds as text": (FACTOR + "seeds: x\n", "my.yaml:4: seeds: expected a whole number from 2"),
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


def test_a_list_on_the_command_line_is_that_of_the_levels_and_the_scope_stays() -> None:
    text = STUDY + "factors: {kernel_size: {levels: [3, 5], scope: stage 2}}\n"
    factor = load(text, "factors.kernel_size=[5,7]").config.factors["kernel_size"]
    assert (factor.levels, factor.scope) == ([5, 7], "stage 2")


def test_what_an_evaluator_is_not_given_cannot_be_varied() -> None:
    registry = dataclasses.replace(load_plugins(()), evaluators={"judge": print})
    baseline = "baseline: {network: mobilenet_v2, width: 0.25}\n"
    text = BASED + "evaluator: judge\nlatency: {name: none}\n" + baseline

    def refused(*overrides: str) -> str:
        config = load(text + "factors: {wd: {key: KEY, levels: [0.001, 0.1]}}\n".replace(
            "KEY", "recipe.weight_decay"), *overrides).config  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            prepare_study(config, registry, recipe_problems)
        return str(caught.value)

    assert refused() == (
        "factors: 'wd=0.1' and 'baseline' differ in recipe or data, which evaluator=judge does not "
        "get: it sees the network, the epochs and the seed"
    )
    assert "splits: 12 divides the data anew, which evaluator=judge does not" in refused(
        "splits=12"
    )


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
