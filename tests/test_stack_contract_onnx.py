"""What nasctl relies on in torch's exporter and ONNX Runtime, beyond their documentation."""

from __future__ import annotations

import io
import platform
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from nasctl.onnx_runtime import INPUT, OUTPUT, export_onnx, load_model, session


def test_torchscript_exporter_still_exists_and_folds_batch_norm_in_eval_mode() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU6()).eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 3, 8, 8),), buffer, dynamo=False)  # type: ignore[arg-type]
    ops = [n.op_type for n in load_model(buffer.getvalue()).graph.node]
    assert "BatchNormalization" not in ops
    assert "Conv" in ops


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="x86 kernels")
def test_a_block_alone_pays_for_layout_conversions_at_its_borders(tmp_path: Path) -> None:
    """The runtime works on blocked channels: it converts in and out once, however long the chain.
    This is why the correction has a term for the elements at block borders."""
    model = export_onnx(nn.Sequential(nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3)), (32, 9, 9))
    path = tmp_path / "optimised.onnx"
    session(model, threads=1, optimised_path=str(path))
    ops = [n.op_type for n in load_model(path.read_bytes()).graph.node]
    assert ops == ["ReorderInput", "Conv", "Conv", "ReorderOutput"]


def test_binding_without_run_options_reuses_the_given_buffers() -> None:
    runtime = session(export_onnx(nn.ReLU(), (4,)), threads=1)
    data = np.array([[-1, 2, -3, 4]], dtype=np.float32)
    given = onnxruntime.OrtValue.ortvalue_from_numpy(data)
    out = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(data))
    binding = runtime.io_binding()
    binding.bind_ortvalue_input(INPUT, given)
    binding.bind_ortvalue_output(OUTPUT, out)
    runtime.run_with_iobinding(binding)
    np.testing.assert_array_equal(out.numpy(), [[0, 2, 0, 4]])


def test_settings_of_the_session_are_the_ones_asked_for() -> None:
    options = session(export_onnx(nn.ReLU(), (4,)), threads=2).get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"
