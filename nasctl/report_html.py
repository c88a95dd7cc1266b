"""Layer 5: the page itself. Sections of a run as HTML; every text from outside is escaped here."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from nasctl import report_text as text
from nasctl.arch import Architecture
from nasctl.report_network import drawing, extent, legend, silhouette
from nasctl.report_view import (
    Member,
    Point,
    RunView,
    charted,
    direction,
    median_error,
    points,
    primary,
    tabled,
)
from nasctl.trial import State

_STATES = ("COMPLETE", "PRUNED", "FAILED", "RUNNING")
_MOST_FAILURES = 50


def e(value: object) -> str:
    """Escaped for element content and quoted attributes alike."""
    return html.escape(str(value), quote=True)


def page(view: RunView, *, css: str, script: str, plotly: str) -> str:
    """The whole document; nothing in it refers to anything outside.

    The policy in its head makes the browser refuse every request, so that a slip here can neither
    load nor send anything.
    """
    found = points(view)
    networks = _architectures(view)
    body = "\n".join(
        part
        for part in (
            _header(view, found),
            _figures(view, found),
            _front(view, found),
            _members(view, found, networks),
            _progress(view, found),
            _run(view),
            _latency(view),
            _setup(view),
        )
        if part
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="generator" content="nasctl">
<title>{e(view.name)} · nasctl</title>
<link rel="icon" href="data:,">
<style>
{css}
</style>
</head>
<body>
<main>
{body}
</main>
<footer>Written by nasctl. This page is one file and needs no network.</footer>
<script type="application/json" id="data">{_json(chart_data(view, found))}</script>
<script>
{plotly}
</script>
<script>
{script}
</script>
</body>
</html>
"""


