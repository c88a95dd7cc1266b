"""Layer 5: values of an ablation that are valid each by itself, but not together.

Works on the composed mapping, so that everything can be reported at once; types and ranges are
left to the schema, existence of what only a family or a block knows to `nasctl.ablation.build`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasctl.ablation.claims import RESERVED, Claim, level_name, parse_claim
from nasctl.config.ablation import as_factor
from nasctl.config.blame import strength
from nasctl.config.consistency import (
    Problem,
    as_number,
    executor_problems,
    latency_problems,
    no_width,
    node_problems,
    section_of,
    unknown_network,
)
from nasctl.config.guard import dotted, shown
from nasctl.config.kinds import ABLATE
from nasctl.config.type_errors import missing_key
from nasctl.errors import ConfigError, nearest, unknown
from search_spaces.reference import NETWORKS

if TYPE_CHECKING:
    from nasctl.config.compose import Composed

FORMS = {
    "family": ("options",),
    "network": ("width", "options"),
    "run": ("arch_id",),
    "blocks": (),
}
"""The key that decides the form of a baseline, and what may stand beside it."""

VARIED = ("baseline", "recipe", "data")
"""Sections in which arms may differ."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[\w-]+)+")
_SCOPE = re.compile(r"all|(?:stage|block) ([1-9]\d*)|blocks ([1-9]\d*)-([1-9]\d*)")


def ablation_contradictions(data: Mapping[str, Any]) -> list[Problem]:
    """Every problem that the keys have with each other."""
    problems = [*_baseline_problems(data), *_factors_problems(data), *_claims_problems(data)]
    problems += [*_seeds_problems(data), *_positive_problems(data), *_rate_problems(data)]
    problems += [*latency_problems(section_of(data, "latency")), *node_problems(data)]
    problems += executor_problems(data)
    if data.get("evaluator") in ("table", "replay"):
        problems.append(
            (("evaluator",), f"{data['evaluator']} is for searches; an ablation trains: use train")
        )
    decision = section_of(data, "decision")
    metric, smallest = decision.get("metric"), decision.get("smallest_effect")
    if metric == "accuracy" and isinstance(smallest, int | float) and 1 <= smallest < math.inf:
        why = f"accuracy is a fraction: {smallest:g} would be {100 * smallest:g} points"
        problems.append((("decision", "smallest_effect"), why))
    if data.get("evaluator") == "train" and isinstance(metric, str) and metric != "accuracy":
        why = unknown("metric", metric, ["accuracy"])
        problems.append((("decision", "metric"), f"{why}: what evaluator=train measures"))
    return problems


def _baseline_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    if data.get("baseline") is None:
        yield (
            ("baseline",),
            "which network is varied? {family: staged, options: ...}, {network: mobilenet_v2}, "
            "{run: runs/..., arch_id: ...} or {blocks: [...]}",
        )
        return
    given = section_of(data, "baseline")
    given = {key: value for key, value in given.items() if value not in ({}, [])}
    forms = [form for form in FORMS if form in given]
    if len(forms) > 1:
        yield (
            ("baseline", forms[1]),
            f"exactly one of {', '.join(FORMS)} is given, not also {forms[0]}; set one to null",
        )
        return
    if not forms:
        if isinstance(data["baseline"], dict) and not given.keys() - _beside():
            yield ("baseline",), f"one of {', '.join(FORMS)} is needed"
        return
    for key in given:
        if key in _beside() and key not in FORMS[forms[0]]:
            owner = next(form for form, keys in FORMS.items() if key in keys)
            yield ("baseline", key), f"belongs to baseline.{owner}, not to baseline.{forms[0]}"
    network = given.get("network")
    if isinstance(network, str):
        if network not in NETWORKS:
            yield ("baseline", "network"), unknown_network(network)
        elif as_number(given.get("width"), 1) != 1 and not NETWORKS[network].scalable:
            yield ("baseline", "width"), no_width(network)
    if "run" in given and "arch_id" not in given:
        yield ("baseline", "arch_id"), "missing: which network of the run?"


def _beside() -> set[str]:
    return {key for keys in FORMS.values() for key in keys}


def _factors_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    factors = data.get("factors")
    if not isinstance(factors, dict):
        return
    if not factors:
        yield (
            ("factors",),
            "at least one is needed, such as `bottleneck_activation: [linear, relu6]`",
        )
    for name, given in factors.items():
        if problem := _name_problem(name):
            yield ("factors", name), problem
        factor = as_factor(given)
        if isinstance(factor, dict):
            for inner, message in _factor_problems(name, factor):
                # A bare list has no `levels` of its own.
                key = inner if isinstance(given, dict) else inner[inner[:1] == ("levels",) :]
                yield ("factors", name, *key), message


