"""Costs: published numbers, torch's own counter, what must raise, and the file on disk."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasctl import blocktable
from nasctl.arch import Architecture, Block, Shape
from nasctl.blocktable import COUNTING, BlockCost, BlockTable, count_module
from nasctl.errors import EnvironmentProblemError, NasctlError, SpecError
from search_spaces.blocks import (
    BLOCKS,
    ConvNormActivation,
    DepthwiseSeparable,
    GlobalPoolLinear,
    InvertedResidual,
    MaxPool,
    ResidualBottleneck,
    Skip,
)
from search_spaces.blocks.shapes import make_divisible
from search_spaces.network import build
from search_spaces.staged import staged

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


def imagenet(*blocks: Block) -> Architecture:
    return Architecture(input_shape=(3, 224, 224), blocks=blocks, num_classes=1000)


def mobilenet_v2(width: float) -> Architecture:
    """MobileNetV2, table 2 (arXiv 1801.04381); below 1.0 the last convolution stays at 1,280."""
    chain: list[Block] = [
        ConvNormActivation(out=make_divisible(32 * width), stride=2, activation="relu6")
    ]
    for ratio, channels, depth, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        chain += [
            InvertedResidual(
                out=make_divisible(channels * width),
                stride=stride if j == 0 else 1,
                expand_ratio=ratio,
            )
            for j in range(depth)
        ]
    last = ConvNormActivation(out=1280, kernel_size=1, activation="relu6")
    return imagenet(*chain, last, GlobalPoolLinear(out=1000, dropout=0.2))


def mobilenet_v1() -> Architecture:
    """MobileNetV1, table 1 (arXiv 1704.04861)."""
    rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    rows += [(1024, 2), (1024, 1)]
    separable = [DepthwiseSeparable(out=out, stride=stride) for out, stride in rows]
    return imagenet(ConvNormActivation(out=32, stride=2), *separable, GlobalPoolLinear(out=1000))


def resnet50() -> Architecture:
    """ResNet-50, table 1 (arXiv 1512.03385), with the stride on the 3x3 convolution."""
    chain: list[Block] = [
        ConvNormActivation(out=64, kernel_size=7, stride=2),
        MaxPool(kernel_size=3, stride=2),
    ]
    for out, depth, stride in ((256, 3, 1), (512, 4, 2), (1024, 6, 2), (2048, 3, 2)):
        chain += [ResidualBottleneck(out=out, stride=stride if j == 0 else 1) for j in range(depth)]
    return imagenet(*chain, GlobalPoolLinear(out=1000))


@pytest.mark.parametrize(
    ("architecture", "params", "macs", "activations"),
    [
        # torchvision 0.29 (`num_params`, `_ops`): 3,504,872 and 0.301 G; slim's grid: 300 M
        (mobilenet_v2(1.0), 3_504_872, 300_774_272, 6_678_112),
        # slim's grid: 2.61 M without biases of the classifier, 209 M
        (mobilenet_v2(0.75), 2_636_424, 209_069_792, 5_855_304),
        # MobileNetV1, table 8: 4.2 M, 569 M
        (mobilenet_v1(), 4_231_976, 568_740_352, 5_042_688),
        # torchvision: 25,557,032 and 4.089 G; timm: 11.11 M activations
        (resnet50(), 25_557_032, 4_089_184_256, 11_113_984),
    ],
    ids=["mobilenet_v2 1.0", "mobilenet_v2 0.75", "mobilenet_v1", "resnet50"],
)
def test_published_costs(
    architecture: Architecture, params: int, macs: int, activations: int
) -> None:
    assert dict(BlockTable().price(architecture)) == {
        "params": params,
        "macs": macs,
        "activations": activations,
        "model_bytes": 4 * params,
    }


def small_family() -> Any:
    return staged(
        input_shape=(3, 12, 12),
        num_classes=4,
        stem={"channels": 8},
        stages=[{"channels": 16, "depth": [1, 2], "stride": 2}, {"channels": 24, "depth": [1, 2]}],
        block_type={
            "choices": ["inverted_residual", "depthwise_separable", "residual_bottleneck", "skip"],
            "scope": "block",
        },
        kernel_size={"choices": [3, 5], "scope": "block"},
        head={"channels": 32},
    )


def test_sums_are_those_of_the_whole_network_by_torchs_own_counter() -> None:
    family, table, rng = small_family(), BlockTable(), random.Random(0)
    for _ in range(12):
        _, architecture = family.sample(rng)
        network = build(architecture).eval()
        outputs: list[int] = []
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(
                    lambda _m, _i, out, seen=outputs: seen.append(out.numel())
                )
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            network(torch.zeros(1, *architecture.input_shape))
        cost = table.price(architecture)
        assert 2 * cost["macs"] == flops.get_total_flops()
        assert cost["params"] == sum(p.numel() for p in network.parameters())
        assert cost["activations"] == sum(outputs)


class Products(nn.Module):
    """The matrix products of attention."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ x.transpose(1, 2)).softmax(-1) @ x


