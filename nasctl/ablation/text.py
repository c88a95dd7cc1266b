"""Layer 4: a study in the terminal: its verdicts, and what was compared at what cost."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nasctl.ablation.sentences import amount, seeds_raised, trained_on
from nasctl.compute import PURPOSES

_COSTS = {"params": "parameters", "macs": "MACs", "latency_ms": "latency ms"}


def summary(view: Mapping[str, Any], *, width: int = 100) -> str:
    """Verdicts, controls and arms; for `nasctl ablate`."""
    lines: list[str] = []
    if view["question"]:
        lines += [*textwrap.wrap(view["question"], width), ""]
    for found in view["comparisons"]:
        if not found["kind"].endswith("_control"):
            lines += _wrapped(found["sentence"], width)
    for control in view["controls"].values():
        if control is not None:
            lines += _wrapped(control["sentence"], width)
    for line in view["failures"]:
        lines += _wrapped(line, width)
    lines += ["", *arms_table(view)]
    lines += ["", *textwrap.wrap(_setting(view), width)]
    lines += textwrap.wrap(_spent(view.get("compute")), width)
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ")


def arms_table(view: Mapping[str, Any]) -> Iterator[str]:
    """Mean with its interval, costs and learning rate of every arm."""
    metric = view["setting"]["metric"]
    costs = [c for c in _COSTS if all(c in a["cost"] for a in view["arms"])]
    rows = [["arm", "n", metric, "95 % interval", *(_COSTS[c] for c in costs), "lr"]]
    for arm in view["arms"]:
        interval = arm["interval"]
        rows.append(
            [
                arm["label"],
                str(arm["n"]),
                "-" if arm["mean"] is None else f"{arm['mean']:.4f}",
                f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "-",
                *(_cost(arm["cost"][c]) for c in costs),
                f"{arm['lr']:g}",
            ]
        )
    yield from aligned(rows)


def _cost(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()


def _spent(compute: Mapping[str, Any] | None) -> str:
    """Hours by purpose; nothing where nothing is known."""
    if not compute or not compute["rows"]:
        return ""
    unit = "GPU-hours" if compute["unit"] == "gpu_hour" else "core-hours"
    key = f"{compute['unit']}s"
    parts = [
        f"{PURPOSES[row['purpose']]} {row[key]:.3g} (n = {row['count']:,})"
        for row in compute["rows"]
        if row["seconds"] is not None
    ]
    whole = "" if compute["total"]["complete"] else " of what was recorded"
    return f"Compute: {compute['total'][key]:.3g} {unit}{whole}: {', '.join(parts)}."


def _setting(view: Mapping[str, Any]) -> str:
    setting = view["setting"]
    rates = {"tuned": "a learning rate of its own for each arm", "shared": "one learning rate"}
    least = amount(setting["smallest_effect"], setting["metric"], sign=False)
    parts = [
        f"In this setting: {trained_on(setting)}, {setting['recipe']['epochs']} epochs",
        rates[setting["learning_rate"]],
        "as they are" if setting["match"] == "none" else f"at equal {setting['match']}",
        f"smallest effect that matters {least}",
        f"alpha {setting['alpha']:g}",
    ]
    if setting["boundary"]:
        parts.append(f"looks after every seed ({setting['boundary']} boundary)")
    return " ".join(["; ".join(parts) + ".", *seeds_raised(setting)])
