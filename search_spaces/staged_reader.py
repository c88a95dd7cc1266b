"""Reads plain data from YAML and notes every problem with its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nasctl.arch import Scalar
from nasctl.errors import unknown
from nasctl.fields import normal_number
from search_spaces.blocks.shapes import ACTIVATION_ALIASES, ACTIVATIONS

MAX_CHOICES = 64


class Reader:
    """Reads values and notes what is wrong with them, so that all is reported at once."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def mapping(self, value: Any, path: str, known: tuple[str, ...]) -> Mapping[str, Any]:
        """A mapping with known keys; an empty one where it is not."""
        if not isinstance(value, Mapping):
            keys = ", ".join(known)
            self.problems.append(f"{path}: expected a mapping with {keys}; got {value!r}")
            return {}
        prefix = f"{path}." if path else ""
        self.problems += [
            f"{prefix}{key}: {unknown('option', key, known)}" for key in value if key not in known
        ]
        return value

    def number(self, value: Any, path: str, low: float, high: float) -> float:
        """A number in [low, high]."""
        given = normal_number(value)
        if isinstance(given, bool) or not isinstance(given, int | float):
            self.problems.append(f"{path}: expected a number, got {value!r}")
        elif not low <= given <= high:  # also NaN
            self.problems.append(f"{path}: expected {low} to {high}, got {value!r}")
        else:
            return given
        return low

    def whole(self, value: Any, path: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        given = normal_number(value)
        if isinstance(given, int) and not isinstance(given, bool) and low <= given <= high:
            return given
        self.problems.append(f"{path}: expected a whole number, {low} to {high}; got {value!r}")
        return low

    def required(self, options: Mapping[str, Any], key: str, path: str) -> Any:
        """The value, or None and a problem."""
        if key not in options:
            self.problems.append(f"{path}.{key}: missing")
        return options.get(key)

    def odd(self, value: Any, path: str) -> int:
        """A kernel size that keeps the size of the map."""
        size = self.whole(value, path, 1, 31)
        if size % 2 == 0:
            self.problems.append(f"{path}: a kernel size must be odd, got {value!r}")
            return 1
        return size

    def name(self, value: Any, path: str, kind: str, known: tuple[str, ...]) -> str:
        """One of the known names."""
        if value in known and isinstance(value, str):
            return value
        self.problems.append(f"{path}: {unknown(kind, value, known)}")
        return known[0]

    def activation(self, value: Any, path: str) -> str:
        """One of the activations, by its one name."""
        if isinstance(value, str):
            value = ACTIVATION_ALIASES.get(value, value)
        return self.name(value, path, "activation", tuple(ACTIVATIONS))

    def choices(self, value: Any, path: str, one: Callable[[Any, str], Scalar]) -> tuple[Any, ...]:
        """A value, or a list of distinct ones."""
        if not isinstance(value, list | tuple):
            return (one(value, path),)
        if not value or len(value) > MAX_CHOICES:
            self.problems.append(f"{path}: expected 1 to {MAX_CHOICES} choices, got {len(value)}")
            return (one(value[0], path),) if value else (None,)
        before = len(self.problems)
        read = [one(item, f"{path}.{i}") for i, item in enumerate(value)]
        if len(self.problems) == before and len(set(read)) < len(read):
            twice = next(v for i, v in enumerate(read) if v in read[:i])
            self.problems.append(f"{path}: {twice!r} is given twice")
        return tuple(dict.fromkeys(read))

    def truth(self, value: Any, path: str) -> bool:
        """true or false."""
        if not isinstance(value, bool):
            self.problems.append(f"{path}: expected true or false, got {value!r}")
        return value is True

    def like(self, value: Any, path: str, example: Scalar) -> Scalar:
        """A value of the example's kind: a bool, whole number, number or text."""
        if isinstance(example, bool):
            return self.truth(value, path)
        if isinstance(example, int):
            return self.whole(value, path, 0, 10**6)
        if isinstance(example, float):
            return self.number(value, path, -1e9, 1e9)
        if not isinstance(value, str):
            self.problems.append(f"{path}: expected a text, got {value!r}")
            return example
        return value
