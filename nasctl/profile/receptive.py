"""Layer 5: receptive fields, kernels and strides, read off the operations of a block.

A position i of a feature map sees the input positions `jump i + low` to `jump i + high` (Araujo et
al. 2019, "Computing receptive fields of convolutional neural networks", section 2). A window of
kernel k, stride s, padding p and dilation d makes of that

    jump' = jump s,  low' = low - jump p,  high' = high + jump (d (k - 1) - p)

and where branches meet, the union is seen. Padding and the rim of the image do not cut a field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nasctl.opcount import ELEMENTWISE, PRODUCTS, Op, Trace, Value


class Axis(NamedTuple):
    """What is seen along one side of the map; infinite ends: everything.

    Attributes:
        low, high: the first and the last input position that position 0 sees.
        jump: input positions between neighbours; 0 where one position is left for the whole side.
    """

    low: float
    high: float
    jump: int

    @property
    def size(self) -> float:
        return self.high - self.low + 1


Field = tuple[Axis, Axis]
"""Height and width."""

START: Field = (Axis(0, 0, 1), Axis(0, 0, 1))
POINT = Axis(-math.inf, math.inf, 0)

_VIEWS = """
    _reshape_alias _to_copy _unsafe_view alias clone detach expand flatten lift_fresh squeeze
    unsqueeze view
""".split()  # noqa: SIM905 - easier to read than a list
_POOLS = ("avg_pool2d", "avg_pool3d", "max_pool2d_with_indices")


class _Folded(NamedTuple):
    """A map whose height and width are one dimension, the last one, for a while."""

    field: Field
    sides: tuple[int, ...]


class Window(NamedTuple):
    """One convolution or pooling: (height, width) of its kernel, its stride."""

    kernel: tuple[int, int]
    stride: tuple[int, int]


def follow(trace: Trace) -> tuple[Field | None, list[Window]]:
    """What the output of a block sees of the block's input, and the windows on the way.

    The windows are convolutions and poolings over a map, in order; global pooling is none. The
    field is None where it goes through an operation that moves positions in a way not followed
    here (upsampling, transposed convolution, positions folded into channels).
    """
    seen: dict[int, Field | _Folded | None] = {trace.input.index: START}
    windows = []
    for op in trace.ops:
        inputs = [v for v in op.inputs if v.index in seen]
        if not inputs:
            continue
        fields = [seen[v.index] for v in inputs]
        spec = _window(op)
        if spec is not None and not isinstance(fields[0], _Folded):
            (kh, sh, _, _), (kw, sw, _, _) = spec
            if op.name == "convolution" or (kh, kw, sh, sw) != (1, 1, 1, 1):
                windows.append(Window((kh, kw), (sh, sw)))
        field = _through(op, inputs, fields)
        seen.update((v.index, field) for v in op.outputs)
    result = seen.get(trace.output.index)
    return None if isinstance(result, _Folded) else result, windows


def compose(before: Field | None, block: Field | None) -> Field | None:
    """The field of a block's output in the network's input, from that of the block's input."""
    if before is None or block is None:
        return None
    first, second = (_compose(a, b) for a, b in zip(before, block, strict=True))
    return first, second


def _compose(a: Axis, b: Axis) -> Axis:
    if math.isinf(a.size) or math.isinf(b.size):
        return Axis(-math.inf, math.inf, a.jump * b.jump)
    return Axis(a.low + a.jump * b.low, a.high + a.jump * b.high, a.jump * b.jump)


def _through(
    op: Op, inputs: Sequence[Value], fields: Sequence[Field | _Folded | None]
) -> Field | _Folded | None:
    folded = [f for f in fields if isinstance(f, _Folded)]
    if folded:
        return _through_folded(op, folded[0]) if len(set(fields)) == 1 else None
    known = [f for f in fields if f is not None and not isinstance(f, _Folded)]
    rule = _RULES.get(op.name)
    if rule is None or len(known) < len(fields):
        return None
    field, shape = _union(known), op.outputs[0].shape
    sides = inputs[0].shape[-2:]
    if op.name in _VIEWS and len(shape) > 2 and shape[-1:] == (math.prod(sides),):
        return _Folded(field, sides) if shape[-2:] != sides else field
    return rule(op, inputs[0], field)


