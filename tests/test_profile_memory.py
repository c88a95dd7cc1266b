"""Receptive fields and peak memory, against gradients and by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from nasctl.arch import Block, Shape
from nasctl.opcount import trace_module
from nasctl.profile.memory import moved_elements, peak_elements
from nasctl.profile.receptive import POINT, START, Field, compose, follow, sides
from search_spaces.blocks import (
    AvgPool,
    ConvNormActivation,
    DepthwiseSeparable,
    InvertedResidual,
    MaxPool,
    ResidualBasic,
    ResidualBottleneck,
)
from tests.profile_samples import of_blocks

# Positive weights and inputs, so that nothing cancels, and no activation that saturates.
CHAINS: dict[str, Sequence[Block]] = {
    "convolutions": [
        ConvNormActivation(out=4, kernel_size=5),
        ConvNormActivation(out=4, kernel_size=3, stride=2),
        ConvNormActivation(out=4, kernel_size=3),
    ],
    "one-sided padding": [ConvNormActivation(out=4, kernel_size=3, padding=0), AvgPool(
        kernel_size=2, stride=2), ConvNormActivation(out=4, kernel_size=3, stride=2)],
    "flat kernels": [
        ConvNormActivation(out=4, kernel_size=(1, 7)),
        ConvNormActivation(out=4, kernel_size=(3, 1), stride=2),
    ],
    "shortcut B": [ResidualBasic(out=8, stride=2), ResidualBasic(out=8)],
    "shortcut A": [
        ConvNormActivation(out=4),
        ResidualBasic(out=8, stride=2, shortcut="A"),
        ResidualBottleneck(out=8),
    ],
    "inverted": [
        ConvNormActivation(out=4, stride=2),
        InvertedResidual(out=4, expand_ratio=2, activation="relu", kernel_size=5),
        InvertedResidual(out=4, expand_ratio=2, activation="relu", stride=2),
        DepthwiseSeparable(out=4, activation="relu"),
    ],
}  # fmt: skip


def fields(chain: Sequence[Block], shape: Shape) -> Field:
    field: Field | None = START
    for block in chain:
        with torch.device("meta"):
            module = block.build(shape)
        field = compose(field, follow(trace_module(module, shape, name=block.op))[0])
        shape = block.out_shape(shape)
    assert field is not None
    return field


@pytest.mark.parametrize("name", CHAINS)
def test_receptive_fields_are_where_gradients_reach(name: str) -> None:
    chain = CHAINS[name]
    shape: Shape = (3, 65, 65)
    modules = []
    for block in chain:
        modules.append(block.build(shape))
        shape = block.out_shape(shape)
    network = nn.Sequential(*modules).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_().add_(0.01)
    x = torch.rand(1, 3, 65, 65, dtype=torch.float64, requires_grad=True)
    y = network(x)
    at = y.shape[-1] // 2
    y[0, :, at, at].sum().backward()
    assert x.grad is not None
    reached = x.grad.abs().sum((0, 1)) > 0
    for axis, hits in zip(
        fields(chain, (3, 65, 65)), (reached.any(1), reached.any(0)), strict=True
    ):
        where = hits.nonzero().flatten().tolist()
        assert (where[0], where[-1]) == (axis.low + axis.jump * at, axis.high + axis.jump * at)


def test_a_maximum_sees_its_window() -> None:
    pools = [MaxPool(kernel_size=3, stride=2), MaxPool(kernel_size=2, stride=2)]
    (height, width) = fields(pools, (3, 16, 16))
    assert height == width == (-1, 3, 4)


class Parts(nn.Module):
    """Puts a function of the input together from operations that blocks may use."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.other = nn.Conv2d(4, 4, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: PLR0911 - one per kind
        y: torch.Tensor = self.conv(x)
        if self.kind == "cat":
            return torch.cat([y, self.other(x)], 1)
        if self.kind == "shuffle":
            return y.view(1, 2, 2, 8, 8).transpose(1, 2).reshape(1, 4, 8, 8)
        if self.kind == "gate":
            return y * y.mean((2, 3), keepdim=True)
        if self.kind == "split":
            return y.chunk(2, 1)[0]
        if self.kind == "across channels":
            return nn.functional.local_response_norm(y, 3)
        if self.kind == "upsample":
            return nn.functional.interpolate(y, scale_factor=2)
        if self.kind == "group norm":
            return nn.functional.group_norm(y, 2)
        return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("cat", (5, 5)),
        ("shuffle", (3, 3)),
        ("gate", "all"),
        ("split", (3, 3)),
        ("across channels", (3, 3)),
        ("group norm", "all"),
        ("upsample", None),
        ("permuted", None),
    ],
)
def test_fields_through_operations_of_own_blocks(kind: str, seen: object) -> None:
    with torch.device("meta"):
        module = Parts(kind)
    field, windows = follow(trace_module(module, (4, 8, 8), name=kind))
    assert sides(field) == seen
    if kind == "gate":  # the map is still there, so strides can be told
        assert field is not None
        assert field[0].jump == 1
    if kind == "cat":
        assert [w.kernel for w in windows] == [(3, 3), (5, 5)]
    if kind == "across channels":
        assert [w.kernel for w in windows] == [(3, 3)]


