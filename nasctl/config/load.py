"""Layer 5: from a file and overrides to a checked `SearchConfig` or `AblationConfig`.

    file, packaged files --guard--> plain values --compose (Hydra)--> one mapping
    --references filled in--> --schema (pydantic), consistency--> the configuration

Nothing heavy is imported before it is needed: `nasctl --help` does not load Hydra or pydantic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, overload

from nasctl.config.blame import blamed, strength
from nasctl.config.guard import Key
from nasctl.config.packaged import locate, packaged_folder
from nasctl.config.values import left_open, plain
from nasctl.environment import worker_count
from nasctl.errors import ConfigError

if TYPE_CHECKING:
    from nasctl.config.ablation import AblationConfig
    from nasctl.config.compose import Composed
    from nasctl.config.consistency import Problem
    from nasctl.config.schema import SearchConfig
    from nasctl.config.type_errors import Schema


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A configuration and where it came from.

    Attributes:
        resolved: the configuration as plain values: what is stored with the run.
        source: the file.
        overrides: as typed.
        user_text: the text of the file.
        files: the user's files that took part, the one given first; none of the packaged ones.
        notes: what was decided for the user, and what is allowed but unwise; a line each.
    """

    resolved: dict[str, Any]
    source: Path
    overrides: tuple[str, ...]
    user_text: str
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LoadedConfig(Loaded):
    """Of a search; `config` is checked against the schema."""

    config: SearchConfig


@dataclass(frozen=True, kw_only=True)
class LoadedAblation(Loaded):
    """Of an ablation; `config` is checked against the schema, and has its profile applied."""

    config: AblationConfig


@overload
def load_config(
    config: str, overrides: Sequence[str] = (), *, kind: Literal["search"] = "search"
) -> LoadedConfig: ...


@overload
def load_config(
    config: str, overrides: Sequence[str] = (), *, kind: Literal["ablate"]
) -> LoadedAblation: ...


def load_config(
    config: str, overrides: Sequence[str] = (), *, kind: Literal["search", "ablate"] = "search"
) -> LoadedConfig | LoadedAblation:
    """Reads, composes and checks a configuration.

    Args:
        config: path of a .yaml file, or the name of a packaged one (`mbv2_space`).
        overrides: `KEY=VALUE`, Hydra's grammar.
        kind: the command that it is for.

    Raises:
        ConfigError: with every problem that could be found at once, one line each, starting with
            `file:line` or `command line` and the key.
    """
    load = _load_search if kind == "search" else load_ablation
    return load(config, tuple(overrides))


def _load_search(config: str, overrides: tuple[str, ...]) -> LoadedConfig:
    from nasctl.config.consistency import contradictions
    from nasctl.config.fidelity import choose_schedule, halving_notes
    from nasctl.config.kinds import SEARCH
    from nasctl.config.type_errors import type_problems

    path = locate(config)
    read = _read(path, overrides, SEARCH)
    data, composed = read.data, read.composed
    notes = [*_drop_latency(data, composed), *choose_schedule(data, composed)]
    checked, problems = type_problems(SEARCH, data)
    problems = [*read.problems, *problems, *contradictions(data)]
    if problems or composed.problems or checked is None:
        _refuse(read, problems)
    return LoadedConfig(
        config=checked,
        resolved=checked.model_dump(mode="json"),
        source=path,
        overrides=overrides,
        user_text=composed.layers[0].file.text,
        files=_files(composed),
        notes=(*notes, *_notes(checked), *halving_notes(checked)),
    )


def load_ablation(config: str, overrides: Sequence[str] = ()) -> LoadedAblation:
    """`load_config` with `kind="ablate"`.

    Raises:
        ConfigError: as `load_config`.
    """
    from nasctl.config.ablation_checks import ablation_contradictions, choose_control
    from nasctl.config.kinds import ABLATE
    from nasctl.config.type_errors import type_problems

    path = locate(config, "ablate")
    read = _read(path, tuple(overrides), ABLATE)
    choose_control(read.data, read.composed)
    checked, problems = type_problems(ABLATE, read.data)
    # What the checks say of a section is more to the point than what a type says.
    problems = [*read.problems, *ablation_contradictions(read.data), *problems]
    if problems or read.composed.problems or checked is None:
        _refuse(read, problems)
    return LoadedAblation(
        config=checked,
        resolved=checked.model_dump(mode="json"),
        source=path,
        overrides=tuple(overrides),
        user_text=read.composed.layers[0].file.text,
        files=_files(read.composed),
    )


def recipe_problems(recipe: Mapping[str, Any]) -> list[str]:
    """What is wrong with a recipe that a factor has changed, a line each, starting with the key."""
    from nasctl.config.schema import RecipeConfig
    from nasctl.config.type_errors import value_problems

    return [f"recipe.{key}: {message}" for key, message in value_problems(RecipeConfig, recipe)]


def _files(composed: Composed) -> tuple[Path, ...]:
    found = (Path(layer.file.path) for layer in composed.layers if not layer.is_packaged)
    return tuple(dict.fromkeys(found))