def _through_folded(op: Op, state: _Folded) -> Field | _Folded | None:
    """Unfolds it, or leaves it alone where the last dimension is not touched."""
    before, after = op.inputs[0].shape, op.outputs[0].shape
    if op.name in _VIEWS:
        if after[-2:] == state.sides:
            return state.field
        return state if after[-1] == before[-1] else None
    spec = _window(op)
    pointwise = _RULES.get(op.name) is _kept or (spec is not None and spec[1] == (1, 1, 0, 1))
    padded = op.name == "constant_pad_nd" and not any(op.args[1][:2])
    return state if pointwise or padded else None


def _union(fields: Sequence[Field]) -> Field:
    first, second = (
        Axis(min(a.low for a in axes), max(a.high for a in axes), max(a.jump for a in axes))
        for axes in zip(*fields, strict=True)
    )
    return first, second


def _slide(axis: Axis, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    reach = dilation * (kernel - 1) - padding
    return Axis(axis.low - axis.jump * padding, axis.high + axis.jump * reach, axis.jump * stride)


def _window(op: Op) -> tuple[tuple[int, int, int, int], ...] | None:
    """(kernel, stride, padding, dilation) of height and width, of what slides over a map."""
    args = op.args
    if op.name == "convolution":
        kernel, stride, padding, dilation = args[1].shape[2:], *args[3:6]
        if args[6] or len(kernel) < 2:
            return None
    elif op.name in _POOLS:
        kernel = args[1]
        stride = args[2] if len(args) > 2 and args[2] else kernel
        padding = args[3] if len(args) > 3 else (0,)
        maximum = op.name == "max_pool2d_with_indices"
        dilation = args[4] if maximum and len(args) > 4 else (1,)
    elif op.name == "_adaptive_avg_pool2d":
        sides, left = args[0].shape[-2:], op.outputs[0].shape[-2:]
        if tuple(left) == (1, 1) or any(n % m for n, m in zip(sides, left, strict=True)):
            return None
        kernel = stride = tuple(n // m for n, m in zip(sides, left, strict=True))
        padding, dilation = (0,), (1,)
    else:
        return None
    pairs = [_pair(v) for v in (kernel, stride, padding, dilation)]
    return tuple(zip(*pairs, strict=True))


def _pair(values: Sequence[int]) -> tuple[int, int]:
    """Of height and width; what is one number stands for both sides."""
    return (values[-2] if len(values) > 1 else values[-1]), values[-1]


def _spatial(dim: int, value: Value) -> int | None:
    """0: the dimension is the height, 1: the width, None: neither (or there is no map)."""
    rank = len(value.shape)
    place = dim % rank - (rank - 2)
    return place if place >= 0 and rank > 2 else None


def _everywhere(field: Field, axes: Sequence[int]) -> Field:
    first, second = (
        Axis(-math.inf, math.inf, axis.jump) if i in axes else axis for i, axis in enumerate(field)
    )
    return first, second


def _kept(op: Op, value: Value, field: Field) -> Field | None:
    del op, value
    return field


def _global(op: Op, value: Value, field: Field) -> Field | None:
    del op, value, field
    return POINT, POINT


def _windowed(op: Op, value: Value, field: Field) -> Field | None:
    del value
    spec = _window(op)
    if spec is not None:
        first, second = (_slide(axis, *window) for axis, window in zip(field, spec, strict=True))
        return first, second
    everything = op.name == "_adaptive_avg_pool2d" and op.outputs[0].shape[-2:] == (1, 1)
    return (POINT, POINT) if everything else None


def _viewed(op: Op, value: Value, field: Field) -> Field | None:
    """A view keeps the map, or flattens it to a vector; other rearrangements are not followed."""
    shape = op.outputs[0].shape
    if not any(axis.jump for axis in field) or value.shape[-2:] == shape[-2:]:
        return field
    return (POINT, POINT) if len(shape) == 2 else None


def _batch_normalised(op: Op, value: Value, field: Field) -> Field | None:
    del value
    own = op.args[5 if op.name == "native_batch_norm" else 3]  # the statistics of this image
    return _everywhere(field, (0, 1)) if own else field


def _reduced(op: Op, value: Value, field: Field) -> Field | None:
    dims = op.args[1] if len(op.args) > 1 and op.args[1] else range(len(value.shape))
    axes = {a for d in dims if (a := _spatial(d, value)) is not None}
    if axes == {0, 1}:
        return POINT, POINT
    keep = len(op.args) > 2 and op.args[2]
    if axes and not keep:
        return None
    first, second = (POINT if i in axes else axis for i, axis in enumerate(field))
    return first, second


def _sliced(op: Op, value: Value, field: Field) -> Field | None:
    given = op.args[1:] + (0, None, None, 1)[len(op.args) - 1 :]
    dim, start, step = given[0], given[1], given[3]
    place = _spatial(dim, value)
    if place is None:
        return field
    size = value.shape[dim]
    at = min(size, max(0, start + size if (start or 0) < 0 else start or 0))
    axis = field[place]
    moved = Axis(axis.low + axis.jump * at, axis.high + axis.jump * at, axis.jump * step)
    return (moved, field[1]) if place == 0 else (field[0], moved)


def _padded(op: Op, value: Value, field: Field) -> Field | None:
    del value
    pad = (*op.args[1], 0, 0, 0, 0)
    first, second = (
        Axis(axis.low - axis.jump * left, axis.high - axis.jump * left, axis.jump)
        for axis, left in zip(field, (pad[2], pad[0]), strict=True)
    )
    return first, second


def _transposed(op: Op, value: Value, field: Field) -> Field | None:
    rank = len(value.shape)
    if op.name == "permute":
        order = [d % rank for d in op.args[1]]
    else:
        order = list(range(rank))
        a, b = (d % rank for d in op.args[1:3])
        order[a], order[b] = order[b], order[a]
    if order[-2:] == [rank - 2, rank - 1] or not any(axis.jump for axis in field):
        return field
    return None


def _parted(op: Op, value: Value, field: Field) -> Field | None:
    """Split and joined: along channels the map stays, along its sides it is not followed."""
    at = 1 if op.name in {"cat", "select"} else 2
    dim = op.args[at] if len(op.args) > at else 0
    return None if _spatial(dim, value) is not None else field


def _normalised(op: Op, value: Value, field: Field) -> Field | None:
    if op.name == "native_group_norm":
        return _everywhere(field, (0, 1))
    dims = range(-len(op.args[1]), 0) if op.name == "native_layer_norm" else (op.args[1],)
    return _everywhere(field, [a for d in dims if (a := _spatial(d, value)) is not None])


Rule = Callable[[Op, Value, Field], Field | None]
"""From an operation, its first input and the union of the inputs' fields to its output's."""

_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _kept),
    **dict.fromkeys(("pow", "_native_batch_norm_legit_no_training"), _kept),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit"), _batch_normalised),
    **dict.fromkeys(PRODUCTS, _global),
    **dict.fromkeys(_VIEWS, _viewed),
    **dict.fromkeys((*_POOLS, "convolution", "_adaptive_avg_pool2d"), _windowed),
    **dict.fromkeys(("mean", "sum"), _reduced),
    **dict.fromkeys(("permute", "transpose"), _transposed),
    **dict.fromkeys(("cat", "chunk", "select", "split", "split_with_sizes"), _parted),
    **dict.fromkeys(("native_group_norm", "native_layer_norm", "_softmax"), _normalised),
    "slice": _sliced,
    "constant_pad_nd": _padded,
}


def text(field: Field | None) -> str:
    """`35`, `1×7`, `all`, or `?` where it is not known."""
    size = sides(field)
    if size is None:
        return "?"
    if isinstance(size, str):
        return size
    return str(size[0]) if size[0] == size[1] else f"{size[0]}×{size[1]}"


def sides(field: Field | None) -> tuple[int, int] | str | None:
    """(height, width) in input pixels, `all` past a global operation, None: not known."""
    if field is None:
        return None
    if any(math.isinf(axis.size) for axis in field):
        return "all"
    return int(field[0].size), int(field[1].size)


def strides(field: Field | None) -> tuple[int, int] | None:
    """Of a block as a whole; None where no map is left (or it is not known)."""
    if field is None or not all(axis.jump for axis in field):
        return None
    return field[0].jump, field[1].jump
