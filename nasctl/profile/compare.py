"""Layer 5: two profiles side by side: totals with ratios, then the networks stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nasctl.arch import Shape
from nasctl.profile.figures import BlockFigures, Profile
from nasctl.profile.table import latency_notes, shape_text, size_text, wrapped
from nasctl.report.text import si, significant
from nasctl.terminal import Paint, aligned, plain

Stage = Shape
"""The sides of a map, without its channels; `()` is a vector."""

_NOTES = (
    ("ratio", "the second network's figure by the first's"),
    ("stage", "all blocks whose result is a map of that size; its channels are those of the last"),
    (
        "MACs",
        "multiply-accumulates of convolutions and matrix products, batch 1; acts: output elements "
        "of convolutions; the other conventions: nasctl profile of one network",
    ),
)


def comparison_text(
    first: Profile, second: Profile, *, width: int = 80, paint: Paint = plain
) -> str:
    """Both networks' totals with ratios, and what every stage of each costs."""
    notes = list(_NOTES) + (latency_notes(first.measured)[:1] if first.measured else [])
    totals = [_line(row) for row in aligned(_totals(first, second))]
    return "\n".join(
        [
            paint(totals[0], "bold"),
            *totals[1:],
            "",
            *_stage_table((first, second), width, paint),
            "",
            *(paint(line, "dim") for line in wrapped(notes, width)),
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return "  ".join(cells).rstrip()


def _to_the_right(columns: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns that are all aligned to the right."""
    return ["  ".join(cells[1:]) for cells in aligned([[""] * len(columns[0]), *columns])]


def _stage_table(profiles: Sequence[Profile], width: int, paint: Paint) -> list[str]:
    found = [_by_stage(p) for p in profiles]
    sizes = sorted({*found[0], *found[1]}, key=lambda s: (-len(s), [-n for n in s]))
    heads = ("blocks", "channels", "params", "MACs", "acts", "ms")
    for left_out in ((), ("channels",), ("channels", "acts"), ("channels", "acts", "blocks")):
        names = aligned([["stage", *(shape_text(s) or "vector" for s in sizes)]])
        groups = [
            _to_the_right(
                [
                    [head, *(_CELLS[head](stages[s]) if s in stages else "–" for s in sizes)]
                    for head in heads
                    if head not in left_out and (head != "ms" or profile.measured is not None)
                ]
            )
            for profile, stages in zip(profiles, found, strict=True)
        ]
        lines = ["   ".join(row) for row in zip((n for [n] in names), *groups, strict=True)]
        if len(lines[0]) <= width:
            break
    at = [len(names[0][0]), *(len(group[0]) for group in groups)]
    tops = [_short(p.target.name, room) for p, room in zip(profiles, at[1:], strict=True)]
    top = "   ".join([" " * at[0], *(t.ljust(room) for t, room in zip(tops, at[1:], strict=True))])
    return [paint(top.rstrip(), "bold"), paint(lines[0], "dim"), *lines[1:]]


def _totals(first: Profile, second: Profile) -> list[list[str]]:
    names: list[tuple[str, str]] = [
        ("params", "parameters"),
        ("macs", "MACs"),
        ("activations", "activations"),
        ("model_bytes", "model size, fp32"),
        ("peak_activation_bytes", "peak memory"),
        ("arithmetic_intensity", "FLOPs per byte"),
    ]
    totals = [first.totals, second.totals]
    if any(t["params_training"] != t["params"] for t in totals):
        names.insert(1, ("params_training", "  in training"))
    if "latency_ms" in totals[0]:
        names.append(("latency_ms", "latency, ms"))
    ratios = [significant(totals[1][k] / totals[0][k]) if totals[0][k] else "–" for k, _ in names]
    return [
        ["", "input", "blocks", *(label for _, label in names)],
        *(
            [
                profile.target.name,
                shape_text(profile.target.architecture.input_shape),
                str(len(profile.blocks)),
                *(_figure(k, total[k]) for k, _ in names),
            ]
            for profile, total in zip((first, second), totals, strict=True)
        ),
        ["ratio", "–", "–", *ratios],
    ]


def _figure(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return size_text(int(value))
    return f"{value:,}" if isinstance(value, int) else significant(value)


def _short(name: str, room: int) -> str:
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _sum(blocks: Sequence[BlockFigures], name: str) -> float:
    return sum(getattr(b, name) or 0 for b in blocks)


def _by_stage(profile: Profile) -> dict[Stage, list[BlockFigures]]:
    stages: dict[Stage, list[BlockFigures]] = {}
    for b in profile.blocks:
        stages.setdefault(b.out_shape[1:], []).append(b)
    return stages


_CELLS: dict[str, Callable[[list[BlockFigures]], str]] = {
    "blocks": lambda found: str(len(found)),
    "channels": lambda found: str(found[-1].out_shape[0]),
    "params": lambda found: si(_sum(found, "params")),
    "MACs": lambda found: si(_sum(found, "macs")),
    "acts": lambda found: si(_sum(found, "activations")),
    "ms": lambda found: significant(_sum(found, "latency_ms")),
}