class _Read(NamedTuple):
    """A composed configuration: plain values, and what is wrong so far."""

    composed: Composed
    data: dict[str, Any]
    problems: list[Problem]


def _read(path: Path, overrides: tuple[str, ...], schema: Schema[Any]) -> _Read:
    from nasctl.config.compose import compose
    from nasctl.config.profiles import apply_profile

    composed = compose(path, packaged_folder(), overrides, schema)
    _require_all_sections(composed, schema)
    more: list[Problem] = []
    if "profiles" in schema.model.model_fields:
        composed = apply_profile(composed, path, overrides, schema, more)
    data, problems = plain(composed)
    problems += left_open(composed)
    if data.get("name") is None:
        data["name"] = path.stem
    return _Read(composed, data, [*more, *problems])


def _refuse(read: _Read, problems: Sequence[Problem]) -> NoReturn:
    """Raises a `ConfigError` with every problem, in the order of the keys."""
    data, composed = read.data, read.composed
    found = dict(reversed(problems))  # of several problems with one key the first
    order = list(data)
    keys = sorted(found, key=lambda key: order.index(key[0]) if key[0] in data else 99)
    lines = [f"{blamed(key, composed)}: {found[key]}" for key in keys]
    raise ConfigError([_shown(problem, composed) for problem in composed.problems] + lines)


def _shown(problem: tuple[Key | None, str], composed: Composed) -> str:
    """A problem of an override: of the command line, or with the key of the profile."""
    origin, message = problem
    if origin is None:
        return f"command line: {message}"
    own = f"{origin[-1]}: "  # the message may begin with the key that the profile sets
    return f"{blamed(origin, composed)}: {message.removeprefix(own)}"


def _require_all_sections(composed: Composed, schema: Schema[Any]) -> None:
    """A file that does not start from `search` would fail with a dozen missing keys.

    Raises:
        ConfigError: it does not, or it is for another command.
    """
    from nasctl.config.kinds import SCHEMAS

    primary = composed.layers[0].file
    has_base = any(layer.prefix == () and layer.is_packaged for layer in composed.layers)
    needed = (k for k, field in schema.model.model_fields.items() if field.is_required())
    missing = [key for key in needed if key not in composed.data]
    for other in SCHEMAS.values():
        if other is not schema and not other.model.model_fields.keys() - composed.data.keys():
            raise ConfigError(
                f"{primary.where(('defaults',))}: defaults: this is {_a(other.noun)}; "
                f"nasctl {other.name}, or start the file with `{schema.start}`"
            )
    if missing and not has_base:
        raise ConfigError(
            f"{primary.where(('defaults',))}: defaults: start the file with "
            f"`{schema.start}` (without it there is no {', '.join(missing[:3])}, ...)"
        )


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _drop_latency(data: dict[str, Any], composed: Composed) -> list[str]:
    """`latency=none` asks for a search without latency: an objective that was set with less
    emphasis (by a default, or by a file when the command line says none) goes with it."""
    objective = ("objectives", "latency_ms")
    latency, objectives = data.get("latency"), data.get("objectives")
    if not isinstance(latency, dict) or latency.get("name") != "none":
        return []
    space = data.get("space")
    if isinstance(space, dict) and space.get("family") != "staged":
        return []  # a plugin's family may price latency itself
    if not isinstance(objectives, dict) or objectives.get("latency_ms") is None:
        return []
    if strength(("latency", "name"), composed) <= strength(objective, composed):
        return []
    del objectives["latency_ms"]
    if isinstance(data.get("reference_point"), dict):
        data["reference_point"].pop("latency_ms", None)
    return ["latency=none: latency_ms is not an objective of this search"]


def _notes(config: SearchConfig) -> Iterator[str]:
    if config.search.duplicates == "repeat" and config.search.max_seeds == 1:
        yield "search.duplicates=repeat repeats nothing with search.max_seeds=1"
    key, workers = _workers(config)
    window = config.search.window
    if config.search.order == "deterministic" and workers > window:
        yield (
            f"{key}={workers} is more than search.window={window}: the others wait; "
            f"use search.window={3 * workers} or search.order=async"
        )
    startup = config.sampler.options.get("startup_trials", 0)
    if config.sampler.name in ("tpe", "gp") and config.trials <= startup:
        yield "sampler.startup_trials is not less than trials: every trial is random"


def _workers(config: SearchConfig) -> tuple[str, int]:
    """How many trainings there are at a time, as far as it is known, and the key that says so."""
    if config.evaluator == "replay":
        return "replay.workers", config.replay.workers
    executor = config.executor
    # Without a number there are as many workers as fit on this machine; what fits on a cluster is
    # known when it is there, and said by its executor.
    is_cluster = executor.workers is None and executor.address is not None
    if executor.name != "ray" or is_cluster:
        return "executor.workers", 1
    return "executor.workers", worker_count(executor.workers, executor.cpus)
