"""Layer 5: the report of the study `relu_information_loss`: a picture, Markdown and a page.

Everything is made from the content of `information_loss.json`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from nasctl.report.files import INK, MUTED

Found = Mapping[str, Any]

COMMAND = "nasctl ablate relu_information_loss"
TITLE = "Does ReLU destroy what a narrow layer carries?"
LINEAR, RELU6, THIRD = "#1558d6", "#c2410c", "#0f766e"
PARTS = (
    ("projection", "before the bottleneck's activation"),
    ("branch", "after it, without the shortcut"),
    ("output", "what the block passes on"),
)


def information_loss_files(found: Found) -> dict[str, bytes]:
    """`report.png`, `report.md` and the self-contained `report.html`, by name."""
    png = information_loss_png(found)
    return {
        "report.png": png,
        "report.md": information_loss_markdown(found, "report.png").encode(),
        "report.html": information_loss_html(found, png).encode(),
    }


@dataclass(frozen=True, kw_only=True)
class _Table:
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class _Section:
    title: str
    sentences: tuple[str, ...]
    table: _Table


def _sections(found: Found) -> list[_Section]:
    spiral = _Section(
        title="A spiral, embedded at random",
        sentences=_spiral_sentences(found),
        table=_Table(
            heads=("n", "points lost", "expected, (n + 1) / 2^n", "standard error",
                   "affine read-out, error", "T^+, median error"),
            rows=tuple(_spiral_row(row) for row in found["spiral"]),
        ),
    )  # fmt: skip
    if found["trained"] is None:
        return [spiral]
    trained = found["trained"]
    heads = ("block", *(f"{p}, {arm}" for p, _ in PARTS for arm in ("linear", "relu6")))
    blocks = _Section(
        title="Trained networks: R² of reading a block's input back",
        sentences=_trained_sentences(trained),
        table=_Table(heads=heads, rows=tuple(_block_row(b) for b in trained["blocks"])),
    )
    differences = _Section(
        title="Differences",
        sentences=(
            "Linear minus relu6, paired by seed; the last column compares, within the relu6 arm, "
            "before and after the bottleneck's activation. 95 % t intervals over seeds, not "
            "adjusted for their number.",
        ),
        table=_Table(
            heads=("block", *(p for p, _ in PARTS), "silent channels", "cost of the relu6"),
            rows=tuple(_difference_row(b) for b in trained["blocks"]),
        ),
    )
    return [spiral, blocks, differences]


def _spiral_sentences(found: Found) -> tuple[str, ...]:
    settings = found["settings"]
    away = [
        abs(row["lost"]["mean"] - row["lost"]["expected"]) / row["lost"]["standard_error"]
        for row in found["spiral"]
        if row["lost"]["standard_error"] > 0
    ]
    return (
        f"A two-turn spiral of {settings['points']} points, {settings['draws']} Gaussian matrices "
        "T per n. A point is lost if fewer than two coordinates of T x are positive. Errors are "
        "squared, relative to the spiral's variance; 95 % intervals in parentheses.",
        "Where few draws lose any point, trust the exact standard error, not the t interval.",
        *([f"The largest deviation from the expected fraction is {max(away):.1f} standard errors."]
          if away else []),
        "T^+ does not undo the halving by ReLU: its error goes to about 1/4, whatever is lost.",
    )  # fmt: skip


def _trained_sentences(trained: Found) -> tuple[str, ...]:
    accuracy = trained["accuracy"]
    parts = ", ".join(f"{name}: {what}" for name, what in PARTS)
    blocks = trained["blocks"]
    return (
        f"{len(trained['seeds'])} trainings of each arm on {trained['dataset']}, epochs: "
        f"{trained['recipe']['epochs']}; mean R² on held-out images ({parts}). Where a block "
        "strides, the mean of the cell of input pixels is read back.",
        f"Accuracy: linear {_estimate(accuracy['linear'], 4)}, relu6 "
        f"{_estimate(accuracy['relu6'], 4)}, difference {_estimate(accuracy['difference'], 4)}.",
        "The branch of the linear arm is read back "
        + _signs([b["branch"]["difference"] for b in blocks], "better", "worse"),
        "Within the relu6 arm, R² after the activation is "
        + _signs([b["relu6_cost"] for b in blocks], "lower", "higher"),
    )


def _signs(estimates: Sequence[Found], above: str, below: str) -> str:
    """How many intervals lie above and below 0."""
    if any(e["interval"] is None for e in estimates):
        return "not known to differ: one seed has no interval."
    high = sum(e["interval"][0] > 0 for e in estimates)
    low = sum(e["interval"][1] < 0 for e in estimates)
    n = len(estimates)
    return f"{above} in {high} of {n} blocks, {below} in {low}, undecided in {n - high - low}."


def _spiral_row(row: Found) -> tuple[str, ...]:
    lost, pinv = row["lost"], row["pinv_error"]
    return (
        str(row["n"]),
        f"{_percent(lost['mean'])} ({_percent(lost['interval'][0], unit='')} to "
        f"{_percent(lost['interval'][1])})",
        _percent(lost["expected"]),
        _percent(lost["standard_error"]),
        _significant(row["affine_error"]["mean"], row["affine_error"]["interval"]),
        _significant(pinv["median"], pinv["interval"]),
    )


def _percent(fraction: float, *, unit: str = " %") -> str:
    return f"{100 * fraction:.3g}{unit}"


def _significant(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3g} ({interval[0]:.3g} to {interval[1]:.3g})"


def _estimate(value: Found, digits: int = 3) -> str:
    mean = f"{value['mean']:.{digits}f}"
    if value["interval"] is None:
        return mean
    low, high = value["interval"]
    return f"{mean} ({low:.{digits}f} to {high:.{digits}f})"


def _name(block: Found) -> str:
    stride = f", stride {block['stride']}" if block["stride"] > 1 else ""
    shortcut = ", shortcut" if block["shortcut"] else ""
    return (
        f"{block['position']}: {block['in_channels']} to {block['out_channels']}{stride}{shortcut}"
    )


def _block_row(block: Found) -> tuple[str, ...]:
    values = (block[part][arm] for part, _ in PARTS for arm in ("linear", "relu6"))
    return (_name(block), *(_estimate(v) for v in values))


def _difference_row(block: Found) -> tuple[str, ...]:
    values = [block[part]["difference"] for part, _ in PARTS]
    values += [block["silent"]["difference"], block["relu6_cost"]]
    return (_name(block), *(_estimate(v) for v in values))


def information_loss_markdown(found: Found, picture: str) -> str:
    """The result as tables; `picture` is the path of the PNG."""
    lines = [f"# {TITLE}", "", f"![The spiral and what is left of it](<{picture}>)", ""]
    for section in _sections(found):
        lines += [f"## {section.title}", "", *section.sentences, ""]
        heads = section.table.heads
        lines += [_row(heads), "| --- |" + " ---: |" * (len(heads) - 1)]
        lines += [*(_row(row) for row in section.table.rows), ""]
    return "\n".join([*lines, "```", COMMAND, "```", ""])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#16202e;max-width:72rem;margin:2rem auto;
padding:0 1rem}img{width:100%;height:auto}.scroll{overflow-x:auto}table{border-collapse:collapse}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e8ecf2}
th:first-child,td:first-child{text-align:left;white-space:nowrap}"""


