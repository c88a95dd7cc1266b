"""`nasctl profile`: totals as published, fields against gradients, memory by hand, the text."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasctl.arch import Block, Shape
from nasctl.blocktable import BlockTable
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.latency import LatencySettings, LatencyTable, WholeLatency
from nasctl.latency_cache import pair_key
from nasctl.profile import find_target, list_networks, profile_network
from nasctl.profile.command import input_shape, show_list
from nasctl.profile.compare import comparison_text
from nasctl.profile.latency import Measured, Roof, measure, measure_roof
from nasctl.profile.receptive import sides
from nasctl.profile.table import grouped, profile_text
from search_spaces.blocks import (
    ConvNormActivation,
)
from search_spaces.network import build
from tests.profile_samples import of_blocks, profiled

torch.set_num_threads(1)


# Published: see docs/measurements and tests/test_blocktable.py. Fields: Araujo et al. 2019 for
# VGG-16 (212) and MobileNetV1 (315); ResNets by the recurrence, with the stride on the 3x3.
@pytest.mark.parametrize(
    ("name", "params", "macs", "activations", "field"),
    [
        ("mobilenet_v1", 4_231_976, 568_740_352, 5_042_688, 315),
        ("mobilenet_v2", 3_504_872, 300_774_272, 6_678_112, 491),
        ("resnet18", 11_689_512, 1_814_073_344, 2_483_712, 435),
        ("resnet50", 25_557_032, 4_089_184_256, 11_113_984, 427),
    ],
)
def test_totals_are_the_published_ones(
    name: str, params: int, macs: int, activations: int, field: int
) -> None:
    profile = profiled(name)
    totals = profile.totals
    assert (totals["params"], totals["macs"], totals["activations"]) == (params, macs, activations)
    assert totals["model_bytes"] == 4 * params
    assert (totals["model_bytes_fp16"], totals["model_bytes_int8"]) == (2 * params, params)
    assert sides(profile.blocks[-2].field) == (field, field)
    assert sides(profile.blocks[-1].field) == "all"


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet20_cifar"])
def test_blocks_sum_to_the_whole_network_by_other_counters(name: str) -> None:
    profile = profiled(name)
    architecture = profile.target.architecture
    network = build(architecture).eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network(torch.zeros(1, *architecture.input_shape))
    assert 2 * sum(b.macs for b in profile.blocks) == flops.get_total_flops()
    assert sum(b.params for b in profile.blocks) == sum(p.numel() for p in network.parameters())
    cost = BlockTable().price(architecture)
    assert {k: profile.totals[k] for k in cost} == dict(cost)


def test_json_has_every_block_and_its_place() -> None:
    data = profiled("mobilenet_v2", width=0.5, input_shape=(3, 96, 96), num_classes=7).to_json()
    assert data["network"] == "mobilenet_v2@0.5"
    assert (data["input_shape"], data["num_classes"]) == ([3, 96, 96], 7)
    assert set(data) == {"network", "arch_id", "input_shape", "num_classes", "totals", "blocks"}
    blocks = data["blocks"]
    assert [b["index"] for b in blocks] == list(range(20))
    assert all(a["out_shape"] == b["in_shape"] for a, b in itertools.pairwise(blocks))
    for name in ("params", "params_training", "macs", "activations", "moved_bytes"):
        assert sum(b[name] for b in blocks) == data["totals"][name]
    assert math.isclose(sum(b["macs_share"] for b in blocks), 1)
    assert math.isclose(sum(b["params_share"] for b in blocks), 1)
    assert (blocks[2]["kernel"], blocks[2]["stride"]) == ([3, 3], [2, 2])
    assert blocks[2]["receptive_field"] == [11, 11]
    assert blocks[-1]["receptive_field"] == "all"
    assert (blocks[-1]["kernel"], blocks[-1]["stride"]) == (None, None)


@dataclass(frozen=True, kw_only=True)
class SideHead(Block):
    """An auxiliary classifier of 4 x 10 weights and 10 biases."""

    op: ClassVar[str] = "side_head"
    training_only: ClassVar[bool] = True

    def out_shape(self, in_shape: Shape) -> Shape:
        return in_shape

    def build(self, in_shape: Shape) -> nn.Module:
        class Side(nn.Module):
            training_only = True

            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(in_shape[0], 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x

        return Side()


def test_an_auxiliary_classifier_costs_nothing_but_in_training() -> None:
    profile = of_blocks(ConvNormActivation(out=4), SideHead())
    side = profile.blocks[1]
    assert (side.params, side.params_training, side.macs) == (0, 50, 0)
    assert profile.totals["params_training"] == profile.totals["params"] + 50
    assert "in training" in profile_text(profile)
    assert "in training" not in profile_text(profiled("resnet20_cifar"))


def test_equal_blocks_in_a_row_are_one_line_with_their_sums() -> None:
    profile = profiled("resnet152")
    rows = grouped(profile.blocks)
    assert [len(r.members) for r in rows] == [1, 1, 1, 2, 1, 7, 1, 35, 1, 2, 1]
    assert sum(r.total("macs") for r in rows) == profile.totals["macs"]
    text = profile_text(profile, width=100)
    assert "residual_bottleneck ×35" in text
    assert len(text.splitlines()) < 50


@pytest.mark.parametrize("width", [72, 80, 100, 120])
@pytest.mark.parametrize("name", ["mobilenet_v3_large", "resnet50"])
def test_no_line_is_longer_than_the_terminal(name: str, width: int) -> None:
    profile = profiled(name)
    text = profile_text(profile, width=width)
    assert max(map(len, text.splitlines())) <= width
    other = profiled("mobilenet_v2")
    assert max(map(len, comparison_text(profile, other, width=width).splitlines())) <= width


def test_a_comparison_has_both_totals_and_every_stage() -> None:
    text = comparison_text(profiled("mobilenet_v1"), profiled("mobilenet_v2"), width=100)
    notes = text.index("ratio  the second")
    lines = {line.split("  ")[0]: line.split() for line in text[:notes].splitlines() if line}
    assert lines["parameters"] == ["parameters", "4,231,976", "3,504,872", "0.828"]
    assert lines["MACs"][1:3] == ["568,740,352", "300,774,272"]
    assert lines["7×7"][1:3] == ["2", "1024"]
    assert lines["7×7"][-8:-6] == ["5", "1280"]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("mobilenet_v4", {}, "unknown network 'mobilenet_v4'; did you mean 'mobilenet_v"),
        ("resnet18", {"width": 0.5}, "width 0.5: resnet18 has no width multiplier"),
        ("resnet18@0.5", {}, "width 0.5: resnet18 has no width multiplier"),
        ("mobilenet_v2@wide", {}, "mobilenet_v2@wide: expected NAME@WIDTH"),
        ("mobilenet_v2@0.5", {"width": 0.5}, "--width 0.5: mobilenet_v2@0.5 says a width already"),
        ("resnet18", {"input_shape": (3, 1, 1)}, "resnet18 on 3x1x1 input: block 0"),
        ("runs/x:12", {"num_classes": 3}, "--classes: runs/x:12 is a network of a run, as it is"),
    ],
)
def test_a_network_that_cannot_be(text: str, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_target(text, **settings)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblemError, match="no run here"):
        find_target(f"{tmp_path / 'nothing'}:abc")


@pytest.mark.parametrize(
    "text", ["3,224", "224", "a,b,c", "3,0,4", "3,-1,4", "3,4,5,6", "", "3;4;5"]
)
def test_an_input_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--input .*: expected channels,height,width"):
        input_shape(text)


def test_an_input() -> None:
    assert input_shape("3, 96,64") == (3, 96, 64)


def test_the_list_names_what_exists() -> None:
    file = io.StringIO()
    show_list(file, as_json=False)
    names = [line.split()[0] for line in file.getvalue().splitlines()]
    assert names == ["network", *(n["name"] for n in list_networks())]
    assert {"mobilenet_v2", "resnet50", "resnet20_cifar"} <= set(names)


@pytest.mark.parametrize(
    ("flops", "moved", "ms", "expected"),
    [
        (1000, 100, 1.0, ("compute", 0.1)),  # 10 FLOPs per byte, the ridge is at 5
        (100, 100, 0.5, ("memory", 0.1)),
        (0, 100, 0.05, ("memory", 1.0)),
    ],
)
def test_the_roofline(flops: int, moved: int, ms: float, expected: tuple[str, float]) -> None:
    roof = Roof(flops_per_s=1e7, bytes_per_s=2e6, threads=1)
    assert roof.ridge == 5
    bound, attained = roof.judge(flops, moved, ms)
    assert bound == expected[0]
    assert attained == pytest.approx(expected[1])


def test_the_limits_of_this_machine_are_measured_with_the_threads_given() -> None:
    before = torch.get_num_threads()
    roof = measure_roof(1)
    assert torch.get_num_threads() == before
    assert 1e9 < roof.flops_per_s < 1e13
    assert 1e8 < roof.bytes_per_s < 1e12


def test_latency_in_text_and_json() -> None:
    target = find_target("resnet20_cifar")
    pairs = {pair_key(*p) for p in target.architecture.placed()}
    table = LatencyTable(
        device="a board",
        runtime="onnxruntime 1",
        settings={"batch": 1, "threads": 1, "dtype": "float32"},
        canary_ms=0.2,
        drift=(1.0, 1.0),
        blocks=dict.fromkeys(pairs, 0.5),
        correction={},
    )
    whole = WholeLatency(
        p50_ms=4.25, p90_ms=5.0, interval=(4.0, 4.5), p90_interval=(4.9, 5.1), n=64, rounds=16
    )
    roof = Roof(flops_per_s=1e10, bytes_per_s=1e9, threads=1)
    profile = profile_network(target, Measured(table=table, whole=whole, roof=roof))
    data = profile.to_json()
    assert data["totals"]["latency_ms"] == data["latency"]["whole"]["p50_ms"] == 4.25
    assert [b["latency_ms"] for b in data["blocks"]] == [0.5] * 11
    second = data["blocks"][1]
    assert second["bound"] == ("compute" if second["arithmetic_intensity"] > 10 else "memory")
    assert second["attained"] == pytest.approx(2 * second["macs"] / 1e10 / 0.5e-3)
    text = profile_text(profile, width=100)
    assert "latency      4.25 ms (95 %: 4.00 – 4.50), p90 5.00 ms; blocks alone 5.50 ms" in text
    assert "10.0 GFLOP/s" in text
    assert "1.00 GB/s" in text
    assert max(map(len, profile_text(profile, width=80).splitlines())) <= 80
    assert "4.25" in comparison_text(profile, profile, width=100)


def test_latency_is_measured_by_the_protocol_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASCTL_CACHE", str(tmp_path))
    target = of_blocks(ConvNormActivation(out=4), shape=(3, 8, 8)).target
    settings = LatencySettings(runtime="torch", calls=1, rounds=16, budget_s=0.5)
    said: list[str] = []
    (found,) = measure([target.architecture], settings=settings, progress=said.append)
    assert (tmp_path / "latency.json").is_file()
    blocks = [found.table.block_ms(*p) for p in target.architecture.placed()]
    assert all(0 < ms < 100 for ms in blocks)
    assert 0 < found.whole.p50_ms < 100
    assert any(text.startswith("timing 2 blocks") for text in said)