def chart_data(view: RunView, found: Sequence[Point]) -> dict[str, Any]:
    """What the charts and the panel below them are drawn from."""
    y = primary(view.objectives)
    axes = charted(view)
    shown = tabled(view)
    return {
        "y": _axis(view, y),
        "xs": [_axis(view, m) for m in axes],
        "points": [_point(p, [y, *axes], shown) for p in found],
        "hypervolume": [[n, v] for n, v in view.hypervolume_history if math.isfinite(v)],
        "final": view.front["hypervolume"],
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
        notes = [text.interval(metric, p.intervals.get(metric)), _provenance(p, metric)]
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


def _provenance(p: Point, metric: str) -> str:
    if metric in p.predicted:
        return "whole network"
    if p.sources.get(metric) == "predicted":
        return "predicted"
    u = p.uncertainty.get(metric)
    if u and u.get("split"):
        seeds = text.plural(int(u["n"]), "seed")
        return f"{'test' if u['split'] == 'test' else 'validation'}, {seeds}"
    return ""


def _json(value: object) -> str:
    """JSON that cannot end its script element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


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
    return (
        f'<header><p class="brand">nasctl · architecture search</p><h1>{e(view.name)}</h1>'
        f'<p class="lead">{e(headline(view, found))}</p><p class="goals">{goals}</p>{note}</header>'
    )


def _tile(name: str, value: str, note: str = "") -> str:
    return (
        f'<div class="tile"><span class="name">{e(name)}</span><span class="value">{e(value)}'
        f'</span><span class="note">{note}</span></div>'
    )


def _figures(view: RunView, found: Sequence[Point]) -> str:
    y = primary(view.objectives)
    better = max if view.objectives[y] == "max" else min
    valued = [p for p in found if y in p.values]
    tiles = []
    if valued:
        best = better(valued, key=lambda p: p.values[y])
        ends = text.interval(y, best.intervals.get(y))
        notes = [f"95 % {ends}" if ends else "", _provenance(best, y)]
        note = e(", ".join(n for n in notes if n))
        tiles.append(_tile(f"best {text.label(y)}", text.quantity(y, best.values[y]), note))
    else:
        tiles.append(_tile(f"best {text.label(y)}", "–"))
    near = len([p for p in found if p.role == "near"])
    also = f"and {text.plural(near, 'candidate')} near it" if near else ""
    tiles.append(_tile("front", text.plural(len(view.members), "network"), also))
    reference = ", ".join(
        f"{text.label(m)} {text.quantity(m, v)}" for m, v in view.reference_point.items()
    )
    hypervolume = text.significant(view.front["hypervolume"], 4)
    tiles.append(_tile("hypervolume", hypervolume, f"reference: {e(reference)}"))
    started = sum(view.counts.get(s, 0) for s in _STATES)
    rejected = view.counts.get("REJECTED", 0)
    note = _state_bar(view.counts) + (f"{rejected:,} more rejected by cost" if rejected else "")
    tiles.append(_tile("trials", f"{started:,}", note))
    per = view.seconds / started if started else 0.0
    tiles.append(
        _tile("wall time", text.duration(view.seconds), f"{per:.1f} s per trial" if per else "")
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
    near = any(p.role == "near" for p in found)
    key = (
        '<span><i class="m-member"></i>on the front, with 95 % intervals</span>'
        + ('<span><i class="m-near"></i>near it, measured as well</span>' if near else "")
        + '<span><i class="m-dominated"></i>dominated</span>'
        '<span><i class="m-line"></i>best in these two metrics</span>'
    )
    hidden = view.counts.get("PRUNED", 0) + view.counts.get("FAILED", 0)
    note = f"{text.plural(hidden, 'pruned or failed trial')} not shown. " if hidden else ""
    return f"""<section id="front"><h2>Front</h2>
<p class="legend">{key}<label class="log"><input type="checkbox" id="log"> log scale</label></p>
<div class="panels">{panels}</div>
<p class="hint">{note}Members off the line earn their place by another objective. \
Drag to zoom, double-click to reset, click a network to see what it is.</p>
<aside id="selected" aria-live="polite" hidden></aside>
</section>"""


def _members(view: RunView, found: Sequence[Point], networks: Mapping[str, Architecture]) -> str:
    members = {m["arch_id"]: m for m in view.members}
    if not members:
        return ""
    columns = tabled(view)
    ordered = [p for p in found if p.role == "member"]
    heads = ['<th scope="col">Network</th><th scope="col">Architecture</th>']
    for metric in columns:
        if any(metric in p.predicted for p in ordered):
            heads.append(_head(metric, f"{text.title(metric)} measured"))
            heads.append(_head(f"{metric}.search", f"{text.title(metric)} in search"))
        else:
            heads.append(_head(metric, text.title(metric)))
    best = {
        m: (max if direction(view, m) == "max" else min)(
            (p.values[m] for p in ordered if m in p.values), default=None
        )
        for m in columns
    }
    longest = max(extent(n) for n in networks.values())
    rows = [
        _member_row(view, p, members[p.arch_id], networks[p.arch_id], columns, best, longest)
        for p in ordered
    ]
    return f"""<section id="members"><h2>Members of the front</h2>
{legend(list(networks.values()))}
<p class="hint">A bar per block: its width follows the channels, its height the resolution. \
Open a row for every block with its costs.</p>
<div class="scroll"><table class="members"><thead><tr>{"".join(heads)}</tr>\
</thead>{"".join(rows)}</table></div></section>"""


def _head(key: str, name: str) -> str:
    return (
        f'<th scope="col" class="n"><button type="button" data-sort="{e(key)}">'
        f"{e(name[:1].upper() + name[1:])}</button></th>"
    )


def _member_row(
    view: RunView,
    p: Point,
    member: Member,
    network: Architecture,
    columns: Sequence[str],
    best: Mapping[str, float | None],
    longest: float,
) -> str:
    cells, sort_keys = [], []
    split = any(m in p.predicted for m in columns)
    for metric in columns:
        value = p.values.get(metric)
        cells.append(_value_cell(metric, value, p.intervals.get(metric), value == best[metric]))
        sort_keys.append((metric, value))
        if split and metric == "latency_ms":
            searched = p.predicted.get(metric)
            cells.append(_value_cell(metric, searched, p.predicted_intervals.get(metric), False))
            sort_keys.append((f"{metric}.search", searched))
    data = e(json.dumps(dict(sort_keys)))
    rows = view.block_costs(network) if view.block_costs else None
    groups = "".join(
        f"<div><dt>{e(scope)}</dt><dd>{e(choice)}</dd></div>"
        for scope, choice in text.choice_groups(member.get("choices") or {})
    )
    trials = ", ".join(f"#{n}" for n in p.numbers)
    return (
        f'<tbody data-id="{e(p.arch_id)}" data-sort="{data}"><tr class="row"><th scope="row">'
        f'<button type="button" class="open" aria-expanded="false"><span class="chev"></span>'
        f"<code>{e(p.arch_id)}</code></button></th><td>{silhouette(network, longest=longest)}</td>"
        f"{''.join(cells)}</tr>"
        f'<tr class="detail" hidden><td colspan="{2 + len(cells)}"><div class="inside">'
        f"{drawing(network, rows)}"
        f'<div><h3>Choices</h3><dl class="choices">{groups}'
        f"<div><dt>trial</dt><dd>{e(trials or '–')}</dd></div></dl></div></div></td></tr></tbody>"
    )


def _value_cell(
    metric: str, value: float | None, ends: tuple[float, float] | None, best: bool
) -> str:
    note = text.interval(metric, ends)
    small = f"<small>{e(note)}</small>" if note else ""
    mark = " best" if best else ""
    return f'<td class="n{mark}"><span>{e(text.number(metric, value))}</span>{small}</td>'


def _progress(view: RunView, found: Sequence[Point]) -> str:
    charts = []
    if view.hypervolume_history:
        charts.append(
            '<figure class="panel"><figcaption>Hypervolume over trials</figcaption>'
            '<div class="plot small" id="hypervolume"></div></figure>'
        )
    error = median_error(found, "latency_ms")
    if error:
        median, worst, n = error
        note = f"median error {median:.1%}, worst {worst:.1%}, n = {n}"
        charts.append(
            '<figure class="panel"><figcaption>Latency: measured against predicted'
            f'<span class="aside">{e(note.replace("%", " %"))}</span></figcaption>'
            '<div class="plot small" id="calibration"></div></figure>'
        )
    if not charts:
        return ""
    return f'<section><h2>Evidence</h2><div class="panels">{"".join(charts)}</div></section>'


def _run(view: RunView) -> str:
    parts = []
    if view.space_size:
        size = view.space_size
        about = "" if size.get("networks_exact", True) else "about "
        networks = size.get("networks")
        if networks is not None:
            started = len({t.arch_id for t in view.trials})
            parts.append(
                f"<p>{text.plural(started, 'network')} trained, of {about}"
                f"{_large(networks)} that the space can build "
                f"({_large(size.get('configurations', networks))} configurations).</p>"
            )
    if view.rejections:
        rows = "".join(
            f'<tr><td>{e(reason)}</td><td class="n">{n:,}</td></tr>'
            for reason, n in sorted(view.rejections.items(), key=lambda item: -item[1])
        )
        parts.append(
            "<h3>Rejected before training</h3><table><thead><tr><th>Reason</th>"
            f'<th class="n">Candidates</th></tr></thead><tbody>{rows}</tbody></table>'
        )
    failed = [t for t in view.trials if t.state is State.FAILED]
    if failed:
        rows = "".join(
            f'<tr><td class="n">#{t.number}</td><td><code>{e(t.arch_id)}</code></td>'
            f"<td>{e(t.error or 'no reason recorded')}</td></tr>"
            for t in failed[:_MOST_FAILURES]
        )
        more = len(failed) - _MOST_FAILURES
        rest = f"<p class='hint'>and {more:,} more</p>" if more > 0 else ""
        parts.append(
            f"<h3>Failed trials</h3><table><thead><tr><th class='n'>Trial</th><th>Network</th>"
            f"<th>Reason</th></tr></thead><tbody>{rows}</tbody></table>{rest}"
        )
    return f"<section><h2>Search</h2>{''.join(parts)}</section>" if parts else ""


def _large(count: float) -> str:
    return f"{count:,.0f}" if count < 1e6 else re.sub(r"e\+?0*(\d+)", r" × 10^\1", f"{count:.1e}")


def _latency(view: RunView) -> str:
    if not view.latency:
        return ""
    return f"<section><h2>Latency table</h2>{_facts(_latency_facts(view.latency))}</section>"


def _latency_facts(latency: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in latency.items():
        if value is None:
            continue
        name = key.replace("_", " ")
        as_percent = key.endswith("_error")
        if isinstance(value, Mapping):
            yield name, ", ".join(f"{k} {_fact(v, as_percent)}" for k, v in value.items())
        else:
            yield name, _fact(value, as_percent)


def _fact(value: object, as_percent: bool) -> str:
    if isinstance(value, float):
        return f"{value * 100:.1f} %" if as_percent else text.significant(value)
    return str(value)


def _facts(items: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<div><dt>{e(k)}</dt><dd>{e(v)}</dd></div>" for k, v in items)
    return f'<dl class="facts">{rows}</dl>'


def _setup(view: RunView) -> str:
    plain = json.loads(json.dumps(view.config, default=str))
    document = e(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=88))
    coloured = re.sub(r"^(\s*(?:- )*)([\w.]+)(?=:)", r"\1<b>\2</b>", document, flags=re.M)
    commands = [
        ("Run or continue this search", view.command),
        ("See its front in the terminal", f"nasctl front {view.run_dir}"),
        ("Write this report again", f"nasctl report {view.run_dir}"),
        ("Open every trial in MLflow", f"nasctl ui {view.run_dir}"),
    ]
    steps = "".join(
        f"<li><span>{e(what)}</span><code class='cmd'>{e(command)}</code></li>"
        for what, command in commands
    )
    environment = _facts(view.environment.items()) if view.environment else ""
    return f"""<section><h2>Reproduce</h2><ol class="steps">{steps}</ol>
<h3>Environment</h3>{environment}
<h3>Configuration</h3>
<p class="hint">Resolved: every default is spelt out. It is also <code>config.yaml</code> in the \
run's folder.</p><pre class="yaml">{coloured}</pre></section>"""