@pytest.mark.parametrize(
    ("module", "in_shape", "macs", "activations"),
    [
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 4 * 25 * 6 * 9, 6 * 121),
        (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5), 9 * 6 * 2 * 9, 54),
        (nn.Linear(7, 3, bias=False), (7,), 21, 0),
        (nn.Sequential(nn.Linear(7, 3), nn.GELU(), nn.LayerNorm(3)), (5, 7), 105, 0),
        (Products(), (5, 8), 2 * 5 * 5 * 8, 0),
    ],
    ids=["transposed", "grouped", "linear", "sequence", "products"],
)
def test_single_layers(module: nn.Module, in_shape: Shape, macs: int, activations: int) -> None:
    cost = count_module(module.to("meta"), in_shape, name="layer")
    assert (cost.macs, cost.activations) == (macs, activations)


@dataclass(frozen=True, kw_only=True)
class Custom(Block):
    """A plugin's block."""

    op: ClassVar[str] = "custom"
    kind: str = "conv"

    def out_shape(self, in_shape: Shape) -> Shape:
        return in_shape

    def build(self, in_shape: Shape) -> nn.Module:
        class Fourier(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.fft.fft(x).real

        class Noise(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * torch.ones(x.shape[1], 1, 1) + torch.zeros_like(x)

        return {"fourier": Fourier, "noise": Noise}[self.kind]()


def test_an_unknown_layer_raises_and_names_operation_and_block() -> None:
    with pytest.raises(
        NasctlError, match=r'"kind":"fourier","op":"custom".*\(2, 4, 4\).*aten::.*fft'
    ):
        BlockTable().block(Custom(kind="fourier"), (2, 4, 4))


def test_tensors_made_on_the_way_are_free() -> None:
    assert BlockTable().block(Custom(kind="noise"), (2, 4, 4)) == (0, 0, 0, 0)


PAIRS: list[tuple[Block, Shape]] = [
    (Skip(out=8, stride=2), (4, 8, 8)),
    (DepthwiseSeparable(out=8), (4, 8, 8)),
]


def refuse(*_: object, name: str) -> BlockCost:
    raise AssertionError("counted again")


def test_the_file_saves_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "table.json"
    first = BlockTable(path)
    first.warm(PAIRS)
    monkeypatch.setattr(blocktable, "trace_module", refuse)
    second = BlockTable(path)
    assert [second.block(*p) for p in PAIRS] == [first.block(*p) for p in PAIRS]
    with pytest.raises(AssertionError, match="counted again"):
        second.block(PAIRS[0][0], (4, 6, 6))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "",
        lambda text: text.replace(f'"counting": {COUNTING}', '"counting": 0'),
        lambda text: json.dumps({"counting": COUNTING, "costs": {"x": [1]}}),
        lambda text: json.dumps({"counting": COUNTING, "costs": {"x": [1, 2, "3"]}}),
    ],
)
def test_a_damaged_or_outdated_file_is_counted_anew(
    tmp_path: Path, damage: Callable[[str], str]
) -> None:
    path = tmp_path / "table.json"
    BlockTable(path).warm(PAIRS)
    good = path.read_text()
    assert damage(good) != good
    path.write_text(damage(good))
    BlockTable(path).warm(PAIRS)
    assert json.loads(path.read_text()) == json.loads(good)


