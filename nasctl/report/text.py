"""Layer 5: how numbers and choices read, the same in the report, the terminal and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nasctl.arch import Scalar

_LABELS = {
    "params": "parameters",
    "macs": "MACs",
    "model_bytes": "model size",
}
SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_COUNTS = {"params", "macs", "activations"}


def label(metric: str) -> str:
    """`latency_ms` -> `latency`, `macs` -> `MACs`: a metric as people say it, without its unit."""
    return _LABELS.get(metric, metric.removesuffix("_ms").replace("_", " "))


def unit(metric: str) -> str:
    """The unit of a metric's number, empty where it is a count or a fraction."""
    if metric.endswith("_ms"):
        return "ms"
    return "B" if metric.endswith("_bytes") else ""


def title(metric: str) -> str:
    """The label with its unit, for axes and column heads: `latency (ms)`."""
    return f"{label(metric)} ({unit(metric)})" if unit(metric) else label(metric)


def number(metric: str, value: float | None) -> str:
    """A value of `metric` without its unit, rounded to what can be told apart: `0.612`, `48.1 k`.

    Accuracies have four decimals (one image of 2,000 is 0.0005), everything else three digits.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if "accuracy" in metric:
        return f"{value:.4f}"
    if metric in _COUNTS or metric.endswith("_bytes"):
        return si(value)
    return significant(value)


def quantity(metric: str, value: float | None) -> str:
    """A value with its unit: `0.612 ms`, `48.1 k`, `192 kB`."""
    text = number(metric, value)
    if text == "–" or not unit(metric):
        return text
    return f"{text}B" if unit(metric) == "B" and text[-1].isalpha() else f"{text} {unit(metric)}"


def interval(metric: str, ends: tuple[float, float] | None) -> str:
    """`0.891 – 0.916`, or nothing for an exact or unknown value."""
    if ends is None or ends[0] == ends[1]:
        return ""
    low, high = ends
    if "accuracy" in metric:
        return f"{low:.3f} – {high:.3f}"
    return f"{number(metric, low)} – {number(metric, high)}"


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits without an exponent where that is readable: `0.0182`, `12.4`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")  # 0.9999 has the decimals of 1.00
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:.{decimals}f}"


def si(value: float) -> str:
    """`912`, `48.1 k`, `3.21 M`: three digits and a factor of 1,000."""
    for factor, prefix in SI:
        if abs(value) >= factor * 0.9995:
            return f"{significant(value / factor)} {prefix}"
    return f"{value:.0f}" if float(value).is_integer() else significant(value)


def duration(seconds: float) -> str:
    """`8 s`, `4 min 12 s`, `1 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(share: float) -> str:
    """`90 %`."""
    return f"{100 * share:g} %"


def plural(count: int, noun: str) -> str:
    """`1 trial`, `1,200 trials`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def choice_groups(choices: Mapping[str, Scalar]) -> list[tuple[str, str]]:
    """Choices by scope, in order: `("network", "resolution 28"), ("stage1.block1", ...)`."""
    groups: dict[str, list[str]] = {}
    for name, value in choices.items():
        scope, _, key = name.rpartition(".")
        groups.setdefault(scope or "network", []).append(f"{key} {scalar(value)}")
    return [(scope, ", ".join(parts)) for scope, parts in groups.items()]


def choices_summary(choices: Mapping[str, Scalar]) -> str:
    """One line, the widest scope first, for a table that cuts it where its space ends."""
    ordered = sorted(choices.items(), key=lambda item: item[0].count("."))
    return " · ".join(f"{name} {scalar(value)}" for name, value in ordered)


def scalar(value: object) -> str:
    """A choice as the configuration spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def md(value: str) -> str:
    """Text for Markdown that cannot end a table cell or become HTML."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def md_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(md(c) for c in cells) + " |"
