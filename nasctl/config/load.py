"""Layer 5: from a file and overrides to a checked `SearchConfig`, and back to YAML.

    file, packaged files --guard--> plain values --compose (Hydra)--> one mapping
    --references filled in--> --schema (pydantic), consistency--> SearchConfig

Nothing heavy is imported before it is needed: `nasctl --help` does not load Hydra or pydantic.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasctl.config import guard
from nasctl.config.guard import Key, dotted, shown
from nasctl.environment import worker_count
from nasctl.errors import ConfigError, EnvironmentProblemError, unknown

if TYPE_CHECKING:
    from nasctl.config.compose import Composed
    from nasctl.config.schema import SearchConfig

_FREE_ON_RESUME = ("executor", "tracking", "output_dir")
_INT_LIMIT = 2**63


@dataclass(frozen=True, kw_only=True)
class LoadedConfig:
    """A configuration and where it came from.

    Attributes:
        config: checked against the schema.
        resolved: the same as plain values: what is stored with the run.
        source: the file.
        overrides: as typed.
        user_text: the text of the file.
        notes: what was decided for the user, and what is allowed but unwise; a line each.
    """

    config: SearchConfig
    resolved: dict[str, Any]
    source: Path
    overrides: tuple[str, ...]
    user_text: str
    notes: tuple[str, ...] = ()


def packaged_folder() -> Path:
    """The folder of the packaged configuration files (`nasctl.conf`)."""
    return Path(str(importlib.import_module("nasctl.conf").__file__)).resolve().parent


def load_config(
    config: str, overrides: Sequence[str] = (), *, kind: Literal["search"] = "search"
) -> LoadedConfig:
    """Reads, composes and checks a configuration.

    Args:
        config: path of a .yaml file, or the name of a packaged one (`mbv2_space`).
        overrides: `KEY=VALUE`, Hydra's grammar.
        kind: what the configuration is for.

    Raises:
        ConfigError: with every problem that could be found at once, one line each, starting with
            `file:line` or `command line` and the key.
    """
    del kind  # one kind so far
    from nasctl.config.compose import compose
    from nasctl.config.fidelity import choose_schedule

    path = _locate(config)
    composed = compose(path, packaged_folder(), overrides)
    _require_all_sections(composed)
    data, problems = _plain(composed)
    problems += _left_open(composed)
    if data.get("name") is None:
        data["name"] = path.stem
    notes = [*_drop_latency(data, composed), *choose_schedule(data, composed)]
    checked, more = _check(data)
    found = dict(reversed([*problems, *more]))  # of several problems with one key the first
    if found or composed.problems or checked is None:
        order = list(data)
        keys = sorted(found, key=lambda key: order.index(key[0]) if key[0] in data else 99)
        lines = [f"{_where(key, composed)}: {dotted(key)}: {found[key]}" for key in keys]
        raise ConfigError([f"command line: {p}" for p in composed.problems] + lines)
    return LoadedConfig(
        config=checked,
        resolved=checked.model_dump(mode="json"),
        source=path,
        overrides=tuple(overrides),
        user_text=composed.layers[0].file.text,
        notes=(*notes, *_notes(checked)),
    )


def _check(data: Mapping[str, Any]) -> tuple[SearchConfig | None, list[tuple[Key, str]]]:
    """Types, ranges and contradictions."""
    from nasctl.config.consistency import contradictions
    from nasctl.config.schema import type_problems

    checked, problems = type_problems(data)
    return checked, [*problems, *contradictions(data)]


def _locate(config: str) -> Path:
    """The file that CONFIG means.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    packaged = packaged_folder()
    names = [p.stem for p in sorted(packaged.glob("*.yaml"))]
    if "\0" in config or not config.strip() or len(config) > 4096:
        raise ConfigError(f"config {shown(config)}: expected the path of a .yaml file")
    if config in names and not Path(config).is_file():
        return packaged / f"{config}.yaml"
    path = Path(config).expanduser()
    try:
        if path.is_dir():
            inside = [p.name for p in sorted(path.glob("*.yaml"))[:10]]
            listed = f" (in it: {', '.join(inside)})" if inside else ""
            raise ConfigError(f"{config}: a folder; give a .yaml file{listed}")
        if path.suffix == ".yml" or (path.is_file() and path.suffix != ".yaml"):
            raise ConfigError(f"{config}: config files end in .yaml; rename it to {path.stem}.yaml")
        if path.exists():
            return path
        beside = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    except OSError as error:
        raise ConfigError(f"{shown(config)}: {error.strerror}") from error
    if path.suffix == ".yaml":
        raise ConfigError(f"{config}: no such file; {unknown('file', path.name, beside)}")
    known = [*names, *(n for n in beside if path.parent == Path())]
    raise ConfigError(unknown("config", config, known))


