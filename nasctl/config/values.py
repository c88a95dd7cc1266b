"""Layer 5: the composed values as plain ones: references filled in, impossible numbers refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nasctl.config import guard
from nasctl.config.blame import strength
from nasctl.config.guard import Key, dotted, shown
from nasctl.errors import unknown

if TYPE_CHECKING:
    from nasctl.config.compose import Composed

_INT_LIMIT = 2**63


def plain(composed: Composed) -> tuple[dict[str, Any], list[tuple[Key, str]]]:
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


def left_open(composed: Composed) -> Iterator[tuple[Key, str]]:
    """`???` in the file itself: OmegaConf merges it as nothing, and the default would stay."""
    for key, value in leaves(composed.layers[0].file.data):
        is_unused = key[:1] == ("profiles",)  # the profile in use is among the overrides
        if value == "???" and not is_unused and strength(key, composed) < 2:
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


def leaves(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*key, str(name)))
    else:
        is_float = isinstance(value, float) and value.is_integer()
        yield key, int(value) if is_float else value
