"""Layer 5: what the page's charts are drawn from; effects on accuracy are in points."""

from __future__ import annotations

from typing import Any

from nasctl.report import text
from nasctl.report.ablation.study import (
    CONTROLS,
    KINDS,
    Json,
    asked,
    baseline,
    controls,
    effect_line,
    known,
    probability,
    unit,
    verdict,
)


def chart_data(view: Json) -> dict[str, Any]:
    """The rows of the forest plot, the learning curves and the interactions."""
    curves = [_curve(arm) for arm in view["arms"]]
    rows = [forest_row(c) for c in (*asked(view), *controls(view))]
    u = unit(view["setting"])
    smallest = u.scaled(view["setting"].get("smallest_effect")) or 0.0
    return {
        "metric": text.title(u.metric),
        "unit": u.name,
        "axis": u.axis,
        "smallest": smallest,
        "window": list(window(rows, smallest)),
        "rows": rows,
        "curves": [c for c in curves if c is not None],
        "gaps": _gaps(view),
        "interactions": [_interaction(x) for x in view.get("interactions") or ()],
    }


def forest_row(comparison: Json) -> dict[str, Any]:
    """One row of the forest plot, its numbers as they are drawn.

    `interval` and `adjusted` are None where they are not known.
    """
    ends, u = comparison.get("interval"), unit(comparison)
    word = verdict(comparison)
    effect = comparison.get("effect")
    parts = [f"n = {len(comparison.get('differences') or ())}"]
    if comparison.get("sd") is not None:
        parts.append(f"sd {u.size(comparison['sd'])}")
    if comparison.get("sign_flip_p") is not None:
        parts.append(f"sign-flip p {probability(comparison['sign_flip_p'])}")
    return {
        "name": f"{_kind(comparison)}{comparison['name']}",
        "control": comparison["kind"] in CONTROLS,
        "verdict": word,
        "effect": u.scaled(effect),
        "interval": [u.factor * x for x in ends] if known(ends) and ends else None,
        "adjusted": u.scaled(comparison.get("adjusted_effect")),
        "said": f"{u.signed(effect)} · {word}" if effect is not None else word,
        "hover": effect_line(comparison),
        "pairs": ", ".join(parts),
        "differences": [u.factor * d for d in comparison.get("differences") or () if d is not None],
    }


def _kind(comparison: Json) -> str:
    """What stands before the name of a control: those are not what the study asks."""
    kind = comparison["kind"]
    return f"{KINDS[kind].capitalize()}: " if kind in CONTROLS else ""


def window(rows: list[dict[str, Any]], smallest: float) -> tuple[float, float]:
    """Ends of the axis of effects, as drawn: everything, unless a control is far away.

    A control is meant to have a large effect; beyond three times the rest it would squash the
    rest, and is drawn as an arrow at the edge.
    """

    def ends(chosen: list[dict[str, Any]]) -> tuple[float, float]:
        values = [-smallest, smallest, 0.0]
        for row in chosen:
            values += row["interval"] or []
            values += [row[k] for k in ("effect", "adjusted") if row[k] is not None]
        return min(values), max(values)

    all_ends, rest = ends(rows), ends([r for r in rows if not r["control"]])
    close = all_ends[1] - all_ends[0] <= 3 * (rest[1] - rest[0]) or all(r["control"] for r in rows)
    low, high = all_ends if close else rest
    pad = 0.06 * (high - low) or 0.1
    return low - pad, high + pad


def _curve(arm: Json) -> dict[str, Any] | None:
    curve = arm.get("curve") or {}
    series = [curve.get(k) or [] for k in ("epochs", "mean", "low", "high")]
    found = [row for row in zip(*series, strict=False) if row[0] is not None and row[1] is not None]
    if not found:
        return None
    banded = [r for r in found if r[2] is not None and r[3] is not None]
    return {
        "name": str(arm["label"]),
        "base": arm["role"] == "baseline",
        "control": arm["role"] in CONTROLS,
        "line": [[r[0], r[1]] for r in found],
        "band": [[r[0], r[2], r[3]] for r in banded],
    }


def _gaps(view: Json) -> list[dict[str, Any]]:
    """Mean curve of each arm minus that of the baseline, as drawn, where both have the epoch."""
    first = baseline(view)
    base = _curve(first) if first is not None else None
    factor = unit(view["setting"]).factor
    if base is None:
        return []
    at = dict(map(tuple, base["line"]))
    found = []
    for arm in view["arms"]:
        curve = _curve(arm)
        if arm is first or curve is None:
            continue
        shared = [(epoch, mean) for epoch, mean in curve["line"] if epoch in at]
        line = [[epoch, factor * (mean - at[epoch])] for epoch, mean in shared]
        if line:
            found.append({"name": curve["name"], "control": curve["control"], "line": line})
    return found


def _interaction(found: Json) -> dict[str, Any]:
    by, x = found["factors"]
    by_levels, x_levels = found["levels"]
    lines = []
    for i, level in enumerate(by_levels):
        cells = [
            [str(x_levels[j]), *(_at(found.get(k), i, j) for k in ("means", "low", "high"))]
            for j in range(len(x_levels))
        ]
        lines.append({"name": str(level), "cells": [c for c in cells if c[1] is not None]})
    return {"by": str(by), "x": str(x), "order": [str(v) for v in x_levels], "lines": lines}


def _at(table: list[list[float | None]] | None, i: int, j: int) -> float | None:
    return table[i][j] if table and i < len(table) and j < len(table[i]) else None