def test_two_tables_on_one_file_keep_each_others_entries(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    one, two = BlockTable(path), BlockTable(path)
    one.warm(PAIRS[:1])
    two.warm(PAIRS[1:])
    assert len(json.loads(path.read_text())["costs"]) == 2


def test_entries_are_bound_to_the_code_of_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    BlockTable(path).warm(PAIRS)
    monkeypatch.setattr(blocktable, "_code_fingerprint", lambda module: "changed")
    monkeypatch.setattr(blocktable, "trace_module", refuse)
    with pytest.raises(AssertionError, match="counted again"):
        BlockTable(path).block(*PAIRS[0])


def test_a_file_that_cannot_be_written_is_an_environment_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblemError, match=r"table\.json"):
        BlockTable(tmp_path / "file" / "table.json").warm(PAIRS)


def test_json_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    table = BlockTable()
    table.warm(PAIRS)
    data = json.loads(json.dumps(table.to_json()))
    monkeypatch.setattr(blocktable, "trace_module", refuse)
    again = BlockTable.from_json(data, BLOCKS)
    assert len(again) == len(PAIRS)
    assert [again.block(*p) for p in PAIRS] == [table.block(*p) for p in PAIRS]
    row = dict(data["blocks"][0], block={"op": "skyp", "out": 8})
    with pytest.raises(SpecError, match="did you mean 'skip'"):
        BlockTable.from_json({"blocks": [row]}, BLOCKS)


def test_another_builder_is_used() -> None:
    table = BlockTable(build=lambda block, shape: nn.Linear(3, 2))
    assert table.block(GlobalPoolLinear(out=9), (3,)) == (8, 6, 0, 8)


def test_price_is_the_same_for_an_equal_architecture() -> None:
    table = BlockTable()
    _, architecture = small_family().sample(random.Random(1))
    copy = dataclasses.replace(architecture)
    assert table.price(copy) == table.price(architecture)


def test_neither_counting_nor_training_loads_torchs_compiler() -> None:
    """It would cost every process 1.5 s of CPU."""
    code = (
        "import sys\n"
        "from nasctl.blocktable import BlockTable\n"
        "from nasctl.data import load_dataset\n"
        "from nasctl.recipe import Recipe\n"
        "from nasctl.train import train\n"
        "from search_spaces.blocks import GlobalPoolLinear, InvertedResidual, ResidualBottleneck\n"
        "from tests.small_network import network\n"
        "t = BlockTable()\n"
        "for kind in (InvertedResidual, ResidualBottleneck, GlobalPoolLinear):\n"
        "    t.block(kind(out=8), (8, 4, 4))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "digits = load_dataset('digits', {}).without_test()\n"
        "(epoch,) = train(network(), digits, Recipe(epochs=1, batch_size=256), 0)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"build": lambda self, shape: 1 // 0}, "its module fails: ZeroDivisionError"),
        ({"build": lambda self, shape: None}, "its module fails: AttributeError: .NoneType"),
        (
            {"out_shape": lambda self, shape: (9, 4, 4)},
            r"gives shape \(2, 4, 4\), out_shape says \(9, 4, 4\)",
        ),
    ],
)
def test_a_mistake_in_a_users_module_is_told(methods: dict[str, Any], message: str) -> None:
    kind = dataclasses.dataclass(frozen=True, kw_only=True)(type("Wrong", (Custom,), methods))
    with pytest.raises(SpecError, match=message):
        BlockTable().block(kind(kind="noise"), (2, 4, 4))
