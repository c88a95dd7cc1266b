"""Layer 5: the page's section about early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasctl.halving_report import SILENT, halving_lines, is_silent
from nasctl.report.html import e
from nasctl.report.view import RunView
from nasctl.trial import State

_HEADS = ("Rung (epochs)", "Judged", "Stopped", "Rank correlation with the end", "Pairs")


def halving_section(view: RunView) -> str:
    """What stopped when, how well each rung ranks, what it cost; empty without halving."""
    found: Mapping[str, Any] | None = view.front.get("halving")
    if not found:
        return ""
    rows = "".join(_row(rung) for rung in found["rungs"])
    heads = "".join(f'<th scope="col" class="n">{e(name)}</th>' for name in _HEADS)
    summary, *_ = halving_lines(found)
    return f"""<section id="halving"><h2>Early stopping</h2>
<p>{e(summary[:1].upper() + summary[1:])}, cool-downs counted. {e(_controls(found["controls"]))}</p>
{_curves(view, found)}<div class="scroll"><table class="narrow"><thead><tr>{heads}\
<th scope="col">Remark</th></tr></thead><tbody>{rows}</tbody></table></div></section>"""


def _row(rung: Mapping[str, Any]) -> str:
    correlation = "–" if rung["correlation"] is None else f"{rung['correlation']:.2f}"
    cells = (rung["epochs"], rung["decided"], rung["stopped"], correlation, rung["pairs"])
    raised = rung["raised_before"]
    remark = f"ranks too badly: decides nothing from trial {raised} on" if raised else ""
    if is_silent(rung):
        remark = SILENT
    numbers = "".join(f'<td class="n">{e(cell)}</td>' for cell in cells)
    return f"<tr>{numbers}<td>{e(remark)}</td></tr>"


def _controls(controls: Mapping[str, Any]) -> str:
    n = controls["would_be_stopped"]
    if not n:
        return "No control was among those that it would have stopped: its errors are not known."
    low, high = controls["interval"]
    return (
        f"Of {n} controls that it would have stopped, {controls['on_front']} reached the front: it "
        f"errs in {controls['wrongly_stopped']:.0%} of its stops ({low:.0%} to {high:.0%}, 95 %)."
    )


def _curves(view: RunView, found: Mapping[str, Any]) -> str:
    """Accuracy over epochs, one line per trial: a drawing without script."""
    curves = []
    for trial in view.trials:
        values = [(v.epoch, v.metrics.get("accuracy")) for v in trial.evaluations]
        known = [(epoch, value) for epoch, value in values if value is not None]
        if known:
            curves.append((trial.state is State.PRUNED, known))
    if len(curves) < 2:
        return ""
    last = max(epoch for _, line in curves for epoch, _ in line)
    heights = [value for _, line in curves for _, value in line]
    low, high = min(heights), max(heights)
    if last < 2 or high <= low:
        return ""
    width, height = 640.0, 180.0

    def place(epoch: int, value: float) -> str:
        return f"{width * epoch / last:.1f},{height * (1 - (value - low) / (high - low)):.1f}"

    colours = {True: "#c2410c", False: "#64748b"}
    lines = "".join(
        f'<polyline points="{" ".join(place(*p) for p in line)}" fill="none" '
        f'stroke="{colours[pruned]}" stroke-opacity="0.45"/>'
        for pruned, line in curves
    )
    marks = "".join(
        f'<line x1="{(x := width * rung["epochs"] / last):.1f}" x2="{x:.1f}" y1="0" y2="{height}" '
        'stroke="#94a3b8" stroke-dasharray="3 3"/>'
        for rung in found["rungs"]
    )
    return (
        f'<figure class="panel"><figcaption>Accuracy over {last} epochs, {low:.3f} to {high:.3f}'
        '<span class="aside">stopped trials in orange, rungs dashed</span></figcaption>'
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="Accuracy over epochs" style="width:100%;height:auto">{marks}{lines}</svg>'
        "</figure>"
    )
