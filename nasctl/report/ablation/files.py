"""Layer 5: what lies beside the page of a study: all trainings as CSV, a summary in Markdown."""

from __future__ import annotations

import csv
import io

from nasctl.report import text
from nasctl.report.ablation.study import (
    CONTROLS,
    ROLES,
    STATUS,
    Json,
    asked,
    baseline,
    control_word,
    cost_line,
    costs,
    headline,
    percent,
    probability,
    rate,
    relative,
    unit,
    verdict,
)
from nasctl.report.ablation.tables import effect_head, mean_interval
from nasctl.report.ablation.words import effort, level_name, setting, statistics, void, warnings
from nasctl.report.compute import compute_lines

_OF_TRAINING = ("replicate", "seed", "split", "trial", "state")


def trainings_csv(view: Json) -> str:
    """Every training, one line each, with what its arm is and costs."""
    factors = list(dict.fromkeys(f for arm in view["arms"] for f in arm.get("levels") or {}))
    metrics, metric = costs(view), unit(view["setting"]).metric
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "arm", "role", "arch_id", *_OF_TRAINING, "lr", "width_factor", metric,
            "shared_from", "error", *metrics, *(f"level.{f}" for f in factors),
        ]
    )  # fmt: skip
    for arm in view["arms"]:
        levels, price = arm.get("levels") or {}, arm.get("cost") or {}
        for value in arm.get("values") or ():
            cells = [
                arm["name"],
                arm["role"],
                arm.get("arch_id"),
                *(value.get(name) for name in _OF_TRAINING),
                value.get("lr", arm.get("lr")),
                arm.get("width_factor"),
                value.get(metric),
                value.get("shared_from"),
                value.get("error"),
                *(price.get(name) for name in metrics),
                *(levels.get(name) for name in factors),
            ]
            writer.writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue()


def study_markdown(view: Json, picture: str) -> str:
    """The result on a page, for a pull request or a paper's appendix.

    Args:
        picture: name of the PNG file beside it.
    """
    lines = [f"# {text.md(str(view['name']))}", ""]
    if view.get("question"):
        lines += [text.md(view["question"]), ""]
    lines += [text.md(headline(view)), ""]
    for told in warnings(view):
        lines += [f"> **{text.md(told)}**", ""]
    if view.get("status") in STATUS:
        lines += [f"> {STATUS[view['status']]}", ""]
    for c in asked(view):
        claim = str(c.get("claim") or "")
        if claim:
            claim = "" if claim in (c.get("sentence") or "") else f" Claim: {text.md(claim)}."
        said = " ".join(t for t in (text.md(c.get("sentence") or c["name"]), void(view, c)) if t)
        lines.append(f"- **{verdict(c)}**: {said}{claim}")
    for which in ("positive", "null"):
        word = control_word(view, which)
        if word is not None:
            sentence = text.md(view["controls"][which].get("sentence") or "")
            lines.append(f"- {which.title()} control, **{word}**: {sentence}")
    lines += ["", f"![Effects and learning curves](<{picture}>)", ""]
    lines += [*_comparisons(view), *_arms(view), "In this setting:", ""]
    lines += [f"- {text.md(name)}: {text.md(value)}" for name, value in setting(view)]
    lines += ["", "How this was decided:", ""]
    lines += [f"- {text.md(line)}" for line in (*statistics(view), *effort(view))]
    lines += ["", *compute_lines(view.get("compute"))]
    lines += ["```", str(view["command"]).replace("```", ""), "```", ""]
    return "\n".join(lines)


def _comparisons(view: Json) -> list[str]:
    if not view["comparisons"]:
        return []
    heads = [
        "comparison", "verdict", effect_head(view), "interval", "bias-adjusted", "n", "p",
        "adjusted p", "cost",
    ]  # fmt: skip
    lines = [text.md_row(heads), "| --- | --- |" + " ---: |" * (len(heads) - 3) + " --- |"]
    for c in view["comparisons"]:
        name = f"{c['name']} (control)" if c["kind"] in CONTROLS else str(c["name"])
        u = unit(c)
        ends = u.span(c.get("interval"))
        level = level_name(c).removesuffix(" interval").removesuffix("interval")
        cells = [
            name,
            verdict(c),
            u.signed(c.get("effect")),
            f"{ends} ({level})" if ends and level else ends or "–",
            u.signed(c.get("adjusted_effect")),
            str(c.get("n") or 0),
            probability(c.get("p_value")),
            probability(c.get("p_adjusted")),
            cost_line(c) or "–",
        ]
        lines.append(text.md_row(cells))
    return [*lines, ""]


def _arms(view: Json) -> list[str]:
    if not view["arms"]:
        return []
    metrics, first = costs(view), baseline(view)
    base = (first or {}).get("cost") or {}
    metric = unit(view["setting"]).metric
    heads = ["arm", "role", text.title(metric), "n", "lr", *(text.title(m) for m in metrics)]
    lines = [text.md_row(heads), "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for arm in view["arms"]:
        ends = mean_interval(arm, metric)
        mean = text.number(metric, arm.get("mean"))
        cells = [
            str(arm["label"]),
            ROLES.get(arm["role"], ""),
            f"{mean} ({ends})" if ends else mean,
            str(arm.get("n") or 0),
            rate(arm.get("lr")),
        ]
        for name in metrics:
            value = (arm.get("cost") or {}).get(name)
            change = relative(value, base.get(name)) if arm is not first else None
            shown = text.number(name, value)
            cells.append(shown if change is None else f"{shown} ({percent(change)})")
        lines.append(text.md_row(cells))
    note = "In parentheses: 95 % interval of the mean; of costs, the change against the baseline."
    return [*lines, "", note, ""]
