"""The real runtimes: what is exported, that it computes the same, and a table end to end."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nasctl.arch import Architecture
from nasctl.errors import EnvironmentProblemError
from nasctl.latency import LatencySettings, measure_networks, measure_table
from nasctl.latency_bench import CANARY_SHAPE, canary_network, randomise
from nasctl.onnx_runtime import INPUT, OUTPUT, SessionTimer, export_onnx, load_model, session
from search_spaces import network
from search_spaces.blocks import (
    ConvNormActivation,
    DepthwiseSeparable,
    GlobalPoolLinear,
    InvertedResidual,
    ResidualBottleneck,
)

SHORT = {"rounds": 8, "calls": 2, "budget_s": 0.2}


def small(width: int = 8) -> Architecture:
    return Architecture(
        input_shape=(1, 12, 12),
        blocks=(
            ConvNormActivation(out=width, kernel_size=3, stride=2),
            InvertedResidual(out=width, expand_ratio=3, bottleneck_activation="relu6"),
            DepthwiseSeparable(out=2 * width, stride=2),
            ResidualBottleneck(out=2 * width),
            GlobalPoolLinear(out=10),
        ),
        num_classes=10,
    )


def trained_looking(module: nn.Module) -> nn.Module:
    """Batch norms with statistics that folding must get right."""
    randomise(module)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.2, generator=generator)  # type: ignore[union-attr, operator]
                layer.running_var.uniform_(0.5, 2.0, generator=generator)  # type: ignore[union-attr, operator]
                layer.weight.uniform_(0.5, 1.5, generator=generator)
                layer.bias.normal_(0, 0.2, generator=generator)
    return module.eval()


@pytest.mark.parametrize("batch", [1, 3])
def test_export_computes_the_same_without_batch_norms(batch: int, tmp_path: Path) -> None:
    architecture = small()
    module = trained_looking(network.build(architecture))
    model = export_onnx(module, architecture.input_shape, batch=batch)
    assert "BatchNormalization" not in [n.op_type for n in load_model(model).graph.node]
    optimised = tmp_path / "optimised.onnx"
    runtime = session(model, threads=1, optimised_path=str(optimised))
    ran = [n.op_type for n in load_model(optimised.read_bytes()).graph.node]
    assert "BatchNormalization" not in ran
    assert "Clip" not in ran  # activations are fused into convolutions too
    x = torch.randn(batch, *architecture.input_shape, generator=torch.Generator().manual_seed(2))
    (got,) = runtime.run([OUTPUT], {INPUT: x.numpy()})
    with torch.no_grad():
        expected = module(x).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_the_batch_is_fixed_in_the_graph() -> None:
    runtime = session(export_onnx(nn.Conv2d(2, 3, 1), (2, 5, 5), batch=4), threads=1)
    assert runtime.get_inputs()[0].shape == [4, 2, 5, 5]
    assert runtime.get_outputs()[0].shape == [4, 3, 5, 5]


def test_export_leaves_the_module_the_warnings_and_the_threads_as_they_were() -> None:
    module = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1).eval())
    filters, threads = list(warnings.filters), torch.get_num_threads()
    export_onnx(module, (2, 4, 4))
    assert torch.get_num_threads() == threads
    assert [m.training for m in module.modules()] == [True, True, False]
    assert warnings.filters == filters


def test_an_operation_that_cannot_be_exported() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).real

    with pytest.raises(EnvironmentProblemError, match="Odd: cannot be exported to ONNX") as caught:
        export_onnx(Odd(), (3, 3))
    assert "\n" not in str(caught.value)


def test_signals_stay_far_from_denormals() -> None:
    deep = nn.Sequential(*[nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()) for _ in range(200)])
    randomise(deep)
    with torch.no_grad():
        out = deep(torch.ones(1, 8, 1, 1))
    assert 1e-20 < float(out.abs().max()) < 1e20


def test_the_canary_runs() -> None:
    timing = SessionTimer(export_onnx(canary_network(), CANARY_SHAPE), threads=1)(5)
    assert len(timing.calls_ms) == 5
    assert all(ms > 0 for ms in timing.calls_ms)


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_table_end_to_end(runtime: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    settings = LatencySettings(runtime=runtime, **SHORT)  # type: ignore[arg-type]
    narrow, wide = small(8), small(512)  # apart on a busy machine too
    said: list[str] = []
    table = measure_table(
        [*narrow.placed(), *wide.placed()],
        [narrow, wide],
        settings,
        build_block=lambda block, shape: block.build(shape),
        build_network=network.build,
        cache_path=tmp_path / "latency.json",
        progress=said.append,
    )
    assert len(table.blocks) == 10
    assert any("timing 10 blocks and 2 networks" in line for line in said)
    assert table.runtime.startswith(runtime)
    assert 0 < table.predict(narrow).ms < table.predict(wide).ms
    whole = measure_networks(
        [narrow, wide], settings, build_network=network.build, canary_ms=table.canary_ms
    )
    assert whole[narrow.id].p50_ms < whole[wide.id].p50_ms
    assert torch.get_num_threads() == threads


def test_torch_runtime_in_another_type_and_layout() -> None:
    settings = LatencySettings(
        runtime="torch", dtype="bfloat16", layout="channels_last", batch=2, **SHORT
    )  # type: ignore[arg-type]
    (found,) = measure_networks(
        [small()], settings, build_network=network.build, canary_ms=None
    ).values()
    assert math.isfinite(found.p50_ms)


def test_torch_without_cuda() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(Exception, match="torch sees no CUDA device"):
        measure_networks(
            [small()],
            LatencySettings(runtime="torch", device="cuda"),
            build_network=network.build,
            canary_ms=None,
        )


def test_a_program_gets_real_model_files(tmp_path: Path) -> None:
    """The device answers with the number of nodes: the model it was given is the network."""
    code = (
        "import sys, onnx, json; n = len(onnx.load(sys.argv[1]).graph.node); "
        "print(json.dumps({'latency_ms': n / 100, 'p90_ms': n / 50}))"
    )
    settings = LatencySettings(runtime="command", command=(sys.executable, "-c", code))
    (found,) = measure_networks(
        [small()], settings, build_network=network.build, canary_ms=None
    ).values()
    nodes = len(load_model(export_onnx(network.build(small()), (1, 12, 12))).graph.node)
    assert found.p50_ms == pytest.approx(nodes / 100)
    assert found.p90_ms == pytest.approx(nodes / 50)
    assert (found.n, found.rounds) == (1, 1)
