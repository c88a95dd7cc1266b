"""ResNets and MobileNets of the literature, exact to the last parameter; and that they train."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasctl.arch import Architecture, Block, Shape
from nasctl.blocktable import BlockTable
from nasctl.errors import SpecError
from search_spaces.blocks import (
    BLOCKS,
    ConvNormActivation,
    ExpansionResidual,
    GlobalPoolLinear,
    GlobalPoolMlp,
    InvertedResidual,
    ResidualBasic,
    ResidualBottleneck,
)
from search_spaces.blocks.residual import ShortcutType
from search_spaces.network import build, initialise
from search_spaces.reference import NETWORKS, reference_network
from tests.test_blocks import behaviour, built

torch.set_num_threads(1)

TABLE = BlockTable()

# params, MACs, conv activations; None where nothing exact is published.
PUBLISHED: dict[tuple[str, float], tuple[int, int | None, int | None]] = {
    # torchvision 0.29: `num_params`; MACs and activations agree with pycls and timm
    ("resnet18", 1): (11_689_512, 1_814_073_344, 2_483_712),
    ("resnet34", 1): (21_797_672, None, None),
    ("resnet50", 1): (25_557_032, 4_089_184_256, 11_113_984),
    ("resnet101", 1): (44_549_160, None, None),
    ("resnet152", 1): (60_192_808, None, None),
    # pycls R-56: 853,018; the paper's table 6 prints 0.27, 0.46, 0.66, 0.85 and 1.7 M
    ("resnet20_cifar", 1): (269_722, None, None),
    ("resnet32_cifar", 1): (464_154, None, None),
    ("resnet44_cifar", 1): (658_586, None, None),
    ("resnet56_cifar", 1): (853_018, None, None),
    ("resnet110_cifar", 1): (1_727_962, None, None),
    # MobileNetV1, tables 4, 6 and 8: 569, 325, 149 and 41 M; 4.2, 2.6, 1.3 and 0.5 M
    ("mobilenet_v1", 1): (4_231_976, 568_740_352, 5_042_688),
    ("mobilenet_v1", 0.75): (2_585_560, 325_400_448, 3_782_016),
    ("mobilenet_v1", 0.5): (1_331_592, 149_497_088, None),
    ("mobilenet_v1", 0.25): (470_072, 41_030_272, None),
    # "Conv MobileNet", table 4: 4,866 M, 29.3 M
    ("mobilenet_v1_conv", 1): (29_294_088, 4_867_293_184, 3_110_912),
    # torchvision 3,504,872; slim's grid: 300, 209, 97, 59 M; 1.4: 582 M and really 6,108,776
    ("mobilenet_v2", 1): (3_504_872, 300_774_272, 6_678_112),
    ("mobilenet_v2", 0.75): (2_636_424, 209_069_792, 5_855_304),
    ("mobilenet_v2", 0.5): (1_968_680, 97_131_840, None),
    ("mobilenet_v2", 0.35): (1_677_128, 59_285_808, None),
    ("mobilenet_v2", 1.4): (6_108_776, 582_195_824, None),
    # torchvision 5,483,032 and 2,542,856; 0.217 and 0.057 G
    ("mobilenet_v3_large", 1): (5_483_032, 216_589_760, 4_399_808),
    ("mobilenet_v3_small", 1): (2_542_856, 56_510_400, None),
}


@pytest.mark.parametrize(("name", "width"), PUBLISHED, ids=str)
def test_published_costs(name: str, width: float) -> None:
    cost = TABLE.price(reference_network(name, width=width))
    params, macs, activations = PUBLISHED[name, width]
    assert cost["params"] == params
    assert macs is None or cost["macs"] == macs
    assert activations is None or cost["activations"] == activations


@pytest.mark.parametrize(
    ("name", "giga"), [("resnet34", 3.664), ("resnet101", 7.801), ("resnet152", 11.514)]
)
def test_rounded_macs_of_torchvision(name: str, giga: float) -> None:
    assert round(TABLE.price(reference_network(name))["macs"] / 1e9, 3) == giga


def test_resolution_scales_the_macs_of_v1_as_published() -> None:
    """Table 7: 569, 418, 290 and 186 M at 224, 192, 160 and 128 pixels; params stay."""
    for side, millions in ((224, 569), (192, 418), (160, 290), (128, 186)):
        cost = TABLE.price(reference_network("mobilenet_v1", input_shape=(3, side, side)))
        assert abs(cost["macs"] / 1e6 - millions) < 1  # some are printed rounded down
        assert cost["params"] == 4_231_976


def test_a_plain_twin_is_the_same_network_without_shortcuts() -> None:
    """It lacks the projections only: with shortcut A nothing, with B three strided 1x1 conv-BN."""
    for depth in (20, 32, 44, 56, 110):
        plain, residual = (
            TABLE.price(reference_network(f"{kind}{depth}_cifar")) for kind in ("plain", "resnet")
        )
        assert plain == residual
    projections = sum(a * b + 2 * b for a, b in ((64, 128), (128, 256), (256, 512)))
    for depth in (18, 34):
        plain, residual = (
            TABLE.price(reference_network(f"{kind}{depth}")) for kind in ("plain", "resnet")
        )
        assert residual["params"] - plain["params"] == projections
    blocks = reference_network("plain20_cifar").blocks
    assert all(isinstance(b, ConvNormActivation | GlobalPoolLinear) for b in blocks)


def test_stride_on_the_first_convolution_costs_less() -> None:
    """The paper's 3.8 G for ResNet-50 has the stride on the 1x1; the parameters are the same."""
    a = reference_network("resnet50")
    blocks = tuple(
        dataclasses.replace(b, stride_at="reduce") if isinstance(b, ResidualBottleneck) else b
        for b in a.blocks
    )
    early = TABLE.price(dataclasses.replace(a, blocks=blocks))
    assert early["params"] == 25_557_032
    assert round(early["macs"] / 1e9, 1) == 3.9  # 3.86; printed as 3.8


