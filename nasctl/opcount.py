"""Layer 2: the operations of a module, one by one, on torch's meta device (no memory, no sums).

`trace_module` runs the real module once, batch 1, in eval mode, and writes down every aten
operation with its arguments and results, so whatever is worked out from a trace (MACs,
activations, receptive field, memory) cannot drift from the code. An operation that is neither
counted nor known to be free raises: nothing is left out in silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasctl.arch import Shape
from nasctl.errors import NasctlError

if TYPE_CHECKING:
    import torch
    from torch import nn

_ELEMENTWISE = """
    add add_ clamp clamp_ clamp_min clamp_min_ div div_ elu elu_ gelu hardsigmoid hardsigmoid_
    hardswish hardswish_ hardtanh hardtanh_ leaky_relu leaky_relu_ mul mul_ native_batch_norm
    relu relu_ sigmoid sigmoid_ silu silu_ softplus sub sub_ tanh tanh_
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""aten operations element by element, without multiply-accumulates of the counted kind."""

_FREE_OPS = """
    _adaptive_avg_pool2d _native_batch_norm_legit _native_batch_norm_legit_no_training
    _reshape_alias _softmax _to_copy _unsafe_view alias arange avg_pool2d avg_pool3d cat chunk clone
    constant_pad_nd detach empty empty_like expand flatten full lift_fresh
    max_pool2d_with_indices mean native_group_norm native_layer_norm ones ones_like permute pow
    select slice split split_with_sizes squeeze sum t transpose unsqueeze upsample_bilinear2d
    upsample_nearest2d view zeros zeros_like
"""
FREE_OPS = frozenset(_FREE_OPS.split())
"""Other aten operations without multiply-accumulates, by the conventions above."""

PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm"})
"""Matrix products; the last two arguments are the factors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A tensor of a trace.

    Attributes:
        index: counted from 0, which is the input.
        shape: with the batch of 1.
        buffer: the same number for tensors that share their memory, as views do.
        constant: does not depend on the input: a parameter, a statistic, or made from those.
    """

    index: int
    shape: Shape
    buffer: int
    constant: bool

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation of a trace.

    Attributes:
        name: aten's, without overload: `convolution`, `add`, `relu_`.
        args: as aten has them (trailing defaults may be missing); tensors became `Value`.
        inputs: the tensors among the arguments, also those in lists.
        outputs: the tensors that it returned.
        macs: multiply-accumulates of a convolution or matrix product, 0 for the rest.
        activations: output elements of a convolution, 0 for the rest.
    """

    name: str
    args: tuple[Any, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    macs: int
    activations: int


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a module does to one input, in order."""

    input: Value
    ops: tuple[Op, ...]
    output: Value


def trace_module(module: nn.Module, in_shape: Shape, *, name: str) -> Trace:
    """Runs a module once on the meta device, batch 1, in eval mode.

    Args:
        module: on the meta device; is put into eval mode.
        in_shape: of the input without the batch.
        name: for the message.

    Raises:
        NasctlError: it runs an operation that is neither counted nor known to be free, or does
            not return one tensor.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    book = _Book()
    ops: list[Op] = []

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's  # torch's lacks types
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # else torch loads its compiler for this class

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            op = func._schema.name.removeprefix("aten::")
            out = _result(func, op, args, kwargs or {})
            macs = activations = 0
            if op in PRODUCTS:
                macs = out.numel() * args[-2].shape[-1]
            elif op == "convolution":
                weight, transposed = args[1], args[6]
                # Of the weight's axes the first is the channel that a MAC is counted per.
                per = args[0].numel() if transposed else out.numel()
                macs = per * weight[0].numel()
                activations = out.numel()
            elif op not in ELEMENTWISE and op not in FREE_OPS:
                raise NasctlError(
                    f"block {name}: cannot count operation {func._schema.name}: "
                    "give its family a cost function, or build the block from known layers"
                )
            inputs: list[Value] = []
            noted = tuple(book.argument(a, inputs) for a in args)
            for a in (kwargs or {}).values():
                book.argument(a, inputs)
            constant = all(v.constant for v in inputs)
            results = out if isinstance(out, (list, tuple)) else [out]
            outputs = [
                book.value(r, constant=constant) for r in results if isinstance(r, torch.Tensor)
            ]
            ops.append(
                Op(
                    name=op,
                    args=noted,
                    inputs=tuple(inputs),
                    outputs=tuple(outputs),
                    macs=macs,
                    activations=activations,
                )
            )
            return out

    module.eval()
    with torch.device("meta"), torch.no_grad():
        x = torch.empty((1, *in_shape))
        first = book.value(x, constant=False)
        with Recorder():  # type: ignore[no-untyped-call]  # torch's  # likewise
            y = module(x)
    if not isinstance(y, torch.Tensor):
        raise NasctlError(f"block {name}: expected one tensor as output, got {type(y).__name__}")
    return Trace(input=first, ops=tuple(ops), output=book.value(y, constant=False))


def _result(func: Any, op: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """What the operation returns on the meta device.

    Where it is easy, the shape of the result is worked out here: for these operations on the meta
    device torch would load its compiler, which takes as long as loading torch.
    """
    import torch

    if op in ELEMENTWISE:
        if op.endswith("_"):
            return args[0]
        shapes = [a.shape for a in args[:2] if isinstance(a, torch.Tensor)]
        if op == "native_batch_norm":
            return args[0].new_empty(shapes[0]), None, None
        return args[0].new_empty(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]  # torch's
    if op in PRODUCTS:
        left, right = args[-2:]
        return left.new_empty((*left.shape[:-1], right.shape[-1]))
    if func is torch.ops.aten.mean.dim:
        func = torch.ops.aten.sum.dim_IntList  # the same shape
    return func(*args, **kwargs)


class _Book:
    """Numbers the tensors and buffers of a trace; holds every tensor, so no identity recurs."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[torch.Tensor, Value]] = {}
        self._buffers: dict[int, int] = {}

    def value(self, tensor: torch.Tensor, *, constant: bool) -> Value:
        """The value of a tensor; `constant` counts for one not seen before."""
        known = self._values.get(id(tensor))
        if known is not None:
            return known[1]
        buffer = self._buffers.setdefault(tensor.untyped_storage()._cdata, len(self._buffers))
        value = Value(
            index=len(self._values), shape=tuple(tensor.shape), buffer=buffer, constant=constant
        )
        self._values[id(tensor)] = (tensor, value)
        return value

    def argument(self, arg: Any, found: list[Value]) -> Any:
        """An argument with `Value`s for tensors, which are also added to `found`."""
        import torch

        if isinstance(arg, torch.Tensor):
            found.append(self.value(arg, constant=True))
            return found[-1]
        if isinstance(arg, (list, tuple)):
            return tuple(self.argument(a, found) for a in arg)
        return arg
