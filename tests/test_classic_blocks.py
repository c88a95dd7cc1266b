"""The blocks of LeNet, AlexNet, NIN and VGG: what they compute, their one form, worked examples."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasctl.arch import Block, Shape
from nasctl.blocktable import BlockTable
from nasctl.errors import SpecError
from nasctl.onnx_runtime import export_onnx, session
from search_spaces.blocks import (
    BLOCKS,
    AvgPool,
    BatchNormActivation,
    ConvNormActivation,
    ConvStack,
    Dropout,
    FactorisedConv,
    FlattenLinear,
    GlobalPool,
    GlobalPoolLinear,
    GlobalPoolMlp,
    LeNetC3,
    LocalResponseNorm,
    MaxPool,
    MlpConv,
    RbfOutput,
    ScaledTanh,
    TrainableSubsampling,
)
from search_spaces.blocks.lenet import CONNECTIONS, code_words
from search_spaces.reference import reference_network
from tests.test_blocks import behaviour, built

torch.set_num_threads(1)

TABLE = BlockTable()


def spellings() -> Iterator[Block]:
    """Every block of this lineage, with all the ways in which it can be said twice."""
    for norm, activation, stride, size in itertools.product(
        ("batch", "none"), ("linear", "identity", "relu"), (1, 2), (1, 3)
    ):
        given = {"norm": norm, "activation": activation, "kernel_size": size}
        for layers, bias in itertools.product((1, 2), (False, True)):
            yield ConvStack(out=6, stride=stride, layers=layers, bias=bias, **given)
        for layers, padding in itertools.product((1, 2), (None, 0, 1)):
            yield MlpConv(out=6, stride=stride, layers=layers, padding=padding, **given)
        yield FactorisedConv(out=6, stride=stride, **given)
        yield ConvNormActivation(out=6, stride=stride, **given)
    for hidden, activation, dropout, where, bias in itertools.product(
        ((), (5,), (5, 5)), ("relu", "linear"), (0, 0.5),
        ("all", "hidden_inputs", "hidden_outputs"), (True, False),
    ):  # fmt: skip
        yield FlattenLinear(
            out=4, hidden=hidden, activation=activation, dropout=dropout, dropout_at=where,
            bias=bias,
        )  # fmt: skip
    for dropout in (0, 0.25, 0.5):
        yield GlobalPoolLinear(out=4, dropout=dropout)
        yield GlobalPoolMlp(out=4, hidden=5, activation="relu", dropout=dropout)
        yield Dropout(dropout=dropout)
    for size, alpha, k in itertools.product((1, 3, 5, 11, 13, 99), (1e-4, 1), (1, 2)):
        yield LocalResponseNorm(size=size, alpha=alpha, k=k)
    for size in (1, 2, 3):
        yield TrainableSubsampling(kernel_size=size)
        yield LeNetC3(kernel_size=size)
        yield RbfOutput(out=size)
    yield from (GlobalPool(), ScaledTanh(), BatchNormActivation())
    yield BatchNormActivation(activation="identity")
    yield BatchNormActivation(activation="linear")


def in_training(module: nn.Module, in_shape: Shape) -> bytes:
    """The bits of what comes out in training mode, with dropout and the norms of the batch."""
    torch.manual_seed(5)
    with torch.no_grad():
        return module.train()(torch.randn(16, *in_shape)).numpy().tobytes()


def seen_of(chain: tuple[Block, ...], in_shape: Shape) -> tuple[object, ...]:
    """Also the MACs: a 1x1 convolution may stride before or after another, at different costs."""
    module = built(chain, in_shape)
    placed = zip(chain, shapes_of(chain, in_shape), strict=True)
    macs = sum(TABLE.block(b, at).macs for b, at in placed)
    return (*behaviour(module, in_shape), in_training(module, in_shape), macs)


@pytest.mark.parametrize("in_shape", [(6, 4, 4), (6, 1, 1), (6, 2, 3), (6,)])
def test_canonical_forms_are_equal_exactly_where_the_networks_are(in_shape: Shape) -> None:
    of_form: dict[tuple[Block, ...], tuple[object, ...]] = {}
    possible = 0
    for block in dict.fromkeys(spellings()):
        try:
            shape = block.out_shape(in_shape)
        except SpecError:
            with pytest.raises(SpecError):  # of itself or its chain, as an architecture asks
                built(block.canonical(in_shape), in_shape)
            continue
        possible += 1
        chain = block.canonical(in_shape)
        expected = of_form.setdefault(chain, seen_of(chain, in_shape))
        assert expected[1][1:] == shape  # type: ignore[index]
        if isinstance(block, ConvStack | MlpConv | FactorisedConv):
            assert_same_function(block, chain, in_shape)
        else:
            assert seen_of((block,), in_shape) == expected, block
        again = []
        for b, at in zip(chain, shapes_of(chain, in_shape), strict=True):
            again += b.canonical(at)
        assert tuple(again) == chain
    assert possible > {1: 40, 3: 150}[len(in_shape)]
    by_seen: dict[tuple[object, ...], tuple[Block, ...]] = {}
    for chain, seen in of_form.items():
        assert by_seen.setdefault(seen, chain) == chain, "one network, two canonical forms"


def shapes_of(chain: tuple[Block, ...], in_shape: Shape) -> list[Shape]:
    shapes = [in_shape]
    for block in chain[:-1]:
        shapes.append(block.out_shape(shapes[-1]))
    return shapes[: len(chain)]


def assert_same_function(block: Block, chain: tuple[Block, ...], in_shape: Shape) -> None:
    """The block's own module is its chain's, whatever its parameters are called."""
    whole, parts = built((block,), in_shape), built(chain, in_shape)
    for own, other in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        own.copy_(other)
    assert behaviour(whole, in_shape)[1:] == behaviour(parts, in_shape)[1:]


def test_chains_are_those_of_the_papers() -> None:
    three = ConvNormActivation(out=8)
    pool = MaxPool(kernel_size=2, stride=2)
    assert ConvStack(out=8, stride=2).canonical((3, 9, 9)) == (three, three, pool)
    biased = ConvNormActivation(out=8, norm="none", activation="linear")
    assert ConvStack(out=8, layers=1, bias=True).canonical((3, 9, 9)) == (
        biased,
        BatchNormActivation(),
    )
    one = ConvNormActivation(out=8, kernel_size=1)
    five = ConvNormActivation(out=8, kernel_size=5, stride=2, padding=0)
    assert MlpConv(out=8, kernel_size=5, stride=2, padding=0).canonical((3, 9, 9)) == (
        five,
        one,
        one,
    )
    assert FactorisedConv(out=8, kernel_size=7, stride=2).canonical((3, 9, 9)) == (
        ConvNormActivation(out=8, kernel_size=(1, 7)),
        ConvNormActivation(out=8, kernel_size=(7, 1), stride=2),
    )
    # 1512.00567, 3.2: two thirds of the weights of a 3x3 for the same field
    assert TABLE.block(three, (8, 9, 9)).macs == 9 * 64 * 81
    parts = FactorisedConv(out=8).canonical((8, 9, 9))
    assert sum(TABLE.block(b, (8, 9, 9)).macs for b in parts) == 6 * 64 * 81


def test_local_response_norm_is_the_papers() -> None:
    x = 40 * torch.randn(2, 7, 3, 4)
    expected = torch.empty_like(x)
    for i in range(7):  # section 3.3, with n = 5
        total = sum(x[:, j] ** 2 for j in range(max(0, i - 2), min(6, i + 2) + 1))
        expected[:, i] = x[:, i] / (2 + 1e-4 * total) ** 0.75
    module = LocalResponseNorm().build((7, 3, 4))
    torch.testing.assert_close(module(x), expected)
    torchs = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)
    torch.testing.assert_close(module(x), torchs(x))


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("hidden_inputs", "flatten Dropout hidden ReLU Dropout hidden2 ReLU linear"),
        ("hidden_outputs", "flatten hidden ReLU Dropout hidden2 ReLU Dropout linear"),
        ("all", "flatten Dropout hidden ReLU Dropout hidden2 ReLU Dropout linear"),
    ],
)
def test_dropout_stands_where_torchvision_has_it(where: str, names: str) -> None:
    """`hidden_inputs` is `AlexNet.classifier`, `hidden_outputs` is `VGG.classifier`."""
    block = FlattenLinear(out=3, hidden=(4, 4), dropout=0.5, dropout_at=where)  # type: ignore[arg-type]
    found = [
        type(m).__name__ if isinstance(m, nn.Dropout | nn.ReLU) else name
        for name, m in block.build((2, 3, 3)).named_children()
    ]
    assert found == names.split()


@pytest.mark.parametrize(
    ("block", "in_shape"),
    [
        (LeNetC3(), (6, 8, 8)),
        (TrainableSubsampling(), (3, 5, 5)),
        (ScaledTanh(), (3, 5, 5)),
        (RbfOutput(out=10), (84,)),
        (LocalResponseNorm(), (8, 5, 5)),
        (GlobalPool(), (8, 5, 5)),
        (FlattenLinear(out=3, hidden=(4,), dropout=0.5), (2, 3, 3)),
        (BatchNormActivation(), (3, 5, 5)),
        (Dropout(), (3, 5, 5)),
    ],
)
def test_blocks_run_in_onnx_runtime(block: Block, in_shape: Shape) -> None:
    module = built((block,), in_shape)
    x = torch.randn(2, *in_shape)
    (out,) = session(export_onnx(module, in_shape, batch=2), threads=1).run(
        None, {"input": x.numpy()}
    )
    torch.testing.assert_close(torch.from_numpy(out), module(x).detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("op", "fields", "message"),
    [
        ("conv_stack", {"out": 8, "layers": 0}, "conv_stack.layers: must be at least 1, got 0"),
        ("conv_stack", {"out": 8, "kernel_size": 4}, "kernel_size: must be odd, got 4"),
        ("conv_stack", {"out": 8, "layer": 2}, "did you mean 'layers'"),
        ("mlpconv", {"out": 8, "layers": 0}, "mlpconv.layers: must be at least 1, got 0"),
        ("mlpconv", {"out": 8, "padding": -1}, "mlpconv.padding: must be at least 0, got -1"),
        ("mlpconv", {"out": 8, "activation": "rely"}, "mlpconv.activation: .*mean 'relu'"),
        ("factorised_conv", {"out": 8, "kernel_size": 2}, "must be odd, got 2"),
        ("conv_norm_act", {"out": 256, "groups": 3}, "groups: 3 does not divide out=256"),
        ("local_response_norm", {"size": 4}, "local_response_norm.size: must be odd, got 4"),
        ("local_response_norm", {"k": 0, "beta": -1}, "2 problems.*\n.*beta.*-1\n.*k: .* got 0"),
        ("dropout", {"dropout": 1}, r"dropout.dropout: must be in \[0, 1\), got 1"),
        ("flatten_linear", {"out": 8, "dropout": 1.5}, r"must be in \[0, 1\), got 1.5"),
        ("flatten_linear", {"out": 8, "hidden": [4, 0]}, r"hidden: .* 1 each, got \(4, 0\)"),
        ("flatten_linear", {"out": 8, "hidden": 4}, "flatten_linear.hidden: expected .* got 4"),
        ("lenet_c3", {"kernel_size": 0}, "lenet_c3.kernel_size: must be at least 1, got 0"),
        ("trainable_subsampling", {"kernel_size": 0}, "kernel_size: must be at least 1, got 0"),
        ("rbf_output", {"out": 0}, "rbf_output.out: must be at least 1, got 0"),
        ("batch_norm_act", {"activation": "thanh"}, "did you mean 'tanh'"),
    ],
)
def test_wrong_fields_are_errors(op: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        BLOCKS[op].from_json({"op": op, **fields})


@pytest.mark.parametrize(
    ("block", "in_shape", "message"),
    [
        (ConvStack(out=8, stride=4), (3, 3, 5), "stride 4 is larger than the 3x5 feature map"),
        (MlpConv(out=8, kernel_size=5, padding=0), (3, 4, 9), "kernel_size 5 .* the 4x9 .* by 0"),
        (FactorisedConv(out=8, stride=3), (3, 2, 2), "stride 3 is larger than the 2x2"),
        (ConvNormActivation(out=8, groups=8), (12, 4, 4), "groups=8 does not divide the 12 input"),
        (LeNetC3(), (5, 9, 9), "for 6 input channels, got 5"),
        (LeNetC3(), (6, 4, 9), "kernel_size 5 is larger than the 4x9"),
        (TrainableSubsampling(), (6, 1, 9), "2 is larger than the 1x9"),
        (RbfOutput(out=10), (6, 2, 2), r"needs a vector .* got shape \(6, 2, 2\)"),
        (RbfOutput(out=9), (3,), "codes of 3 bits cannot tell 9 classes apart"),
        (GlobalPool(), (8,), r"needs a feature map .* got shape \(8,\)"),
        (LocalResponseNorm(), (8,), r"needs a feature map .* got shape \(8,\)"),
        (BatchNormActivation(), (8,), r"needs a feature map .* got shape \(8,\)"),
    ],
)
def test_impossible_shapes_name_the_numbers(block: Block, in_shape: Shape, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        block.out_shape(in_shape)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(spellings())))
def test_blocks_survive_json(block: Block) -> None:
    assert BLOCKS[block.op].from_json(block.to_json()) == block


def test_lenet5_connects_c3_by_table_one() -> None:
    assert [len(seen) for seen in CONNECTIONS] == [3] * 6 + [4] * 9 + [6]
    assert all(sum(i in seen for seen in CONNECTIONS) == 10 for i in range(6))
    assert CONNECTIONS[4:6] == ((0, 4, 5), (0, 1, 5))
    assert CONNECTIONS[9:15] == (
        (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    )  # fmt: skip
    module = LeNetC3().build((6, 9, 9))
    weights = dict(module.named_parameters())
    dense = torch.zeros(16, 6, 5, 5)
    rows = [row for n in range(3) for row in weights[f"convs.{n}.weight"]]
    for index, (seen, row) in enumerate(zip(CONNECTIONS, rows, strict=True)):
        dense[index, list(seen)] = row.detach()
    bias = torch.cat([weights[f"convs.{n}.bias"] for n in range(3)])
    x = torch.randn(2, 6, 9, 9)
    torch.testing.assert_close(module(x), nn.functional.conv2d(x, dense, bias))


def test_lenet5_scores_by_distance_to_fixed_codes() -> None:
    words = code_words(50, 84)
    assert len(set(words)) == 50
    assert words[:10] == code_words(10, 84)
    assert "".join("+" if bit > 0 else "-" for bit in words[0][:16]) == "-++++++-+---+-++"
    assert sorted(code_words(8, 3)) == sorted(itertools.product((-1, 1), repeat=3))
    module = RbfOutput(out=50).build((84,))
    assert not list(module.parameters())
    x = torch.randn(3, 84)
    codes = torch.tensor(words, dtype=torch.float32)
    expected = -((x[:, None] - codes) ** 2).sum(2) / math.sqrt(84)
    torch.testing.assert_close(module(x), expected)


def test_lenet5_subsamples_and_squashes() -> None:
    module = TrainableSubsampling().build((2, 5, 4))
    x = torch.randn(3, 2, 5, 4)
    sums = x[:, :, :4].reshape(3, 2, 2, 2, 2, 2).sum((3, 5))
    weight, bias = (p.view(2, 1, 1) for p in (module.weight, module.bias))
    torch.testing.assert_close(module(x), sums * weight + bias)
    f = ScaledTanh().build((1,))
    torch.testing.assert_close(f(torch.tensor([-1.0, 0.0, 1.0, 99.0])), torch.tensor(
        [-1.0, 0.0, 1.0, 1.7159]), atol=1e-4, rtol=0)  # fmt: skip


# Worked examples of the teaching literature.


def test_weights_of_well_known_layers() -> None:
    bare = ConvNormActivation(out=64, activation="linear").build((128, 8, 8))
    assert bare.conv.weight.numel() == 73_728
    perceptron = FlattenLinear(out=2, hidden=(3,), bias=False)
    assert TABLE.block(perceptron, (5,))[:2] == (21, 21)
    assert perceptron.out_shape((5,)) == (2,)
    # The third convolution sees both columns; torchvision's one-column net has as many in the 4th.
    third = [b for b in reference_network("alexnet_grouped").placed() if b[0].op == "conv_norm_act"]
    assert TABLE.block(*third[2]).params - 384 == 884_736
    single = [b for b in reference_network("alexnet_single").placed() if b[0].op == "conv_norm_act"]
    assert TABLE.block(*single[3]).params - 256 == 884_736


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_stacked_convolutions_see_as_one_large(layers: int) -> None:
    stack = ConvStack(out=1, layers=layers, norm="none", activation="linear")
    module = nn.Sequential(*[b.build((1, 15, 15)) for b in stack.canonical((1, 15, 15))])
    for parameter in module.parameters():
        nn.init.ones_(parameter)
    x = torch.zeros(1, 1, 15, 15, requires_grad=True)
    module(x)[0, 0, 7, 7].backward()
    seen = torch.nonzero(x.grad[0, 0])
    field = 2 * layers + 1
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [field, field]
    weights = sum(p.numel() for p in module.parameters() if p.ndim == 4)
    assert (weights, field**2) == (9 * layers, {1: 9, 2: 25, 3: 49, 4: 81}[layers])


def test_output_sizes_are_the_formula_and_torchs() -> None:
    draw = random.Random(3)
    checked = 0
    while checked < 300:
        side, size, stride, padding = (draw.randint(*ends) for ends in
                                       ((1, 40), (1, 9), (1, 5), (0, 4)))  # fmt: skip
        if size > side + 2 * padding or stride > side:
            continue
        checked += 1
        x = torch.zeros(1, 2, side, side)
        steps = (side + 2 * padding - size) / stride
        conv = ConvNormActivation(
            out=2, kernel_size=size, stride=stride, padding=padding, norm="none"
        )
        expected = (2, math.floor(steps) + 1, math.floor(steps) + 1)
        assert conv.out_shape((2, side, side)) == tuple(conv.build((2, side, side))(x).shape[1:])
        assert conv.out_shape((2, side, side)) == expected
        if padding > size // 2:
            continue
        for kind, ceil in itertools.product((MaxPool, AvgPool), (False, True)):
            pool = kind(kernel_size=size, stride=stride, padding=padding, ceil=ceil)
            shape = pool.out_shape((2, side, side))
            assert shape == tuple(pool.build((2, side, side))(x).shape[1:])
            if not ceil:
                assert shape == expected
            elif math.ceil(steps) * stride < side + padding:  # torch drops windows beyond the map
                assert shape[1] == math.ceil(steps) + 1
