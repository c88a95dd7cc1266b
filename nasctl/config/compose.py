"""Layer 5: files and overrides become one mapping, by Hydra's compose API and nothing else of it.

Hydra composes; it resolves no interpolation, instantiates nothing and owns neither arguments,
folders nor logging. Its errors are rewritten into one line each.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.config import guard
from nasctl.config.guard import Key, shown
from nasctl.config.packaged import ready_files
from nasctl.config.sources import PRIMARY, Layer, Session, hydra_over
from nasctl.config.type_errors import Schema
from nasctl.errors import ConfigError, EnvironmentProblemError, nearest, unknown

_FAILURES_OF_HYDRA = (ValueError, TypeError, KeyError, AttributeError, AssertionError, OSError)
"""What composing raises on odd input besides its own exceptions."""
_NO_FILE_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)
"""The causes of an OSError that lie in what the user has typed, not in the machine."""


@dataclass(frozen=True, kw_only=True)
class Composed:
    """What came out of Hydra.

    Attributes:
        data: plain values, references (`guard.MARK` or `${`) still in them.
        layers: the files, in the order in which they were read.
        applied: overrides in effect, as they were given, by key.
        profile: overrides of a profile in effect: from the key that is set to that in the file.
        problems: of overrides, each a line that starts with the key, and where it is in a profile;
            those were left out of `data`, so that whatever else is wrong can be reported too.
        groups: sections that are chosen by name.
    """

    data: dict[str, Any]
    layers: tuple[Layer, ...]
    applied: dict[Key, str]
    profile: dict[Key, Key]
    problems: tuple[tuple[Key | None, str], ...]
    groups: tuple[str, ...]


def compose(
    primary: Path,
    packaged: Path,
    overrides: Sequence[str],
    schema: Schema[Any],
    profile: Sequence[tuple[Key, str]] = (),
) -> Composed:
    """Composes `primary` with the packaged folder behind its own.

    Args:
        primary: the user's file.
        packaged: the folder of the packaged files.
        overrides: as typed.
        schema: what the file is for.
        profile: overrides with the key of the file that holds each; `overrides` win.

    Raises:
        ConfigError: a file that cannot be read or composed, whatever the overrides.
    """
    session = Session(primary=primary.resolve(), packaged=packaged.resolve(), schema=schema)
    try:
        with hydra_over(session):
            return _without_bad_overrides(session, overrides, profile)
    except RecursionError as error:
        raise ConfigError(
            f"{session.shown(primary)}: defaults: the files name each other in a circle"
        ) from error


def _without_bad_overrides(
    session: Session, overrides: Sequence[str], profile: Sequence[tuple[Key, str]]
) -> Composed:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    problems: list[tuple[Key | None, str]] = []
    given = [(None, text) for text in overrides]
    accepted = [o for origin, text in given if (o := _parse(text, session, origin, problems))]
    typed = {o.key for o in accepted}
    found = [o for origin, text in profile if (o := _parse(text, session, origin, problems))]
    accepted = [*(o for o in found if o.key not in typed), *accepted]
    while True:
        try:
            data = _run_hydra(accepted)
            break
        except (HydraException, OmegaConfBaseException, *_FAILURES_OF_HYDRA) as error:
            # Hydra's own "there is no such option" is an OSError too.
            is_from_outside = isinstance(error, OSError) and not isinstance(error, HydraException)
            if is_from_outside and getattr(error, "errno", None) not in _NO_FILE_NAME:
                raise EnvironmentProblemError(f"reading the configuration: {error}") from error
            bad, message = _explain(error, session, accepted)
            if bad is None:
                raise ConfigError([*(text for _, text in problems), message]) from error
            accepted.remove(bad)
            problems.append((bad.origin, message))
    return Composed(
        data=data,
        layers=tuple(session.layers),
        applied={o.key: o.text for o in accepted if o.origin is None},
        profile={o.key: o.origin for o in accepted if o.origin is not None},
        problems=tuple(problems),
        groups=session.schema.groups,
    )


_LISTED = ("levels", "choices")
"""Of a mapping for which a list is short."""


def _run_hydra(overrides: Sequence[_Override]) -> dict[str, Any]:
    """The composed mapping, with a list in the place of a mapping where an override says so
    (`kernel_size=[3,5]` for `{choices: ...}`), which OmegaConf refuses to merge."""
    lists = [o for o in overrides if isinstance(o.value, list)]
    if not lists:
        return _compose(overrides)
    data = _compose([o for o in overrides if o not in lists])
    replacing = [o for o in lists if isinstance(_parent(data, o.key).get(o.key[-1]), dict)]
    if len(replacing) < len(lists):
        data = _compose([o for o in overrides if o not in replacing])
    for override in replacing:
        parent, name = _parent(data, override.key), override.key[-1]
        listed = [k for k in _LISTED if k in parent[name]]
        if listed:  # what the file says besides (a scope, a key) stays
            parent[name][listed[0]] = override.value
        else:
            parent[name] = override.value
    return data


def _parent(data: Any, key: Key) -> dict[str, Any]:
    """The mapping that holds `key`; an empty one where there is none."""
    for part in key[:-1]:
        if isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        else:
            data = data.get(part) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}


def _compose(overrides: Sequence[_Override]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from omegaconf import OmegaConf

    composed = hydra_compose(PRIMARY, [o.line for o in overrides])
    data = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


def flat_keys(value: Any, prefix: Key = ()) -> Iterator[Key]:
    """Every key path of nested mappings and lists."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, inner in items:
        yield (*prefix, str(name))
        yield from flat_keys(inner, (*prefix, str(name)))


