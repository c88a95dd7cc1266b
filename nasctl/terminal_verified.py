"""Layer 5: a verification in a terminal: promised against delivered, and what became of members."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from nasctl.report import text
from nasctl.report.verified_text import (
    int8_lines,
    openings_line,
    places_line,
    shrinkage_lines,
)
from nasctl.terminal import Paint, aligned, fitting, paint_for, plain, print_text
from nasctl.verification.outlook import Outlook
from nasctl.verification.promised import Promised, Value, has_extras, promised


def print_verified(verified: Mapping[str, Any], file: TextIO) -> None:
    """The table and what there is to say, to the width of the terminal.

    Args:
        verified: the object of `verified.json`.
    """
    width = shutil.get_terminal_size((80, 24)).columns
    print_text(verified_text(verified, width=width, paint=paint_for(file)), file)


def verified_text(verified: Mapping[str, Any], *, width: int = 80, paint: Paint = plain) -> str:
    """See `print_verified`."""
    rows = promised(verified)
    found = fitting(_columns(rows, verified), width)
    lines = aligned(found)
    body = [paint("  ".join(cells).rstrip(), "dim") for cells in lines[:2]]
    for row, cells in zip(rows, lines[2:], strict=True):
        style = "front" if row.on_front else "dim"
        body.append("  ".join([paint(cells[0], style), *cells[1:]]).rstrip())
    reasons = [f"{r.label} {r.word}: {r.reason}" for r in rows if r.reason]
    return "\n".join(
        [
            paint(places_line(verified), "bold"),
            "",
            *body,
            *([""] if reasons else []),
            *(paint(part, "dim") for line in reasons for part in folded(line, width)),
            "",
            *(part for line in _notes(verified) for part in folded(line, width)),
        ]
    )


def _notes(verified: Mapping[str, Any]) -> Iterator[str]:
    yield from shrinkage_lines(verified)
    yield from int8_lines(verified)
    yield openings_line(verified)


def _columns(rows: Sequence[Promised], verified: Mapping[str, Any]) -> list[tuple[int, list[str]]]:
    """(how soon it may be left out, cells with two lines of head): 0 is never."""
    share = text.percent(verified["confidence"])
    metric = rows[0].metric if rows else "accuracy"
    name = text.label(metric)
    made: list[tuple[int, list[str]]] = [
        (0, ["network", "", *(r.label for r in rows)]),
        (0, ["", "", *(r.word for r in rows)]),
    ]

    def put(rank: int, head: str, under: str, of: str, values: Sequence[Value | None]) -> None:
        if any(v is not None and v.value is not None for v in values):
            cells = [text.number(of, v.value if v else None) for v in values]
            made.append((rank, [head, under, *cells]))

    def put_ends(rank: int, of: str, values: Sequence[Value | None]) -> None:
        ends = [text.interval(of, v.interval) if v and v.interval else "" for v in values]
        if any(ends):
            made.append((rank, [share, "interval", *ends]))

    put(0, name, "searched", metric, [r.searched for r in rows])
    put(0, name, "retrained", metric, [r.retrained for r in rows])
    put_ends(6, metric, [r.retrained for r in rows])
    put(0, name, "test", metric, [r.test for r in rows])
    put_ends(2, metric, [r.test for r in rows])
    put(0, "accuracy", "int8", "accuracy", [r.int8.get("val") for r in rows])
    put_ends(6, "accuracy", [r.int8.get("val") for r in rows])
    put(1, "int8", "test", "accuracy", [r.int8.get("test") for r in rows])
    if any(r.probability is not None for r in rows):
        chances = ["–" if r.probability is None else f"{r.probability:.2f}" for r in rows]
        made.append((0, ["on true", "front", *chances]))
    for rank, kind, under in (
        (4, "predicted", "predicted"),
        (7, "searched", "searched"),
        (1, "p50", "ms p50"),
        (3, "p90", "ms p90"),
    ):
        put(rank, "latency", under, "latency_ms", [r.latency.get(kind) for r in rows])
    put(0, "int8", "ms p50", "latency_ms", [r.int8.get("p50") for r in rows])
    put(4, "int8", "bytes", "model_bytes", [r.int8.get("bytes") for r in rows])
    if any(r.retrained.n for r in rows):
        made.append((5, ["seeds", "", *(str(r.retrained.n or "–") for r in rows)]))
    for key, head in has_extras(rows):
        first, _, rest = head.partition(" ")
        metric_of = "accuracy" if "accuracy" in key else key
        values = [Value(value=r.extras.get(key)) for r in rows]
        put(8, first, rest, metric_of, values)
    return made


def folded(line: str, width: int) -> list[str]:
    """A line in pieces that fit, the later ones indented."""
    import textwrap

    return textwrap.wrap(line, max(20, width), subsequent_indent="  ", break_on_hyphens=False)


def outlook_text(outlook: Outlook) -> str:
    """What `--dry-run` prints."""
    return "\n".join(_outlook_lines(outlook))


def _outlook_lines(outlook: Outlook) -> Iterator[str]:
    metric = outlook.metric
    yield f"{text.plural(len(outlook.finalists), 'finalist')} of {outlook.run}"
    yield ""
    rows = [["network", "", f"{text.label(metric)} searched"]]
    for f in outlook.finalists:
        what = {"member": "on the front", "near": "near it", "reference": "reference"}[f.role]
        rows.append([f.label, what, text.number(metric, f.searched.get(metric))])
    for cells in aligned([list(column) for column in zip(*rows, strict=True)]):
        yield "  ".join(cells).rstrip()
    yield ""
    more = "" if outlook.most == outlook.least else f" to {outlook.most}"
    epochs = text.plural(outlook.epochs, "epoch")
    yield f"{outlook.least}{more} trainings of {epochs} on {text.plural(outlook.workers, 'worker')}"
    if outlook.seconds is not None:
        low, high = (text.duration(s) for s in outlook.seconds)
        spread = low if low == high else f"{low} to {high}"
        yield f"about {spread}, as long as trainings took in the search; measuring comes on top"
    if outlook.front == "int8":
        yield "the front will be that of int8 files: every training is quantised, and judged so"
    yield (
        "accuracies will be those of the test split, which that opens"
        if outlook.has_test
        else "there is no test split: accuracies will be those of validation"
    )
