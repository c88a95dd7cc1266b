"""Layer 5: memory that a block needs and moves, from its operations.

Both assume a deployed graph at batch 1. Its elementwise operations (normalisation, activations,
sums, gates) write over an operand of the result's size that nobody needs again; every other
operation has its operands and its result in memory at once, and a tensor is freed after its last
use. Views cost nothing.
"""

from __future__ import annotations

from nasctl.opcount import ELEMENTWISE, Op, Trace, Value

_IN_PLACE = ELEMENTWISE | {
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "native_group_norm",
    "native_layer_norm",
}


def peak_elements(trace: Trace) -> int:
    """The largest number of activations that are alive at once, the block's input included."""
    sizes = _sizes(trace)
    last = _last_uses(trace)
    alive = {trace.input.buffer: trace.input.elements}
    peak = trace.input.elements
    for place, op in enumerate(trace.ops):
        for value in _results(op, last):
            if value.buffer not in alive:
                if (old := _overwritten(op, value, place, last, sizes)) is not None:
                    del alive[old]
                alive[value.buffer] = value.elements
        peak = max(peak, sum(alive.values()))
        for buffer in {v.buffer for v in (*op.inputs, *op.outputs)}:
            if last.get(buffer, -1) <= place:
                alive.pop(buffer, None)
    return peak


def moved_elements(trace: Trace) -> int:
    """Activations read and written, each operation's operands and results once.

    Elementwise operations on one tensor (normalisation, activations) are fused into their
    neighbour and move nothing; those that join tensors (sums, gates) do.
    """
    last = _last_uses(trace)
    sizes = _sizes(trace)
    total = 0
    for op in trace.ops:
        read = {v.buffer: min(v.elements, sizes[v.buffer]) for v in op.inputs if not v.constant}
        written = {v.buffer: v.elements for v in _results(op, last)}
        elementwise = op.name in _IN_PLACE
        is_view = not elementwise and written.keys() <= read.keys()
        if not read or is_view or (elementwise and len(read) == 1):
            continue
        total += sum(read.values()) + sum(written.values())
    return total


def _sizes(trace: Trace) -> dict[int, int]:
    """Elements of each buffer: of the tensor that it was made for, not of views of it."""
    sizes: dict[int, int] = {trace.input.buffer: trace.input.elements}
    for op in trace.ops:
        for value in (*op.inputs, *op.outputs):
            sizes.setdefault(value.buffer, value.elements)
    return sizes


def _last_uses(trace: Trace) -> dict[int, int]:
    """The last operation that needs a buffer; the output is needed beyond the end."""
    last = {v.buffer: place for place, op in enumerate(trace.ops) for v in op.inputs}
    last[trace.output.buffer] = len(trace.ops)
    return last


def _results(op: Op, last: dict[int, int]) -> list[Value]:
    """What depends on the input and is used: not the indices of a maximum, say."""
    return [v for v in op.outputs if not v.constant and v.buffer in last]


def _overwritten(
    op: Op, value: Value, place: int, last: dict[int, int], sizes: dict[int, int]
) -> int | None:
    """The buffer that an elementwise operation may take over for its result."""
    if op.name not in _IN_PLACE:
        return None
    free = (
        v.buffer
        for v in op.inputs
        if not v.constant and last[v.buffer] == place and sizes[v.buffer] == value.elements
    )
    return next(free, None)