@pytest.mark.parametrize("name", [
    "resnet18", "resnet50", "resnet20_cifar", "plain18", "mobilenet_v1", "mobilenet_v2",
    "mobilenet_v3_large", "mobilenet_v3_small",
])  # fmt: skip
def test_torchs_own_counter_agrees(name: str) -> None:
    a = reference_network(name, input_shape=(3, 64, 64), num_classes=7)
    with torch.device("meta"):
        module = build(a).eval()
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            module(torch.empty(1, 3, 64, 64))
    cost = TABLE.price(a)
    assert flops.get_total_flops() == 2 * cost["macs"]
    assert sum(p.numel() for p in module.parameters()) == cost["params"]


def pictures(shape: Shape, n: int = 24) -> tuple[Tensor, Tensor]:
    """Digits, resized and repeated to the channels."""
    data = load_digits()
    images = torch.tensor(data.images[:n], dtype=torch.float32)[:, None] / 8 - 1
    resized = nn.functional.interpolate(images, size=shape[1:], mode="bilinear")
    return resized.repeat(1, shape[0], 1, 1), torch.tensor(data.target[:n])


@pytest.mark.parametrize("name", [
    "resnet18", "resnet50", "resnet110_cifar", "plain20_cifar", "mobilenet_v1", "mobilenet_v1_conv",
    "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
])  # fmt: skip
def test_one_step_lowers_the_loss(name: str) -> None:
    width = 0.25 if NETWORKS[name].scalable else 1
    shape = (3, 32, 32)
    a = reference_network(name, input_shape=shape, num_classes=10, width=width)
    module = build(a)
    initialise(module, a, 0)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    x, y = pictures(shape)
    module.train()
    before = nn.functional.cross_entropy(module(x), y)
    before.backward()  # type: ignore[no-untyped-call]  # torch's own lacks types
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert len(gradients) == len(list(module.parameters()))
    # So small a step that a straight line says by how much the loss falls: by 2 %.
    step = 0.02 * before.item() / sum(float((g * g).sum()) for g in gradients)
    with torch.no_grad():
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.sub_(step * gradient)
        after = nn.functional.cross_entropy(module(x), y)
    assert after.item() < before.item()


