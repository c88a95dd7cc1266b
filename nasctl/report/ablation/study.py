"""Layer 5: what the report reads from a study: its parts, and how its numbers read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasctl.report import text

Json = Mapping[str, Any]
"""A JSON object. Effects, means and intervals are in the unit of the metric; accuracy is 0 to 1."""

CONTROLS = ("positive_control", "null_control")
VERDICTS = ("supported", "refuted", "equivalent", "inconclusive")
OPEN = "not decided yet"
SAME = "±0 %"
ROLES = {
    "baseline": "baseline",
    "positive_control": "positive control",
    "null_control": "null control",
}
KINDS = {
    "effect": "comparison",
    "main_effect": "main effect",
    "interaction": "interaction",
    "positive_control": "positive control",
    "null_control": "null control",
}
STATUS = {
    "INTERRUPTED": "This study is unfinished: the same command continues it.",
    "RUNNING": "This study was still running when this page was written.",
    "FAILED": "This study failed: below is what it had until then.",
}


def cleaned(value: Any) -> Any:
    """The same JSON with null in place of the numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(k): cleaned(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def asked(view: Json) -> list[Json]:
    """The comparisons that the study is about, without its controls, as given."""
    return [c for c in view["comparisons"] if c["kind"] not in CONTROLS]


def controls(view: Json) -> list[Json]:
    """The comparisons that only check the study itself."""
    return [c for c in view["comparisons"] if c["kind"] in CONTROLS]


def verdict(comparison: Json) -> str:
    """One of `VERDICTS`, or that there is none yet."""
    found = comparison.get("verdict")
    return str(found) if found in VERDICTS else OPEN


def control_word(view: Json, which: str) -> str | None:
    """`found`, `not found`; `clear`, `not clear`; or `OPEN`; None where the study has none.

    Args:
        which: `positive` or `null`.
    """
    control = (view.get("controls") or {}).get(which)
    if control is None:
        return None
    word = "found" if which == "positive" else "clear"
    state = control.get(word)
    return OPEN if state is None else word if state else f"not {word}"


def baseline(view: Json) -> Json | None:
    """The baseline arm, None if the study has no arm of that name."""
    return next((a for a in view["arms"] if a["name"] == view["baseline"]), None)


def costs(view: Json) -> list[str]:
    """The cost metrics that any arm has, in the order in which they come."""
    return list(dict.fromkeys(name for arm in view["arms"] for name in arm.get("cost") or {}))


def relative(value: float | None, base: float | None) -> float | None:
    """value / base - 1, None where that is not known."""
    return value / base - 1 if value is not None and base else None


def seeds(view: Json) -> tuple[int, int] | None:
    """The smallest and the largest n of the arms that are compared, None without arms."""
    found = [int(a.get("n") or 0) for a in view["arms"] if a["role"] not in CONTROLS]
    return (min(found), max(found)) if found else None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """How effects on a metric read: on accuracy in percentage points, on others as they are."""

    metric: str

    @property
    def factor(self) -> float:
        """What a number of the study is multiplied by to be shown."""
        return 100.0 if self.metric == "accuracy" else 1.0

    @property
    def name(self) -> str:
        """`points`, or nothing."""
        return "points" if self.metric == "accuracy" else ""

    @property
    def axis(self) -> str:
        """The title of an axis of effects."""
        return "points of accuracy" if self.name else f"difference of {text.title(self.metric)}"

    def scaled(self, value: float | None) -> float | None:
        """The number as it is drawn."""
        return None if value is None else self.factor * value

    def signed(self, value: float | None) -> str:
        """With its sign: 0.0042 -> `+0.42`."""
        if value is None:
            return "–"
        shown = self.factor * value
        rounded = f"{shown:+.2f}" if self.name else f"{shown:+.4g}"
        if float(rounded) == 0:
            return "0.00" if self.name else "0"
        return rounded.replace("-", "\N{MINUS SIGN}")

    def size(self, value: float | None, *, named: bool = True) -> str:
        """Without a sign: 0.005 -> `0.50 points`."""
        if value is None:
            return "–"
        shown = self.factor * value
        rounded = f"{shown:.2f}" if self.name else f"{shown:.4g}"
        return f"{rounded} {self.name}".rstrip() if named else rounded

    def span(self, ends: Sequence[float | None] | None) -> str:
        """An interval, `+0.05 to +0.79`, or nothing."""
        if not known(ends):
            return ""
        assert ends is not None
        return f"{self.signed(ends[0])} to {self.signed(ends[1])}"


def unit(holder: Json) -> Unit:
    """The unit of a comparison, or of a study's setting."""
    return Unit(metric=str(holder.get("metric") or "accuracy"))


def known(ends: Sequence[float | None] | None) -> bool:
    """Whether both ends of an interval are numbers."""
    return ends is not None and len(ends) == 2 and None not in ends


def percent(value: float | None) -> str:
    """A relative change: 0.123 -> `+12.3 %`."""
    if value is None:
        return "–"
    rounded = f"{100 * value:.1f}"
    if float(rounded) == 0:
        return SAME
    return f"{100 * value:+.1f} %".replace("-", "\N{MINUS SIGN}")


def confidence(level: float | None) -> str:
    """`95 %`, `97.5 %`; empty where it is not known."""
    return "" if level is None else f"{100 * level:.4g} %"


def probability(value: float | None) -> str:
    """A p value, with as many digits as tell something: `0.021`, `< 0.0001`."""
    if value is None:
        return "–"
    if value < 1e-4:
        return "< 0.0001"
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}"


