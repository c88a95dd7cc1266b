"""Layer 5: what `fidelity=halving` asks of the recipe, and what it changes for the user."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nasctl.config.guard import shown
from nasctl.fidelity import LONGEST_COOLDOWN, MOST_ETA, rung_epochs

if TYPE_CHECKING:
    from nasctl.config.compose import Composed
    from nasctl.config.consistency import Problem
    from nasctl.config.schema import SearchConfig

_SCHEDULE = ("recipe", "schedule")
_WARMUP = ("recipe", "warmup")
_DECAY = ("recipe", "decay")


def choose_schedule(data: dict[str, Any], composed: Composed) -> list[str]:
    """With halving, a schedule, warm-up and decay that nobody chose are such as rungs need.

    Returns:
        What was changed, a line for the user, or nothing.
    """
    found = _rungs(data)
    if not found or not _trains(data):
        return []
    recipe, changed = data["recipe"], []
    if not _is_chosen(_SCHEDULE, composed) and recipe.get("schedule") != "wsd":
        recipe["schedule"] = "wsd"
        changed.append("recipe.schedule=wsd")
    longest = math.floor(1e4 * 0.5 * found[0] / recipe["epochs"]) / 1e4
    warmup = recipe.get("warmup")
    is_long = isinstance(warmup, int | float) and warmup > longest
    if not _is_chosen(_WARMUP, composed) and is_long and recipe.get("schedule") == "wsd":
        recipe["warmup"] = longest
        changed.append(f"recipe.warmup={longest:g}")
    latest = math.floor(1e4 * (1 - found[-1] / recipe["epochs"])) / 1e4
    decay = recipe.get("decay")
    is_long = isinstance(decay, int | float) and decay > latest
    if not _is_chosen(_DECAY, composed) and is_long and recipe.get("schedule") == "wsd":
        recipe["decay"] = latest
        changed.append(f"recipe.decay={latest:g}")
    if not changed:
        return []
    return [f"fidelity=halving: {', '.join(changed)}, so that rungs can be judged"]


def halving_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Rungs that cannot be."""
    found = _rungs(data)
    if found is None:
        return
    if data.get("evaluator") == "table":
        yield ("fidelity",), "a table has only the ends of trainings; use fidelity=full"
        return
    recipe = data["recipe"]
    epochs = recipe["epochs"]
    if not found:
        yield ("fidelity", "first"), _no_rung(epochs, data["fidelity"])
        return
    if not _trains(data):
        return
    schedule = recipe.get("schedule")
    if schedule in ("onecycle", "cosine"):
        yield (
            _SCHEDULE,
            f"{shown(schedule)} cannot be cut short: its values before the end are noisy, and "
            "unfair to large networks; fidelity=halving needs wsd, or use fidelity=full",
        )
        return
    warmup, decay = recipe.get("warmup"), recipe.get("decay")
    if isinstance(warmup, int | float) and warmup * epochs > found[0]:
        yield (
            _WARMUP,
            f"{warmup:g} of {epochs} epochs is longer than the first rung ({found[0]}); at most "
            f"{found[0] / epochs:.3g}",
        )
    if isinstance(decay, int | float) and (1 - decay) * epochs < found[-1] - 1e-9:
        yield (
            _DECAY,
            f"begins before the rung at epoch {found[-1]} of {epochs}; at most "
            f"{1 - found[-1] / epochs:.3g}",
        )


def halving_notes(config: SearchConfig) -> Iterator[str]:
    """Settings with which `fidelity=halving` can stop nothing."""
    fidelity, trials = config.fidelity, config.trials
    if fidelity.name != "halving":
        return
    if fidelity.p_stop == 0:
        yield "fidelity.p_stop=0 stops no trial"
    if fidelity.control_every == 1:
        yield "fidelity.control_every=1 stops no trial: every one is a control"
    if trials <= fidelity.min_pairs:
        yield (
            f"fidelity.min_pairs={fidelity.min_pairs} of trials={trials} have to finish before one "
            "can stop: none will"
        )


def _no_rung(epochs: int, fidelity: Mapping[str, Any]) -> str:
    """That there is none, and the largest first rung that could be, or the fewest epochs."""
    first, each = fidelity["first"], 1 + fidelity["eta"] * fidelity["cooldown"]
    largest = min(epochs - 1, math.floor(epochs / each + 1e-9))
    fewest = max(first + 1, math.ceil(first * each - 1e-9))
    use = f"use at most {largest}, or" if largest >= 1 else "use"
    return (
        f"no rung below recipe.epochs={epochs} could save what its cool-down costs, got {first}; "
        f"{use} fidelity=full, or at least {fewest} epochs"
    )


def _rungs(data: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Of a search with halving; None without, or where the schema complains anyway."""
    fidelity, recipe = data.get("fidelity"), data.get("recipe")
    if not isinstance(fidelity, dict) or not isinstance(recipe, dict):
        return None
    numbers: list[Any] = [fidelity.get("first"), fidelity.get("eta"), recipe.get("epochs")]
    cooldown = fidelity.get("cooldown")
    if fidelity.get("name") != "halving" or not all(type(n) is int for n in numbers):
        return None
    first, eta, epochs = numbers
    if first < 1 or not 2 <= eta <= MOST_ETA or epochs < 1:
        return None
    if not isinstance(cooldown, int | float) or not 0 < cooldown <= LONGEST_COOLDOWN:
        return None
    return rung_epochs(first, eta, epochs, cooldown)


def _trains(data: Mapping[str, Any]) -> bool:
    """By our own loop, which has schedules."""
    return data.get("evaluator") == "train" and data["recipe"].get("trainer") == "sgd"


def _is_chosen(key: tuple[str, str], composed: Composed) -> bool:
    """By the user: on the command line or in a file of theirs, not by naming a packaged recipe."""
    section, name = key
    if key in composed.applied or name in composed.applied.get((section,), ""):
        return True
    for layer in composed.layers:
        data: Any = layer.file.data
        chosen = data.get(section) if layer.prefix == () else data
        is_here = layer.prefix in ((), (section,)) and isinstance(chosen, dict) and name in chosen
        if is_here and not layer.is_packaged:
            return True
    return False
