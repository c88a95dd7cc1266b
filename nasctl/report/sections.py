"""Layer 5: the page's lower half: evidence, what the search did, its setup, how to repeat it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import yaml

from nasctl.report import text
from nasctl.report.html import e, facts
from nasctl.report.view import Point, RunView, avoided, median_error
from nasctl.trial import State

_MOST_FAILURES = 50
_FIRST = ("node", "device", "runtime", "batch", "threads", "dtype", "layout", "blocks")
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def evidence(view: RunView, found: Sequence[Point]) -> str:
    charts = []
    error = median_error(found, "latency_ms")
    if view.hypervolume_history:
        note = _hypervolume_note(view, measured=error is not None)
        charts.append(
            '<figure class="panel"><figcaption>Hypervolume over trials'
            f'<span class="aside">{note}</span></figcaption>'
            '<div class="plot small" id="hypervolume"></div></figure>'
        )
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


def _hypervolume_note(view: RunView, *, measured: bool) -> str:
    values = [value for _, value in view.hypervolume_history]
    final, last = view.front["hypervolume"], values[-1]
    falls = any(b < a for a, b in pairwise(values))
    note = "; it falls where another seed corrected a lucky value" if falls else ""
    if math.isclose(final, last, rel_tol=1e-9):
        return f"{text.significant(final, 4)} at the end{note}"
    why = "with the latencies measured at the end" if measured else "as it is now"
    return f"dotted: {text.significant(final, 4)} {why}{note}"


def search(view: RunView) -> str:
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
    if not_trained := avoided(view.front):
        parts.append(f"<p>{e(not_trained)}.</p>")
    for metric, spread in (view.front.get("seed_spread") or {}).items():
        parts.append(
            f"<p>{text.plural(spread['groups'], 'network')} trained more than once: from seed to "
            f"seed {e(text.label(metric))} has a standard deviation of "
            f"{e(text.number(metric, spread['sd']))} "
            f"({text.plural(spread['df'], 'degree')} of freedom, pooled within networks).</p>"
        )
    if view.rejections:
        rows = "".join(
            f'<tr><td>{e(reason)}</td><td class="n">{n:,}</td></tr>'
            for reason, n in sorted(view.rejections.items(), key=lambda item: -item[1])
        )
        parts.append(
            "<h3>Rejected before training</h3><table class='narrow'><thead><tr><th>Reason</th>"
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
            "<h3>Failed trials</h3><table class='narrow'><thead><tr><th class='n'>Trial</th>"
            f"<th>Network</th><th>Reason</th></tr></thead><tbody>{rows}</tbody></table>{rest}"
        )
    return f"<section><h2>Search</h2>{''.join(parts)}</section>" if parts else ""


def _large(count: float) -> str:
    return f"{count:,.0f}" if count < 1e6 else _scientific(count)


def _scientific(count: float) -> str:
    mantissa, _, exponent = f"{count:.1e}".partition("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def latency_table(view: RunView) -> str:
    if not view.latency:
        return ""
    return f"<section><h2>Latency table</h2>{facts(_latency_facts(view.latency))}</section>"


def _latency_facts(latency: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    # The ledger gives the keys back in alphabetical order: what was measured on comes first.
    for key in sorted(latency, key=lambda k: _FIRST.index(k) if k in _FIRST else len(_FIRST)):
        value = latency[key]
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


def setup(view: RunView) -> str:
    plain = json.loads(json.dumps(view.config, default=str))
    document = e(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=88))
    coloured = re.sub(r"^(\s*(?:- )*)([\w.]+)(?=:)", r"\1<b>\2</b>", document, flags=re.M)
    commands = [
        ("Run or continue this search", view.command),
        ("See its front in the terminal", f"nasctl front {view.run_dir}"),
        ("Write this report again", f"nasctl report {view.run_dir}"),
    ]
    if view.config.get("tracking", {}).get("name") == "mlflow":
        commands.append(("Open every trial in MLflow", f"nasctl ui {view.run_dir}"))
    steps = "".join(
        f"<li><span>{e(what)}</span><code class='cmd'>{e(command)}</code></li>"
        for what, command in commands
    )
    environment = facts(view.environment.items()) if view.environment else ""
    return f"""<section><h2>Reproduce</h2><ol class="steps">{steps}</ol>
<h3>Environment</h3>{environment}
<h3>Configuration</h3>
<p class="hint">Resolved: every default is spelt out. It is also <code>config.yaml</code> in the \
run's folder.</p><pre class="yaml">{coloured}</pre></section>"""
