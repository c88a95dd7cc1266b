"""Layer 5: values that are valid each by itself, but not together, or not for their metric."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nasctl.config.fidelity import halving_problems
from nasctl.config.guard import Key, shown
from nasctl.errors import ConfigError, nearest, unknown
from nasctl.latency_settings import LatencySettings
from nasctl.trial import BUILTIN_METRICS, COST_METRICS, reference_label
from search_spaces.reference import NETWORKS

Problem = tuple[Key, str]
"""The key that a problem is about, and what is wrong with it."""


def contradictions(data: Mapping[str, Any]) -> list[Problem]:
    """What each value allows by itself but not together with the others, or not for its metric.

    Works on the composed mapping, so that it can be reported beside wrong types.
    """
    objectives = section_of(data, "objectives")
    constraints = section_of(data, "constraints")
    reference_point = section_of(data, "reference_point")
    problems = [*_objective_problems(data, objectives), *_constraint_problems(data, constraints)]
    problems += _reference_problems(objectives, constraints, reference_point)
    latency = section_of(data, "latency")
    # A plugin's family may price latency itself; `nasctl.prepare` checks once it is loaded.
    packaged_family = section_of(data, "space").get("family") == "staged"
    if latency.get("name") == "none" and packaged_family:
        if "latency_ms" in objectives:
            remedy = "drop it (~objectives.latency_ms) or use latency=table"
            key = ("objectives", "latency_ms")
            problems.append((key, f"needs a latency, but latency=none; {remedy}"))
        if "latency_ms" in constraints:
            remedy = "set it to null or use latency=table"
            key = ("constraints", "latency_ms")
            problems.append((key, f"needs a latency, but latency=none; {remedy}"))
    problems += [*latency_problems(latency), *node_problems(data)]
    problems += _reference_network_problems(data)
    if section_of(data, "init").get("weights") is not None and not data.get("reference"):
        where = ("init", "weights")
        problems.append((where, "is for reference networks, of which there are none; use null"))
    problems += _evaluator_problems(data)
    problems += halving_problems(data)
    return [*problems, *executor_problems(data)]


def executor_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What `executor=inline` has none of."""
    executor = section_of(data, "executor")
    if executor.get("name") == "inline":
        if "address" in executor:
            yield ("executor", "address"), "executor=inline has no cluster; use ray"
        if as_number(executor.get("workers"), 1) > 1:
            yield ("executor", "workers"), "executor=inline has one worker; use ray"


def _evaluator_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Evaluators that need another part of the configuration."""
    evaluator, run = data.get("evaluator"), section_of(data, "replay").get("run")
    if evaluator == "replay" and run is None:
        yield ("replay", "run"), "which run is to be replayed? replay.run=runs/..."
    if evaluator != "replay" and run is not None:
        yield ("replay", "run"), "is read by evaluator=replay alone; use null"
    is_table = section_of(data, "space").get("family") == "table"
    if evaluator == "table" and not is_table:
        yield ("evaluator",), "table gives the results of space.family=table alone"
    if evaluator == "train" and is_table:
        yield ("evaluator",), "a table has no networks to train; use evaluator=table"


def _reference_network_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Names and widths; `nasctl.prepare` checks the networks on the input of the data."""
    entries = data.get("reference")
    if not isinstance(entries, list) or not entries:
        return
    evaluator = data.get("evaluator")
    if evaluator != "train":
        yield (
            ("reference",),
            "a published network is trained on data, which "
            f"evaluator={shown(evaluator)} replaces; use []",
        )
    seen: set[tuple[str, float]] = set()
    for place, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else entry
        width = entry.get("width", 1) if isinstance(entry, dict) else 1
        if not isinstance(name, str):
            continue
        inside = ("name",) if isinstance(entry, dict) else ()
        key = ("reference", str(place), *inside)
        if name not in NETWORKS:
            known, at, factor = str(name).partition("@")
            hint = f"{{name: {known}, width: {factor}}}" if at and known in NETWORKS else None
            yield key, unknown_network(name, hint)
            continue
        for number in map(as_number, width if isinstance(width, list) else [width]):
            if math.isnan(number):
                continue  # the schema reports it
            if number != 1 and not NETWORKS[name].scalable:
                yield ("reference", str(place), "width"), no_width(name)
                break
            if (name, number) in seen:
                where = ("reference", str(place), "width") if inside else key
                yield where, f"{reference_label(name, number)} is there twice"
            seen.add((name, number))


def unknown_network(name: str, hint: str | None = None) -> str:
    """One line about a network that is not published, with the nearest or with `hint`."""
    guess = nearest(name, NETWORKS)
    hint = hint or (repr(guess) if guess else None)
    meant = f"; did you mean {hint}?" if hint else ""
    return f"unknown network {shown(name)}{meant} (`nasctl profile --list` names them)"


