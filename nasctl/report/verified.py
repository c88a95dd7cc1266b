"""Layer 5: the page's section about a verification: promised against delivered, how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasctl.report import text
from nasctl.report.html import e
from nasctl.report.verified_text import (
    int8_lines,
    openings_line,
    places_line,
    shrinkage_lines,
)
from nasctl.report.view import RunView
from nasctl.verification.fronts import front_of, shown
from nasctl.verification.promised import Promised, Value, has_extras, promised


def verified_section(view: RunView) -> str:
    """What became of the finalists; empty for a run that was not verified."""
    found = view.verified
    if not found:
        return ""
    share, rows = text.percent(found["confidence"]), promised(found)
    unfinished = (
        '<p class="notice">This verification is unfinished: the same command continues it.</p>'
        if found["status"] != "FINISHED"
        else ""
    )
    notes = "".join(
        f"<p class='hint'>{e(line[:1].upper() + line[1:])}.</p>" for line in _notes(found)
    )
    return f"""<section id="verified"><h2>Verified</h2>
<p class="lead">{e(places_line(found))}.</p>{unfinished}
{_chart(found, share)}
{_table(rows, share)}
{_reasons(rows)}<p class="hint">Intervals are {share}, those of the search 95 %.</p>
{notes}{_files(rows)}</section>"""


def _notes(found: Mapping[str, Any]) -> list[str]:
    return [*shrinkage_lines(found), *int8_lines(found), openings_line(found)]


def _chart(found: Mapping[str, Any], share: str) -> str:
    if found["attainment"] is None:
        return ""
    x, y = (text.label(found["attainment"][axis]) for axis in "xy")
    of_files = " of int8 files" if front_of(found) == "int8" else ""
    how = "as measured now"
    if shown(found["attainment"]["x"], front_of(found)) != found["attainment"]["x"]:
        how = "of int8 files as measured now"
    elif (found.get("settings") or {}).get("latency") == "search":
        how = "as the search had it"
    off = " Members off the line have another objective." if len(found["objectives"]) > 2 else ""
    return f"""<p class="legend"><span><i class="m-member"></i>on the verified front, {share} \
intervals</span><span><i class="m-near"></i>off it</span><span><i class="m-searched"></i>as \
searched</span><span><i class="m-line"></i>attained at the median</span>\
<span><i class="m-band"></i>best and worst case, {share}</span>\
<label class="log"><input type="checkbox" id="attainment-log"> log scale</label></p>
<figure class="panel"><figcaption>What the true front attains: {e(y)} against {e(x)}\
<span class="aside">validation {e(y)}{of_files}, fresh seeds; {e(x)} {how}. \
Numbers: probability to be on the true front, where \
it is neither near 1 nor near 0.{off}</span></figcaption>\
<div class="plot" id="attainment"></div></figure>"""


def _table(rows: list[Promised], share: str) -> str:
    metric = text.label(rows[0].metric) if rows else "accuracy"
    latencies = [k for k in ("predicted", "p50", "p90") if any(k in r.latency for r in rows)]
    names = {"predicted": "predicted", "p50": "p50", "p90": "p90"}
    accuracies, costs = _known(_INT8_ACCURACIES, rows), _known(_INT8_COSTS, rows)
    heads = [
        ("Network", ""),
        ("", ""),
        (f"{metric} searched".capitalize(), "n"),
        (f"{metric} retrained".capitalize(), "n"),
        *([("Test accuracy", "n")] if any(r.test for r in rows) else []),
        *((head, "n") for _, _, head in accuracies),
        ("On the true front", "n"),
        *((f"Latency {names[k]} (ms)", "n") for k in latencies),
        *((head, "n") for _, _, head in costs),
    ]
    head = "".join(
        f'<th scope="col"{f" class={c}" if c else ""}>{e(name)}</th>' for name, c in heads
    )
    body = "".join(_row(r, latencies, accuracies, costs, share) for r in rows)
    return (
        '<div class="scroll"><table class="promised"><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


Column = tuple[str, str, str]
"""Name in `Promised.int8`, metric, heading."""

_INT8_ACCURACIES: tuple[Column, ...] = (
    ("val", "accuracy", "Accuracy int8"),
    ("test", "accuracy", "Test accuracy int8"),
)
_INT8_COSTS: tuple[Column, ...] = (
    ("p50", "latency_ms", "Latency int8 p50 (ms)"),
    ("bytes", "model_bytes", "Size int8 (B)"),
)


def _known(columns: tuple[Column, ...], rows: list[Promised]) -> list[Column]:
    """Those that any finalist has."""
    return [c for c in columns if any(c[0] in r.int8 for r in rows)]


def _reasons(rows: list[Promised]) -> str:
    """Why those that are off are off."""
    items = "".join(
        f"<li><code>{e(r.label)}</code> {e(r.word)}: {e(r.reason)}</li>" for r in rows if r.reason
    )
    return f'<ul class="reasons">{items}</ul>' if items else ""


def _files(rows: list[Promised]) -> str:
    """What finalists are worth as files: exported, and quantised."""
    extras = has_extras(rows)
    if not extras:
        return ""
    heads = "".join(
        f'<th scope="col" class="n">{e(head[:1].upper() + head[1:])}</th>' for _, head in extras
    )
    body = "".join(
        f'<tr><th scope="row"><code>{e(r.label)}</code></th>'
        f"{''.join(_extra(k, r.extras.get(k)) for k, _ in extras)}</tr>"
        for r in rows
        if r.extras
    )
    return f"""<h3>As files</h3><p class="hint">Exported as ONNX and quantised to int8: of one \