def _require_all_sections(composed: Composed) -> None:
    """A file that does not start from `search` would fail with a dozen missing keys."""
    from nasctl.config.schema import SearchConfig

    primary = composed.layers[0].file
    has_base = any(layer.prefix == () and layer.is_packaged for layer in composed.layers)
    missing = [key for key in SearchConfig.model_fields if key not in composed.data]
    if missing and not has_base:
        raise ConfigError(
            f"{primary.where(('defaults',))}: defaults: start the file with "
            f"`defaults: [search, _self_]` (without it there is no {', '.join(missing[:3])}, ...)"
        )


def _plain(composed: Composed) -> tuple[dict[str, Any], list[tuple[Key, str]]]:
    """The composed values with references filled in and impossible numbers refused."""
    problems: list[tuple[Key, str]] = []

    def visit(value: Any, key: Key) -> Any:
        if isinstance(value, dict):
            return {k: visit(v, (*key, str(k))) for k, v in value.items()}
        if isinstance(value, list):
            return [visit(v, (*key, str(i))) for i, v in enumerate(value)]
        if isinstance(value, str):
            value = _fill(value, key, composed.data, problems)
        if value == "???":
            problems.append((key, f"needs a value; {dotted(key)}=..."))
        elif isinstance(value, float) and not math.isfinite(value):
            problems.append((key, f"expected a finite number, got {value}"))
        elif isinstance(value, int) and abs(value) >= _INT_LIMIT:
            problems.append((key, f"the number is too large: {shown(value, limit=24)}"))
        elif not isinstance(value, str | int | float | bool | None):
            problems.append((key, f"expected a text, number or true/false, got {shown(value)}"))
        return value

    return visit(composed.data, ()), problems


def _left_open(composed: Composed) -> Iterator[tuple[Key, str]]:
    """`???` in the file itself: OmegaConf merges it as nothing, and the default would stay."""
    for key, value in _leaves(composed.layers[0].file.data):
        if value == "???" and _strength(key, composed) < 2:
            yield key, f"needs a value; {dotted(key)}=..."


def _fill(text: str, key: Key, data: Mapping[str, Any], problems: list[tuple[Key, str]]) -> Any:
    """`text` with `${key}` replaced. Only plain values may be referred to, so nothing can grow
    and nothing goes in circles; a text that is one reference takes the value's type."""
    marked = text.replace(guard.MARK, "${")
    if "${" not in marked:
        return marked
    values: list[Any] = []
    for name in guard.REFERENCE.findall(marked):
        value, message = _look_up(name, data)
        if message:
            problems.append((key, f"${{{name}}}: {message}"))
            return ""
        values.append(value)
    if guard.REFERENCE.fullmatch(marked):
        return values[0]
    rest = iter(values)
    return guard.REFERENCE.sub(lambda _: str(next(rest)), marked)


def _look_up(name: str, data: Mapping[str, Any]) -> tuple[Any, str | None]:
    from nasctl.config.compose import flat_keys

    value: Any = data
    for part in name.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None, unknown("key", name, map(dotted, flat_keys(data))).split(" (known")[0]
    if isinstance(value, dict | list):
        return None, "refers to a whole section; only plain values can be repeated"
    if isinstance(value, str) and (guard.MARK in value or "${" in value):
        return None, "refers to another reference"
    return value, None


def _strength(key: Key, composed: Composed) -> int:
    """Who set `key`: 2 the command line, 1 a file of the user, 0 a packaged file or nobody."""
    if any(key[: len(k)] == k for k in composed.applied):
        return 2
    user = [layer for layer in composed.layers if not layer.is_packaged]
    return int(any(_given(key, layer.prefix, layer.file.data) for layer in user))


def _given(key: Key, prefix: Key, data: Mapping[str, Any]) -> bool:
    if key[: len(prefix)] != prefix:
        return False
    for entry in data.get("defaults") or ():
        if isinstance(entry, dict) and any(g.split()[-1] == key[0] for g in entry):
            return True
    value: Any = data
    for part in key[len(prefix) :]:
        if not isinstance(value, dict) or value.get(part) is None:
            return False
        value = value[part]
    return True


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
    if _strength(("latency", "name"), composed) <= _strength(objective, composed):
        return []
    del objectives["latency_ms"]
    if isinstance(data.get("reference_point"), dict):
        data["reference_point"].pop("latency_ms", None)
    return ["latency=none: latency_ms is not an objective of this search"]


