"""Layer 5: what a pydantic model says is wrong, in the words that users read."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from nasctl.config.consistency import Problem
from nasctl.config.guard import Key, dotted, shown
from nasctl.errors import nearest, unknown

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Schema(Generic[M]):
    """What the files of one command may say.

    Attributes:
        name: of the command, and of the packaged file that states every key (`search`).
        model: keys, types and ranges.
        groups: sections that are chosen by name from the packaged or the user's own files.
        open_sections: they hold keys that the model does not know.
        folder: of the ready files, below the packaged one; "" for that itself.
        noun: what such a configuration is called.
    """

    name: str
    model: type[M]
    groups: tuple[str, ...]
    open_sections: tuple[Key, ...]
    folder: str
    noun: str

    @property
    def start(self) -> str:
        """The line with which a file begins."""
        return f"defaults: [{self.name}, _self_]"


def fields_at(model: Any, key: Key = ()) -> dict[str, Any] | None:
    """The declared fields of the section at `key`; None where there is no such section."""
    for part in key:
        if get_origin(model) is list:  # `part` is a position
            model = get_args(model)[0]
        elif get_origin(model) is dict:  # `part` is a name of the user's
            model = get_args(model)[1]
        else:
            field = model.model_fields.get(part)
            model = field.annotation if field else None
        model = _bare(model)
        if get_origin(model) not in (list, dict) and not _is_section(model):
            return None
    return dict(model.model_fields) if _is_section(model) else None


def _bare(annotation: Any) -> Any:
    """Without `Annotated` and `| None`."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [a for a in get_args(annotation) if a is not type(None)]
        annotation = _bare(rest[0]) if len(rest) == 1 else annotation
    return annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def known_keys(model: Any, prefix: Key = ()) -> Iterator[str]:
    """Every declared key, dotted: `seed`, `recipe`, `recipe.epochs`, ..."""
    for name in fields_at(model, prefix) or {}:
        yield ".".join((*prefix, name))
        yield from known_keys(model, (*prefix, name))


def unknown_key(model: Any, key: Key) -> str:
    """One line about a key that does not exist: the nearest one, at the same place or elsewhere."""
    *parent, leaf = key
    siblings = list(fields_at(model, tuple(parent)) or {})
    if "." in leaf:
        return f"unknown key; nest it: {leaf.replace('.', ': {')}: ...{'}' * leaf.count('.')}"
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.7)
    elsewhere = [k for k in known_keys(model) if k.rpartition(".")[2] == leaf]
    near = nearest(leaf, siblings)
    inside = ".".join((*parent, close[0] if close else near or ""))
    guess = elsewhere[0] if elsewhere and not close else inside if close or near else None
    hint = f"; did you mean {guess!r}?" if guess else ""
    return f"unknown key{hint} (known: {', '.join(siblings)})"


def missing_key(schema: Schema[M], key: Key) -> str | None:
    """What is wrong with a dotted key inside a value; None where the schema knows it, or where
    only a family, a dataset or a block can tell."""
    for depth, part in enumerate(key):
        siblings = fields_at(schema.model, key[:depth])
        if siblings is None or key[:depth] in schema.open_sections:
            return None
        if part not in siblings:
            wrong = dotted(key[: depth + 1])
            return f"{wrong}: {unknown_key(schema.model, key[: depth + 1])}"
    return None


def type_problems(schema: Schema[M], data: Mapping[str, Any]) -> tuple[M | None, list[Problem]]:
    """Validates a composed configuration against the schema."""
    try:
        return schema.model.model_validate(dict(data)), []
    except ValidationError as error:
        return None, list(_explained(error, schema).items())


def value_problems(model: type[BaseModel], data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the values of one section: dotted keys and messages."""
    alone = Schema(name="", model=model, groups=(), open_sections=(), folder="", noun="")
    _, problems = type_problems(alone, data)
    return [(dotted(key), message) for key, message in problems]


_EXPECTED = {
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "dict_type": "expected `key: value` lines",
    "model_type": "expected `key: value` lines",
    "list_type": "expected a list",
    "finite_number": "expected a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _explained(error: ValidationError, schema: Schema[M]) -> dict[Key, str]:
    found: dict[Key, str] = {}
    for item in error.errors(include_url=False):
        loc = tuple(str(part) for part in item["loc"])
        while fields_at(schema.model, loc[:-1]) is None and not any(
            loc[: len(k)] == k for k in schema.open_sections
        ):
            loc = loc[:-1]  # pydantic appends the names of the types in a union
        found.setdefault(loc, _message(loc, item, schema))
    return found


def _message(loc: Key, item: Any, schema: Schema[M]) -> str:
    kind, value = item["type"], item["input"]
    got = shown(value)
    if kind in _EXPECTED:
        in_group = len(loc) == 1 and loc[0] in schema.groups and isinstance(value, str)
        hint = f"; in a file, `- override {loc[0]}: {value}` under defaults" if in_group else ""
        return f"{_EXPECTED[kind]}, got {got}{hint}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"must be {words} {item['ctx'][bound]:g}, got {got}"
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", str(item["ctx"]["expected"]))
        return unknown("value", value, valid)
    whole = {"missing": "missing", "too_short": "at least one is needed"}
    if kind == "extra_forbidden":
        whole[kind] = unknown_key(schema.model, loc)
    reason = item["ctx"]["error"] if kind == "value_error" else item["msg"]
    return whole.get(kind, f"{reason}, got {got}")