training of each, the best on validation.</p><div class="scroll"><table class="narrow promised">\
<thead><tr><th scope="col">Network</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>"""


def _row(
    row: Promised,
    latencies: list[str],
    accuracies: list[Column],
    costs: list[Column],
    share: str,
) -> str:
    chance = "–" if row.probability is None else f"{row.probability:.2f}"
    name = f"{e(row.label)}<br><code>{e(row.arch_id)}</code>"
    if row.label == row.arch_id:
        name = f"<code>{e(row.arch_id)}</code>"
    cells = [_cell(row.metric, row.searched, ""), _cell(row.metric, row.retrained, share)]
    if row.test is not None:
        cells.append(_cell("accuracy", row.test, share))
    cells += [_cell(metric, row.int8.get(key), share) for key, metric, _ in accuracies]
    cells.append(f'<td class="n">{e(chance)}</td>')
    cells += [_cell("latency_ms", row.latency.get(k), "") for k in latencies]
    cells += [_cell(metric, row.int8.get(key), "") for key, metric, _ in costs]
    style = ' class="verified"' if row.on_front else ""
    return (
        f'<tr{style}><th scope="row">{name}</th><td class="became">{e(row.word)}</td>'
        f"{''.join(cells)}</tr>"
    )


def _extra(name: str, value: float | None) -> str:
    metric = "accuracy" if "accuracy" in name else name
    return f'<td class="n">{e(text.number(metric, value))}</td>'


def _cell(metric: str, value: Value | None, share: str) -> str:
    if value is None or value.value is None:
        return '<td class="n">–</td>'
    notes = [text.interval(metric, value.interval)]
    if share and value.n:
        notes.append(text.plural(value.n, "seed"))
    small = "".join(f"<small>{e(note)}</small>" for note in notes if note)
    return f'<td class="n">{e(text.number(metric, value.value))}{small}</td>'


def verified_rows(view: RunView, arch_id: str) -> list[list[str]]:
    """What the front's charts and the panel below them say of a finalist: name, value, note."""
    if not view.verified:
        return []
    row = next((r for r in promised(view.verified) if r.arch_id == arch_id), None)
    if row is None:
        return []
    chance = "" if row.probability is None else f"{row.probability:.2f} on the true front"
    found = [["verified", row.word, chance]]
    if row.test is not None and row.test.value is not None:
        ends = text.interval("accuracy", row.test.interval)
        found.append(["test accuracy", text.number("accuracy", row.test.value), ends])
    for name, words in (("val", "in int8"), ("test", "test in int8")):
        if (value := row.int8.get(name)) is not None:
            ends = text.interval("accuracy", value.interval)
            found.append([f"{words}, accuracy", text.number("accuracy", value.value), ends])
    return found


