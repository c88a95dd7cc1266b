"""Layer 5: a network drawn block by block, as HTML and inline SVG."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

from nasctl.arch import Architecture, Block, Opaque, Shape
from nasctl.report.text import scalar, si, significant
from nasctl.report.view import BlockRow

_KINDS = (  # the first word found in an op's name decides its colour; see report.css
    ("inverted", "inverted"),
    ("separable", "separable"),
    ("depthwise", "separable"),
    ("bottleneck", "bottleneck"),
    ("residual", "bottleneck"),
    ("skip", "skip"),
    ("identity", "skip"),
    ("linear", "head"),
    ("classifier", "head"),
    ("head", "head"),
    ("pool", "pool"),
    ("conv", "conv"),
    ("stem", "conv"),
)
_OTHER_KINDS = ("other0", "other1", "other2", "other3", "other4", "other5")
_SHOWN_ELSEWHERE = {"out", "out_channels", "out_features"}


Colours = Mapping[str, str]
"""From op to the CSS class of its colour in the drawings."""


def colours(architectures: Iterable[Architecture]) -> Colours:
    """A class per op that occurs: what its name suggests, unless another op has that already."""
    chosen: dict[str, str] = {}
    for op in dict.fromkeys(b.op for a in architectures for b in a.blocks):
        wanted = next((name for word, name in _KINDS if word in op.lower()), None)
        start = crc32(op.encode()) % len(_OTHER_KINDS)
        spare = (*_OTHER_KINDS[start:], *_OTHER_KINDS[:start])
        free = [name for name in (wanted, *spare) if name and name not in chosen.values()]
        chosen[op] = free[0] if free else wanted or spare[0]
    return chosen


def op_name(op: str) -> str:
    """`inverted_residual` -> `Inverted residual`."""
    text = op.replace("_", " ")
    return text[:1].upper() + text[1:]


def settings(block: Block) -> str:
    """`5×5, stride 2, expand 6, relu6, bottleneck linear`: what an op's name does not say."""
    usual: set[tuple[str, object]] = set(_DEFAULTS)
    if isinstance(block, Opaque):
        values: dict[str, Any] = dict(block.values)
    else:
        values = block.fields()
        usual |= {(f.name, f.default) for f in dataclasses.fields(block)
                  if f.name not in _ALWAYS_SHOWN}  # fmt: skip
    parts = []
    for key, value in values.items():
        if key in _SHOWN_ELSEWHERE or value is None or (key, value) in usual:
            continue
        if key == "kernel_size":
            height, width = value if isinstance(value, tuple) else (value, value)
            parts.append(f"{height}×{width}")
        elif key == "activation":
            parts.append(scalar(value))
        elif isinstance(value, bool):
            parts.append(("" if value else "no ") + key.replace("_", " "))
        else:
            short = {"expand_ratio": "expand", "bottleneck_activation": "bottleneck"}
            parts.append(f"{short.get(key, key.replace('_', ' '))} {scalar(value)}")
    return ", ".join(parts)


_ALWAYS_SHOWN = {"kernel_size", "activation", "expand_ratio", "bottleneck_activation", "reduction"}

_DEFAULTS = {
    ("stride", 1),
    ("groups", 1),
    ("dilation", 1),
    ("bias", False),
    ("norm", "batch"),
    ("dropout", 0),
    ("residual", True),
}


def shape_text(shape: Shape) -> str:
    """`24 × 14 × 14`: channels, height, width."""
    return " × ".join(str(n) for n in shape)


def extent(architecture: Architecture) -> float:
    """The length of a network's strip before scaling: what strips side by side share a scale by."""
    return sum(math.sqrt(_channels(shape)) for shape in architecture.shapes[1:])


