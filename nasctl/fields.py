"""Layer 0: plain values. Numbers in one form, one written form, and types of fields checked."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from types import UnionType
from typing import Any, Literal, Union


def normal_number(value: object) -> object:
    """6.0 and 6 are one number: integral floats become int, tuples are normalised inside."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return tuple(normal_number(v) for v in value)
    return value


# Made once: `json.dumps` would make one for each of the many small values of a ledger.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: object) -> str:
    """The one written form of a value: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: for NaN or infinities, which JSON does not have.
    """
    return _ENCODER.encode(value)


_TYPES: dict[type, dict[str, tuple[Any, ...]]] = {}


def field_types(cls: Any) -> dict[str, tuple[Any, ...]]:
    """For each field the alternatives of its type: `int | None` gives (int, NoneType)."""
    if cls not in _TYPES:
        hints = typing.get_type_hints(cls)
        kinds = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
        unions = {n for n, k in kinds.items() if typing.get_origin(k) in (Union, UnionType)}
        _TYPES[cls] = {n: typing.get_args(k) if n in unions else (k,) for n, k in kinds.items()}
    return _TYPES[cls]


def fits(value: object, kind: Any) -> bool:
    origin, items = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return any(value == v and type(value) is type(v) for v in items)
    if origin is tuple:
        if not isinstance(value, tuple) or (Ellipsis not in items and len(items) != len(value)):
            return False
        kinds = items[:1] * len(value) if Ellipsis in items else items
        return all(fits(v, k) for v, k in zip(value, kinds, strict=True))
    if isinstance(value, bool):  # bool is an int to Python, not to people
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def type_problem(name: str, value: object, types: tuple[Any, ...]) -> str | None:
    if any(fits(value, kind) for kind in types):
        return None
    wanted = " or ".join(t.__name__ if type(t) is type else str(t) for t in types)
    return f"{name}: expected {wanted}, got {value!r}"


def as_tuples(value: object) -> Any:
    """Lists, as JSON has them, as tuples, also inside; other values as they are."""
    return tuple(as_tuples(v) for v in value) if isinstance(value, list | tuple) else value
