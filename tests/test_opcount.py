"""The trace: every operation with its arguments, tensors that share memory, MACs by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nasctl.errors import NasctlError
from nasctl.opcount import trace_module


class Mixed(nn.Module):
    """A convolution, an in-place activation, a sum, a view and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.linear = nn.Linear(2 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu(self.conv(x), inplace=True)
        out: torch.Tensor = self.linear((x + y).flatten(1))
        return out


def test_operations_in_order_with_their_costs() -> None:
    trace = trace_module(Mixed().to("meta"), (2, 4, 4), name="mixed")
    found = {op.name: (op.macs, op.activations) for op in trace.ops}
    assert found == {
        "convolution": (2 * 2 * 9 * 16, 2 * 16),
        "relu_": (0, 0),
        "add": (0, 0),
        "view": (0, 0),
        "t": (0, 0),
        "addmm": (32 * 5, 0),
    }
    assert trace.input.shape == (1, 2, 4, 4)
    assert trace.output.shape == (1, 5)


def test_buffers_are_shared_by_views_and_in_place_operations_only() -> None:
    ops = {op.name: op for op in trace_module(Mixed().to("meta"), (2, 4, 4), name="mixed").ops}
    conv, relu, total = (ops[n].outputs[0] for n in ("convolution", "relu_", "add"))
    assert relu == conv
    assert total.buffer not in {conv.buffer, 0}
    assert ops["view"].outputs[0].buffer == total.buffer
    assert ops["view"].outputs[0].index != total.index
    assert ops["addmm"].outputs[0].buffer != total.buffer


def test_constants_are_what_does_not_depend_on_the_input() -> None:
    trace = trace_module(Mixed().to("meta"), (2, 4, 4), name="mixed")
    ops = {op.name: op for op in trace.ops}
    assert [v.constant for v in ops["convolution"].inputs] == [False, True, True]
    assert ops["t"].outputs[0].constant
    assert not ops["addmm"].outputs[0].constant
    assert not trace.input.constant


def test_arguments_are_kept_as_they_were() -> None:
    conv = nn.Conv2d(4, 6, (1, 7), stride=2, padding=(0, 3), dilation=1, groups=2, bias=False)
    (op,) = trace_module(conv.to("meta"), (4, 9, 9), name="conv").ops
    assert op.args[2:] == (None, (2, 2), (0, 3), (1, 1), False, (0, 0), 2)
    assert op.args[1].shape == (6, 2, 1, 7)


def test_a_module_is_left_in_eval_mode_and_dropout_does_nothing() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.ReLU()).to("meta").train()
    assert [op.name for op in trace_module(module, (3,), name="m").ops] == ["relu"]
    assert not module.training


def test_several_outputs_are_refused() -> None:
    with pytest.raises(NasctlError, match="block lstm: expected one tensor as output, got tuple"):
        trace_module(_Two(), (3,), name="lstm")


class _Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x
