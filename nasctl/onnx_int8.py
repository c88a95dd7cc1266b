"""Layer 2: static post-training quantisation of a graph by ONNX Runtime's own tool.

What is chosen, and why:

- QDQ format (pairs of QuantizeLinear and DequantizeLinear around operators): the one that its
  documentation prefers for CPUs, and that other runtimes read.
- Weights int8, symmetric, one scale per output channel. With batch norms folded the ranges of
  depthwise channels differ by orders of magnitude (Nagel et al. 2019, arXiv:1906.04721; Jacob et
  al. 2018, arXiv:1712.05877): with one scale per tensor a network of the packaged space fell from
  87.9 to 17.2 %.
- Activations uint8, asymmetric, their ranges the smallest and largest values on the calibration
  images. Entropy and percentiles gave the same accuracy within three images of a thousand, and
  keep every activation of every image in memory.
- All 8 bits of the weights. On x86 processors without VNNI (Intel before 2019, AMD before Zen 4)
  the runtime's default kernels let sums of products saturate; accuracies are judged with those that
  do not (`session(exact_int8=True)`), so that they are of the file and not of the machine.

Operators that the tool does not know (hard swish, local response norms, ...) stay in float.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasctl.errors import EnvironmentProblemError
from nasctl.files import temporary_folder
from nasctl.onnx_runtime import INPUT, load_model, refusal, session, with_metadata

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

SCHEME = "static, QDQ; activations uint8 (min-max), weights int8 per channel"

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_PLUMBING = {"Constant", "ConstantOfShape", "Cast", "Identity"}


@dataclass(frozen=True, kw_only=True)
class Int8Graph:
    """A quantised graph.

    Attributes:
        model: serialised ONNX, without metadata.
        float_operators: kinds of operators that are still computed in float32.
    """

    model: bytes
    float_operators: tuple[str, ...]


def quantise_graph(model: bytes, batches: Iterable[NDArray[np.float32]]) -> Int8Graph:
    """An int8 graph with the same input and output, which stay float32.

    Args:
        model: serialised ONNX in float32, of inference form.
        batches: of calibration inputs, (N, C, H, W) each, as the graph wants them.

    Raises:
        EnvironmentProblemError: an operator that the runtime lacks or that cannot be quantised,
            or a graph without any operator to quantise.
    """
    from onnxruntime import quantization

    session(model, threads=1)  # says which operator the runtime lacks
    kinds = _computing(load_model(model))
    if not kinds & _WEIGHTED:
        raise EnvironmentProblemError(
            f"int8: nothing to quantise: no convolution and no linear layer among the operators "
            f"{', '.join(sorted(kinds))}"
        )
    with temporary_folder("int8 file") as folder, _quiet():
        given, ready, done = (folder / f"{n}.onnx" for n in ("given", "ready", "done"))
        given.write_bytes(model)
        try:
            quantization.quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(ready),
                str(done),
                _Reader(batches),
                quant_format=quantization.QuantFormat.QDQ,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
            )
        except OSError:  # of the temporary folder
            raise
        except Exception as error:  # plain Exceptions, of which there is no common kind
            raise EnvironmentProblemError(f"int8: {_blame(error, kinds)}") from error
        found = _stripped(done.read_bytes())
    session(found, threads=1)
    return Int8Graph(model=found, float_operators=tuple(sorted(kinds - _quantised_kinds())))


def _computing(graph: ModelProto) -> set[str]:
    """Kinds of operators that give float32: not those that only work out shapes."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(graph).graph
    floats = {
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    return {n.op_type for n in graph.graph.node if floats & set(n.output)} - _PLUMBING


def _quantised_kinds() -> set[str]:
    from onnxruntime.quantization import registry

    return {*registry.QDQRegistry, *registry.QLinearOpsRegistry}


class _Reader:
    """Batches, one by one, as the tool asks for them."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _blame(error: Exception, kinds: set[str]) -> str:
    """One line that names the operator, if the tool said so."""
    text = " ".join(str(error).split())
    named = sorted(k for k in kinds if k in text)
    if "ONNXRuntimeError" in text:
        return refusal(error)
    who = f"the operator {named[0]} cannot be quantised" if named else "it cannot be quantised"
    return f"{who}: {type(error).__name__}: {text[:300]}"


def _stripped(model: bytes) -> bytes:
    """Without shapes of inner tensors, and without the sets of operators that are not used: the
    tool adds nine, of which other runtimes know two."""
    graph = load_model(model)
    del graph.graph.value_info[:]
    used = {n.domain for n in graph.graph.node}
    kept = [o for o in graph.opset_import if o.domain in used]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
    return with_metadata(bytes(graph.SerializeToString()), {})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tool logs advice for whoever calls it, by the root logger, which then gets a handler."""
    root, handler = logging.getLogger(), logging.NullHandler()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
