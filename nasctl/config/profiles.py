"""Layer 5: profiles: sets of overrides that a file holds under a name (`profile=gpu`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.config import guard
from nasctl.config.compose import Composed, compose
from nasctl.config.guard import Key, shown
from nasctl.config.packaged import packaged_folder
from nasctl.config.type_errors import Schema, missing_key
from nasctl.errors import unknown

if TYPE_CHECKING:
    from nasctl.config.consistency import Problem

_KEY = re.compile(r"[A-Za-z_]\w*(\.[\w-]+)*")
_NAME = re.compile(r"[A-Za-z_][\w-]*")


def apply_profile(
    composed: Composed,
    path: Path,
    overrides: Sequence[str],
    schema: Schema[Any],
    problems: list[Problem],
) -> Composed:
    """The configuration with its profile's values: above the files', below the command line's.

    What comes back has the names of the profiles alone: their values are where they belong, and a
    resolved configuration does not apply them a second time.

    Args:
        composed: without any profile.
        path, overrides, schema: what it was composed of.
        problems: where wrong names and keys of profiles go.
    """
    profiles, name = composed.data.get("profiles"), composed.data.get("profile")
    if not isinstance(profiles, dict):
        return composed  # the schema reports it
    for known, values in profiles.items():
        problems += _key_problems(("profiles", str(known)), values, schema)
    if isinstance(name, str) and name not in profiles:
        problems.append((("profile",), unknown("profile", name, profiles)))
    chosen = profiles.get(name) if isinstance(name, str) else None
    if isinstance(chosen, dict) and chosen:
        bad = {key for key, _ in problems}
        lines = [
            (origin, f"{key}={_written(value)}")
            for key, value in chosen.items()
            if (origin := ("profiles", str(name), str(key))) not in bad
        ]
        composed = compose(path, packaged_folder(), overrides, schema, lines)
    emptied = {known: {} if isinstance(v, dict | None) else v for known, v in profiles.items()}
    return replace(composed, data={**composed.data, "profiles": emptied})


def _key_problems(place: Key, values: object, schema: Schema[Any]) -> Iterator[Problem]:
    for key in values if isinstance(values, Mapping) else ():
        where = (*place, str(key))
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            yield where, f"expected a dotted key such as recipe.epochs, got {shown(key)}"
        elif key.split(".")[0] in ("profile", "profiles"):
            yield where, "a profile cannot choose or change profiles"
        elif problem := missing_key(schema, tuple(key.split("."))):
            yield where, problem


def _written(value: Any) -> str:
    """A value in the grammar of overrides; references are left to be filled in."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(value: str) -> str:
    if _NAME.fullmatch(value):
        is_word = value.lower() not in ("true", "false", "null", "none", "inf", "nan", "on", "off")
        return value if is_word else f"'{value}'"
    # Backslashes stand for themselves but before a quote.
    text = re.sub(r"(\\*)'", r"\1\1\\'", value.replace(guard.MARK, "${"))
    return "'" + re.sub(r"(\\+)$", r"\1\1", text) + "'"
