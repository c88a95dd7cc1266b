"""Layer 5: profiles as text for a terminal, no line longer than its width."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nasctl.arch import Block, Shape
from nasctl.profile.figures import BlockFigures, Profile, share
from nasctl.profile.latency import Measured
from nasctl.profile.receptive import text as field_text
from nasctl.report import text
from nasctl.report.text import scalar, si, significant
from nasctl.terminal import Paint, aligned, fitting, plain

_IN_OTHER_COLUMNS = {"op", "out", "kernel_size", "stride"}
_WITHOUT_COST = {"dropout"}
_NAME_ROOM = (20, 44)
"""Characters for the names of blocks: what is reserved, and at most, where there is room."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Consecutive blocks that are alike, as one line: figures are their sums."""

    members: tuple[BlockFigures, ...]

    @property
    def first(self) -> BlockFigures:
        return self.members[0]

    @property
    def last(self) -> BlockFigures:
        return self.members[-1]

    def total(self, name: str) -> int:
        return sum(getattr(b, name) for b in self.members)


def grouped(blocks: Iterable[BlockFigures]) -> list[Row]:
    """Consecutive equal blocks together, if they are on equal maps and add as many channels.

    So what is together is either wholly alike, or grows evenly as the layers of a dense block do.
    """
    return [Row(members=tuple(g)) for _, g in itertools.groupby(blocks, key=_likeness)]


def _likeness(b: BlockFigures) -> tuple[Block, Shape, Shape, int]:
    return b.block, b.in_shape[1:], b.out_shape[1:], b.out_shape[0] - b.in_shape[0]


def profile_text(profile: Profile, *, width: int = 80, paint: Paint = plain) -> str:
    """The table of blocks, the totals, and what the figures mean."""
    rows = grouped(profile.blocks)
    least, most = _NAME_ROOM
    columns = fitting(_columns(profile, rows), width)
    free = width - sum(len(cell) + 2 for cell in aligned(columns)[0]) + 2
    names = [_name(row, min(most, least + max(0, free))) for row in rows]
    columns[0] = [columns[0][0], *names, columns[0][-1]]
    shown = aligned(columns)
    lines = [paint("  ".join(cells).rstrip(), "dim") for cells in shown[:1]]
    lines += ["  ".join(cells).rstrip() for cells in shown[1:-1]]
    lines.append(paint("  ".join(shown[-1]).rstrip(), "bold"))
    return "\n".join(
        [
            _head(profile, paint),
            "",
            *lines,
            "",
            *_totals(profile, width),
            "",
            *(paint(line, "dim") for line in _footer(profile, {c[0] for c in columns}, width)),
        ]
    )


def _head(profile: Profile, paint: Paint) -> str:
    architecture = profile.target.architecture
    about = f"input {shape_text(architecture.input_shape)}, {architecture.num_classes} classes"
    return f"{paint(profile.target.name, 'bold')}  {about}"


def _columns(profile: Profile, rows: Sequence[Row]) -> list[tuple[int, list[str]]]:
    """(how soon it may be left out, head, a cell per row, the total)."""
    totals = profile.totals
    params, macs = totals["params"], totals["macs"]
    made: list[tuple[int, str, list[str], str]] = [
        (
            0,
            "block",
            [_name(r, _NAME_ROOM[0]).ljust(_NAME_ROOM[0]) for r in rows],
            f"{len(profile.blocks)} blocks",
        ),
        (7, "in", [shape_text(r.first.in_shape) for r in rows], ""),
        (0, "out", [shape_text(r.last.out_shape) for r in rows], ""),
        (0, "k", [_pair(r.first.kernel) for r in rows], ""),
        (1, "s", [_pair(r.first.stride) for r in rows], ""),
        (0, "params", [si(r.total("params")) for r in rows], si(params)),
        (5, "%", [_percent(r.total("params"), params) for r in rows], ""),
        (0, "MACs", [si(r.total("macs")) for r in rows], si(macs)),
        (2, "%", [_percent(r.total("macs"), macs) for r in rows], ""),
        (4, "acts", [si(r.total("activations")) for r in rows], si(totals["activations"])),
        (3, "field", [field_text(r.last.field) for r in rows], ""),
    ]
    if profile.measured is not None:
        whole = significant(profile.measured.whole.p50_ms)
        each = [[b.latency_ms or 0.0 for b in r.members] for r in rows]
        made.append((0, "ms", [significant(sum(ms)) for ms in each], whole))
        limits = [f"{r.first.bound} {_roof_share(r.first.attained)}" for r in rows]
        made.append((0, "limit", limits, ""))
    return [(rank, [head, *cells, total]) for rank, head, cells, total in made]


def _name(row: Row, room: int) -> str:
    """`inverted_residual expand 6 ×3`: what other columns do not say, without the defaults."""
    block, times = row.first.block, len(row.members)
    count = f" ×{times}" if times > 1 else ""
    hidden = _IN_OTHER_COLUMNS | _WITHOUT_COST
    fields = [_field(k, v) for k, v in block.to_json().items() if k not in hidden]
    name, room = block.op, room - len(count)
    for field in fields:
        if len(name) + 1 + len(field) > room:
            return (name if len(name) + 2 > room else f"{name} …") + count
        name += f" {field}"
    return (name if len(name) <= room else f"{name[: room - 1]}…") + count