def rate(value: float | None) -> str:
    """A learning rate, or another setting, without needless digits: `0.4`."""
    return "–" if value is None else f"{value:.4g}"


def deciding(view: Json) -> list[Json]:
    """The comparisons that seeds are added for: those with a claim, or all if none has one."""
    questions = asked(view)
    return [c for c in questions if c.get("claim")] or questions


def counted(view: Json) -> tuple[int, int, str, str]:
    """How many of the deciding comparisons are decided, of how many, their noun, and by verdict."""
    chosen = deciding(view)
    found = Counter(verdict(c) for c in chosen)
    decided = sum(found[v] for v in VERDICTS if v != "inconclusive")
    noun = "claim" if any(c.get("claim") for c in chosen) else "comparison"
    parts = ", ".join(f"{found[v]} {v}" for v in (*VERDICTS, OPEN) if found[v])
    return decided, len(chosen), noun, parts


def headline(view: Json) -> str:
    """What came out, counted: `2 of 3 claims decided: 1 supported, 1 refuted, 1 inconclusive.`"""
    decided, total, noun, parts = counted(view)
    if not total:
        return "Nothing has been compared yet."
    return f"{decided} of {text.plural(total, noun)} decided: {parts}."


def effect_line(comparison: Json) -> str:
    """The numbers of a comparison in one line: effect, interval, n, p."""
    effect, u = comparison.get("effect"), unit(comparison)
    parts = ["no effect known yet" if effect is None else f"{u.signed(effect)} {u.name}".rstrip()]
    ends, level = u.span(comparison.get("interval")), confidence(comparison.get("level"))
    if ends:
        parts.append(f"{level} interval {ends}".strip())
    parts.append(f"n = {comparison.get('n') or 0}")
    if comparison.get("p_adjusted") is not None:
        parts.append(f"adjusted p {probability(comparison['p_adjusted'])}")
    elif comparison.get("p_value") is not None:
        parts.append(f"p {probability(comparison['p_value'])}")
    return ", ".join(parts)


def cost_line(comparison: Json) -> str:
    """What the second level costs more than the first, `parameters +2.1 %`, or nothing."""
    found = comparison.get("cost_difference") or {}
    changes = {n: c["relative"] for n, c in found.items() if c and c.get("relative") is not None}
    parts = [f"{text.label(n)} {percent(r)}" for n, r in changes.items() if percent(r) != SAME]
    if parts:
        return ", ".join(parts)
    return "the same" if changes else ""
