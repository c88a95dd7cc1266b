"""Layer 4: claims as users write them: `accuracy(linear) > accuracy(relu6)`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nasctl.errors import ConfigError, unknown

Side = tuple[tuple[str, str], ...]
"""(factor, level), in the order of the factors; those that are not named are left open."""

RESERVED = "()<>=,"
"""What the grammar needs; names of factors and levels have none of it."""

LONGEST = 1000
"""Characters of a claim."""

_CLAIM = re.compile(r"\s*([^()<>=]+?)\s*\(([^()<>]*)\)\s*([<>])\s*([^()<>=]+?)\s*\(([^()<>]*)\)\s*")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is expected of two arms, or of two sets of arms.

    Attributes:
        text: as the user wrote it.
        metric: that is compared.
        better: the side that is claimed to have the larger value of `metric`.
        worse: the other.
    """

    text: str
    metric: str
    better: Side
    worse: Side


def level_name(value: str | float | bool) -> str:
    """A level as claims and tables write it: `true`, `linear`, `3` (also for 3.0), `0.25`."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def parse_claim(text: str, factors: Mapping[str, Sequence[str]]) -> Claim:
    """Reads `METRIC(LEVEL) > METRIC(LEVEL)`, or with `<`.

    Args:
        text: LEVEL is the name of a level, `factor=level`, or several of the latter with commas.
        factors: to the names of their levels, the baseline's first.

    Raises:
        ConfigError: a text that cannot be read, unknown names (with the nearest), a level that
            two factors have, or two sides that are the same. The problems start with no key.
    """
    found = _CLAIM.fullmatch(text) if len(text) <= LONGEST else None
    if found is None:
        raise ConfigError(
            f"cannot be read: {text[:60]!r}; expected METRIC(LEVEL) > METRIC(LEVEL), such as "
            f"{_example(factors)}"
        )
    left_metric, left, sign, right_metric, right = found.groups()
    problems: list[str] = []
    if left_metric != right_metric:
        problems.append(f"compares {left_metric!r} with {right_metric!r}; name one metric twice")
    sides = [_side(part, factors, problems) for part in (left, right)]
    if not problems and sides[0] == sides[1]:
        problems.append(f"both sides are the same: {text!r}")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    better, worse = sides if sign == ">" else reversed(sides)
    return Claim(text=text, metric=left_metric, better=better, worse=worse)


def _example(factors: Mapping[str, Sequence[str]]) -> str:
    first, second, *_ = [*next(iter(factors.values()), ()), "linear", "relu6"]
    return f"accuracy({first}) > accuracy({second})"


def _side(text: str, factors: Mapping[str, Sequence[str]], problems: list[str]) -> Side:
    parts = [part.strip() for part in text.split(",")]
    chosen: dict[str, str] = {}
    for part in parts:
        try:
            factor, level = _one(part, factors)
        except ConfigError as error:
            problems += error.problems
            continue
        if "=" not in part and len(parts) > 1:
            problems.append(f"{part!r}: where several are named, write {factor}={level}")
        if factor in chosen:
            problems.append(f"{text.strip()!r} names two levels of {factor!r}")
        chosen[factor] = level
    return tuple((factor, chosen[factor]) for factor in factors if factor in chosen)


def _one(text: str, factors: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """(factor, level) of `level` or `factor=level`."""
    factor, equals, level = (part.strip() for part in text.partition("="))
    if not equals:
        having = [name for name, levels in factors.items() if text in levels]
        if len(having) > 1:
            written = " or ".join(f"{name}={text}" for name in having)
            raise ConfigError(f"{text!r} is a level of {' and '.join(having)}; write {written}")
        if not having:
            known = dict.fromkeys(level for levels in factors.values() for level in levels)
            raise ConfigError(unknown("level", text, known))
        return having[0], text
    if factor not in factors:
        raise ConfigError(unknown("factor", factor, factors))
    if level not in factors[factor]:
        raise ConfigError(unknown(f"level of {factor}", level, factors[factor]))
    return factor, level
