"""Search strategies behind one ask/tell interface; Optuna is imported here and nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

from nasctl.errors import ConfigError, unknown
from nasctl.samplers.base import (
    Observation,
    Proposal,
    Sampler,
    SamplerContext,
    derive_seed,
)
from nasctl.samplers.simple import GridOrder, GridSampler, RandomSampler

__all__ = [
    "SAMPLERS",
    "Observation",
    "Proposal",
    "Sampler",
    "SamplerContext",
    "check_options",
    "create_sampler",
    "derive_seed",
    "sampler_note",
]


def _random(context: SamplerContext) -> Sampler:
    return RandomSampler(context)


def _grid(context: SamplerContext, *, order: GridOrder = "shuffled") -> Sampler:
    return GridSampler(context, order)


def _tpe(context: SamplerContext, *, startup_trials: int = 10, candidates: int = 24) -> Sampler:
    from nasctl.samplers.optuna_samplers import TpeSampler

    return TpeSampler(context, startup_trials=startup_trials, candidates=candidates)


def _nsga2(
    context: SamplerContext,
    *,
    population_size: int = 20,
    crossover_prob: float = 0.9,
    swapping_prob: float = 0.5,
) -> Sampler:
    from nasctl.samplers.optuna_samplers import GeneticSampler, _Nsga2

    return GeneticSampler(
        context,
        _Nsga2,
        population_size=population_size,
        crossover_prob=crossover_prob,
        swapping_prob=swapping_prob,
    )


def _nsga3(
    context: SamplerContext,
    *,
    population_size: int = 20,
    crossover_prob: float = 0.9,
    swapping_prob: float = 0.5,
    dividing_parameter: int = 3,
) -> Sampler:
    from nasctl.samplers.optuna_samplers import GeneticSampler, _Nsga3

    return GeneticSampler(
        context,
        _Nsga3,
        population_size=population_size,
        crossover_prob=crossover_prob,
        swapping_prob=swapping_prob,
        dividing_parameter=dividing_parameter,
    )


def _gp(
    context: SamplerContext, *, startup_trials: int = 10, deterministic_objective: bool = False
) -> Sampler:
    from nasctl.samplers.optuna_samplers import GpSampler

    return GpSampler(
        context, startup_trials=startup_trials, deterministic_objective=deterministic_objective
    )


def _known_cost(
    context: SamplerContext, *, startup_trials: int = 6, pool_size: int = 10_000
) -> Sampler:
    from nasctl.samplers.known_cost.sampler import KnownCostSampler, unknown_objectives

    if len(unknown_objectives(context)) > 1:  # see sampler_note
        return _tpe(context)
    return KnownCostSampler(context, startup_trials=startup_trials, pool_size=pool_size)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "known_cost": _known_cost,
    "random": _random,
    "tpe": _tpe,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "gp": _gp,
    "grid": _grid,
}

_RANGES: dict[str, tuple[float, float]] = {
    "startup_trials": (1, 1_000_000),
    "candidates": (1, 1_000_000),
    "population_size": (2, 1_000_000),
    "crossover_prob": (0, 1),
    "swapping_prob": (0, 1),
    "dividing_parameter": (1, 100),
    "pool_size": (100, 100_000),
}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Checks a sampler's name and options without importing anything heavy.

    Raises:
        ConfigError: an unknown sampler or option, a wrong type or range; all problems at once.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"sampler.name: {unknown('sampler', name, SAMPLERS)}")
    factory = SAMPLERS[name]
    known = [p for p in inspect.signature(factory).parameters if p != "context"]
    types = get_type_hints(factory)
    problems = []
    for key, value in options.items():
        if key not in known:
            problems.append(f"sampler.{key}: {unknown(f'option of {name}', key, known)}")
        elif problem := _option_problem(key, value, types[key]):
            problems.append(f"sampler.{key}: {problem}")
    if problems:
        raise ConfigError(problems)


def _option_problem(key: str, value: object, wanted: Any) -> str | None:
    if wanted is bool:
        return None if isinstance(value, bool) else f"expected true or false, got {value!r}"
    if wanted not in (int, float):
        return None if value in get_args(wanted) else unknown("value", value, get_args(wanted))
    number = int if wanted is int else int | float
    if isinstance(value, bool) or not isinstance(value, number):
        return f"expected {'a whole number' if wanted is int else 'a number'}, got {value!r}"
    low, high = _RANGES[key]
    return None if low <= value <= high else f"must be between {low:g} and {high:g}, got {value!r}"


def sampler_note(name: str, context: SamplerContext) -> str | None:
    """What a user should know of this sampler on this problem, or None."""
    if name != "known_cost":
        return None
    from nasctl.samplers.known_cost.sampler import unknown_objectives

    unknown = unknown_objectives(context)
    if len(unknown) < 2:
        return None
    return (
        f"sampler=known_cost models one objective that only training tells; here these are "
        f"{', '.join(unknown)}, so proposals come from sampler=tpe. If they are known before "
        f"training, give the family a `cost`"
    )


def create_sampler(name: str, options: Mapping[str, Any], context: SamplerContext) -> Sampler:
    """The sampler `name` for a search.

    Raises:
        ConfigError: see `check_options`.
    """
    check_options(name, options)
    return SAMPLERS[name](context, **options)
