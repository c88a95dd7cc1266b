"""Layer 5: the page's tables: arms with their costs, all numbers, learning rates, trainings."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nasctl.report import text
from nasctl.report.ablation.study import (
    CONTROLS,
    KINDS,
    Json,
    baseline,
    confidence,
    cost_line,
    costs,
    known,
    percent,
    probability,
    rate,
    relative,
    unit,
    verdict,
)
from nasctl.report.ablation.words import arm_note, levels
from nasctl.report.html import e


def _cell(value: str, note: str = "") -> str:
    small = f"<small>{e(note)}</small>" if note else ""
    return f'<td class="n">{e(value)}{small}</td>'


def _heads(names: list[str], *, texts: int = 1) -> str:
    """Column heads; the first ones are of texts, the others of numbers."""
    return "".join(
        f'<th scope="col"{"" if i < texts else " class=n"}>{e(_capital(name))}</th>'
        for i, name in enumerate(names)
    )


def _capital(name: str) -> str:
    """Symbols (n, p, lr) stay as they are written."""
    return name[:1].upper() + name[1:] if len(name.split(maxsplit=1)[0]) > 2 else name


def _breakable(name: str) -> str:
    """A name, escaped, that may be broken between its parts."""
    return re.sub(r"([_=,])", r"\1<wbr>", e(name))


def effect_head(view: Json) -> str:
    """The head of a column of effects: `effect (points)`."""
    name = unit(view["setting"]).name
    return f"effect ({name})" if name else "effect"


def mean_interval(arm: Json, metric: str) -> str:
    """`0.877 – 0.884`, or nothing."""
    ends = arm.get("interval")
    return text.interval(metric, (ends[0], ends[1])) if known(ends) and ends else ""


def arms_table(view: Json) -> str:
    """Accuracy, n, learning rate and costs of every arm, each cost also against the baseline."""
    if not view["arms"]:
        return ""
    metrics, first = costs(view), baseline(view)
    metric = unit(view["setting"]).metric
    base: Mapping[str, float] = (first or {}).get("cost") or {}
    rows = []
    for arm in view["arms"]:
        cells = [
            _cell(text.number(metric, arm.get("mean")), mean_interval(arm, metric)),
            _cell(str(arm.get("n") or 0)),
            _cell(rate(arm.get("lr"))),
        ]
        for name in metrics:
            value = (arm.get("cost") or {}).get(name)
            note = "" if arm is first else percent(relative(value, base.get(name)))
            cells.append(_cell(text.number(name, value), note if value is not None else ""))
        kind = ' class="control"' if arm["role"] in CONTROLS else ""
        rows.append(
            f'<tr{kind}><th scope="row">{_breakable(arm["label"])}'
            f"<small>{e(arm_note(view, arm))}</small></th>{''.join(cells)}</tr>"
        )
    names = ["arm", text.title(metric), "n", "lr", *(text.title(m) for m in metrics)]
    return (
        f'<div class="scroll"><table class="arms"><thead><tr>{_heads(names)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="hint">Small: the 95 % interval of the mean; of costs, the change against the '
        "baseline.</p>"
    )


def comparisons_table(view: Json) -> str:
    """Every number of every comparison."""
    names = [
        "comparison", "verdict", effect_head(view), "bias-adjusted", "sd", "n", "p", "adjusted p",
        "sign-flip p", "equivalence p", "effect size", "superiority",
    ]  # fmt: skip
    resampled = any(known(c.get("bootstrap")) for c in view["comparisons"])
    names += ["bootstrap"] if resampled else []
    rows = []
    for c in view["comparisons"]:
        smallest = c.get("sign_flip_smallest")
        lowest = f"lowest: {probability(smallest)}" if smallest is not None else ""
        level = confidence(c.get("level"))
        u = unit(c)
        ends = u.span(c.get("interval"))
        cells = [
            _cell(u.signed(c.get("effect")), f"{ends} ({level})" if ends and level else ends),
            _cell(u.signed(c.get("adjusted_effect"))),
            _cell(u.size(c.get("sd"), named=False)),
            _cell(str(c.get("n") or 0)),
            _cell(probability(c.get("p_value"))),
            _cell(probability(c.get("p_adjusted"))),
            _cell(probability(c.get("sign_flip_p")), lowest),
            _cell(probability(c.get("equivalence_p"))),
            _cell(_plain(c.get("effect_size"))),
            _cell(_plain(c.get("superiority"))),
        ]
        cells += [_cell(u.span(c.get("bootstrap")) or "–")] if resampled else []
        kind, price = KINDS.get(c["kind"], str(c["kind"])), cost_line(c)
        notes = [f"{kind} · {levels(c)}", f"cost: {price}" if price else ""]
        small = "".join(f"<small>{e(note)}</small>" for note in notes if note)
        rows.append(
            f"<tr{' class=control' if c['kind'] in CONTROLS else ''}>"
            f'<th scope="row">{e(c["name"])}{small}</th>'
            f"<td>{e(verdict(c))}</td>{''.join(cells)}</tr>"
        )
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr>{_heads(names, texts=2)}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="hint">Effect size: the mean difference over its standard deviation '
        "(Cohen's d, corrected for few units). Superiority: the part of the units in which the "
        "second level is better. Cost: of the second level, against the first.</p>"
    )


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def learning_rates(view: Json) -> str:
    """What was tried for each arm, and what it took; empty if nothing was tried."""
    arms = [a for a in view["arms"] if a.get("lr_search")]
    if not arms:
        return ""
    metric = unit(view["setting"]).metric
    rates = sorted({t["lr"] for a in arms for t in a["lr_search"] if t.get("lr") is not None})
    rows = []
    for arm in arms:
        tried = {t["lr"]: t.get(metric) for t in arm["lr_search"]}
        cells = "".join(
            f'<td class="n{" best" if lr == arm.get("lr") else ""}">'
            f"{e(text.number(metric, tried.get(lr)))}</td>"
            for lr in rates
        )
        chosen = rate(arm.get("lr"))
        rows.append(f'<tr><th scope="row">{e(arm["label"])}</th>{cells}{_cell(chosen)}</tr>')
    names = ["arm", *(f"lr {rate(r)}" for r in rates), "taken"]
    return f"""<section id="rates"><h2>Learning rates</h2>
