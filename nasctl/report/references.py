"""Layer 5: the page's table of reference networks."""

from __future__ import annotations

from nasctl.report import text
from nasctl.report.html import e
from nasctl.report.view import RunView, reference_points, remark, tabled


def references_table(view: RunView) -> str:
    """The section; empty without reference networks."""
    found = reference_points(view)
    if not found:
        return ""
    metrics = tabled(view)
    split = [m for m in metrics if any(m in p.predicted for p in found)]
    heads = ['<th scope="col">Network</th>']
    for metric in metrics:
        names = [text.title(metric)]
        if metric in split:
            names = [f"{names[0]} measured", f"{names[0]} in search"]
        heads += [f'<th scope="col" class="n">{e(n[:1].upper() + n[1:])}</th>' for n in names]
    rows = []
    for p, entry in zip(found, view.references, strict=True):
        cells = [f'<th scope="row">{e(p.name)}<br><code>{e(p.arch_id)}</code></th>']
        for metric in metrics:
            if metric in split:
                cells += [_cell(metric, *p.measured(metric)), _cell(metric, *p.searched(metric))]
            else:
                cells.append(_cell(metric, p.values.get(metric), p.intervals.get(metric)))
        cells.append(f"<td>{e(remark(entry))}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"""<section id="references"><h2>Reference networks</h2>
<p class="hint">Published networks, trained, priced and measured like the candidates. They were \
not proposed: front, hypervolume and trials are the search's own.</p>
<div class="scroll"><table><thead><tr>{"".join(heads)}<th scope="col">Remark</th></tr></thead>\
<tbody>{"".join(rows)}</tbody></table></div></section>"""


def _cell(metric: str, value: float | None, ends: tuple[float, float] | None) -> str:
    note = text.interval(metric, ends)
    small = f"<small>{e(note)}</small>" if note else ""
    return f'<td class="n">{e(text.number(metric, value))}{small}</td>'