def _field(key: str, value: object) -> str:
    words = key.removesuffix("_ratio").removesuffix("_activation").replace("_", " ")
    if value is True:
        return words
    if key == "activation":
        return str(value)
    return f"{words} {significant(value) if isinstance(value, float) else scalar(value)}"


def shape_text(shape: Shape) -> str:
    """`24×56×56`."""
    return "×".join(map(str, shape))


def _pair(values: tuple[int, int] | None) -> str:
    if values is None:
        return "–"
    return str(values[0]) if values[0] == values[1] else f"{values[0]}×{values[1]}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * share(part, whole):.1f}"


def _roof_share(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.0f} %"


def size_text(size: int) -> str:
    """`14.0 MB`, a thousand bytes to the kB."""
    text = si(size)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def _totals(profile: Profile, width: int) -> list[str]:
    t = profile.totals
    lines = [
        ("parameters", f"{t['params']:,}"),
        ("MACs", f"{t['macs']:,}"),
        ("activations", f"{t['activations']:,}"),
        (
            "model size",
            f"{size_text(t['model_bytes'])} fp32, {size_text(t['model_bytes_fp16'])} fp16, "
            f"{size_text(t['model_bytes_int8'])} int8",
        ),
        (
            "peak memory",
            f"{size_text(t['peak_activation_bytes'])} of activations, {_peak(profile)}",
        ),
        (
            "intensity",
            f"{significant(t['arithmetic_intensity'])} FLOPs per byte, "
            f"{size_text(t['moved_bytes'])} moved",
        ),
    ]
    if t["params_training"] != t["params"]:
        lines.insert(1, ("  in training", f"{t['params_training']:,} with auxiliary classifiers"))
    if profile.measured is not None:
        whole = profile.measured.whole
        low, high = (significant(v) for v in whole.interval)
        blocks = significant(sum(b.latency_ms or 0.0 for b in profile.blocks))
        lines.append(
            (
                "latency",
                f"{significant(whole.p50_ms)} ms (95 %: {low} – {high}), p90 "
                f"{significant(whole.p90_ms)} ms; blocks alone {blocks} ms",
            )
        )
    return wrapped(lines, width)


def _peak(profile: Profile) -> str:
    if not profile.blocks:
        return "the input"
    largest = max(profile.blocks, key=lambda b: b.peak_bytes)
    return f"in {largest.block.op} to {shape_text(largest.out_shape)}"


_NOTES = (
    ("×3", "three such blocks in a row; the figures are their sums"),
    ("k, s", "the block's largest window of a convolution or pooling; its stride as a whole"),
    ("params", "of what is deployed, norms and biases included"),
    (
        "MACs",
        "multiply-accumulates of convolutions and matrix products, batch 1, without biases, "
        'norms, pooling and activations (often called "FLOPs")',
    ),
    ("acts", "output elements of convolutions, as fvcore and timm count"),
    (
        "field",
        "receptive field in input pixels after the row, not cut at the rim; all: past a global "
        "average (also of squeeze-and-excite) or a fully connected layer",
    ),
    ("model size", "parameters times 4, 2 and 1 bytes; 1 MB is 1,000,000 bytes"),
    (
        "peak memory",
        "float32, batch 1, with the input; tensors are freed after their last use; norms, "
        "activations and sums work in place",
    ),
    (
        "intensity",
        "2 FLOPs per MAC, by the float32 bytes of weights and of what each operation reads and "
        "writes, once; norms and activations are fused and move nothing",
    ),
)
_COLUMN_NOTES = {"acts", "field"}


def _footer(profile: Profile, heads: set[str], width: int) -> list[str]:
    left_out = _COLUMN_NOTES - heads
    if len(grouped(profile.blocks)) == len(profile.blocks):
        left_out.add("×3")
    notes = [note for note in _NOTES if note[0] not in left_out]
    if profile.measured is not None:
        notes += latency_notes(profile.measured)
    return wrapped(notes, width)


def latency_notes(measured: Measured) -> list[tuple[str, str]]:
    """What was measured, where, and what the limits of the machine are."""
    settings, roof = measured.table.settings, measured.roof
    threads = text.plural(roof.threads, "thread")
    return [
        (
            "ms",
            f"median on {measured.table.runtime}, batch {settings['batch']}, {threads}, "
            f"{settings['dtype']}; each block alone (known ones from the cache), the network whole",
        ),
        (
            "limit",
            f"roofline: memory below {significant(roof.ridge)} FLOPs per byte, compute above, "
            f"and how much of that limit is reached; measured now, {threads}: "
            f"{si(roof.flops_per_s)}FLOP/s (matrix product), {si(roof.bytes_per_s)}B/s (copy); "
            "beyond 100 % the tensors fit into caches",
        ),
    ]


def wrapped(notes: Sequence[tuple[str, str]], width: int) -> list[str]:
    """A note per line, continued under its text."""
    indent = max(len(name) for name, _ in notes) + 2
    return [
        line
        for name, note in notes
        for line in textwrap.wrap(
            note,
            width=max(40, width),
            initial_indent=name.ljust(indent),
            subsequent_indent=" " * indent,
        )
    ]
