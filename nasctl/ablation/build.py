"""Layer 4: from a configuration to a study: its arms priced and matched, its questions written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasctl.ablation.arms import (
    BASELINE,
    POSITIVE,
    SAME,
    Arm,
    Factor,
    Workshop,
    check_distinct,
    matched,
    name_of,
    narrowed,
    read_factor,
    same_again,
)
from nasctl.ablation.baseline import changed
from nasctl.ablation.claims import Claim, parse_claim
from nasctl.ablation.study import Comparison, Rates, Study
from nasctl.arch import Architecture, Cost, Opaque, Shape
from nasctl.blocktable import BlockTable
from nasctl.data import check_dataset_options
from nasctl.dataset import Dataset
from nasctl.effects import designs
from nasctl.environment import cache_directory
from nasctl.errors import ConfigError
from nasctl.fields import canonical_json
from nasctl.plugins import Registry, call_factory
from nasctl.recipe import Recipe

if TYPE_CHECKING:
    from nasctl.config.ablation import AblationConfig


_DESIGNS = {
    "one_at_a_time": designs.one_at_a_time,
    "factorial": designs.factorial,
    "fractional": designs.fractional,
}
CheckRecipe = Callable[[Mapping[str, Any]], Sequence[str]]
"""What is wrong with a recipe that factors have changed; the schema has not seen it."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A study and what it trains on.

    Attributes:
        datasets: by the canonical JSON of their `data` section; without test splits.
    """

    study: Study
    datasets: Mapping[str, Dataset]

    def data_of(self, arm: Arm) -> Dataset:
        """What an arm is trained on."""
        return self.datasets[canonical_json(arm.settings["data"])]


def prepare_study(
    config: AblationConfig, registry: Registry, check_recipe: CheckRecipe
) -> Prepared:
    """Everything is checked before anything trains.

    Raises:
        ConfigError: a baseline, level, claim or control that cannot be, arms that are the same, or
            that cannot be matched in cost.
    """
    datasets: dict[str, Dataset] = {}

    def load(data: Mapping[str, Any]) -> Dataset:
        key = canonical_json(data)
        if key not in datasets:
            options = {k: v for k, v in data.items() if k != "name"}
            factory = registry.lookup("datasets", "data.name", str(data["name"]))
            check_dataset_options(str(data["name"]), options, registry.datasets)
            loaded: Dataset = call_factory(factory, options, key="data")
            datasets[key] = loaded.without_test()
        return datasets[key]

    def shape_of(data: Mapping[str, Any]) -> tuple[Shape, int]:
        dataset = load(data)
        return dataset.input_shape, dataset.num_classes

    if config.evaluator != "train":
        registry.lookup("evaluators", "evaluator", config.evaluator)
    registry.lookup("trainers", "recipe.trainer", config.recipe.trainer)
    factors = [
        read_factor(name, f.levels, field=f.field, key=f.key, scope=f.scope)
        for name, f in config.factors.items()
    ]
    workshop = Workshop(
        settings={
            "baseline": config.baseline.model_dump(mode="json"),
            "recipe": config.recipe.model_dump(mode="json"),
            "data": {"name": config.data.name, **config.data.options},
        },
        factors=factors,
        registry=registry,
        shape_of=shape_of,
        price=_pricer(),
    )
    levels = {f.name: tuple(f.levels) for f in factors}
    made = _DESIGNS[config.design](levels)
    arms = _arms(made, factors, workshop)
    check_distinct(arms)
    baseline = arms[0]
    if config.match != "none":
        arms = [
            matched(a, baseline.cost, config.match, config.match_tolerance, workshop) for a in arms
        ]
        check_distinct(arms)
    claims = [_claim(i, text, levels) for i, text in enumerate(config.claims)]
    comparisons = _comparisons(made, arms, claims, alone=config.design == "one_at_a_time")
    _check_asked_once(comparisons)
    controls = _controls(config, baseline, workshop)
    check_distinct([*arms, *(a for a, _ in controls)])
    if config.evaluator != "train":
        _check_seen(config, [*arms, *(a for a, _ in controls)])
    if config.latency.name != "none" and not all(map(_has_modules, arms)):
        raise ConfigError("latency: these networks have no modules to be timed; use latency=none")
    for arm in (*arms, *(a for a, _ in controls)):
        for problem in check_recipe(arm.settings["recipe"]):
            raise ConfigError(f"factors: {arm.name!r}: {problem}")
    study = Study(
        arms={a.name: a for a in (*arms, *(a for a, _ in controls))},
        comparisons=(*comparisons, *(c for _, c in controls)),
        metric=config.decision.metric,
        smallest_effect=config.decision.smallest_effect,
        alpha=config.decision.alpha,
        first=config.seeds.min,
        last=config.seeds.max,
        splits=config.splits,
        rates=_rates(config),
        seed=config.seed,
        chance=1 / baseline.architecture.num_classes if config.evaluator == "train" else None,
    )
    return Prepared(study=study, datasets=datasets)


def _check_seen(config: AblationConfig, arms: Sequence[Arm]) -> None:
    """Whether an evaluator, which gets a network, epochs and a seed, can tell the arms apart.

    Raises:
        ConfigError: two arms that differ in what it is not given; several splits of no data.
    """
    problems = []
    if config.splits > 1:
        problems.append(
            f"splits: {config.splits} divides the data anew, which evaluator={config.evaluator} "
            "does not get; use splits=1"
        )
    seen: dict[tuple[str, int], Arm] = {}
    for arm in arms:
        if arm.role == "null_control":
            continue
        other = seen.setdefault((arm.architecture.id, arm.epochs), arm)
        if other is not arm:
            problems.append(
                f"factors: {arm.name!r} and {other.name!r} differ in recipe or data, which "
                f"evaluator={config.evaluator} does not get: it sees the network, the epochs and "
                "the seed"
            )
    if problems:
        raise ConfigError(problems)


def _has_modules(arm: Arm) -> bool:
    return not any(isinstance(b, Opaque) for b in arm.architecture.blocks)


def _pricer() -> Callable[[Architecture], Cost]:
    table = BlockTable(cache_directory() / "blocks.json")

    def price(architecture: Architecture) -> Cost:
        if any(isinstance(b, Opaque) for b in architecture.blocks):
            return Cost()  # known to an evaluator alone
        table.warm(architecture.placed())
        return table.price(architecture)

    return price


def _rates(config: AblationConfig) -> Rates:
    rule = config.learning_rate
    if rule.policy == "shared" or config.evaluator != "train":
        return Rates(factors=(), seeds=0)
    return Rates(factors=tuple(rule.factors), seeds=rule.seeds)


def recipe_of(arm: Arm) -> Recipe:
    """How an arm is trained, at the rate of the configuration."""
    return Recipe(**arm.settings["recipe"])


def _arms(made: designs.Design, factors: Sequence[Factor], workshop: Workshop) -> list[Arm]:
    names = [f.name for f in factors]
    first = {f.name: next(iter(f.levels)) for f in factors}
    arms = []
    for levels in made.arms:
        chosen = dict(zip(names, levels, strict=True))
        name = name_of(chosen, first)
        arms.append(workshop.make(name, "baseline" if name == BASELINE else "arm", chosen))
    if BASELINE not in [a.name for a in arms]:  # a fraction may lack it
        arms.insert(0, workshop.make(BASELINE, "baseline", first))
    arms.sort(key=lambda a: a.role != "baseline")
    return arms


def _claim(place: int, text: str, levels: Mapping[str, Sequence[str]]) -> Claim:
    try:
        return parse_claim(text, levels)
    except ConfigError as error:
        raise ConfigError([f"claims.{place}: {p}" for p in error.problems]) from error


def _comparisons(
    made: designs.Design, arms: Sequence[Arm], claims: Sequence[Claim], *, alone: bool
) -> list[Comparison]:
    by_levels = {tuple(a.levels.values()): a.name for a in arms if a.levels}
    found = [_of_claim(place, claim, arms, alone=alone) for place, claim in enumerate(claims)]
    for contrast in made.contrasts:
        weights = {by_levels[made.arms[i]]: w for i, w in contrast.weights.items()}
        known = [c.weights for c in found]
        if weights in known or {k: -w for k, w in weights.items()} in known:
            continue  # it is a claim
        found.append(
            Comparison(
                name=contrast.name,
                kind=contrast.kind,
                claim=None,
                factors=contrast.factors,
                levels=_levels_of(contrast),
                weights=weights,
            )
        )
    return found


def _check_asked_once(comparisons: Sequence[Comparison]) -> None:
    """Whether no question is asked twice, also not the other way round or in other words."""
    seen: dict[frozenset[tuple[str, float]], str] = {}
    problems = []
    for comparison in comparisons:
        ways = [frozenset((k, s * w) for k, w in comparison.weights.items()) for s in (1, -1)]
        same = [seen[way] for way in ways if way in seen]
        if same:
            problems.append(f"claims: {comparison.name!r} asks what {same[0]!r} asks")
        seen[ways[0]] = comparison.name
    if problems:
        raise ConfigError(problems)


def _levels_of(contrast: designs.Contrast) -> tuple[str, str]:
    before, after = zip(*contrast.levels, strict=True)
    return " x ".join(before), " x ".join(after)


def _of_claim(place: int, claim: Claim, arms: Sequence[Arm], *, alone: bool) -> Comparison:
    """`alone`: every other factor is as in the baseline; else averaged over."""
    sides = []
    for wanted in (claim.better, claim.worse):
        having = [a for a in arms if a.levels and _matches(a, dict(wanted), arms[0], alone=alone)]
        if not having:
            text = ", ".join(f"{k}={v}" for k, v in wanted)
            raise ConfigError(f"claims.{place}: no arm of this design has {text}")
        sides.append(having)
    better, worse = sides
    weights = {a.name: 1 / len(better) for a in better}
    for arm in worse:
        weights[arm.name] = weights.get(arm.name, 0.0) - 1 / len(worse)
    factors = tuple(dict.fromkeys(k for k, _ in (*claim.better, *claim.worse)))
    short = len(factors) == 1
    names = tuple(
        ", ".join(v if short else f"{k}={v}" for k, v in side)
        for side in (claim.worse, claim.better)
    )
    return Comparison(
        name=claim.text,
        kind="effect" if len(better) == len(worse) == 1 else "main_effect",
        claim=claim.text,
        factors=factors,
        levels=(names[0], names[1]),
        weights={k: w for k, w in weights.items() if w},
    )


def _matches(arm: Arm, wanted: Mapping[str, str], baseline: Arm, *, alone: bool) -> bool:
    if any(arm.levels[k] != v for k, v in wanted.items()):
        return False
    if not alone:
        return True
    rest = [k for k in arm.levels if k not in wanted]
    return all(arm.levels[k] == baseline.levels[k] for k in rest)


def _controls(
    config: AblationConfig, baseline: Arm, workshop: Workshop
) -> list[tuple[Arm, Comparison]]:
    found = []
    positive = config.controls.positive
    if positive is not None:
        if positive.set is not None:
            arm = _set_control(positive.set, workshop)
            what = ", ".join(f"{k}={v}" for k, v in positive.set.items())
        else:
            assert positive.width is not None, "the configuration was checked"
            arm = narrowed(baseline, positive.width, workshop)
            what = f"{positive.width:g} times the channels"
        found.append((arm, _control(arm, "positive_control", (what, BASELINE))))
    if config.controls.same:
        arm = same_again(baseline)
        found.append((arm, _control(arm, "null_control", (BASELINE, SAME))))
    return found


def _control(arm: Arm, kind: Any, levels: tuple[str, str]) -> Comparison:
    sign = 1.0 if kind == "positive_control" else -1.0
    return Comparison(
        name=arm.name,
        kind=kind,
        claim=None,
        factors=("control",),
        levels=levels,
        weights={BASELINE: sign, arm.name: -sign},
    )


def _set_control(keys: Mapping[str, Any], workshop: Workshop) -> Arm:
    settings = changed(workshop.settings, keys, "controls.positive.set")
    first = {f.name: next(iter(f.levels)) for f in workshop.factors}
    made = dataclasses.replace(workshop, settings=settings).make(POSITIVE, "arm", first)
    return dataclasses.replace(made, role="positive_control", levels={})
