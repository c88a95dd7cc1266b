"""Blocks: shapes, checks, and that equal canonical forms are equal networks and no others."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasctl.arch import Architecture, Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks import (
    BLOCKS,
    AvgPool,
    ConvNormActivation,
    DepthwiseSeparable,
    GlobalPoolLinear,
    InvertedResidual,
    MaxPool,
    ResidualBottleneck,
    Skip,
)
from search_spaces.blocks.conv import Order
from search_spaces.blocks.shapes import ACTIVATIONS, make_divisible
from search_spaces.network import initialise

torch.set_num_threads(1)

ORDERS: tuple[Order, ...] = ("conv_norm_act", "conv_act_norm", "norm_act_conv")

CHAIN = Architecture(input_shape=(1, 1, 1), blocks=(GlobalPoolLinear(out=1),), num_classes=1)


def spellings() -> Iterator[Block]:
    """Many blocks, with all the ways in which they can be said twice."""
    for out, kernel_size, stride in itertools.product((8, 16), (3, 5), (1, 2)):
        for ratio, bottleneck, residual in itertools.product(
            (1, 1.02, 1.5, 1.49), ("linear", "relu6"), (True, False)
        ):
            yield InvertedResidual(
                out=out,
                kernel_size=kernel_size,
                stride=stride,
                expand_ratio=ratio,
                bottleneck_activation=bottleneck,
                residual=residual,
            )
        for activation in ("relu", "relu6"):
            yield DepthwiseSeparable(
                out=out, kernel_size=kernel_size, stride=stride, activation=activation
            )
        for reduction in (4, 4.1):
            yield ResidualBottleneck(
                out=out, kernel_size=kernel_size, stride=stride, reduction=reduction
            )
        for activation, norm in itertools.product(
            ("linear", "identity", "relu"), ("batch", "none")
        ):
            yield ConvNormActivation(
                out=out, kernel_size=kernel_size, stride=stride, activation=activation, norm=norm
            )
        yield ConvNormActivation(out=out, kernel_size=kernel_size, stride=stride, groups=8)
        yield Skip(out=out, stride=stride)
        for order, norm in itertools.product(ORDERS, ("batch", "none")):
            for activation in ("linear", "relu"):
                yield ConvNormActivation(
                    out=out, stride=stride, activation=activation, norm=norm, order=order
                )
    yield from windows()


def windows() -> Iterator[Block]:
    """Convolutions and pools that slide over the map in many ways."""
    for size, padding in itertools.product((3, (3, 3), (1, 3)), (None, 0, 1, (0, 1), (1, 1))):
        yield ConvNormActivation(out=8, kernel_size=size, padding=padding)
    for kernel_size, stride in itertools.product((1, 2, 3, 4), (1, 2, 3, 4)):
        yield ConvNormActivation(out=8, kernel_size=kernel_size, stride=stride)
        for padding, ceil in itertools.product((None, 0, 1), (False, True)):
            if padding is None or padding <= kernel_size // 2:
                for pool in (MaxPool, AvgPool):
                    yield pool(kernel_size=kernel_size, stride=stride, padding=padding, ceil=ceil)


def built(chain: tuple[Block, ...], in_shape: Shape) -> nn.Module:
    modules = []
    for block in chain:
        modules.append(block.build(in_shape))
        in_shape = block.out_shape(in_shape)
    network = nn.Sequential(*modules)
    initialise(network, CHAIN, 7)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):  # else a norm and a ReLU could change places
            assert layer.running_mean is not None
            layer.running_mean.copy_(torch.linspace(-9, 9, layer.num_features))
    return network.eval()


def behaviour(module: nn.Module, in_shape: Shape) -> tuple[object, ...]:
    """Names, shapes, and the bits of what comes out for the same weights; large inputs saturate."""
    state = tuple((name, tuple(t.shape)) for name, t in module.state_dict().items())
    x = 30 * torch.randn((4, *in_shape), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = module(x.clone())
    return state, tuple(out.shape), out.numpy().tobytes()


@pytest.mark.parametrize("in_shape", [(8, 4, 4), (8, 1, 1), (8, 2, 3), (16, 3, 3)])
def test_canonical_forms_are_equal_exactly_where_the_networks_are(in_shape: Shape) -> None:
    of_form: dict[tuple[Block, ...], tuple[object, ...]] = {}
    possible = 0
    for block in dict.fromkeys(spellings()):
        try:
            shape = block.out_shape(in_shape)
        except SpecError:
            continue
        possible += 1
        chain = block.canonical(in_shape)
        seen = behaviour(built((block,), in_shape), in_shape)
        assert seen[1][1:] == shape  # type: ignore[index]
        if chain:
            assert behaviour(built(chain, in_shape), in_shape) == seen
            assert chain[0].canonical(in_shape) == chain
        else:
            assert seen[0] == ()
        assert of_form.setdefault(chain, seen) == seen, block
    assert possible > 100
    by_behaviour: dict[tuple[object, ...], tuple[Block, ...]] = {}
    for chain, seen in of_form.items():
        assert by_behaviour.setdefault(seen, chain) == chain, "one network, two canonical forms"


@pytest.mark.parametrize(
    ("block", "in_shape", "expected"),
    [
        (Skip(out=8), (8, 4, 4), ()),
        (
            Skip(out=8, stride=2),
            (8, 4, 4),
            (ConvNormActivation(out=8, kernel_size=1, stride=2, activation="linear"),),
        ),
        (
            InvertedResidual(
                out=16, stride=2, expand_ratio=1, bottleneck_activation="relu6", residual=False
            ),
            (8, 4, 4),
            (DepthwiseSeparable(out=16, stride=2),),
        ),
        (
            InvertedResidual(out=8, expand_ratio=1, bottleneck_activation="relu6"),
            (8, 4, 4),  # a shortcut: not MobileNetV1's block
            (InvertedResidual(out=8, expand_ratio=1, bottleneck_activation="relu6"),),
        ),
        (
            InvertedResidual(out=16, expand_ratio=3.01, residual=False),
            (8, 4, 4),
            (InvertedResidual(out=16, expand_ratio=3),),
        ),
        (
            InvertedResidual(out=8, residual=False),
            (8, 4, 4),
            (InvertedResidual(out=8, residual=False),),
        ),
        (ResidualBottleneck(out=16, reduction=3.9), (8, 4, 4), (ResidualBottleneck(out=16),)),
        (MaxPool(kernel_size=1, stride=1), (8, 4, 4), ()),
        (MaxPool(kernel_size=2, stride=2), (8, 2, 2), (MaxPool(kernel_size=2, stride=1),)),
    ],
)
def test_canonical(block: Block, in_shape: Shape, expected: tuple[Block, ...]) -> None:
    assert block.canonical(in_shape) == expected


@pytest.mark.parametrize(
    ("block", "in_shape", "message"),
    [
        (ConvNormActivation(out=8, stride=2), (3, 1, 5), "stride 2 is larger than the 1x5"),
        (
            ConvNormActivation(out=8, kernel_size=6),
            (3, 1, 1),
            "kernel_size 6 is larger than the 1x1 feature map padded by 2",
        ),
        (ConvNormActivation(out=8, groups=8), (12, 4, 4), "groups=8 does not divide the 12 input"),
        (InvertedResidual(out=8, stride=3), (8, 2, 2), "stride 3 is larger than the 2x2"),
        (InvertedResidual(out=8, expand_ratio=0.01), (8, 2, 2), "leaves none of 8 channels"),
        (ResidualBottleneck(out=8, stride=2), (8, 1, 1), "stride 2 is larger than the 1x1"),
        (Skip(out=8, stride=2), (8, 1, 1), "stride 2 is larger than the 1x1"),
        (GlobalPoolLinear(out=8), (8,), r"needs a feature map .* got shape \(8,\)"),
        (DepthwiseSeparable(out=8), (8, 4), "needs a feature map"),
        (MaxPool(kernel_size=4, stride=1), (8, 1, 1), "kernel_size 4 is larger than the 1x1"),
    ],
)
def test_impossible_shapes_name_the_numbers(block: Block, in_shape: Shape, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        block.out_shape(in_shape)


@pytest.mark.parametrize(
    ("op", "fields", "message"),
    [
        (
            "conv_norm_act",
            {"out": 0, "stride": -1},
            "2 problems.*\n.*out: must be .* 0.*\n.*stride",
        ),
        ("conv_norm_act", {"out": 8, "activation": "relu7"}, "did you mean 'relu'"),
        ("conv_norm_act", {"out": 9, "groups": 2}, "groups: 2 does not divide out=9"),
        ("conv_norm_act", {"out": 8, "norm": "layer"}, "norm: expected .*batch"),
        ("conv_norm_act", {"out": "8"}, "out: expected int, got '8'"),
        ("conv_norm_act", {"out": True}, "out: expected int, got True"),
        ("conv_norm_act", {"out": (8, 8)}, "out: expected int"),
        ("inverted_residual", {"out": 8, "kernel_size": 4}, "must be odd, got 4"),
        ("inverted_residual", {"out": 8, "expand_ratio": -1}, "must be above 0, got -1"),
        ("inverted_residual", {"out": 8, "expand_ratio": float("nan")}, "expand_ratio: expected"),
        ("inverted_residual", {"out": 8, "expand_ration": 3}, "did you mean 'expand_ratio'"),
        ("inverted_residual", {}, "inverted_residual.out: missing"),
        ("depthwise_separable", {"out": 8, "kernel_size": 2}, "must be odd, got 2"),
        ("residual_bottleneck", {"out": 8, "reduction": 100}, "leaves no inner channel of out=8"),
        ("global_pool_linear", {"out": 8, "dropout": 1}, r"must be in \[0, 1\), got 1"),
        ("skip", {"out": 8.5}, "out: expected int, got 8.5"),
    ],
)
def test_wrong_fields_are_errors(op: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        BLOCKS[op].from_json({"op": op, **fields})


def test_every_block_is_registered_under_its_op() -> None:
    assert {kind.op: kind for kind in BLOCKS.values()} == BLOCKS
    for block in spellings():
        assert BLOCKS[block.op] is type(block)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(spellings())))
def test_blocks_survive_json_and_pickle(block: Block) -> None:
    assert type(block).from_json(block.to_json()) == block
    copy = pickle.loads(pickle.dumps(block))
    assert copy == block
    assert hash(copy) == hash(block)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_builds_and_runs(activation: str) -> None:
    out = ConvNormActivation(out=4, activation=activation).build((3, 5, 5))(torch.randn(2, 3, 5, 5))
    assert out.shape == (2, 4, 5, 5)


def test_shortcut_adds_the_input_after_the_bottleneck_activation() -> None:
    block = InvertedResidual(out=8, bottleneck_activation="relu")
    module = block.build((8, 4, 4)).eval()
    plain = InvertedResidual(out=8, bottleneck_activation="relu", residual=False).build((8, 4, 4))
    plain.load_state_dict(module.state_dict())
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        inside = plain.eval()(x)
        assert inside.min() == 0
        torch.testing.assert_close(module(x), x + inside)


def test_residual_bottleneck_activates_after_the_addition() -> None:
    out = ResidualBottleneck(out=8).build((8, 4, 4)).eval()(torch.randn(2, 8, 4, 4))
    assert out.min() == 0


def test_expand_ratio_one_has_no_expansion() -> None:
    names = InvertedResidual(out=8, expand_ratio=1).build((8, 4, 4)).state_dict()
    assert not any("expand" in name for name in names)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 8), (8, 8), (12, 16), (18, 24), (32 * 0.35, 16), (24 * 0.75, 24), (1280 * 0.75, 960)],
)
def test_make_divisible_is_mobilenets_rule(value: float, expected: int) -> None:
    assert make_divisible(value) == expected


@given(st.floats(1, 5000), st.integers(1, 64))
def test_make_divisible_stays_near_and_above_ninety_percent(value: float, divisor: int) -> None:
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= 0.9 * value
    assert rounded <= value + divisor
