"""Layer 5: the front in a terminal, as a table and a picture made of characters; no colour needed.

Lines are never longer than the width, so that nothing wraps at 80 columns.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

from nasctl.halving_report import halving_lines
from nasctl.report import text
from nasctl.report.view import (
    Point,
    RunView,
    avoided,
    charted,
    direction,
    points,
    primary,
    reference_points,
    remark,
    staircase,
    tabled,
)
from nasctl.stopping import stopped_line
from nasctl.trial import Trial

Paint = Callable[[str, str], str]
"""(text, `bold` | `dim` | `front`) -> the text, with ANSI codes or without."""

MEMBER, REFERENCE, DOMINATED = "●", "○", "·"
_ASCII = str.maketrans("●○·─│╯╮╰╭┤┬└–↑↓×…", "*o.-|''..++`-^vx.")
_CODES = {"bold": "1", "dim": "2", "front": "1;36"}


def plain(value: str, _style: str) -> str:
    """Paint without colour."""
    return value


def ansi(value: str, style: str) -> str:
    """Paint with ANSI codes."""
    return f"\x1b[{_CODES[style]}m{value}\x1b[0m"


def print_front(front: Mapping[str, Any], trials: Iterable[Trial], file: TextIO) -> None:
    """Prints the table and the picture of a front, to the width of the terminal.

    Plain text where `file` is not a terminal or NO_COLOR is set; ASCII where its encoding has
    nothing better.

    Args:
        front: the object of front.json.
        trials: of the run; the dominated ones are the small dots.
        file: usually standard output.
    """
    size = shutil.get_terminal_size((80, 24))
    paint = paint_for(file)
    parts = [front_table(front, width=size.columns, paint=paint)]
    if front["members"]:
        height = max(8, min(18, size.lines - 8))
        parts.append(
            front_picture(front, trials, width=min(size.columns, 110), height=height, paint=paint)
        )
    print_text("\n\n".join(parts), file)


def paint_for(file: TextIO) -> Paint:
    """Colour on a terminal, unless NO_COLOR is set."""
    return ansi if file.isatty() and not os.environ.get("NO_COLOR") else plain


def print_text(shown: str, file: TextIO) -> None:
    """Prints, in ASCII where the encoding of `file` has nothing better."""
    try:
        shown.encode(file.encoding or "utf-8")
    except UnicodeEncodeError:
        shown = shown.translate(_ASCII).encode("ascii", "replace").decode()
    print(shown, file=file)


def _view(front: Mapping[str, Any], trials: Iterable[Trial] = ()) -> RunView:
    return RunView(name="", command="", run_dir="", config={}, trials=tuple(trials), front=front)


def front_table(front: Mapping[str, Any], *, width: int = 80, paint: Paint = plain) -> str:
    """The members as lines, cheapest first: id, objectives with their intervals, other costs; below
    them the reference networks, and what there is to say of them.

    Columns that do not fit into `width` are left out, the least needed first.
    """
    view = _view(front)
    members, references = points(view), reference_points(view)
    found = [*members, *references]
    counts = front["trials"]
    started = sum(counts.get(s, 0) for s in ("COMPLETE", "PRUNED", "FAILED", "RUNNING"))
    summary = (
        f"{text.plural(len(members), 'network')} on the front of {text.plural(started, 'trial')}"
    )
    hypervolume = text.significant(front["hypervolume"], 4)
    head = f"{paint(summary, 'bold')}, hypervolume {hypervolume}"
    if early := stopped_line(front.get("stopped")):
        head += f"\n{paint(early[:width], 'dim')}"
    if not_trained := avoided(front):
        head += f"\n{paint(not_trained[:width], 'dim')}"
    for line in halving_lines(front.get("halving")):
        head += f"\n{paint(line[:width], 'dim')}"
    if not found:
        return head
    rows = aligned(fitting(_columns(view, found), width))
    lines = [paint("  ".join(cells).rstrip(), "dim") for cells in rows[:2]]
    lines += [_lit(cells, paint).rstrip() for cells in rows[2:]]
    remarks = [
        paint(f"{REFERENCE} {p.name} {what}"[:width], "bold" if r["on_front"] else "dim")
        for p, r in zip(references, view.references, strict=True)
        if (what := remark(r))
    ]
    return "\n".join([head, "", *lines, *([""] if remarks else []), *remarks])


def _lit(cells: Sequence[str], paint: Paint) -> str:
    return "  ".join([paint(cells[0], "front"), *cells[1:]])


def _columns(view: RunView, found: Sequence[Point]) -> list[tuple[int, list[str]]]:
    """(how soon it may be left out, cells with two lines of head): 0 is never."""
    names = [f"{REFERENCE} {p.name}" if p.name else p.arch_id for p in found]
    made: list[tuple[int, list[str]]] = [(0, ["network", "", *names])]
    for place, metric in enumerate(tabled(view)):
        split = any(metric in p.predicted for p in found)
        rank = 0 if metric in view.objectives else 10 + place
        name, under = text.label(metric), text.unit(metric)
        if split:
            under = f"{under} measured".strip()
        shown = [
            p.measured(metric) if split else (p.values.get(metric), p.intervals.get(metric))
            for p in found
        ]
        cells = [text.number(metric, value) for value, _ in shown]
        made.append((rank, [name, under, *cells]))
        ends = [text.interval(metric, interval) for _, interval in shown]
        if any(ends):
            made.append((2 if place == 0 else 6 + place, ["95 %", "interval", *ends]))
        if split:
            cells = [text.number(metric, p.searched(metric)[0]) for p in found]
            made.append((3, [name, "in search", *cells]))
    if any(p.seeds > 1 for p in found):
        made.append((1, ["seeds", "", *(str(p.seeds) for p in found)]))
    return made


def fitting(columns: Sequence[tuple[int, list[str]]], width: int) -> list[list[str]]:
    """The columns that fit, two spaces apart, given how soon each may be left out; 0 is never."""
    kept = list(columns)
    while len(kept) > 1:
        needed = sum(max(len(c) for c in column) + 2 for _, column in kept) - 2
        if needed <= width:
            break
        droppable = [i for i, (rank, _) in enumerate(kept) if rank > 0]
        drop = max(droppable, key=lambda i: kept[i][0]) if droppable else len(kept) - 1
        kept.pop(drop)
    return [column for _, column in kept]


def aligned(columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows of cells of equal width: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in columns]
    return [
        [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in zip(*columns, strict=True)
    ]


def front_picture(
    front: Mapping[str, Any],
    trials: Iterable[Trial],
    *,
    width: int = 80,
    height: int = 16,
    paint: Paint = plain,
) -> str:
    """A scatter of the first two objectives: members, the line they attain, dominated networks;
    reference networks as hollow circles.

    The horizontal axis is logarithmic where its values span more than a factor of 12. Dominated
    networks far below the rest are left out, so that the front is not squashed.

    Args:
        front: the object of front.json.
        trials: of the run.
        width, height: in characters, of everything and of the plotting area.
        paint: colours.
    """
    view = _view(front, trials)
    y, axes = primary(view.objectives), charted(view)
    x = axes[0] if axes else y
    drawn = [p for p in points(view) if x in p.values and y in p.values]
    members = [p for p in drawn if p.role == "member"]
    if not members:
        return ""
    references = [p for p in reference_points(view) if x in p.values and y in p.values]
    kept = [*members, *references]  # always in the picture
    y_scale = _Scale(_window([p.values[y] for p in drawn], [p.values[y] for p in kept]), height)
    labels = {row: label for label, row in y_scale.ticks(max(2, height // 3))}
    left = max(len(t) for t in labels.values()) + 2
    columns = width - left - 2
    xs = [p.values[x] for p in (*drawn, *references)]
    log = min(xs) > 0 and max(xs) / min(xs) > 12
    x_scale = _Scale(_window(xs, [p.values[x] for p in kept]), columns, log=log)
    grid = _Grid(columns, height)
    for p in drawn:
        if p.role != "member":
            grid.put(x_scale.cell(p.values[x]), y_scale.cell(p.values[y]), DOMINATED)
    corners = staircase(members, x, y, direction(view, x), direction(view, y))
    grid.stairs([(x_scale.cell(a), y_scale.cell(b)) for a, b in corners])
    for p in (*references, *members):
        mark = REFERENCE if p.role == "reference" else MEMBER
        grid.put(x_scale.cell(p.values[x]), y_scale.cell(p.values[y]), mark)
    best = "↑" if direction(view, y) == "max" else "↓"
    lines = [f"{' ' * left}{paint(f'{text.title(y)} {best}', 'bold')}"]
    for row in range(height - 1, -1, -1):
        mark = "┤" if row in labels else "│"
        lines.append(
            f"{labels.get(row, '').rjust(left - 1)} {mark}{grid.line(row, paint)}".rstrip()
        )
    lines += _bottom(x_scale, left, columns, f"{text.title(x)}{' (log)' if log else ''}", paint)
    key = f"{paint(MEMBER, 'front')} on the front   {paint(DOMINATED, 'dim')} dominated"
    if references:
        key += f"   {paint(REFERENCE, 'bold')} reference"
    return "\n".join([*lines, f"{' ' * (left + 1)}{key}"])


def _bottom(scale: _Scale, left: int, columns: int, name: str, paint: Paint) -> list[str]:
    axis, marks = ["─"] * columns, [" "] * (columns + 1)
    free = 0
    for label, at in scale.ticks(max(2, columns // 12)):
        start = max(0, min(at - len(label) // 2, columns - len(label)))
        axis[at] = "┬"
        if start >= free:
            marks[start : start + len(label)] = label
            free = start + len(label) + 2
    title = paint(name, "bold")
    pad = " " * (left + 1 + max(0, columns - len(name)))
    return [
        f"{' ' * left}└{''.join(axis)}",
        f"{' ' * (left + 1)}{''.join(marks).rstrip()}",
        f"{pad}{title}",
    ]


class _Scale:
    """From values to cells 0 .. count - 1."""

    def __init__(self, window: tuple[float, float], count: int, *, log: bool = False) -> None:
        self._log = log
        low, high = (math.log(v) for v in window) if log else window
        pad = (high - low) * 0.04 or abs(high) * 0.04 or 0.5
        self._low, self._high = low - pad, high + pad
        self._count = count

    def cell(self, value: float) -> int:
        position = math.log(value) if self._log else value
        return round((position - self._low) / (self._high - self._low) * (self._count - 1))

    def ticks(self, most: int) -> list[tuple[str, int]]:
        """(a round value as text, its cell), at most about `most`."""
        if self._log:
            low, high = math.exp(self._low), math.exp(self._high)
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            values = [f * 10.0**n for n in powers for f in (1, 2, 5) if low <= f * 10.0**n <= high]
            return [(_tick(v, v), self.cell(v)) for v in values]
        step = _round_up((self._high - self._low) / max(1, most))
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        return [(_tick(n * step, step), self.cell(n * step)) for n in range(first, last + 1)]


def _tick(value: float, step: float) -> str:
    """`0.86` and `0.90` alike, `20 k`: as many decimals as the step between ticks has."""
    factor, prefix = next(((f, p) for f, p in text.SI if abs(value) >= f), (1.0, ""))
    decimals = max(0, -math.floor(math.log10(step / factor) + 1e-9))
    return f"{value / factor:.{decimals}f} {prefix}".rstrip()


def _round_up(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= step * 0.999)


def _window(values: Sequence[float], members: Sequence[float]) -> tuple[float, float]:
    """The range to show: all members, and the rest without its extreme 6 %."""
    ordered = sorted(values)
    trim = round(0.06 * (len(ordered) - 1)) if len(ordered) > 12 else 0
    return min(ordered[trim], *members), max(ordered[len(ordered) - 1 - trim], *members)


class _Grid:
    """Characters by column and row; row 0 is the lowest."""

    def __init__(self, columns: int, rows: int) -> None:
        self._cells = [[" "] * columns for _ in range(rows)]

    def put(self, x: int, y: int, mark: str) -> None:
        if 0 <= y < len(self._cells) and 0 <= x < len(self._cells[y]):
            self._cells[y][x] = mark

    def stairs(self, corners: Sequence[tuple[int, int]]) -> None:
        """Lines between corners that differ in x or in y, and the bends."""
        bends: list[tuple[int, int, str]] = []
        for index, ((x0, y0), (x1, y1)) in enumerate(itertools.pairwise(corners)):
            for x in range(min(x0, x1), max(x0, x1) + 1):
                self.put(x, y0, "─")
            for y in range(min(y0, y1) + 1, max(y0, y1)):
                self.put(x1, y, "│")
            if index + 2 < len(corners) and y0 == y1 and corners[index + 2][1] != y1:
                up, from_left = corners[index + 2][1] > y1, x1 >= x0
                bends.append((x1, y1, ("╯" if up else "╮") if from_left else ("╰" if up else "╭")))
        for x, y, mark in bends:
            self.put(x, y, mark)

    def line(self, row: int, paint: Paint) -> str:
        styles = {MEMBER: "front", REFERENCE: "bold", " ": ""}
        out, run, style = [], "", ""
        for mark in self._cells[row]:
            now = styles.get(mark, "dim")
            if now != style and run:
                out.append(paint(run, style) if style else run)
                run = ""
            run, style = run + mark, now
        out.append(paint(run, style) if style else run)
        return "".join(out)
