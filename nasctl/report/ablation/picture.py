"""Layer 5: the picture of a study: its effects beside its learning curves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from nasctl.report.ablation.charts import chart_data
from nasctl.report.ablation.study import Json
from nasctl.report.files import FRONT, INK, MUTED, dress

_GOOD, _BAD, _BAND = "#2b8a5f", "#c0392b", "#e9edf3"
_VERDICT = {"supported": _GOOD, "refuted": _BAD, "equivalent": FRONT}
_ARMS = ("#1558d6", "#d9480f", "#2b8a5f", "#8a63c9", "#b7791f", "#c9627c", "#3f93b5", "#7d8f2e")
_STYLES = ("-", "--", "-.", ":")
_LONGEST = 52
"""Characters of a name beside its verdict before it is cut."""


def study_png(view: Json) -> bytes:
    """The effects and the learning curves, 2,400 pixels wide, readable at 1,600."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data = chart_data(view)
    rows: Sequence[dict[str, Any]] = data["rows"]
    height = max(4.6, 1.6 + 0.56 * len(rows))
    figure = Figure(figsize=(12.0, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    forest, curves = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_effects(forest, data)
    _draw_curves(curves, data["curves"])
    curves.set_ylabel(_plain(data["metric"]), color=INK)
    figure.suptitle(_plain(str(view["name"])), x=0.01, ha="left", color=INK, weight="bold")
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": "nasctl"})
    return out.getvalue()


def _plain(value: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return " ".join(value.split()).replace("$", r"\$")


def _cut(value: str, most: int) -> str:
    return value if len(value) <= most else value[: most - 1] + "…"


def _heights(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Heights of the rows from the top down; the controls stand apart."""
    heights, y = [], 0.0
    for before, row in zip([None, *rows], rows, strict=False):
        y -= 1.5 if before is not None and row["control"] and not before["control"] else 1.0
        heights.append(y)
    return heights


def _draw_effects(panel: Any, data: dict[str, Any]) -> None:
    rows, smallest = data["rows"], data["smallest"]
    low, high = ends = data["window"]
    heights = _heights(rows)
    bottom = heights[-1] if heights else -1.0
    panel.set_xlim(low, high)
    panel.set_ylim(bottom - 0.5, -0.2)
    if smallest:
        panel.axvspan(-smallest, smallest, color=_BAND, lw=0, zorder=0)
    panel.axvline(0, color=MUTED, lw=1, zorder=1)
    for row, y in zip(rows, heights, strict=True):
        _draw_row(panel, row, y, ends)
    apart = [y for row, y in zip(rows, heights, strict=True) if row["control"]]
    if apart and len(apart) < len(rows):
        panel.axhline(apart[0] + 0.85, color="#c3ccd8", lw=0.8, ls=(0, (3, 3)))
    if not rows:
        panel.text(
            0.5, 0.5, "Nothing has been compared yet.", transform=panel.transAxes,
            ha="center", color=MUTED,
        )  # fmt: skip
    dress(panel)
    panel.grid(visible=False, axis="y")
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.set_xlabel(_plain(f"effect ({data['axis']})"), color=INK)


def _draw_row(panel: Any, row: dict[str, Any], y: float, ends: tuple[float, float]) -> None:
    low, high = ends
    colour = _VERDICT.get(row["verdict"], INK)
    at = panel.get_yaxis_transform()  # across in parts of the panel, upwards in rows
    name = _plain(_cut(row["name"], _LONGEST))
    panel.text(0.0, y + 0.27, name, transform=at, fontsize=8.5, color=INK)
    panel.text(
        1.0, y + 0.27, row["said"], transform=at, fontsize=8.5, color=colour, ha="right",
        weight="bold",
    )  # fmt: skip
    if row["interval"]:
        left, right = (min(max(x, low), high) for x in row["interval"])
        panel.plot([left, right], [y, y], color=colour, lw=2, solid_capstyle="butt", zorder=3)
    if row["adjusted"] is not None and low <= row["adjusted"] <= high:
        panel.plot([row["adjusted"]], [y], "D", ms=5.5, mfc="white", mec=colour, mew=1.2, zorder=4)
    effect = row["effect"]
    if effect is not None:
        marker = "<" if effect < low else ">" if effect > high else "o"
        inside = min(max(effect, low), high)
        panel.plot([inside], [y], marker, ms=7, mfc=colour, mec="white", zorder=5, clip_on=False)


def _draw_curves(panel: Any, curves: Sequence[dict[str, Any]]) -> None:
    drawn = [c for c in curves if not c["control"]]
    others = 0
    for curve in drawn:
        colour, style = INK, "-"
        if not curve["base"]:
            colour, style = _ARMS[others % len(_ARMS)], _STYLES[others // len(_ARMS) % len(_STYLES)]
            others += 1
        x, y = zip(*curve["line"], strict=True)
        name = _plain(_cut(curve["name"], _LONGEST))
        single = {"marker": "o"} if len(x) == 1 else {}
        # Matplotlib leaves lines out of the legend whose name begins with an underscore.
        name = f"\u200b{name}" if name.startswith("_") else name
        panel.plot(x, y, color=colour, ls=style, lw=1.6, label=name, **single)
        if curve["band"]:
            epochs, low, high = zip(*curve["band"], strict=True)
            panel.fill_between(epochs, low, high, color=colour, alpha=0.12, lw=0)
    if drawn:
        panel.legend(loc="lower right", frameon=False, fontsize=8, labelcolor=MUTED)
        last = max(point[0] for c in drawn for point in c["line"])
        if last <= 12:
            panel.set_xticks(range(1, int(last) + 1))
    else:
        panel.text(
            0.5, 0.5, "No learning curves yet.", transform=panel.transAxes, ha="center",
            color=MUTED,
        )  # fmt: skip
        panel.set_xticks([])
        panel.set_yticks([])
    dress(panel)
    panel.set_xlabel("epoch", color=INK)
