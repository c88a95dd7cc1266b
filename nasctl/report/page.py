"""Layer 5: the page, its figures and its charts; every text from outside is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nasctl.arch import Architecture
from nasctl.report import text
from nasctl.report.compute import chart_rows, compute_section, marginal_title
from nasctl.report.halving import halving_section
from nasctl.report.html import document, e, tile
from nasctl.report.members import members_table
from nasctl.report.references import references_table
from nasctl.report.sections import evidence, latency_table, search, setup
from nasctl.report.verified import verified_chart, verified_rows, verified_section
from nasctl.report.view import (
    Point,
    RunView,
    charted,
    direction,
    points,
    primary,
    reference_points,
    tabled,
)
from nasctl.stopping import stopped_line

_STATES = ("COMPLETE", "PRUNED", "FAILED", "RUNNING")


def page(view: RunView, *, css: str, script: str, plotly: str) -> str:
    """The whole document; see `document`."""
    found = points(view)
    networks = _architectures(view)
    body = "\n".join(
        part
        for part in (
            _header(view, found),
            _figures(view, found),
            _front(view, found),
            verified_section(view),
            members_table(view, found, networks),
            references_table(view),
            evidence(view, found),
            search(view),
            halving_section(view),
            compute_section(view),
            latency_table(view),
            setup(view),
        )
        if part
    )
    data = chart_data(view, found)
    return document(title=view.name, body=body, data=data, css=css, script=script, plotly=plotly)


def provenance(p: Point, metric: str) -> str:
    if metric in p.predicted:
        return "whole network"
    if p.sources.get(metric) == "predicted":
        return "predicted"
    u = p.uncertainty.get(metric)
    if u and u.get("split"):
        seeds = text.plural(int(u["n"]), "seed")
        return f"{'test' if u['split'] == 'test' else 'validation'}, {seeds}"
    return ""


def chart_data(view: RunView, found: Sequence[Point]) -> dict[str, Any]:
    """What the charts and the panel below them are drawn from."""
    y = primary(view.objectives)
    axes = charted(view)
    shown = tabled(view)
    return {
        "verified": verified_chart(view),
        "y": _axis(view, y),
        "xs": [_axis(view, m) for m in axes],
        "points": [
            point | {"rows": [*point["rows"], *verified_rows(view, p.arch_id)]}
            for p in found
            for point in [_point(p, [y, *axes], shown)]
        ],
        "references": [
            # By name: a candidate may be the same network.
            _point(p, [y, *axes], shown) | {"id": p.name, "network": p.arch_id}
            for p in reference_points(view)
        ],
        "hypervolume": [[n, v] for n, v in view.hypervolume_history if math.isfinite(v)],
        "final": view.front["hypervolume"],
        "marginal": chart_rows(view),
        "marginalTitle": marginal_title(view),
        "calibration": [
            {
                "id": p.arch_id,
                "role": p.role,
                "x": p.predicted["latency_ms"],
                "xi": p.predicted_intervals.get("latency_ms"),
                "y": p.values["latency_ms"],
                "yi": p.intervals.get("latency_ms"),
            }
            for p in found
            if "latency_ms" in p.predicted and "latency_ms" in p.values
        ],
    }


def _axis(view: RunView, metric: str) -> dict[str, str]:
    return {
        "key": metric,
        "label": text.label(metric),
        "title": text.title(metric),
        "unit": text.unit(metric),
        "direction": direction(view, metric),
    }


def _point(p: Point, metrics: Sequence[str], shown: Sequence[str]) -> dict[str, Any]:
    rows = []
    for metric in dict.fromkeys([*shown, *metrics]):
        if metric not in p.values:
            continue
        notes = [text.interval(metric, p.intervals.get(metric)), provenance(p, metric)]
        rows.append(
            [
                text.label(metric),
                text.quantity(metric, p.values[metric]),
                ", ".join(n for n in notes if n),
            ]
        )
        if metric in p.predicted:
            ends = text.interval(metric, p.predicted_intervals.get(metric))
            rows.append(
                [
                    f"{text.label(metric)} in search",
                    text.quantity(metric, p.predicted[metric]),
                    ends,
                ]
            )
    return {
        "id": p.arch_id,
        "role": p.role,
        "trials": list(p.numbers),
        "v": {m: p.values[m] for m in metrics if m in p.values},
        "i": {m: list(p.intervals[m]) for m in metrics if m in p.intervals},
        "rows": rows,
        "choices": text.choice_groups(p.choices),
    }


def _architectures(view: RunView) -> dict[str, Architecture]:
    known = {t.arch_id: t.architecture for t in view.trials}
    return {
        m["arch_id"]: known.get(m["arch_id"]) or Architecture.from_json(m["architecture"], {})
        for m in view.members
    }


def headline(view: RunView, found: Sequence[Point]) -> str:
    """The result in one sentence."""
    members = [p for p in found if p.role == "member"]
    y, axes = primary(view.objectives), charted(view)
    if not members:
        return "No network has reached the front yet."
    x = axes[0] if axes else None

    def place(p: Point) -> str:
        at = f" at {text.quantity(x, p.values.get(x))}" if x else ""
        if x == "params":
            at += " parameters"
        return f"{text.quantity(y, p.values.get(y))}{at}"

    if len(members) == 1:
        return f"One network is on the Pareto front: {text.label(y)} {place(members[0])}."
    better = max if view.objectives[y] == "max" else min
    best = better(members, key=lambda p: p.values[y])
    return (
        f"{len(members)} networks are on the Pareto front, from {text.label(y)} "
        f"{place(members[0])} to {place(best)}."
    )


def _header(view: RunView, found: Sequence[Point]) -> str:
    goals = "".join(
        f"<span class='chip'>{e(text.label(m))} "
        f"<b>{'↑ maximise' if d == 'max' else '↓ minimise'}</b></span>"
        for m, d in view.objectives.items()
    )
    note = (
        '<p class="notice">This run is unfinished: the same command continues it.</p>'
        if view.unfinished
        else ""
    )
    if early := stopped_line(view.front.get("stopped")):
        note += f'<p class="notice">{e(early[:1].upper() + early[1:])}.</p>'
    return (
        f'<header><p class="brand">nasctl · architecture search</p><h1>{e(view.name)}</h1>'
        f'<p class="lead">{e(headline(view, found))}</p><p class="goals">{goals}</p>{note}</header>'
    )


def _figures(view: RunView, found: Sequence[Point]) -> str:
    y = primary(view.objectives)
    better = max if view.objectives[y] == "max" else min
    valued = [p for p in found if y in p.values]
    tiles = []
    if valued:
        best = better(valued, key=lambda p: p.values[y])
        ends = text.interval(y, best.intervals.get(y))
        notes = [f"{ends} (95 %)" if ends else "", provenance(best, y)]
        note = e(", ".join(n for n in notes if n))
        tiles.append(tile(f"best {text.label(y)}", text.quantity(y, best.values[y]), note))
    else:
        tiles.append(tile(f"best {text.label(y)}", "–"))
    near = len([p for p in found if p.role == "near"])
    also = f"and {text.plural(near, 'candidate')} near it" if near else ""
    tiles.append(tile("front", text.plural(len(view.members), "network"), also))
    reference = ", ".join(
        f"{text.label(m)} {text.quantity(m, v)}" for m, v in view.reference_point.items()
    )
    hypervolume = text.significant(view.front["hypervolume"], 4)
    tiles.append(tile("hypervolume", hypervolume, f"reference: {e(reference)}"))
    started = sum(view.counts.get(s, 0) for s in _STATES)
    rejected = view.counts.get("REJECTED", 0)
    note = _state_bar(view.counts) + (f"{rejected:,} more rejected by cost" if rejected else "")
    tiles.append(tile("trials", f"{started:,}", note))
    per = view.seconds / started if started else 0.0
    tiles.append(
        tile("wall time", text.duration(view.seconds), f"{per:.1f} s per trial" if per else "")
    )
    return f'<section class="tiles" aria-label="Figures">{"".join(tiles)}</section>'


def _state_bar(counts: Mapping[str, int]) -> str:
    total = sum(counts.get(s, 0) for s in _STATES)
    if not total:
        return ""
    parts = "".join(
        f'<i class="s-{s.lower()}" style="width:{100 * counts.get(s, 0) / total:.2f}%"></i>'
        for s in _STATES
    )
    names = [f"{counts.get(s, 0):,} {s.lower()}" for s in _STATES if counts.get(s, 0)]
    label = ", ".join(names)
    return (
        f'<span class="states" role="img" aria-label="{label}">{parts}</span>'
        f"<span>{label}</span><br>"
    )


def _front(view: RunView, found: Sequence[Point]) -> str:
    if not found:
        return (
            '<section><h2>Front</h2><p class="empty">There is nothing to draw: no trial has '
            "finished. Run the command below again to continue.</p></section>"
        )
    axes = charted(view)
    panels = "".join(
        f'<figure class="panel" data-panel="{i}"><figcaption><span class="versus"></span>'
        f'<span class="choose" role="group" aria-label="Horizontal axis"></span></figcaption>'
        f'<div class="plot" id="front{i}"></div><p class="outside"></p></figure>'
        for i in range(min(2, max(1, len(axes))))
    )
    bars = ", with 95 % intervals" if any(p.intervals for p in found) else ""
    near = any(p.role == "near" for p in found)
    key = (
        f'<span><i class="m-member"></i>on the front{bars}</span>'
        + ('<span><i class="m-near"></i>near it, measured as well</span>' if near else "")
        + ('<span><i class="m-reference"></i>reference network</span>' if view.references else "")
        + '<span><i class="m-dominated"></i>dominated</span>'
        '<span><i class="m-line"></i>best in these two metrics</span>'
    )
    off = (
        "Members off the line earn their place by another objective. "
        if len(view.objectives) > 2
        else ""
    )
    hidden = view.counts.get("PRUNED", 0) + view.counts.get("FAILED", 0)
    note = f"{text.plural(hidden, 'pruned or failed trial')} not shown. " if hidden else ""
    return f"""<section id="front"><h2>Front</h2>
<p class="legend">{key}<label class="log"><input type="checkbox" id="log"> log scale</label></p>
<div class="panels">{panels}</div>
<p class="hint">{note}{off}Drag to zoom, double-click to reset, click a network for all of it.</p>
<aside id="selected" aria-live="polite" hidden></aside>
</section>"""
