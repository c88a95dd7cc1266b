"""Layer 2: the one place that touches ONNX: export of a module, and sessions of ONNX Runtime.

The TorchScript-based exporter is used (`dynamo=False`): about 20 ms for a block, where the dynamo
exporter takes 600. It is deprecated but complete for convolutional networks; its deprecation
warnings are silenced here by their text, and nowhere else.
"""

from __future__ import annotations

import io
import re
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nasctl.arch import Shape
from nasctl.errors import EnvironmentProblemError
from nasctl.latency_settings import Timing

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

INPUT, OUTPUT = "input", "output"

_EXPORTER_WARNINGS = (
    r"You are using the legacy TorchScript-based ONNX export",
    r"The feature will be removed\. Please remove usage of this function",
    r"`torch\.jit\.\w+` is (deprecated|not supported)",
    r"Converting a tensor to a Python (boolean|integer)",
    r"Constant folding - Only steps=1 can be constant folded",  # of strided slices: it stays out
)


def export_onnx(
    module: nn.Module, input_shape: Shape, *, batch: int = 1, dynamic_batch: bool = False
) -> bytes:
    """A module as an ONNX graph in inference form: batch norms are folded into convolutions.

    Args:
        module: put into eval mode for the export; its mode is restored.
        input_shape: without the batch.
        batch: fixed in the graph, so that the runtime can plan its memory and kernels.
        dynamic_batch: leave it open instead.

    Returns:
        The serialised model: one float32 input `input` (batch, *input_shape), one output `output`.

    Raises:
        EnvironmentProblemError: the module has an operation that the exporter does not know.
    """
    import torch

    buffer = io.BytesIO()
    modes = {m: m.training for m in module.modules()}
    module.eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tracing runs each layer once: threads only wait for each other
    try:
        with warnings.catch_warnings(), torch.no_grad():
            for text in _EXPORTER_WARNINGS:
                warnings.filterwarnings("ignore", message=text)
            torch.onnx.export(
                module,
                (torch.zeros(batch, *input_shape),),
                buffer,  # type: ignore[arg-type]  # the stub knows only what the dynamo exporter takes
                dynamo=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}} if dynamic_batch else None,
                do_constant_folding=True,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnvironmentProblemError(
            f"{type(module).__name__}: cannot be exported to ONNX: {reason}"
        ) from error
    finally:
        torch.set_num_threads(threads)
        for m, training in modes.items():
            m.training = training
    return buffer.getvalue()


def with_metadata(model: bytes, texts: Mapping[str, str]) -> bytes:
    """The same graph with texts in its `metadata_props`."""
    import onnx

    graph = onnx.load_model_from_string(model)
    onnx.helper.set_model_props(graph, dict(texts))
    return bytes(graph.SerializeToString())


def metadata_of(model: bytes) -> dict[str, str]:
    """The texts in a graph's `metadata_props`."""
    return {prop.key: prop.value for prop in load_model(model).metadata_props}


def with_batch(model: bytes, batch: int) -> bytes:
    """The same graph with its open batch dimension fixed, so that the runtime can plan for it."""
    graph = load_model(model)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.graph.value_info[:]  # inner shapes that still say `batch`
    return bytes(graph.SerializeToString())


def load_model(model: bytes) -> ModelProto:
    """The graph of a serialised model, for inspection.

    Raises:
        EnvironmentProblemError: it is none.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load_model_from_string(model)
    except DecodeError as error:
        raise EnvironmentProblemError("not an ONNX graph, or only a part of one") from error


def session(
    model: bytes, *, threads: int, exact_int8: bool = False, optimised_path: str | None = None
) -> Any:
    """A CPU session with all graph optimisations, `threads` intra-op threads and no others.

    Args:
        model: serialised ONNX.
        threads: intra_op_num_threads.
        exact_int8: products of int8 are summed without saturation on every processor. The default
            is the fastest kernel, which saturates on x86 without VNNI: answers then depend on the
            machine that was asked.
        optimised_path: where to write the graph that really runs, for inspection.

    Raises:
        EnvironmentProblemError: it lacks an operator, which is named, or the graph is broken.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors: it warns about graphs it optimises for this machine
    # Random weights may decay into denormals, which trained networks do not have and which are slow
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if threads > 1:  # idle workers that spin would disturb what is timed between two calls
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if exact_int8:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if optimised_path is not None:
        options.optimized_model_filepath = optimised_path
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds, of which there is no common one
        raise EnvironmentProblemError(refusal(error)) from error


_LACKING = (  # how the runtime says that it has no such operator; the name is the first group
    r"implementation for (\w+)\(",
    r"No Op registered for (\w+)",
    r"Fatal error: ([\w.:]+)\(-?\d+\) is not a registered",
)


def refusal(error: BaseException) -> str:
    """One line: the operator that ONNX Runtime lacks, or what else it says of a graph."""
    import onnxruntime

    text = " ".join(str(error).split())
    for pattern in _LACKING:
        if match := re.search(pattern, text):
            return f"ONNX Runtime {onnxruntime.__version__} lacks the operator {match[1]}"
    reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", text)[:300]
    return f"ONNX Runtime {onnxruntime.__version__} cannot run the graph: {reason}"


class SessionTimer:
    """Times one session on a fixed random input, with input and output bound in advance.

    Binding leaves 6 us of overhead per call, `session.run` 9 to 17 us, and `run_with_iobinding`
    with a `RunOptions` object 58 us (1.31: it looks up an entry that is not there).
    """

    def __init__(self, model: bytes, *, threads: int) -> None:
        import numpy as np
        import onnxruntime

        self._session = session(model, threads=threads)
        (spec,) = self._session.get_inputs()
        data = np.random.default_rng(0).standard_normal(spec.shape).astype(np.float32)
        (out,) = self._session.run([OUTPUT], {INPUT: data})
        self._binding = self._session.io_binding()
        # The binding holds no reference: these keep its memory alive.
        self._input = onnxruntime.OrtValue.ortvalue_from_numpy(data)
        self._output = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(out))
        self._binding.bind_ortvalue_input(INPUT, self._input)
        self._binding.bind_ortvalue_output(OUTPUT, self._output)

    def __call__(self, calls: int) -> Timing:
        run, binding, now = self._session.run_with_iobinding, self._binding, time.perf_counter_ns
        run(binding)  # untimed: the caches still hold the network that was visited before
        stamps = [now()]
        for _ in range(calls):
            run(binding)
            stamps.append(now())
        return Timing.between(stamps)