def no_width(name: str) -> str:
    """One line about a published network that comes in one width."""
    scalable = ", ".join(n for n, p in NETWORKS.items() if p.scalable)
    return f"{name} has no width multiplier; these have: {scalable}"


def latency_problems(latency: Mapping[str, Any]) -> list[Problem]:
    """What the settings of latency themselves say: `compile` needs `runtime=torch`, ..."""
    try:
        LatencySettings(**{k: v for k, v in latency.items() if k not in ("name", "node")})
    except ConfigError as error:
        split = (problem.partition(": ") for problem in error.problems)
        return [(tuple(key.split(".")), text) for key, _, text in split]
    except TypeError:
        return []  # a key or a type that the schema reports
    return []


def node_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What a device of a cluster needs; of no matter in a replay, which measures nothing."""
    key, latency = ("latency", "node"), section_of(data, "latency")
    node, evaluator = latency.get("node"), data.get("evaluator")
    if node is None or evaluator == "replay":
        return
    if latency.get("name") == "none":
        yield key, f"{shown(node)} measures nothing with latency=none; use latency=table or null"
    elif evaluator == "table":
        yield key, f"{shown(node)} measures nothing with evaluator=table; use null"
    elif section_of(data, "executor").get("address") is None:
        yield (
            key,
            f"{shown(node)} is looked for on a Ray cluster; give executor=ray "
            "executor.address=HOST:PORT",
        )


def section_of(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What is set in a section; nothing where it is no mapping."""
    value = data.get(key)
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}


def as_number(value: object, default: float = math.nan) -> float:
    """`default` for what is no number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else default  # type: ignore[arg-type] # checked above


def metric_typo(metric: str, known: Iterable[str]) -> str | None:
    """The known metric that `metric` is almost certainly a misspelling of."""
    known = list(known)
    close = difflib.get_close_matches(metric.lower(), known, n=1, cutoff=0.75)
    return close[0] if close and metric not in known else None


def _is_packaged(data: Mapping[str, Any]) -> bool:
    """Nothing from a plugin decides the metrics: the built-in ones are all there are."""
    return data.get("evaluator") == "train" and section_of(data, "space").get("family") == "staged"


def _misspelt(data: Mapping[str, Any], section: str, metrics: Iterable[str]) -> Iterator[Problem]:
    if _is_packaged(data):
        for metric in metrics:
            if metric_typo(metric, BUILTIN_METRICS):
                yield (section, metric), unknown("metric", metric, BUILTIN_METRICS)


def _objective_problems(
    data: Mapping[str, Any], objectives: Mapping[str, Any]
) -> Iterator[Problem]:
    yield from _misspelt(data, "objectives", objectives)
    if isinstance(data.get("objectives"), dict) and not objectives:
        yield ("objectives",), "at least one is needed, such as `accuracy: max`"
    for metric, direction in objectives.items():
        wanted = "max" if metric == "accuracy" else "min"
        if metric in BUILTIN_METRICS and direction in ("max", "min") and direction != wanted:
            yield ("objectives", metric), f"{direction!r} would look for the worst; use {wanted!r}"


def _constraint_problems(
    data: Mapping[str, Any], constraints: Mapping[str, Any]
) -> Iterator[Problem]:
    yield from _misspelt(data, "constraints", constraints)
    for metric, bound in constraints.items():
        key = ("constraints", metric)
        if metric == "accuracy":
            yield key, "constraints are upper bounds on costs; accuracy is an objective only"
        elif metric in COST_METRICS and as_number(bound, 1.0) <= 0:
            yield key, f"an upper bound must be more than 0, got {shown(bound)}"
        elif not math.isfinite(as_number(bound, 0.0)):
            yield key, f"expected a finite number, got {shown(bound)}"


def _reference_problems(
    objectives: Mapping[str, Any], constraints: Mapping[str, Any], point: Mapping[str, Any]
) -> Iterator[Problem]:
    for metric, value in point.items():
        key = ("reference_point", metric)
        number = as_number(value, 0.5)
        if metric not in objectives:
            yield key, unknown("objective", metric, objectives)
        elif not math.isfinite(number):
            yield key, f"expected a finite number, got {shown(value)}"
        elif metric == "accuracy" and not 0 <= number < 1:
            hint = f"; did you mean {number / 100:g}?" if 1 < number <= 100 else ""
            yield key, f"accuracy is a fraction: at least 0, less than 1, got {shown(value)}{hint}"
        elif metric in COST_METRICS and number <= 0:
            yield key, f"must be more than 0, got {shown(value)}: nothing could be better"
        elif metric in constraints and number < as_number(constraints[metric], -math.inf):
            yield (
                key,
                f"{shown(value)} is better than the constraint ({shown(constraints[metric])}): "
                "candidates between them would count for nothing",
            )