def silhouette(
    architecture: Architecture,
    colour: Colours,
    *,
    longest: float | None = None,
    width: int = 232,
    height: int = 34,
) -> str:
    """The whole network as a strip: a bar per block, its width by channels, height by resolution.

    Both scales are square roots, so that the first layers and the last can be told apart.

    Args:
        architecture: to draw.
        colour: of its ops.
        longest: the `extent` that fills the width; its own where it is not compared with others.
        width, height: in CSS pixels.
    """
    shapes = architecture.shapes[1:]
    largest = max([_side(shape) for shape in architecture.shapes], default=1)
    scale = (width - _GAP * len(shapes)) / max(longest or extent(architecture), 1e-9)
    bars, x = [], 0.0
    for block, shape in zip(architecture.blocks, shapes, strict=True):
        w = max(1.0, math.sqrt(_channels(shape)) * scale)
        h = max(4.0, height * math.sqrt(_side(shape) / largest))
        text = html.escape(f"{op_name(block.op)} {settings(block)} → {shape_text(shape)}")
        bars.append(
            f'<rect class="k-{colour[block.op]}" x="{x:.1f}" y="{(height - h) / 2:.1f}" '
            f'width="{w:.1f}" height="{h:.1f}" rx="1.5"><title>{text}</title></rect>'
        )
        x += w + _GAP
    label = f"{len(shapes)} blocks, input {shape_text(architecture.input_shape)}"
    return (
        f'<svg class="strip" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{label}">{"".join(bars)}</svg>'
    )


_GAP = 1.5


def drawing(architecture: Architecture, colour: Colours, rows: Sequence[BlockRow] | None) -> str:
    """One line per block: op, settings, output, channels as a bar, share of the network's costs."""
    costs = _shares(rows) if rows else {}
    heads = "".join(f'<th class="n">{name}</th>' for name in costs)
    most = max((_channels(s) for s in architecture.shapes), default=1)
    lines = [
        f'<tr class="input"><td class="n"></td><td>Input</td><td></td>'
        f'<td class="n shape">{shape_text(architecture.input_shape)}</td>'
        f"<td>{_bar('input', _channels(architecture.input_shape) / most)}</td>"
        f"{'<td></td>' * len(costs)}</tr>"
    ]
    for index, (block, _) in enumerate(architecture.placed()):
        shape = architecture.shapes[index + 1]
        name = colour[block.op]
        cells = "".join(_share_cell(column[index], name) for column in costs.values())
        lines.append(
            f'<tr><td class="n">{index + 1}</td>'
            f'<td class="op"><i class="dot k-{name}"></i>{html.escape(op_name(block.op))}</td>'
            f"<td>{html.escape(settings(block))}</td>"
            f'<td class="n shape">{shape_text(shape)}</td>'
            f"<td>{_bar(name, _channels(shape) / most)}</td>{cells}</tr>"
        )
    return (
        '<table class="blocks"><thead><tr><th class="n">#</th><th>Block</th><th>Settings</th>'
        f'<th class="n">Output</th><th>Channels</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def legend(colour: Colours) -> str:
    """The colours of the drawings, one entry per op."""
    items = (
        f'<span><i class="dot k-{name}"></i>{html.escape(op_name(op))}</span>'
        for op, name in colour.items()
    )
    return f'<p class="legend">{"".join(items)}</p>'


Column = list[tuple[str, float]]
"""(text, fraction of the network) per block."""


def _shares(rows: Sequence[BlockRow]) -> dict[str, Column]:
    """Column head to (text, share) per block, for the costs that every row has."""
    columns: dict[str, Column] = {}
    for head, key in (("MACs", "macs"), ("Parameters", "params"), ("Latency (ms)", "latency_ms")):
        values = [getattr(row, key) for row in rows]
        if any(v is None for v in values):
            continue
        total = sum(values) or 1.0
        columns[head] = [(_cost_text(key, v), v / total) for v in values]
    return columns


def _cost_text(key: str, value: float) -> str:
    if value == 0:
        return "0"
    return significant(value, 2) if key == "latency_ms" else si(value)


def _share_cell(cell: tuple[str, float], name: str) -> str:
    text, share = cell
    # A calibrated table may give a block a slightly negative latency; its bar is empty.
    filled = max(0.0, min(1.0, share))
    percent = f"{share * 100:.0f} %" if share >= 0.005 else "·"
    return (
        f'<td class="share"><span class="v">{text}</span><span class="bar">'
        f'<i class="k-{name}" style="width:{filled * 100:.1f}%"></i></span>'
        f'<span class="p">{percent}</span></td>'
    )


def _bar(name: str, fraction: float) -> str:
    return f'<span class="chan"><i class="k-{name}" style="width:{fraction * 100:.1f}%"></i></span>'


def _channels(shape: Shape) -> int:
    return int(shape[0]) if shape else 1


def _side(shape: Shape) -> int:
    return int(shape[-1]) if len(shape) == 3 else 1