@dataclass(frozen=True, kw_only=True)
class _Override:
    """An override that parses: `text` as typed, `line` as Hydra gets it, `origin` in a profile."""

    text: str
    line: str
    key: Key
    value: Any
    origin: Key | None


def _parse(
    text: str, session: Session, origin: Key | None, problems: list[tuple[Key | None, str]]
) -> _Override | None:
    """One override, or a line in `problems`."""
    found = _read(text, session.schema)
    if isinstance(found, str):
        problems.append((origin, found))
        return None
    parsed, value = found
    key = tuple(parsed.key_or_group.split("."))
    is_plain = not (parsed.is_delete() or parsed.is_add() or parsed.is_force_add())
    # A plain override of a key that is not there would be refused, one at a time and with advice
    # that makes the typo stick. Added, it meets the schema, which knows where new keys may be.
    is_group = len(key) == 1 and key[0] in session.schema.groups
    is_added = is_plain and (not is_group or isinstance(value, dict))
    line = f"++{text}" if is_added else text
    return _Override(text=text, line=line, key=key, value=value, origin=origin)


def _read(text: str, schema: Schema[Any]) -> tuple[Any, Any] | str:
    """An override as Hydra reads it, with its value; or the line that says what is wrong."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    named = f"override {shown(text)}"
    key, equals, value = text.partition("=")
    if len(text) > 4096 or max(text.count(c) for c in "[{(") > guard.MAX_DEPTH:
        return f"{named}: too long or nested too deeply; put it into a file"
    if not key.strip("+~ ") or (not equals and not text.startswith("~")):
        return f"{named}: expected KEY=VALUE"
    if problem := guard.text_problem(text):
        return f"override {problem}"
    try:
        parsed = OverridesParser.create().parse_override(text)
        parsed_value = None if parsed.is_sweep_override() else parsed.value()
    except (HydraException, ValueError, RecursionError):
        quoting = f"quote the value: '{key}=\"{value}\"'" if value else "expected KEY=VALUE"
        if value.startswith("[") and value.endswith("]"):
            items = ", ".join(f'"{item.strip()}"' for item in value[1:-1].split(","))
            quoting = f"quote what is in the list: '{key}=[{items}]'"
        return f"{named}: cannot be read; {quoting}"
    parts = tuple(parsed.key_or_group.split("."))
    message = _override_problem(parsed, parts, parsed_value, value, schema)
    return f"{'.'.join(parts)}: {message}" if message else (parsed, parsed_value)


def _override_problem(
    parsed: Any, key: Key, value: Any, text: str, schema: Schema[Any]
) -> str | None:
    nested = [part for path in flat_keys(value) for part in path]
    if key[0].split("/")[0] == "hydra":
        return "Hydra's own settings cannot be set from the command line"
    if parsed.package is not None or "@" in parsed.key_or_group:
        return "`@` is not supported"
    if problem := next(filter(None, map(guard.key_problem, (*key, *nested))), None):
        return problem
    if parsed.is_sweep_override():
        listed = f"[{text}]" if "," in text and "(" not in text else "[a,b]"
        return f"{shown(text)} is several values; for a list {listed}, for a text quote it"
    if len(key) == 1 and key[0] in schema.groups and not parsed.is_delete():
        is_name = isinstance(value, str) and re.fullmatch(r"[\w-][\w.-]*", value)
        if not is_name and not isinstance(value, dict):
            return f"expected the name of an option, got {shown(value)}; {key[0]}=NAME"
    return None


def _explain(
    error: Exception, session: Session, overrides: Sequence[_Override]
) -> tuple[_Override | None, str]:
    """The override at fault, if one is, and the line to show."""
    text = str(error) or str(error.__cause__ or "")
    first = text.strip().split("\n")[0]
    missing = getattr(error, "missing_cfg_file", None)
    if missing:
        return _missing_option(str(missing), getattr(error, "options", None), session, overrides)
    quoted = set(re.findall(r"'([^']+)'", first)) | set(first.split())
    for override in reversed(overrides):
        if quoted & {guard.dotted(override.key), override.line} or override.line in first:
            cause = str(error.__cause__ or first).strip().split("\n")[0]
            return override, _override_failure(override, first, cause)
    name = session.shown(session.primary)
    first = first.replace(f"'{PRIMARY}'", name).replace(PRIMARY, name)
    if match := re.search(r"Multiple values for (\S+?)\.", first):
        group = match.group(1)
        message = f"{group} is chosen twice; write `- override {group}: ...`"
    elif match := re.search(r"Could not override '([^']+)'", first):
        message = f"override {unknown('group', match.group(1), session.schema.groups)}"
    elif "Overrides must be at the end" in text:
        message = "`override` entries come after the plain ones, before `_self_`"
    else:
        message = f"cannot be composed: {first or type(error).__name__}"
    return None, f"{name}: defaults: {message}"


def _override_failure(override: _Override, first: str, cause: str) -> str:
    key = guard.dotted(override.key)
    if first.startswith("Could not override"):
        return f"{key}: this file has no groups; set {key}.name=..."
    if first.startswith("force-add of config groups"):
        return f"{key}: not among the defaults; to draw it in: +{override.text.lstrip('+')}"
    if "An item is already at" in first:
        return f"{key}: exists already; drop the `+`: {override.text.lstrip('+')}"
    if first.startswith("Could not delete"):
        return f"{key}: there is nothing to remove"
    return f"{key}: {cause}"


def _missing_option(
    missing: str,
    options: Sequence[str] | None,
    session: Session,
    overrides: Sequence[_Override],
) -> tuple[_Override | None, str]:
    group, _, name = missing.rpartition("/")
    plugin = f"; a plugin's own: {group}.name={name}" if group in ("data",) else ""
    message = f"{group}: {unknown('option', name, options or ())}{plugin}"
    for override in reversed(overrides):
        if ".".join(override.key) == group and override.value == name:
            return override, message
    primaries = list(ready_files(session.schema.name))
    if not group:
        message = f"defaults: {unknown('file', name, primaries)}"
        beside = [p.stem for p in session.primary.parent.glob("*.yaml") if p != session.primary]
        if nearest(name, beside) and not nearest(name, primaries):
            message = f"defaults: {unknown('file', name, beside)}"
    for layer in session.layers:
        for position, entry in enumerate(layer.file.data.get("defaults") or ()):
            values = list(entry.values()) if isinstance(entry, dict) else [entry]
            if name in values or missing in values:
                return None, f"{layer.file.where(('defaults', str(position)))}: {message}"
    return None, f"{session.shown(session.primary)}: {message}"