def verified_chart(view: RunView) -> dict[str, Any] | None:
    """What the attainment chart is drawn from; None where there is none."""
    found = view.verified
    if not found or found["attainment"] is None:
        return None
    surfaces = found["attainment"]
    x, y = surfaces["x"], surfaces["y"]
    rows = {r.arch_id: r for r in promised(found)}
    is_int8 = front_of(found) == "int8"
    x_title = f"{text.title(x)}, int8" if shown(x, front_of(found)) != x else text.title(x)
    y_title = f"{text.title(y)} (validation{', int8' if is_int8 else ''})"
    return {
        "x": {"key": x, "title": x_title, "direction": found["objectives"][x]},
        "y": {"title": y_title, "direction": found["objectives"][y]},
        "surfaces": {name: s["points"] for name, s in surfaces["surfaces"].items()},
        "points": [
            point
            for part in ("members", "candidates", "references")
            for entry in found[part]
            if (point := _point(entry, rows[entry["arch_id"]], found)) is not None
        ],
    }


def _is_open(probability: float) -> bool:
    """Whether it is worth a number on the chart: in one of everybody nobody finds those."""
    return 0.05 <= probability <= 0.95


def _point(
    entry: Mapping[str, Any], row: Promised, found: Mapping[str, Any]
) -> dict[str, Any] | None:
    x, y = found["attainment"]["x"], found["attainment"]["y"]
    place = shown(x, front_of(found))  # accuracy is never on that axis
    at = entry["metrics"].get(place)
    if at is None or row.decides.value is None:
        return None
    before = entry["searched"]["metrics"]
    known = entry["uncertainty"].get(place)
    fresh = row.decides
    chance = "" if row.probability is None else f"{row.probability:.2f}"
    lines = [
        f"{row.word}{f': {row.reason}' if row.reason else ''}",
        f"{text.label(y)} searched {text.number(y, row.searched.value)}",
        f"retrained {_with_ends(y, row.retrained)}",
    ]
    if "val" in row.int8:
        lines.append(f"in int8 {_with_ends('accuracy', row.int8['val'])}")
    if row.test is not None:
        lines.append(f"test {text.number('accuracy', row.test.value)}")
    if chance:
        lines.append(f"on the true front with probability {chance}")
    return {
        "id": row.label,
        "front": row.on_front,
        "x": at,
        "y": fresh.value,
        "xi": list(known["interval"]) if known else [at, at],
        "yi": list(fresh.interval or (fresh.value, fresh.value)),
        "from": [before.get(f"{x}_measured", before.get(x, at)), row.searched.value],
        "chance": chance if row.probability is not None and _is_open(row.probability) else "",
        "lines": lines,
    }


def verified_markdown(view: RunView) -> list[str]:
    """The same as lines of Markdown; none for a run that was not verified."""
    found = view.verified
    if not found:
        return []
    rows = promised(found)
    metric = rows[0].metric if rows else "accuracy"
    name = text.label(metric)
    has_int8 = any("val" in r.int8 for r in rows)
    heads = ["network", "", f"{name} searched", f"{name} retrained", "test"]
    heads += [*(["int8", "int8 test"] if has_int8 else []), "on the true front"]
    lines = ["## Verified", "", f"{places_line(found)}.", "", text.md_row(heads)]
    lines.append("| --- | --- |" + " ---: |" * (len(heads) - 2))
    for r in rows:
        chance = "–" if r.probability is None else f"{r.probability:.2f}"
        cells = [text.number(metric, r.searched.value), _with_ends(metric, r.retrained)]
        cells.append("–" if r.test is None else _with_ends("accuracy", r.test))
        if has_int8:
            unknown = Value(value=None)
            cells += [_with_ends("accuracy", r.int8.get(k, unknown)) for k in ("val", "test")]
        lines.append(text.md_row([r.label, r.word, *cells, chance]))
    lines += ["", *(f"- {text.md(f'{r.label} {r.word}: {r.reason}')}" for r in rows if r.reason)]
    lines += [f"- {text.md(line)}" for line in _notes(found)]
    return [*lines, ""]


def _with_ends(metric: str, value: Value) -> str:
    ends = text.interval(metric, value.interval)
    return text.number(metric, value.value) + (f" ({ends})" if ends else "")