def _name_problem(name: str) -> str | None:
    if not name.strip() or name != name.strip() or set(name) & set(RESERVED):
        return f"{shown(name)}: a name in claims has none of {RESERVED} and no space at its ends"
    return None


def _factor_problems(name: str, factor: Mapping[str, Any]) -> Iterator[Problem]:
    levels, field, key = factor.get("levels"), factor.get("field"), factor.get("key")
    scope = factor.get("scope", "all")
    if field is not None and key is not None:
        yield ("key",), "field and key exclude each other: which of them are the levels values of?"
    if isinstance(levels, dict):
        for other in ("field", "key"):
            if factor.get(other) is not None:
                yield (other,), "levels that name their keys need none; use a list of values"
        yield from _changes_problems(levels)
    elif isinstance(levels, list):
        yield from _values_problems(levels)
        yield from _target_problems(name, field, key)
    elif "levels" in factor:
        yield (
            ("levels",),
            f"expected a list of values, or names with the keys that they set, got {shown(levels)}",
        )
    if isinstance(scope, str) and scope != "all":
        of_keys = key is not None or isinstance(levels, dict)
        why = "is for fields of blocks; a key is at one place"
        if problem := why if of_keys else _scope_problem(scope):
            yield ("scope",), problem


def _target_problems(name: str, field: object, key: object) -> Iterator[Problem]:
    """What the values of a list are given to: a key, or a field, by default the factor's name."""
    if key is not None:
        if problem := key_problem(key):
            yield ("key",), problem
    elif not str(field or name).isidentifier():
        where = ("field",) if field is not None else ()
        is_key = key_problem(str(field or name)) is None
        hint = f"; did you mean {{key: {field or name}, levels: [...]}}?" if is_key else ""
        yield where, f"{shown(field or name)} is no field of blocks{hint}"


def _values_problems(levels: Sequence[Any]) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    if len(levels) < 2:
        yield ("levels",), f"at least two are needed, the baseline's first, got {shown(levels)}"
    for place, value in enumerate(levels):
        where = ("levels", str(place))
        if not isinstance(value, str | int | float):
            yield where, f"expected a text, number or true/false, got {shown(value)}"
            continue
        level = level_name(value)
        if problem := _name_problem(level):
            yield where, problem
        elif level in seen:
            yield where, f"{level!r} is there twice"
        seen.setdefault(level, place)


def _changes_problems(levels: Mapping[str, Any]) -> Iterator[Problem]:
    if len(levels) < 2:
        yield ("levels",), "at least two are needed, the baseline's first"
    seen: list[tuple[str, Any]] = []
    for level, changes in levels.items():
        where = ("levels", level)
        if problem := _name_problem(level):
            yield where, problem
        if changes is None:
            changes = {}  # noqa: PLW2901 # `plain:` with nothing after it
        if not isinstance(changes, dict):
            yield where, f"expected dotted keys with their values, or {{}}, got {shown(changes)}"
            continue
        for key in changes:
            if problem := key_problem(key):
                yield (*where, key), problem
        same = next((name for name, other in seen if other == changes), None)
        if same is not None:
            yield where, f"is the same as level {same!r}"
        seen.append((level, changes))


def key_problem(key: object) -> str | None:
    """What is wrong with the dotted key of something that arms may differ in."""
    if not isinstance(key, str):
        return f"expected a dotted key such as recipe.lr, got {shown(key)}"
    section, _, rest = key.partition(".")
    if section not in VARIED:
        guess = nearest(section, VARIED)
        hint = f"; did you mean {f'{guess}.{rest}'!r}?" if guess and rest else ""
        return f"{shown(key)} is in none of {', '.join(VARIED)}{hint}"
    if not _DOTTED.fullmatch(key):
        return f"{shown(key)}: expected a dotted key such as recipe.lr"
    return missing_key(ABLATE, tuple(key.split(".")))


def _scope_problem(scope: str) -> str | None:
    found = _SCOPE.fullmatch(scope)
    if found is None:
        valid = "all, `stage N`, `block N` or `blocks N-M` with N from 1"
        return f"expected {valid}, got {shown(scope)}"
    if found[2] is not None and int(found[2]) > int(found[3]):
        return f"the first block comes after the last, got {shown(scope)}"
    return None