def information_loss_html(found: Found, png: bytes) -> str:
    """One page that needs no other file."""
    parts = []
    for section in _sections(found):
        heads = "".join(f'<th scope="col">{escape(h)}</th>' for h in section.table.heads)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in section.table.rows
        )
        said = "".join(f"<p>{escape(s)}</p>" for s in section.sentences)
        parts.append(
            f'<h2>{escape(section.title)}</h2>{said}<div class="scroll"><table><thead><tr>{heads}'
            f"</tr></thead><tbody>{rows}</tbody></table></div>"
        )
    picture = base64.b64encode(png).decode("ascii")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(TITLE)}</title>'
        '<meta name="viewport" content="width=device-width"><style>'
        f"{_STYLE}</style></head><body><h1>{escape(TITLE)}</h1>"
        f'<img alt="The spiral and what is left of it" src="data:image/png;base64,{picture}">'
        f"{''.join(parts)}<p><code>{escape(COMMAND)}</code></p></body></html>\n"
    )


def information_loss_png(found: Found) -> bytes:
    """Figure 1 of MobileNetV2 and what it measures.

    Above: the spiral, T^+ ReLU(T x) as in the paper, and below it the best affine read-out, of the
    first T of every n. Then the curves over n and, where networks were trained, R^2 by block.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = found["picture"]["panels"]
    columns = len(panels) + 1
    figure = Figure(figsize=(2.1 * max(columns, 4), 8.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(2, 1)
    above, below = halves
    grid = above.subplots(2, columns, squeeze=False)
    points = found["picture"]["input"]
    _spiral(grid[0][0], points, "input")
    grid[1][0].set_axis_off()
    for column, panel in enumerate(panels, start=1):
        _spiral(grid[0][column], panel["pinv"], f"T⁺, n = {panel['n']}")
        _spiral(grid[1][column], panel["affine"], f"affine, n = {panel['n']}")
    trained = found["trained"]
    axes = below.subplots(1, 1 if trained is None else 2, squeeze=False)[0]
    _curves(axes[0], found["spiral"])
    if trained is not None:
        _bars(axes[1], trained["blocks"])
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": "nasctl"})
    return out.getvalue()


def _spiral(axes: Any, points: Sequence[Sequence[float]], title: str) -> None:
    axes.scatter(
        [p[0] for p in points], [p[1] for p in points],
        c=range(len(points)), cmap="viridis", s=3, linewidths=0,
    )  # fmt: skip
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])


def _curves(axes: Any, rows: Sequence[Found]) -> None:
    """Over n: points lost (measured and expected) and both errors."""
    n = [row["n"] for row in rows]
    series: tuple[tuple[str, str, Callable[[Found], tuple[float, Sequence[float]]]], ...] = (
        ("points lost", RELU6, lambda r: (r["lost"]["mean"], r["lost"]["interval"])),
        ("affine read-out, mean error", LINEAR,
         lambda r: (r["affine_error"]["mean"], r["affine_error"]["interval"])),
        ("T⁺, median error", THIRD,
         lambda r: (r["pinv_error"]["median"], r["pinv_error"]["interval"])),
    )  # fmt: skip
    for name, colour, read in series:
        values = [read(row) for row in rows]
        axes.errorbar(
            n, [v for v, _ in values], yerr=_whiskers(values),
            fmt="o-", ms=4, lw=1.2, capsize=2, color=colour, label=name,
        )  # fmt: skip
    expected = [row["lost"]["expected"] for row in rows]
    axes.plot(n, expected, "x--", color=MUTED, ms=5, lw=0.8, label="(n + 1) / 2ⁿ")
    axes.set_xscale("log")
    axes.set_xticks(n, [str(v) for v in n])
    axes.minorticks_off()
    axes.set_ylim(bottom=-0.02)
    axes.set_xlabel("n", color=INK)
    axes.set_ylabel("fraction; squared error / variance", color=INK)
    _finish(axes)


def _bars(axes: Any, blocks: Sequence[Found]) -> None:
    """R^2 by block: the branch filled, the whole output hollow, each with its interval."""
    for arm, colour, shift in (("linear", LINEAR, -0.12), ("relu6", RELU6, 0.12)):
        for part, fill, move in (("branch", colour, 0.0), ("output", "white", 0.06)):
            places = [i + shift + move for i in range(len(blocks))]
            values = [
                (b[part][arm]["mean"], b[part][arm]["interval"] or [b[part][arm]["mean"]] * 2)
                for b in blocks
            ]
            axes.errorbar(
                places, [v for v, _ in values], yerr=_whiskers(values), fmt="o", ms=5, lw=1,
                capsize=2, color=colour, mfc=fill, label=f"{part}, {arm}",
            )  # fmt: skip
    names = [_name(b).replace(", ", "\n").replace(": ", ":\n") for b in blocks]
    axes.set_xticks(range(len(blocks)), names)
    axes.set_ylabel("R² of the block's input", color=INK)
    axes.set_ylim(top=1.02)
    _finish(axes)


def _whiskers(values: Sequence[tuple[float, Sequence[float]]]) -> list[list[float]]:
    return [
        [max(value - ends[0], 0.0) for value, ends in values],
        [max(ends[1] - value, 0.0) for value, ends in values],
    ]


def _finish(axes: Any) -> None:
    axes.grid(color="#e8ecf2", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=7, labelcolor=MUTED)