def _notes(config: SearchConfig) -> Iterator[str]:
    if config.search.duplicates == "repeat" and config.search.max_seeds == 1:
        yield "search.duplicates=repeat repeats nothing with search.max_seeds=1"
    # Without a number there are as many workers as fit on this machine, or on the driver's.
    workers = worker_count(config.executor.workers, config.executor.cpus)
    window = config.search.window
    is_ray, is_ordered = config.executor.name == "ray", config.search.order == "deterministic"
    if is_ray and is_ordered and workers > window:
        yield (
            f"executor.workers={workers} is more than search.window={window}: the others wait; "
            f"use search.window={workers} or search.order=async"
        )
    startup = config.sampler.options.get("startup_trials", 0)
    if config.sampler.name in ("tpe", "gp") and config.trials <= startup:
        yield "sampler.startup_trials is not less than trials: every trial is random"


def _where(key: Key, composed: Composed) -> str:
    """`file:line` of what set the key or the section around it, or `command line`."""
    from nasctl.config.schema import GROUPS

    groups = {k for k in composed.applied if len(k) == 1 and k[0] in GROUPS and key[:1] == k}
    if any(key[: len(k)] == k or k[: len(key)] == key for k in composed.applied.keys() - groups):
        return "command line"
    best, place = (False, 0), composed.layers[0].file.path
    for layer in composed.layers:
        inner = key[len(layer.prefix) :] if key[: len(layer.prefix)] == layer.prefix else ()
        while inner and inner not in layer.file.lines:
            inner = inner[:-1]
        # A file of the user is where it can be mended, however far up the closest key is.
        rank = (not layer.is_packaged, len(layer.prefix) + len(inner))
        if inner and rank > best:
            best, place = rank, layer.file.where(inner)
    return "command line" if groups and not best[0] else place


def resolved_yaml(config: SearchConfig) -> str:
    """The whole configuration as YAML, keys in the schema's order; loads to an equal one."""
    header = "# The resolved configuration of this run; it can be searched again as it is.\n"
    return header + guard.dump(config.model_dump(mode="json"))


def config_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What keeps a run with the resolved config `old` from being continued with `new`.

    `trials` may be raised; executor, tracking and the output folder may change.

    Returns:
        `key: old -> new`, one line per key, in the order of `new`.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    lines = []
    for key in dict.fromkeys((*after, *before)):
        was, now = before.get(key, "absent"), after.get(key, "absent")
        if (was == now and type(was) is type(now)) or key[0] in _FREE_ON_RESUME:
            continue
        if key == ("trials",):
            if isinstance(was, int) and isinstance(now, int) and now > was:
                continue
            lines.append(f"trials: {was} -> {now} (may be raised, not lowered)")
        else:
            lines.append(f"{dotted(key)}: {was} -> {now}")
    return lines


def _leaves(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*key, str(name)))
    else:
        is_float = isinstance(value, float) and value.is_integer()
        yield key, int(value) if is_float else value


@dataclass(frozen=True, kw_only=True)
class PackagedConfig:
    """A packaged file: `group` is None for one that can be searched by its name."""

    name: str
    group: str | None
    description: str


def list_configs() -> list[PackagedConfig]:
    """Every packaged configuration with the first sentence of its file's comment."""
    folder = packaged_folder()
    found = []
    for path in sorted(folder.rglob("*.yaml"), key=lambda p: (len(p.parts), p.parts)):
        group = "/".join(path.relative_to(folder).parent.parts) or None
        description = _first_sentence(path.read_text("utf-8"))
        found.append(PackagedConfig(name=path.stem, group=group, description=description))
    return found


def _first_sentence(text: str) -> str:
    """Of the comment at the top of a file."""
    comment = itertools.takewhile(lambda line: line.startswith("# "), text.splitlines())
    sentence, stop, _ = " ".join(line[2:] for line in comment).partition(". ")
    return sentence.removesuffix(":") + stop.strip()


def init_dir(directory: str | Path) -> Path:
    """Writes an example configuration to edit (a copy of `mbv2_space`) into `directory`.

    Returns:
        The file.

    Raises:
        ConfigError: the file exists.
        EnvironmentProblemError: it cannot be written.
    """
    path = Path(directory) / "mbv2_space.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write((packaged_folder() / "mbv2_space.yaml").read_text("utf-8"))
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename or path}: exists already; nothing was written"
        ) from error
    except OSError as error:
        raise EnvironmentProblemError(f"{path}: cannot be written: {error.strerror}") from error
    return path