def level_names(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """Of each factor, the baseline's first; without what is no list and no mapping of levels."""
    found: dict[str, list[str]] = {}
    for name, given in section_of(data, "factors").items():
        factor = as_factor(given)
        levels = factor.get("levels") if isinstance(factor, dict) else None
        if isinstance(levels, dict):
            found[name] = list(levels)
        elif isinstance(levels, list):
            found[name] = [level_name(v) for v in levels if isinstance(v, str | int | float)]
    return found


def _claims_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    claims, factors = data.get("claims"), level_names(data)
    metric = section_of(data, "decision").get("metric")
    for place, text in enumerate(claims if isinstance(claims, list) and factors else ()):
        key = ("claims", str(place))
        if not isinstance(text, str):
            continue  # the schema reports it
        try:
            claim = parse_claim(text, factors)
        except ConfigError as error:
            yield key, "; ".join(error.problems)
            continue
        if isinstance(metric, str) and claim.metric != metric:
            yield key, f"is about {claim.metric!r}, but decision.metric={metric}"
        elif data.get("design") == "one_at_a_time" and (why := _not_an_arm(claim, factors)):
            yield key, why


def _not_an_arm(claim: Claim, factors: Mapping[str, Sequence[str]]) -> str | None:
    """What `one_at_a_time` cannot answer: its arms differ from the baseline in one factor."""
    sides = []
    for side in (claim.better, claim.worse):
        off = tuple((name, level) for name, level in side if level != factors[name][0])
        if len(off) > 1:
            named = ", ".join(f"{name}={level}" for name, level in off)
            return f"design=one_at_a_time has no arm with {named}; use factorial"
        sides.append(off)
    if sides[0] == sides[1]:
        return "both sides are the same arm with design=one_at_a_time"
    return None


def _seeds_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    seeds = data.get("seeds")
    if not isinstance(seeds, dict):
        seeds = {"min": seeds, "max": seeds}
    fewest, most = as_number(seeds.get("min")), as_number(seeds.get("max"))
    if most < fewest:
        yield ("seeds", "max"), f"must be at least seeds.min={fewest:g}, got {most:g}"
    splits = as_number(data.get("splits"))
    if 1 < splits < most:
        yield (
            ("splits",),
            f"expected 1, or at least seeds.max={most:g}, got {splits:g}: of fewer splits several "
            "seeds would share one, and results that share a split are not independent",
        )


def choose_control(data: Mapping[str, Any], composed: Composed) -> None:
    """Of the two forms of `controls.positive` the one that was set with more emphasis: the
    command line's `controls.positive.set` replaces the packaged width."""
    positive = section_of(data, "controls").get("positive")
    if not isinstance(positive, dict) or None in map(positive.get, ("width", "set")):
        return
    width, changes = (strength(("controls", "positive", k), composed) for k in ("width", "set"))
    if width != changes:
        positive["width" if width < changes else "set"] = None


def _positive_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    where = ("controls", "positive")
    positive = section_of(data, "controls").get("positive")
    if not isinstance(positive, dict):
        return
    given = [key for key in ("width", "set") if positive.get(key) is not None]
    if not given and not positive.keys() - {"width", "set"}:
        yield where, "expected {width: F}, {set: {key: value}} or null"
    if len(given) == 2:
        yield (*where, "set"), "width and set exclude each other; set one to null"
    changes = positive.get("set")
    if isinstance(changes, dict):
        if not changes:
            yield (*where, "set"), "at least one key is needed: nothing would differ"
        for key in changes:
            if problem := key_problem(key):
                yield (*where, "set", key), problem


def _rate_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    rule = section_of(data, "learning_rate")
    multiples = rule.get("factors")
    if isinstance(multiples, list) and multiples:
        numbers = [as_number(value) for value in multiples]
        if len(set(numbers)) < len(numbers):
            yield ("learning_rate", "factors"), f"each one once, got {shown(multiples)}"
        elif 1 not in numbers:
            yield (
                ("learning_rate", "factors"),
                f"1 must be among them, the rate as configured, got {shown(multiples)}",
            )
    if rule.get("policy") != "tuned":
        return
    for name, given in section_of(data, "factors").items():
        if "recipe.lr" in _keys_of(given):
            yield (
                ("learning_rate", "policy"),
                f"tuned would undo {dotted(('factors', name))}, which varies recipe.lr; use shared",
            )
            return


def _keys_of(given: object) -> set[str]:
    """Dotted keys that a factor sets."""
    if not isinstance(given, dict):
        return set()
    levels = given.get("levels")
    changed = levels.values() if isinstance(levels, dict) else ()
    keys = {str(key) for changes in changed if isinstance(changes, dict) for key in changes}
    return keys | ({given["key"]} if isinstance(given.get("key"), str) else set())