@pytest.mark.parametrize("name", NETWORKS)
def test_names_json_and_ids(name: str) -> None:
    a = reference_network(name)
    again = Architecture.from_json(json.loads(json.dumps(a.to_json())), BLOCKS, opaque=False)
    assert (again, again.id) == (a, a.id)
    assert a.num_classes == NETWORKS[name].num_classes
    assert NETWORKS[name].source


def test_all_networks_differ() -> None:
    assert len({reference_network(name).id for name in NETWORKS}) == len(NETWORKS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet51"}, "unknown network 'resnet51'; did you mean 'resnet"),
        ({"name": "resnet50", "width": 0.5}, "width 0.5: resnet50 has no width multiplier; these"),
        ({"name": "mobilenet_v2", "width": 0}, "width: expected a number above 0"),
        (
            {"name": "resnet50", "input_shape": (1, 8, 8)},
            r"resnet50 on 1x8x8 input: block 9 \(residual_bottleneck\) on input \(512, 1, 1\)",
        ),
        ({"name": "mobilenet_v2", "input_shape": (3,)}, "needs a feature map"),
        ({"name": "vgg11", "input_shape": (3, 9999, 9)}, "input 3x9999x9: expected at most 65536x"),
        ({"name": "vgg11", "num_classes": 10**9}, "classes: expected at most 65,536, got 10000"),
    ],
)
def test_what_cannot_be_is_said(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        reference_network(**arguments)  # type: ignore[arg-type]


# -- the blocks ----------------------------------------------------------------------------------


def variants() -> list[Block]:
    shortcuts: tuple[ShortcutType, ...] = ("A", "B", "C", "none")
    found: list[Block] = []
    for shortcut in shortcuts:
        for out, stride in ((8, 1), (8, 2), (16, 1), (16, 2)):
            found.append(ResidualBasic(out=out, stride=stride, shortcut=shortcut))
            found += [
                ResidualBottleneck(
                    out=out, stride=stride, shortcut=shortcut, groups=groups, stride_at=at
                )
                for groups in (1, 2)
                for at in ("spatial", "reduce")
            ]
    for se_ratio in (0, 0.25, 0.26, 1):
        found.append(InvertedResidual(out=8, expand_ratio=2, se_ratio=se_ratio))
        found.append(InvertedResidual(out=8, expand_ratio=1, se_ratio=se_ratio, residual=False))
    for residual in (True, False):
        found += [
            ExpansionResidual(out=out, bottleneck=4, stride=stride, residual=residual)
            for out in (8, 16)
            for stride in (1, 2)
        ]
    return found


def test_canonical_forms_are_equal_exactly_where_the_networks_are() -> None:
    shape = (8, 4, 4)
    forms: dict[tuple[Block, ...], tuple[object, ...]] = {}
    for block in variants():
        seen = behaviour(built((block,), shape), shape)
        chain = block.canonical(shape)
        if len(chain) == 1:  # a chain has other names for the same layers
            assert behaviour(built(chain, shape), shape) == seen
            assert chain[0].canonical(shape) == chain
        assert forms.setdefault(chain, seen) == seen
    seen_twice = [s for s in forms.values() if list(forms.values()).count(s) > 1]
    assert not seen_twice


@pytest.mark.parametrize("block", [
    ResidualBasic(out=16, stride=2, shortcut="none"),
    ResidualBottleneck(out=16, stride=2, shortcut="none", stride_at="reduce", groups=2),
    ExpansionResidual(out=16, bottleneck=4, stride=2),
])  # fmt: skip
def test_a_chain_computes_what_its_block_does(block: Block) -> None:
    shape = (8, 4, 4)
    one, chain = block.build(shape), nn.Sequential()
    canonical, at = block.canonical(shape), shape
    assert len(canonical) > 1
    for part in canonical:
        chain.append(part.build(at))
        at = part.out_shape(at)
    values = list(one.state_dict().values())
    chain.load_state_dict(dict(zip(chain.state_dict(), values, strict=True)))
    x = torch.randn(2, *shape)
    torch.testing.assert_close(chain.eval()(x), one.eval()(x))


def test_shortcut_a_pads_with_zeros() -> None:
    block = ResidualBasic(out=12, stride=2, shortcut="A").build((8, 4, 4)).eval()
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    x = torch.rand(1, 8, 4, 4)
    out = block(x)
    assert torch.equal(out[:, :8], x[:, :, ::2, ::2])
    assert not out[:, 8:].any()
    with pytest.raises(SpecError, match="cannot go from 8 to 4"):
        ResidualBasic(out=4, shortcut="A").out_shape((8, 4, 4))


def test_mobilenet_v2_cut_at_its_expansions_has_the_same_layers() -> None:
    """Figure 6b's variant moves the shortcuts, not the layers."""

    def network(*blocks: Block) -> Architecture:
        head = (GlobalPoolLinear(out=10),)
        return Architecture(input_shape=(16, 8, 8), blocks=blocks + head, num_classes=10)

    usual = network(*[InvertedResidual(out=16)] * 3)
    cut = network(
        ConvNormActivation(out=96, kernel_size=1, activation="relu6"),
        *[ExpansionResidual(out=96, bottleneck=16)] * 2,
        InvertedResidual(out=16, expand_ratio=1),
    )
    assert TABLE.price(usual) == TABLE.price(cut)
    assert usual.id != cut.id


def test_squeeze_excite_gates_channels() -> None:
    """With a gate of hard_sigmoid(3) = 1 the block is the one without squeeze-and-excite."""
    shape = (8, 4, 4)
    gated = InvertedResidual(out=8, expand_ratio=2, se_ratio=0.5).build(shape).eval()
    plain = InvertedResidual(out=8, expand_ratio=2).build(shape).eval()
    state = gated.state_dict()
    plain.load_state_dict({k: v for k, v in state.items() if "squeeze_excite" not in k})
    for name, value in gated.named_parameters():
        if "excite.excite" in name:
            nn.init.constant_(value, 3.0 if name.endswith("bias") else 0.0)
    x = torch.randn(2, *shape)
    torch.testing.assert_close(gated(x), plain(x))
    for name, value in gated.named_parameters():
        if name.endswith("excite.excite.bias"):
            nn.init.constant_(value, -3.0)  # a closed gate: nothing is left to project
    project = gated.get_submodule("pointwise")
    torch.testing.assert_close(gated(x), x + project(torch.zeros(2, 16, 4, 4)))
    assert sum("squeeze_excite" in name for name in state) == 4


def test_mobilenet_v3s_head() -> None:
    head = GlobalPoolMlp(out=5, hidden=7, dropout=0.5).build((3, 2, 2))
    names = [type(m).__name__ for m in head.children()]
    assert names == ["AdaptiveAvgPool2d", "Flatten", "Linear", "Hardswish", "Dropout", "Linear"]
    with pytest.raises(SpecError, match=r"dropout: must be in \[0, 1\)"):
        GlobalPoolMlp(out=5, hidden=7, dropout=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResidualBottleneck(out=16, groups=3), "3 does not divide the 4 inner channels"),
        (lambda: ResidualBottleneck(out=16, stride_at="late"), "stride_at: expected .*'late'"),
        (lambda: ResidualBasic(out=16, shortcut="D"), "shortcut: expected .*'D'"),
        (lambda: InvertedResidual(out=16, se_ratio=1.5), "se_ratio: expected 0 to 1, got 1.5"),
        (lambda: ExpansionResidual(out=16, bottleneck=0), "bottleneck: must be at least 1, got 0"),
        (lambda: ConvNormActivation(out=8, padding=-1), "padding: must be at least 0, got -1"),
    ],
)  # fmt: skip
def test_wrong_values_are_errors(make: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()  # type: ignore[operator]