def test_what_follows_a_global_pooling_sees_all() -> None:
    later = compose((POINT, POINT), START)
    assert later is not None
    assert sides(later) == "all"
    assert compose(None, START) is None


class Chain(nn.Module):
    """conv - norm - activation - conv - norm."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.first(x))
        if self.join == "add":
            return nn.functional.relu(x + y)
        if self.join == "cat":
            return torch.cat([x, y], 1)
        return y


@pytest.mark.parametrize(
    ("join", "peak", "moved"),
    [
        # On a 10x10 map: x 400, h 800, y 400. Alone: x + h, or h + y.
        ("none", 1200, (400 + 800) + (800 + 400)),
        # x is kept: x + h + y at the second convolution; the sum goes over y.
        ("add", 1600, 1200 + 1200 + 3 * 400),
        # x + h + y = 1,600 at the second convolution; x + y + 800 at the end is as much.
        ("cat", 1600, 1200 + 1200 + 2 * 400 + 800),
    ],
)
def test_memory_by_hand(join: str, peak: int, moved: int) -> None:
    trace = trace_module(Chain(join).to("meta"), (4, 10, 10), name=join)
    assert peak_elements(trace) == peak
    assert moved_elements(trace) == moved


def test_what_is_needed_again_is_not_written_over() -> None:
    class Dense(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, torch.relu(x)], 1)  # the activation needs room of its own

    trace = trace_module(Dense(), (4, 10, 10), name="dense")
    assert peak_elements(trace) == 400 + 400 + 800

    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(torch.relu(x))

    assert peak_elements(trace_module(Twice(), (4, 10, 10), name="twice")) == 400

    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.mean((2, 3), keepdim=True)

    gate = trace_module(Gate(), (4, 10, 10), name="gate")
    assert peak_elements(gate) == 400 + 4
    assert moved_elements(gate) == (400 + 4) + (400 + 4 + 400)


def test_peak_and_intensity_of_a_network() -> None:
    profile = of_blocks(ConvNormActivation(out=8), ConvNormActivation(out=4, stride=2))
    first, second, head = profile.blocks
    assert first.peak_bytes == 4 * (3 + 8) * 32 * 32
    assert second.peak_bytes == 4 * (8 * 32 * 32 + 4 * 16 * 16)
    assert profile.totals["peak_activation_bytes"] == first.peak_bytes
    assert first.moved_bytes == first.peak_bytes + 4 * (3 * 8 * 9 + 16)
    moved = first.moved_bytes + second.moved_bytes + head.moved_bytes
    assert profile.totals["arithmetic_intensity"] == 2 * profile.total("macs") / moved
