"""The blocks that branch: inception, dense, Xception, auxiliary classifiers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, relu
from torch.utils.flop_counter import FlopCounterMode

from nasctl.arch import Block, Shape
from nasctl.blocktable import BlockTable
from nasctl.errors import SpecError
from search_spaces.blocks import (
    BLOCKS,
    AuxiliaryClassifier,
    AvgPool,
    BatchNormActivation,
    ConvNormActivation,
    Dense,
    DenseBlock,
    DenseLayer,
    Inception,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
    MaxPool,
    PreActivationStem,
    SeparableConv,
    Transition,
    XceptionModule,
)
from tests.test_blocks import behaviour

torch.set_num_threads(1)


BLOCK_CASES: list[tuple[Block, Shape]] = [
    (Inception(out1=4, reduce3=3, out3=5, reduce5=2, out5=3, pool_proj=2), (8, 6, 6)),
    (Inception(out1=4, reduce3=0, out3=5, reduce5=0, out5=3, pool_proj=0, stride=2), (8, 7, 6)),
    (InceptionA(pool_features=8), (16, 5, 5)),
    (InceptionB(), (16, 7, 7)),
    (InceptionC(channels_7x7=8), (16, 5, 5)),
    (InceptionD(), (16, 7, 7)),
    (InceptionE(), (16, 3, 3)),
    (DenseLayer(growth_rate=4), (8, 6, 6)),
    (DenseLayer(growth_rate=4, bottleneck=0, combine="add"), (8, 6, 6)),
    (DenseBlock(layers=3, growth_rate=4), (8, 6, 6)),
    (Dense(layers=2, growth_rate=4, out=12, stride=2), (8, 7, 7)),
    (Transition(out=4), (8, 7, 7)),
    (PreActivationStem(out=4, stride=2), (3, 7, 7)),
    (SeparableConv(out=4, stride=2), (8, 7, 7)),
    (XceptionModule(out=8, layers=3), (8, 7, 7)),
    (XceptionModule(out=12, stride=2, grow="last"), (8, 7, 7)),
    (AuxiliaryClassifier(out=5, kind="googlenet"), (8, 7, 7)),
    (AuxiliaryClassifier(out=5, kind="inception_v3"), (8, 17, 17)),
]


@pytest.mark.parametrize(("block", "in_shape"), BLOCK_CASES, ids=lambda v: getattr(v, "op", ""))
def test_torch_counts_two_flops_for_each_mac(block: Block, in_shape: Shape) -> None:
    module = block.build(in_shape).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = module(torch.randn(2, *in_shape))
    assert out.shape == (2, *block.out_shape(in_shape))
    assert counter.get_total_flops() == 2 * 2 * BlockTable().block(block, in_shape).macs


def spellings() -> Iterator[Block]:
    """Many blocks, with all the ways in which they can be said twice."""
    for pool, proj, out5, reduce5, kernel5, out3, reduce3, out1 in itertools.product(
        ("max", "none"), (0, 3), (0, 4), (0, 2), (3, 5), (0, 4), (0, 2), (0, 4)
    ):
        if not (pool == "none" and (proj or not (out1 or out3 or out5))):
            yield Inception(
                out1=out1,
                reduce3=reduce3,
                out3=out3,
                reduce5=reduce5,
                out5=out5,
                pool_proj=proj,
                pool=pool,  # type: ignore[arg-type]
                kernel5=kernel5,
                stride=2 if reduce5 else 1,
                norm="none" if reduce3 else "batch",
            )
    for growth, bottleneck, activation in itertools.product((2, 4), (0, 1, 2), ("relu", "linear")):
        for combine in ("concat", "add"):
            layer = DenseLayer(
                growth_rate=growth,
                bottleneck=bottleneck,
                activation=activation,
                combine=combine,  # type: ignore[arg-type]
            )
            fields = layer.fields()
            yield layer
            yield dataclasses.replace(layer, kernel_size=5)
            yield DenseBlock(layers=1, **fields)
            yield DenseBlock(layers=2, **fields)
            yield from (Dense(layers=1, out=6, stride=s, **fields) for s in (1, 2))
    for stride, ceil, activation in itertools.product(
        (1, 2, 3), (False, True), ("relu", "linear", "identity")
    ):
        yield Transition(out=6, stride=stride, ceil=ceil, activation=activation)
    for out, stride, activation, depthwise in itertools.product(
        (4, 6), (1, 2), ("relu", "linear"), ("identity", "relu")
    ):
        fields = {
            "out": out,
            "stride": stride,
            "activation": activation,
            "depthwise_activation": depthwise,
        }
        yield SeparableConv(**fields)
        yield SeparableConv(order="act_conv_norm", **fields)
        for layers, first, grow, residual in itertools.product(
            (1, 2), (True, False), ("first", "last"), (True, False)
        ):
            yield XceptionModule(
                layers=layers,
                first_activation=first,
                grow=grow,  # type: ignore[arg-type]
                residual=residual,
                **fields,
            )
    for kernel_size, norm in itertools.product((1, 3, 5), ("batch", "none")):
        yield ConvNormActivation(out=4, kernel_size=kernel_size, norm=norm)  # type: ignore[arg-type]
    yield from (MaxPool(kernel_size=3, stride=1), AvgPool(kernel_size=3, stride=1))
    yield from (BatchNormActivation(), PreActivationStem(out=4), PreActivationStem(out=4, stride=2))
    yield from (block for block, _ in BLOCK_CASES if "inception_" in block.op)
    yield from (AuxiliaryClassifier(out=2, kind=kind) for kind in ("googlenet", "inception_v3"))  # type: ignore[arg-type]


def test_blocks_survive_json() -> None:
    for block in (*spellings(), *(block for block, _ in BLOCK_CASES)):
        assert BLOCKS[block.op].from_json(block.to_json()) == block


def seen(chain: tuple[Block, ...], in_shape: Shape) -> tuple[object, ...]:
    """The shapes of the weights in order and, with the same weights in this order, the output.

    Names are left out: a block that is a chain of others has its own.
    """
    modules, shape = [], in_shape
    for block in chain:
        modules.append(block.build(shape))
        shape = block.out_shape(shape)
    network = nn.Sequential(*modules).eval()
    state = [(n, t) for n, t in network.state_dict().items() if t.is_floating_point()]
    for index, (name, tensor) in enumerate(state):
        generator = torch.Generator().manual_seed(100 + index)
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if name.endswith("running_var"):
            tensor.abs_().add_(1)
    return [tuple(t.shape) for _, t in state], *behaviour(network, in_shape)[1:]


@pytest.mark.parametrize("in_shape", [(4, 4, 4), (6, 1, 1), (6, 2, 3)])
def test_canonical_forms_are_equal_exactly_where_the_networks_are(in_shape: Shape) -> None:
    of_form: dict[tuple[Block, ...], tuple[object, ...]] = {}
    by_behaviour: dict[str, tuple[Block, ...]] = {}
    possible = 0
    for block in dict.fromkeys(spellings()):
        try:
            shape = block.out_shape(in_shape)
        except SpecError:
            continue
        possible += 1
        chain = block.canonical(in_shape)
        own = seen((block,), in_shape)
        assert own[1][1:] == shape  # type: ignore[index]
        if chain not in of_form:
            of_form[chain] = seen(chain, in_shape)
            again, at = [], in_shape
            for simple in chain:
                again += simple.canonical(at)
                at = simple.out_shape(at)
            assert tuple(again) == chain
        assert own == of_form[chain], block
    for chain, what in of_form.items():
        other = by_behaviour.setdefault(repr(what), chain)
        assert other == chain, "one network, two canonical forms"
    assert possible > 150
    assert len(of_form) < possible


def inception(**given: object) -> Inception:
    zero = dict.fromkeys(("out1", "reduce3", "out3", "reduce5", "out5", "pool_proj"), 0)
    return Inception.from_json({**zero, **given})


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (inception(out1=8, pool="none"), (ConvNormActivation(out=8, kernel_size=1),)),
        (
            inception(reduce5=4, out5=8, stride=2, pool="none"),
            (
                ConvNormActivation(out=4, kernel_size=1),
                ConvNormActivation(out=8, kernel_size=5, stride=2),
            ),
        ),
        (
            inception(pool_proj=8),
            (MaxPool(kernel_size=3, stride=1), ConvNormActivation(out=8, kernel_size=1)),
        ),
        (inception(out1=8, reduce3=4, reduce5=2, kernel5=3), (inception(out1=8),)),
        (
            inception(out1=8, reduce5=4, out5=8, kernel5=3),
            (inception(out1=8, reduce3=4, out3=8),),
        ),
        (
            DenseBlock(layers=2, growth_rate=4),
            (DenseLayer(growth_rate=4), DenseLayer(growth_rate=4)),
        ),
        (
            Dense(layers=1, growth_rate=6, combine="add", out=8, stride=2),
            (
                DenseLayer(growth_rate=24, bottleneck=1, combine="add"),
                ConvNormActivation(out=8, kernel_size=1, order="norm_act_conv"),
                AvgPool(kernel_size=2, stride=2),
            ),
        ),
        (
            XceptionModule(out=12, layers=2, stride=2, first_activation=False, residual=False),
            (
                SeparableConv(out=12, activation="linear"),
                SeparableConv(out=12, order="act_conv_norm"),
                MaxPool(kernel_size=3, stride=2),
            ),
        ),
        (
            XceptionModule(out=8, grow="last", depthwise_activation="identity"),
            (XceptionModule(out=8),),
        ),
    ],
)
def test_canonical(block: Block, expected: tuple[Block, ...]) -> None:
    assert block.canonical((8, 4, 4)) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"op": "dense_layer", "growth_rate": 0}, "dense_layer.growth_rate: must be .* 1, got 0"),
        ({"op": "dense_layer", "growth_rate": 4, "bottleneck": -1}, "at least 0, got -1"),
        ({"op": "dense", "growth_rate": 4, "layers": 0, "out": 8}, "dense.layers: .* got 0"),
        ({"op": "dense_layer", "growth_rate": 4, "combine": "ad"}, "combine: expected .*got 'ad'"),
        ({"op": "transition", "out": 0}, "transition.out: must be at least 1, got 0"),
        ({"op": "xception", "out": 8, "kernel_size": 4}, "kernel_size: must be odd, got 4"),
        ({"op": "xception", "out": 8, "depthwise_activation": "rely"}, "did you mean 'relu'"),
        ({"op": "inception_a", "pool_features": 0}, "pool_features: must be at least 1, got 0"),
        ({"op": "inception_c", "channels_7x7": -8}, "channels_7x7: must be at least 1, got -8"),
        ({"op": "auxiliary_classifier", "out": 0}, "out: must be at least 1, got 0"),
        ({"op": "auxiliary_classifier", "out": 5, "kind": "vgg"}, "kind: expected .*got 'vgg'"),
    ],
)
def test_wrong_fields_are_errors(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        BLOCKS[str(fields["op"])].from_json(fields)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pool": "none"}, "inception: no branch left: out1, out3 and out5 are 0"),
        ({"pool": "none", "out1": 1, "pool_proj": 32}, "pool_proj: 32 channels of pool none"),
        ({"out1": -1, "out5": -2}, "2 problems.*\n.*out1: .* at least 0, got -1\n.*out5: .*-2"),
        ({"out1": 8, "kernel5": 1}, "kernel5: must be at least 3, got 1"),
        ({"out1": 8, "kernel5": 4}, "kernel5: must be odd, got 4"),
    ],
)
def test_wrong_inception_modules_are_errors(given: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        inception(**given)


@pytest.mark.parametrize(
    ("block", "in_shape", "message"),
    [
        (InceptionB(), (8, 2, 5), "kernel_size 3 is larger than the 2x5 feature map padded by 0"),
        (InceptionD(), (8, 1, 1), "stride 2 is larger than the 1x1"),
        (inception(out1=8, stride=3), (8, 2, 4), "stride 3 is larger than the 2x4"),
        (Dense(layers=1, growth_rate=4, out=8, stride=2), (8, 1, 1), "stride 2 is larger than"),
        (XceptionModule(out=8, stride=4), (8, 3, 3), "stride 4 is larger than the 3x3"),
        (DenseLayer(growth_rate=4), (8,), "needs a feature map"),
        (AuxiliaryClassifier(out=8), (8,), "needs a feature map"),
    ],
)
def test_impossible_shapes_name_the_numbers(block: Block, in_shape: Shape, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        block.out_shape(in_shape)


def test_branches_come_in_the_order_of_the_figures() -> None:
    x = torch.randn(2, 8, 5, 5)
    block = Inception(
        out1=1, reduce3=2, out3=3, reduce5=4, out5=5, pool_proj=6, norm="none", activation="linear"
    )
    module = block.build((8, 5, 5))
    weights = [p for p in module.parameters() if p.ndim == 4]
    assert [w.shape[0] for w in weights] == [1, 2, 3, 4, 5, 6]

    def conv(y: Tensor, index: int) -> Tensor:
        return conv2d(y, weights[index], biases[index], padding=weights[index].shape[-1] // 2)

    biases = [p for p in module.parameters() if p.ndim == 1]
    expected = [conv(x, 0), conv(conv(x, 1), 2), conv(conv(x, 3), 4)]
    expected.append(conv(max_pool2d(x, 3, stride=1, padding=1), 5))
    torch.testing.assert_close(module(x), torch.cat(expected, 1))

    expanded = InceptionE(activation="linear").build((8, 5, 5)).eval()
    w = {n.rpartition(".conv")[0]: p for n, p in expanded.named_parameters() if p.ndim == 4}
    bn = 1 / math.sqrt(1 + 1e-5)  # a fresh norm in evaluation
    inner = bn * conv2d(x, w["branch3.0"])
    wide = bn * conv2d(inner, w["branch3.1.wide.0"], padding=(0, 1))
    high = bn * conv2d(inner, w["branch3.1.high.0"], padding=(1, 0))
    out = expanded(x)
    assert [out.shape[1], wide.shape[1], high.shape[1]] == [2048, 384, 384]
    torch.testing.assert_close(out[:, 320:704], wide)
    torch.testing.assert_close(out[:, 704:1088], high)
    pooled = avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    torch.testing.assert_close(out[:, 1856:], bn * conv2d(pooled, w["branch_pool.1"]))


def test_dense_layers_append_and_their_twins_add() -> None:
    x = torch.randn(2, 8, 5, 5)
    bn = 1 / math.sqrt(1 + 1e-5)
    for combine in ("concat", "add"):
        layer = DenseLayer.from_json({"growth_rate": 3, "combine": combine})
        module = layer.build((8, 5, 5)).eval()
        one, three = (p for p in module.parameters() if p.ndim == 4)
        assert one.shape[0] == 12
        inside = conv2d(relu(bn * conv2d(relu(bn * x), one)), three, padding=1)
        expected = torch.cat([x, inside], 1) if combine == "concat" else x + inside
        torch.testing.assert_close(module(x.clone()), expected)


def test_xception_module_is_figure_five() -> None:
    x = torch.randn(2, 8, 5, 5)
    bn = 1 / math.sqrt(1 + 1e-5)
    module = XceptionModule(out=12, stride=2, grow="last").build((8, 5, 5)).eval()
    spatial, point, spatial2, point2, shortcut = (p for p in module.parameters() if p.ndim == 4)
    assert point.shape[:2] == (8, 8)
    inside = conv2d(conv2d(relu(x), spatial, padding=1, groups=8), point) * bn
    inside = conv2d(conv2d(relu(inside), spatial2, padding=1, groups=8), point2) * bn
    inside = max_pool2d(inside, 3, stride=2, padding=1)
    expected = inside + bn * conv2d(x, shortcut, stride=2)
    torch.testing.assert_close(module(x.clone()), expected)


@pytest.mark.parametrize(("kind", "weight"), [("googlenet", 0.3), ("inception_v3", 0.4)])
@pytest.mark.parametrize("side", [1, 17])
def test_auxiliary_classifiers_stand_aside(kind: str, weight: float, side: int) -> None:
    block = AuxiliaryClassifier.from_json({"out": 5, "kind": kind})
    module = block.build((8, side, side))
    x = torch.randn(2, 8, side, side)
    assert module.eval()(x) is x
    assert module.logits is None
    assert module.train()(x) is x
    assert module.logits.shape == (2, 5)  # type: ignore[union-attr]
    assert (module.weight, block.training_only) == (weight, True)
    cost = BlockTable().block(block, (8, side, side))
    trained = sum(p.numel() for p in module.parameters())
    assert cost == (0, 0, 0, trained)