<p class="hint">{e(_capital(text.title(metric)))} with each learning rate that was tried, before \
the seeds of the verdict. Bold: the one that the arm was compared with. A dash: no result.</p>
<div class="scroll"><table class="narrow rates"><thead><tr>{_heads(names)}</tr></thead>\
<tbody>{"".join(rows)}</tbody></table></div></section>"""


def trainings_table(view: Json) -> str:
    """Every training behind the means, closed until it is asked for."""
    rows, metric = [], unit(view["setting"]).metric
    for arm in view["arms"]:
        for v in arm.get("values") or ():
            trial = "–" if v.get("trial") is None else f"#{v['trial']}"
            remark = v.get("error") or ""
            if v.get("shared_from"):
                remark = f"shared from {v['shared_from']}"
            rows.append(
                f"<tr><td>{e(arm['label'])}</td>"
                + "".join(_cell(str(v.get(k, "–"))) for k in ("replicate", "seed", "split"))
                + _cell(rate(v.get("lr", arm.get("lr"))))
                + _cell(text.number(metric, v.get(metric)))
                + f"<td>{e(str(v.get('state', '')).lower())}</td>{_cell(trial)}"
                + f"<td>{e(remark)}</td></tr>"
            )
    if not rows:
        return ""
    names = ["replicate", "seed", "split", "lr", text.title(metric)]
    heads = f'<th scope="col">Arm</th>{_heads(names, texts=0)}<th scope="col">State</th>'
    return f"""<section id="trainings"><h2>Every training</h2>
<details><summary>{text.plural(len(rows), "training")}; also in the CSV file beside this \
page</summary><div class="scroll"><table class="raw"><thead><tr>{heads}\
<th scope="col" class="n">Trial</th><th scope="col">Remark</th></tr></thead>\
<tbody>{"".join(rows)}</tbody></table></div></details></section>"""
