"""Layer 5: what the pages of all reports share: escaping, the document around them, small parts."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable


def e(value: object) -> str:
    """Escaped for element content and quoted attributes alike."""
    return html.escape(str(value), quote=True)


def document(*, title: str, body: str, data: object, css: str, script: str, plotly: str) -> str:
    """The whole document; nothing in it refers to anything outside.

    The policy in its head makes the browser refuse every request, so that a slip here can neither
    load nor send anything.

    Args:
        title: plain text.
        body: HTML of the main part.
        data: JSON that the script reads from the element `data`.

    Raises:
        ValueError: `data` holds a number that JSON does not have.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="generator" content="nasctl">
<title>{e(title)} · nasctl</title>
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
<script type="application/json" id="data">{_json(data)}</script>
<script>
{plotly}
</script>
<script>
{script}
</script>
</body>
</html>
"""


def _json(value: object) -> str:
    """JSON that cannot end its script element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def tile(name: str, value: str, note: str = "") -> str:
    """A figure with its name; `note` is HTML."""
    return (
        f'<div class="tile"><span class="name">{e(name)}</span><span class="value">{e(value)}'
        f'</span><span class="note">{note}</span></div>'
    )


def facts(items: Iterable[tuple[str, str]]) -> str:
    """A list of names and values."""
    rows = "".join(f"<div><dt>{e(k)}</dt><dd>{e(v)}</dd></div>" for k, v in items)
    return f'<dl class="facts">{rows}</dl>'
