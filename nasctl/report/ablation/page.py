"""Layer 5: the page of an ablation study; every text from outside is escaped."""

from __future__ import annotations

from datetime import UTC, datetime

from nasctl.report import text
from nasctl.report.ablation.charts import chart_data
from nasctl.report.ablation.study import (
    OPEN,
    STATUS,
    Json,
    asked,
    control_word,
    counted,
    headline,
    seeds,
    unit,
    verdict,
)
from nasctl.report.ablation.tables import (
    arms_table,
    comparisons_table,
    learning_rates,
    trainings_table,
)
from nasctl.report.ablation.words import effort, setting, statistics, void, warnings
from nasctl.report.compute import compute_html
from nasctl.report.html import document, e, facts, tile

_MARKS = {
    "supported": "✓",
    "refuted": "✗",
    "equivalent": "≈",
    "inconclusive": "?",
    "found": "✓",
    "not found": "✗",
    "clear": "✓",
    "not clear": "✗",
    OPEN: "…",
}


def page(view: Json, *, css: str, script: str, plotly: str) -> str:
    """The whole document; see `document`.

    Args:
        view: cleaned, so that it holds no number that JSON does not have.
    """
    data = chart_data(view)
    body = "\n".join(
        part
        for part in (
            _header(view),
            _figures(view),
            _verdicts(view),
            _effects(view),
            _pairs(data),
            _curves(data),
            _interactions(data),
            learning_rates(view),
            _method(view),
            compute_html(view.get("compute")),
            trainings_table(view),
            _reproduce(view),
        )
        if part
    )
    return document(
        title=str(view["name"]), body=body, data=data, css=css, script=script, plotly=plotly
    )


def badge(word: str) -> str:
    """A verdict: its word and its mark, so that its colour is not needed."""
    kind = word.replace(" ", "-") if word != OPEN else "open"
    return f'<span class="verdict v-{kind}"><i aria-hidden="true">{_MARKS[word]}</i>{word}</span>'


def _header(view: Json) -> str:
    question = view.get("question")
    lead = f'<p class="lead">{e(question)}</p>' if question else ""
    notices = [f'<p class="notice grave" role="alert">{e(w)}</p>' for w in warnings(view)]
    if view.get("status") in STATUS:
        notices.append(f'<p class="notice">{e(STATUS[view["status"]])}</p>')
    return (
        f'<header><p class="brand">nasctl · ablation study</p><h1>{e(view["name"])}</h1>{lead}'
        f'<p class="{"result" if lead else "lead"}">{e(headline(view))}</p>'
        f"{''.join(notices)}</header>"
    )


def _figures(view: Json) -> str:
    decided, total, noun, counts = counted(view)
    tiles = [tile(f"{noun}s decided", f"{decided} of {total}" if total else "–", e(counts))]
    checks = [(which, control_word(view, which)) for which in ("positive", "null")]
    first, second = ((w or "none") for _, w in checks)
    tiles.append(tile("positive control", first, f"null control: {e(second)}"))
    limits = view["setting"].get("seeds") or {}
    count = seeds(view)
    n = "–" if count is None else f"{count[0]}" if count[0] == count[1] else "{}–{}".format(*count)
    note = f"at least {limits.get('min', '–')}, at most {limits.get('max', '–')}"
    tiles.append(tile("seeds per arm", n, e(note)))
    power, u = view.get("power") or {}, unit(view["setting"])
    note = f"smallest that matters: {u.size(view['setting'].get('smallest_effect'))}"
    tiles.append(tile("detectable effect", u.size(power.get("detectable")), e(note)))
    t = view.get("trainings") or {}
    total = sum(int(t.get(k) or 0) for k in ("verdict", "learning_rate"))
    parts = [f"{t['shared']:,} shared" if t.get("shared") else ""]
    parts += [f"{t['failed']:,} failed" if t.get("failed") else ""]
    parts += [text.duration(view["seconds"]) if view.get("seconds") else ""]
    tiles.append(tile("trainings", f"{total:,}", e(", ".join(p for p in parts if p))))
    return f'<section class="tiles" aria-label="Figures">{"".join(tiles)}</section>'


def _verdicts(view: Json) -> str:
    rows = []
    for c in asked(view):
        sentence, claim, empty = str(c.get("sentence") or ""), c.get("claim"), void(view, c)
        doubt = f'<p class="void">{e(empty)}</p>' if empty else ""
        claimed = f'<p class="claim">Claim: <code>{e(claim)}</code></p>' if claim else ""
        rows.append(
            f"<li>{badge(verdict(c))}<div><h3>{e(c['name'])}</h3><p>{e(sentence)}</p>{doubt}"
            f"{'' if claim and claim in sentence else claimed}</div></li>"
        )
    for which in ("positive", "null"):
        word = control_word(view, which)
        if word is not None:
            sentence = view["controls"][which].get("sentence") or ""
            rows.append(
                f'<li class="control">{badge(word)}<div><h3>{which.title()} control</h3>'
                f"<p>{e(sentence)}</p></div></li>"
            )
    listed = f'<ul class="verdicts">{"".join(rows)}</ul>' if rows else ""
    none = '<p class="empty">Nothing has been compared yet.</p>'
    return (
        f'<section id="verdicts"><h2>Verdicts</h2>{listed or none}'
        f'<h3 class="setting">In this setting</h3>{facts(setting(view))}</section>'
    )


