"""Layer 5: the page's table of front members, every network drawn in its row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nasctl.arch import Architecture
from nasctl.report import text
from nasctl.report.html import e
from nasctl.report.network import Colours, colours, drawing, extent, legend, silhouette
from nasctl.report.view import BlockRow, Member, Point, RunView, direction, tabled


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """What all rows share: metrics, those with a searched and a measured column, best values, and
    whether any network has several seeds."""

    metrics: Sequence[str]
    measured: frozenset[str]
    best: Mapping[str, float | None]
    longest: float
    colour: Colours
    seeds: bool


def members_table(
    view: RunView, found: Sequence[Point], networks: Mapping[str, Architecture]
) -> str:
    """The section; empty without members. Rows open to a drawing of the network."""
    members = {m["arch_id"]: m for m in view.members}
    if not members:
        return ""
    ordered = [p for p in found if p.role == "member"]
    columns = _columns(view, ordered, networks)
    heads = ['<th scope="col">Network</th><th scope="col">Architecture</th>']
    for metric in columns.metrics:
        if metric in columns.measured:
            heads.append(_head(metric, f"{text.title(metric)} measured"))
            heads.append(_head(f"{metric}.search", f"{text.title(metric)} in search"))
        else:
            heads.append(_head(metric, text.title(metric)))
    if columns.seeds:
        heads.append(_head("seeds", "seeds"))
    rows = []
    for p in ordered:
        network = networks[p.arch_id]
        costs = view.block_costs(network) if view.block_costs else None
        rows.append(_member_row(p, members[p.arch_id], network, costs, columns))
    return f"""<section id="members"><h2>Members of the front</h2>
{legend(columns.colour)}
<p class="hint">A bar per block: its width follows the channels, its height the resolution. \
Open a row for every block with its costs.</p>
<div class="scroll"><table class="members"><thead><tr>{"".join(heads)}</tr>\
</thead>{"".join(rows)}</table></div></section>"""


def _columns(
    view: RunView, ordered: Sequence[Point], networks: Mapping[str, Architecture]
) -> _Columns:
    metrics = tabled(view)
    best = {}
    for metric in metrics:
        better = max if direction(view, metric) == "max" else min
        best[metric] = better(
            (p.values[metric] for p in ordered if metric in p.values), default=None
        )
    return _Columns(
        metrics=metrics,
        measured=frozenset(m for m in metrics if any(m in p.predicted for p in ordered)),
        best=best,
        longest=max(extent(n) for n in networks.values()),
        colour=colours(networks.values()),
        seeds=any(p.seeds > 1 for p in ordered),
    )


def _head(key: str, name: str) -> str:
    return (
        f'<th scope="col" class="n"><button type="button" data-sort="{e(key)}">'
        f"{e(name[:1].upper() + name[1:])}</button></th>"
    )


def _member_row(
    p: Point,
    member: Member,
    network: Architecture,
    costs: Sequence[BlockRow] | None,
    columns: _Columns,
) -> str:
    cells: list[str] = []
    sort_keys: dict[str, float | None] = {}
    for metric in columns.metrics:
        value, ends = p.values.get(metric), p.intervals.get(metric)
        best = value is not None and value == columns.best[metric]
        if metric in columns.measured:
            measured, searched = p.measured(metric), p.searched(metric)
            cells.append(_value_cell(metric, *measured, best and measured[0] is not None))
            cells.append(_value_cell(metric, *searched, False))
            sort_keys |= {metric: measured[0], f"{metric}.search": searched[0]}
        else:
            cells.append(_value_cell(metric, value, ends, best))
            sort_keys[metric] = value
    if columns.seeds:
        cells.append(f'<td class="n">{p.seeds}</td>')
        sort_keys["seeds"] = p.seeds
    data = e(json.dumps(sort_keys))
    groups = "".join(
        f"<div><dt>{e(scope)}</dt><dd>{e(choice)}</dd></div>"
        for scope, choice in text.choice_groups(member.get("choices") or {})
    )
    trials = ", ".join(f"#{n}" for n in p.numbers)
    return (
        f'<tbody data-id="{e(p.arch_id)}" data-sort="{data}"><tr class="row"><th scope="row">'
        f'<button type="button" class="open" aria-expanded="false"><span class="chev"></span>'
        f"<code>{e(p.arch_id)}</code></button></th>"
        f"<td>{silhouette(network, columns.colour, longest=columns.longest)}</td>"
        f"{''.join(cells)}</tr>"
        f'<tr class="detail" hidden><td colspan="{2 + len(cells)}"><div class="inside">'
        f"{drawing(network, columns.colour, costs)}"
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
