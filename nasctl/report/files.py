"""Layer 5: what lies beside the page: a picture of the front, all trials as CSV, a summary."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from nasctl.halving_report import halving_lines
from nasctl.report import text
from nasctl.report.compute import compute_markdown
from nasctl.report.page import headline
from nasctl.report.verified import verified_markdown
from nasctl.report.view import (
    Point,
    RunView,
    charted,
    direction,
    points,
    primary,
    reference_points,
    remark,
    staircase,
    tabled,
)
from nasctl.stopping import stopped_line

INK, MUTED, FRONT, NEAR, DOMINATED = "#16202e", "#5c6b7f", "#1558d6", "#6f9bea", "#aab4c2"


def trials_csv(view: RunView) -> str:
    """Every trial, one line each: state, costs, metrics, choices, whether it is on the front."""
    members = {m["arch_id"] for m in view.members}
    metrics = list(dict.fromkeys(n for t in view.trials for n in (*t.cost, *t.metrics)))
    choices = list(dict.fromkeys(n for t in view.trials for n in t.choices))
    fixed = ["number", "state", "arch_id", "on_front", "seed", "epochs", "attempts", "seconds"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*fixed, *metrics, "error", *(f"choice.{n}" for n in choices)])
    for t in view.trials:
        known = {**t.cost, **t.metrics}
        writer.writerow(
            [
                t.number,
                t.state.value,
                t.arch_id,
                int(t.arch_id in members),
                t.seed,
                t.epochs,
                t.attempts,
                f"{t.seconds:.3f}",
                *(known.get(n, "") for n in metrics),
                t.error or "",
                *(t.choices.get(n, "") for n in choices),
            ]
        )
    return out.getvalue()


def markdown(view: RunView, picture: str) -> str:
    """The result on half a page, for a pull request or a README."""
    found = points(view)
    members = [p for p in found if p.role == "member"]
    columns = tabled(view)
    lines = [f"# {text.md(view.name)}", "", text.md(headline(view, found)), ""]
    if found:
        lines += [f"![The front](<{picture}>)", ""]
    if members:
        split = [m for m in columns if any(m in p.predicted for p in members)]
        heads = ["network"]
        for m in columns:
            heads += (
                [f"{text.title(m)} measured", f"{text.title(m)} in search"]
                if m in split
                else [text.title(m)]
            )
        several = any(p.seeds > 1 for p in members)
        heads += ["seeds"] if several else []
        lines += [text.md_row(heads), "| --- |" + " ---: |" * (len(heads) - 1)]
        for p in (*members, *reference_points(view)):
            cells = [f"{p.name} (reference)" if p.name else f"`{p.arch_id}`"]
            for m in columns:
                shown = p.measured(m) if m in split else (p.values.get(m), p.intervals.get(m))
                ends = text.interval(m, shown[1])
                value = text.number(m, shown[0])
                cells.append(f"{value} ({ends})" if ends else value)
                if m in split:
                    cells.append(text.number(m, p.searched(m)[0]))
            cells += [str(p.seeds)] if several else []
            lines.append(text.md_row(cells))
        lines += ["", "In parentheses: 95 % intervals.", ""]
    notes = [
        f"- Reference network {text.md(p.name)}: {text.md(what)}"
        for p, r in zip(reference_points(view), view.references, strict=True)
        if (what := remark(r))
    ]
    lines += [*notes, ""] if notes else []
    counts = ", ".join(f"{n:,} {s.lower()}" for s, n in view.counts.items() if n)
    reference = ", ".join(
        f"{text.label(m)} {text.quantity(m, v)}" for m, v in view.reference_point.items()
    )
    lines += [
        f"- Trials: {counts or 'none'}",
        *([f"- {text.md(early)}"] if (early := stopped_line(view.front.get("stopped"))) else []),
        f"- Hypervolume: {text.significant(view.front['hypervolume'], 4)} "
        f"(reference point: {text.md(reference)})",
        f"- Wall time: {text.duration(view.seconds)}",
        *(f"- {text.md(line)}" for line in halving_lines(view.front.get("halving"))),
        "",
        *verified_markdown(view),
        *compute_markdown(view),
        "```",
        view.command.replace("```", ""),
        "```",
        "",
    ]
    return "\n".join(lines)


def front_png(view: RunView) -> bytes:
    """The front as a picture: the same panels as the page, 2,400 pixels wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = points(view)
    axes = charted(view)[:2] or [primary(view.objectives)]
    figure = Figure(figsize=(6.0 * max(len(axes), 1.4), 4.6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(axes), squeeze=False, sharey=True)[0]
    for panel, x in zip(panels, axes, strict=True):
        _draw_panel(panel, view, found, x)
    panels[0].set_ylabel(text.title(primary(view.objectives)), color=INK)
    figure.suptitle(view.name.replace("$", r"\$"), x=0.01, ha="left", color=INK, weight="bold")
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": "nasctl"})
    return out.getvalue()


def _draw_panel(panel: Any, view: RunView, found: Sequence[Point], x: str) -> None:
    from matplotlib.ticker import EngFormatter

    y = primary(view.objectives)
    drawn = [p for p in found if x in p.values and y in p.values]
    for role, colour, size, name in (
        ("dominated", DOMINATED, 14, "dominated"),
        ("near", NEAR, 26, "near the front"),
    ):
        chosen = [p for p in drawn if p.role == role]
        if chosen:
            panel.scatter(
                [p.values[x] for p in chosen],
                [p.values[y] for p in chosen],
                s=size,
                color=colour,
                alpha=0.7,
                linewidths=0,
                label=name,
                zorder=2,
            )
    members = [p for p in drawn if p.role == "member"]
    if members:
        panel.errorbar(
            [p.values[x] for p in members],
            [p.values[y] for p in members],
            xerr=_whiskers(members, x),
            yerr=_whiskers(members, y),
            fmt="o",
            ms=6,
            color=FRONT,
            ecolor=FRONT,
            elinewidth=0.8,
            mec="white",
            mew=0.8,
            label="on the front",
            zorder=4,
        )
        stairs = staircase(members, x, y, direction(view, x), direction(view, y))
        panel.plot(
            [p[0] for p in stairs],
            [p[1] for p in stairs],
            color=FRONT,
            lw=1.4,
            alpha=0.75,
            zorder=3,
        )
    references = [p for p in reference_points(view) if x in p.values and y in p.values]
    if references:
        panel.scatter(
            [p.values[x] for p in references],
            [p.values[y] for p in references],
            s=36,
            facecolors="none",
            edgecolors=INK,
            linewidths=1.4,
            label="reference",
            zorder=5,
        )
        for p in references:
            at = (p.values[x], p.values[y])
            panel.annotate(
                p.name.replace("$", r"\$"), at, (0, -11), textcoords="offset points",
                ha="center", fontsize=7, color=INK,
            )  # fmt: skip
    if members:
        panel.legend(loc="lower right", frameon=False, fontsize=8, labelcolor=MUTED)
    panel.set_xlabel(text.title(x), color=INK)
    dress(panel)
    if x in {"params", "macs", "activations", "model_bytes"}:
        panel.xaxis.set_major_formatter(EngFormatter())


def dress(panel: Any) -> None:
    """Grid, ticks and frame as all pictures have them."""
    panel.grid(color="#e8ecf2", lw=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=MUTED, labelsize=8)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#c3ccd8")


def _whiskers(members: Sequence[Point], metric: str) -> list[list[float]]:
    low, high = [], []
    for p in members:
        value = p.values[metric]
        ends = p.intervals.get(metric, (value, value))
        low.append(max(0.0, value - ends[0]))
        high.append(max(0.0, ends[1] - value))
    return [low, high]