def _effects(view: Json) -> str:
    arms = arms_table(view)
    if not view["comparisons"]:
        return f'<section id="effects"><h2>Arms</h2>{arms}</section>' if arms else ""
    band = unit(view["setting"]).size(view["setting"].get("smallest_effect"))
    adjusted = any(c.get("adjusted_effect") is not None for c in view["comparisons"])
    key = (
        '<span><i class="m-effect"></i>effect with its interval</span>'
        + ('<span><i class="m-adjusted"></i>bias-adjusted effect</span>' if adjusted else "")
        + f'<span><i class="m-band"></i>too small to matter (±{e(band)})</span>'
    )
    return f"""<section id="effects"><h2>Effects and costs</h2>
<div class="panels wide"><figure class="panel"><figcaption>Effects</figcaption>
<p class="legend">{key}</p><div class="plot" id="forest"></div><p class="outside"></p></figure>
<div class="panel"><h3 class="caption">What each arm costs</h3>{arms}</div></div>
<h3>Every number</h3>{comparisons_table(view)}</section>"""


def _pairs(data: Json) -> str:
    shown = [(i, row) for i, row in enumerate(data["rows"]) if row["differences"]]
    if not shown:
        return ""
    panels = "".join(
        f'<figure class="panel"><figcaption>{e(row["name"])}'
        f'<span class="aside">{e(row["pairs"])}</span></figcaption>'
        f'<div class="plot tiny" id="pairs{i}"></div></figure>'
        for i, row in shown
    )
    return f"""<section id="pairs"><h2>Paired differences</h2>
<p class="hint">A dot is one unit: the arms of the comparison trained with the same seed. The line \
is their mean, the shade its interval, the grey band what is too small to matter.</p>
<div class="panels small">{panels}</div></section>"""


def _curves(data: Json) -> str:
    if not data["curves"]:
        return ""
    panels = (
        '<figure class="panel"><figcaption>'
        + e(data["metric"].capitalize())
        + " over epochs</figcaption>"
        ""
        '<div class="plot tall" id="curves"></div></figure>'
    )
    if data["gaps"]:
        panels += (
            '<figure class="panel"><figcaption>Difference to the baseline over epochs</figcaption>'
            '<div class="plot tall" id="gaps"></div></figure>'
        )
    hidden = any(c["control"] for c in data["curves"])
    note = " Controls are hidden until they are clicked." if hidden else ""
    return f"""<section id="learning"><h2>Learning curves</h2>
<p class="hint">Means over seeds with their bands. Click a name to hide or show an arm.{note}</p>
<div class="panels">{panels}</div></section>"""


def _interactions(data: Json) -> str:
    panels = "".join(
        f'<figure class="panel"><figcaption>{e(x["x"])} by {e(x["by"])}</figcaption>'
        f'<div class="plot small" id="interaction{i}"></div></figure>'
        for i, x in enumerate(data["interactions"])
    )
    if not panels:
        return ""
    return f"""<section id="interactions"><h2>Interactions</h2>
<p class="hint">Parallel lines: the factors act independently of each other. Bars are intervals of \
the means.</p><div class="panels">{panels}</div></section>"""


def _method(view: Json) -> str:
    told = "".join(f"<p>{e(line)}</p>" for line in statistics(view))
    spent = "".join(f"<p>{e(line)}</p>" for line in effort(view))
    looks = view.get("looks") or []
    rows = "".join(
        f'<tr><td class="n">{i}</td>'
        + "".join(f'<td class="n">{e(look.get(k, "–"))}</td>' for k in ("n", "decided", "open"))
        + "</tr>"
        for i, look in enumerate(looks, 1)
    )
    heads = "".join(f'<th scope="col" class="n">{h}</th>' for h in ("Look", "n", "Decided", "Open"))
    table = (
        f'<h3>Looks at the data</h3><table class="narrow"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        if rows
        else ""
    )
    effort_part = f"<h3>Power and effort</h3>{spent}" if spent else ""
    return (
        f'<section id="method" class="prose"><h2>How this was decided</h2>{told}{effort_part}'
        f"{table}</section>"
    )


def _reproduce(view: Json) -> str:
    when = view.get("created")
    started = ""
    if when:
        stamp = datetime.fromtimestamp(when, UTC)
        started = f'<p class="hint">Started {stamp:%Y-%m-%d %H:%M} UTC.</p>'
    return (
        '<section><h2>Reproduce</h2><ol class="steps"><li><span>Run or continue this study</span>'
        f"<code class='cmd'>{e(view['command'])}</code></li></ol>{started}</section>"
    )
