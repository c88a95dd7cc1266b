"""Layer 5: the compute ledger in the page and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nasctl.compute import PURPOSES
from nasctl.report import text
from nasctl.report.html import e
from nasctl.report.view import RunView

_AVOIDED = {
    "duplicates": "proposals of known networks",
    "constraints": "candidates over a constraint",
    "halving": "trials cut short",
    "shared_from": "trainings taken over from earlier studies",
}
_UNKNOWN = "not recorded"


def compute_section(view: RunView) -> str:
    """What was spent on what, what was avoided, and what an hour still brought."""
    return compute_html(view.compute)


def compute_html(found: Mapping[str, Any] | None) -> str:
    """The section of a compute ledger; nothing where nothing is known."""
    if not found or not found["rows"]:
        return ""
    heads, *rows = _table(found)
    head = "".join(
        f'<th scope="col"{_number(i, len(heads))}>{e(h)}</th>' for i, h in enumerate(heads)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{_number(i, len(heads))}>{e(cell)}</td>" for i, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    chart = ""
    if _drawable(found):
        chart = (
            f'<figure class="panel"><figcaption>Hypervolume gained per {_unit(found)}'
            f'<span class="aside">over the last {found["smoothed_over"]} trials</span>'
            '</figcaption><div class="plot small" id="marginal"></div></figure>'
        )
    notes = "".join(f"<p>{e(line)}</p>" for line in notes_of(found))
    return f"""<section id="compute"><h2>Compute</h2>
<div class="scroll"><table class="narrow"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>\
</table></div>{notes}{chart}</section>"""


def _number(column: int, columns: int) -> str:
    return ' class="n"' if 0 < column < columns - 1 else ""


def compute_markdown(view: RunView) -> list[str]:
    """The same as lines of Markdown; none where nothing is known."""
    return compute_lines(view.compute)


def compute_lines(found: Mapping[str, Any] | None) -> list[str]:
    """`compute_html` as lines of Markdown."""
    if not found or not found["rows"]:
        return []
    heads, *rows = _table(found)
    rule = "| --- |" + " ---: |" * (len(heads) - 2) + " --- |"
    lines = ["## Compute", "", text.md_row(heads), rule, *(text.md_row(row) for row in rows), ""]
    return [*lines, *(f"- {text.md(line)}" for line in notes_of(found)), ""]


def chart_rows(view: RunView) -> list[list[float]]:
    """(trial, gain per hour) for the chart."""
    found = view.compute
    if not found or not _drawable(found):
        return []
    return [[row["trial"], row["per_hour"]] for row in _timed(found)]


def marginal_title(view: RunView) -> str:
    """Of the chart's vertical axis."""
    return f"per {_unit(view.compute)}" if view.compute else ""


def _timed(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        row
        for row in found["marginal"]
        if row["per_hour"] is not None and math.isfinite(row["per_hour"])
    ]


def _drawable(found: Mapping[str, Any]) -> bool:
    return len(_timed(found)) > 1


def _unit(found: Mapping[str, Any]) -> str:
    return "GPU-hour" if found["unit"] == "gpu_hour" else "core-hour"


def _table(found: Mapping[str, Any]) -> list[list[str]]:
    """Head, a row for each purpose, and the total."""
    has_gpu = found["total"]["gpu_hours"] > 0
    has_price = found["total"]["money"] is not None

    def row(name: str, count: str, spent: Mapping[str, Any], remark: str) -> list[str]:
        cells = [name, count, _seconds(spent["seconds"]), _hours(spent["core_hours"])]
        cells += [_hours(spent["gpu_hours"])] if has_gpu else []
        cells += [_money(spent["money"], found["currency"])] if has_price else []
        return [*cells, remark]

    heads = ["Purpose", "n", "Time", "Core-hours"]
    heads += ["GPU-hours"] if has_gpu else []
    heads += ["Cost"] if has_price else []
    rows = [row(PURPOSES[r["purpose"]], f"{r['count']:,}", r, r["remark"]) for r in found["rows"]]
    whole = "" if found["total"]["complete"] else "of what was recorded"
    return [[*heads, ""], *rows, row("total", "", found["total"], whole)]


def _seconds(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{text.significant(value)} s" if value < 10 else text.duration(value)


def _hours(value: float | None) -> str:
    return "–" if value is None else text.significant(value)


def _money(value: float | None, currency: str) -> str:
    if value is None:
        return "–"
    return f"{value:,.2f} {currency}" if value >= 1 else f"{text.significant(value, 2)} {currency}"


def notes_of(found: Mapping[str, Any]) -> list[str]:
    """What the table does not say, a sentence each."""
    lines = []
    if found["simulated"]:
        lines.append("The times are those of the replayed run, in simulated time.")
    for item in found["avoided"]:
        name = _AVOIDED[item["reason"]]
        if item["seconds"] is None:
            lines.append(f"Avoided: {item['count']:,} {name} ({item['remark']}).")
        else:
            lines.append(
                f"Avoided: {item['count']:,} {name}, {_seconds(item['seconds'])} "
                f"({item['remark']})."
            )
    timed = _timed(found)
    if timed:
        last = timed[-1]
        lines.append(
            f"Over the last {found['smoothed_over']} trials the hypervolume grew by "
            f"{text.significant(last['per_hour'])} per {_unit(found)}, to "
            f"{text.significant(last['hypervolume'])}."
        )
    if arms := found.get("by_arm"):
        each = (
            f"{arm['arm']} {_hours(arm[found['unit'] + 's'])} (n = {arm['count']:,})"
            for arm in arms
            if arm["count"]
        )
        unit = _unit(found)
        lines.append(f"{unit[0].upper()}{unit[1:]}s by arm: {', '.join(each)}.")
    if not found["resources_recorded"] and found["rows"]:
        lines.append("Cores are those of the present configuration: they were not recorded.")
    return lines
