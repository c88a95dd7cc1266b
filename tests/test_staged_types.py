"""Block types of a staged space: every one of them, whole alternatives, and blocks of users."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from nasctl.arch import Architecture, Block, Shape
from nasctl.errors import ConfigError
from nasctl.space import Family
from search_spaces.blocks import (
    ConvNormActivation,
    DenseLayer,
    DepthwiseSeparable,
    Inception,
    InvertedResidual,
)
from search_spaces.network import build
from search_spaces.staged import staged
from search_spaces.staged_options import DEFAULTS
from search_spaces.staged_types import BLOCK_TYPES, DIMENSIONS, block_types

PAGE = Path(__file__).parent.parent / "docs" / "block_types.md"

OTHER: dict[str, list[Any]] = {
    "expand_ratio": [2, 3],
    "kernel_size": [3, 5],
    "bottleneck_activation": ["linear", "relu"],
    "activation": ["relu", "gelu"],
    "se_ratio": [0, 0.5],
    "residual": [True, False],
    "shortcut": ["A", "B", "C", "none"],
    "reduction": [2, 4],
    "cardinality": [1, 2],
    "groups": [1, 4],
    "reduce": [True, False],
    "growth_rate": [4, 8],
    "layers": [1, 2],
    "combine": ["concat", "add"],
    "depthwise_activation": ["linear", "relu"],
}
"""Two values of every dimension: each must be another network."""


def family(**options: Any) -> Family:
    return staged(input_shape=(3, 16, 16), num_classes=4, **options)


def one_type(block_type: str, **dimensions: Any) -> Family:
    stages = [{"channels": 32}, {"channels": 32, "depth": 2, "stride": 2}]
    return family(stem={"channels": 32}, stages=stages, block_type=block_type, **dimensions)


def test_the_page_of_block_types_is_complete() -> None:
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and line.count("|") == 4:
            name, _, dimensions = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name] = dimensions
    for name, kind in BLOCK_TYPES.items():
        shown = [f"{d} {str(v).lower() if isinstance(v, bool) else v}"
                 for d, v in kind.dimensions.items()]  # fmt: skip
        assert rows[name] == (", ".join(shown) or "none")
    for dimension in DIMENSIONS[2:]:
        assert f"`{dimension}`" in PAGE.read_text(encoding="utf-8")


def test_every_dimension_belongs_to_a_type_and_is_tried_here() -> None:
    own = {name for kind in BLOCK_TYPES.values() for name in kind.dimensions}
    assert own | set(DEFAULTS) == set(DIMENSIONS)
    assert own == set(OTHER)


@pytest.mark.parametrize("block_type", BLOCK_TYPES)
def test_a_type_strides_widens_and_runs(block_type: str) -> None:
    space = family(
        stem={"channels": 8},
        stages=[{"channels": 24, "stride": 2}, {"channels": 24}, {"channels": 32, "stride": 2}],
        block_type=block_type,
    )
    a = space.decode({})
    with torch.device("meta"):
        out = build(a).eval()(torch.empty(2, 3, 16, 16))
    assert out.shape == (2, 4)
    assert space.blocks is not None
    assert set(space.blocks()) == set(a.placed())
    assert a.shapes[-2][1:] == (4, 4)


@pytest.mark.parametrize(
    ("block_type", "dimension"),
    [(name, dimension) for name, kind in BLOCK_TYPES.items() for dimension in kind.dimensions],
)
def test_every_dimension_of_a_type_makes_a_difference(block_type: str, dimension: str) -> None:
    space = one_type(block_type, **{dimension: {"choices": OTHER[dimension], "scope": "network"}})
    assert [d.name for d in space.space.decisions] == [dimension]
    ids = {space.decode(c).id for c in space.space.enumerate()}
    assert len(ids) == len(OTHER[dimension])


def test_dimensions_are_active_only_where_their_type_is_chosen() -> None:
    types = ["dense", "residual_bottleneck", "skip"]
    space = family(
        stages=[{"channels": 16}],
        block_type=types,
        growth_rate=[4, 8],
        reduction=[2, 4],
        cardinality=[1, 2],
    )
    names = {t: set() for t in types}
    for choices in space.space.enumerate():
        names[str(choices["stage1.block_type"])] |= choices.keys() - {"stage1.block_type"}
    assert names == {
        "dense": {"stage1.growth_rate"},
        "residual_bottleneck": {"stage1.reduction", "stage1.cardinality"},
        "skip": set(),
    }


def test_stages_mix_types() -> None:
    """As the literature's lineage: each type of the list may stand in each stage."""
    types = ["inverted_residual", "depthwise_separable", "residual_basic", "residual_bottleneck",
             "dense", "inception", "xception", "vgg"]  # fmt: skip
    space = family(stages=[{"channels": 16}, {"channels": 32, "stride": 2}], block_type=types)
    assert space.space.count() == 64
    assert len({space.decode(c).id for c in space.space.enumerate()}) == 64


def test_whole_alternatives_settle_their_dimensions() -> None:
    space = family(
        stages=[{"channels": 16}],
        block_type=[
            "depthwise_separable",
            {"block_type": "inverted_residual", "kernel_size": 5, "expand_ratio": 3},
            {"block_type": "inverted_residual", "expand_ratio": 6},
        ],
        kernel_size=[3, 7],
    )
    label = "inverted_residual(expand_ratio=3,kernel_size=5)"
    (first,) = [d for d in space.space.decisions if d.name == "stage1.block_type"]
    assert first.choices == (
        "depthwise_separable", label, "inverted_residual(expand_ratio=6)",
    )  # fmt: skip
    assert space.space.count() == 2 + 1 + 2
    a = space.decode({"stage1.block_type": label})
    assert a.blocks[1] == InvertedResidual(out=16, kernel_size=5, expand_ratio=3)
    b = space.decode({"stage1.block_type": "inverted_residual(expand_ratio=6)",
                      "stage1.kernel_size": 7})  # fmt: skip
    assert b.blocks[1] == InvertedResidual(out=16, kernel_size=7, expand_ratio=6)


def test_one_alternative_may_be_fixed() -> None:
    space = family(
        stages=[{"channels": 16}], block_type={"block_type": "dense", "layers": 2, "growth_rate": 4}
    )
    blocks = space.decode({}).blocks[1:-1]
    last = ConvNormActivation(out=16, kernel_size=1, order="norm_act_conv")  # its transition
    assert blocks == (DenseLayer(growth_rate=4), DenseLayer(growth_rate=4), last)


def test_inception_shares_its_channels_as_googlenet_does() -> None:
    a = family(stages=[{"channels": 256}], block_type="inception").decode({})
    assert a.blocks[1] == Inception(
        out1=64, reduce3=96, out3=128, reduce5=16, out5=32, pool_proj=32
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"block_type": {"block_type": "vgg", "expand_ratio": 3}},
            "block_type.expand_ratio: unknown dimension of vgg 'expand_ratio'.*"
            r"known: kernel_size, layers, activation",
        ),
        (
            {"block_type": [{"block_type": "vgg", "layers": 0}, "skip"]},
            "block_type.0.layers: expected a whole number, 1 to 64; got 0",
        ),
        ({"block_type": [{"kernel_size": 3}]}, "block_type.0.block_type: missing"),
        ({"block_type": ["vgg", {"block_type": "vgg"}]}, "block_type: 'vgg' is given twice"),
        ({"block_type": ["vgk"]}, "block_type.0: unknown block type 'vgk'; did you mean 'vgg'"),
        ({"block_type": "dense", "growth_rate": 0}, "growth_rate: expected a whole number, 1 to"),
        ({"shortcut": ["A", "D"]}, "shortcut.1: unknown shortcut 'D'"),
        ({"residual": "yes"}, "residual: expected true or false, got 'yes'"),
        ({"growth_rat": 8}, "growth_rat: unknown option 'growth_rat'; did you mean 'growth_rate'"),
        ({"stem": {"channels": 8, "pool": 99}}, "stem.pool: stride 99 is larger than the 16x16"),
        (
            {"block_type": "conv", "groups": 3},
            r"^groups: conv cannot stand in stage1 on a 8x16x16 map: .*groups: 3 does not divide",
        ),
        (
            {"block_type": "residual_bottleneck", "cardinality": [1, 3]},
            "^cardinality: residual_bottleneck cannot .* 3 does not divide the 8 inner channels",
        ),
        (
            {
                "block_type": "residual_bottleneck",
                "stages": [{"channels": 16, "cardinality": 3}],
            },
            r"^stages\.0\.cardinality: residual_bottleneck cannot stand in stage1",
        ),
        (
            {"block_type": "residual_basic", "shortcut": "A", "stem": {"channels": 64}},
            "^shortcut: residual_basic cannot stand .* cannot go from 64 to 16",
        ),
    ],
)
def test_what_cannot_be_is_said_with_its_key(options: dict[str, Any], message: str) -> None:
    base = {"stem": {"channels": 8}, "stages": [{"channels": 16}]}
    with pytest.raises(ConfigError, match=message):
        family(**{**base, **options})


def test_a_stage_that_sets_what_its_types_do_not_have_is_an_error() -> None:
    stages = [{"channels": 16, "block_type": ["vgg", "dense"], "expand_ratio": [3, 6]}]
    with pytest.raises(
        ConfigError,
        match=r"stages.0.expand_ratio: no block type of this stage has it \(vgg, dense\); their "
        "dimensions: kernel_size, activation, growth_rate, layers, combine",
    ):
        family(stages=stages)


# -- blocks of users -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shuffle(Block):
    """A user's block: fits into a stage; `mode` and `power` are its dimensions."""

    op: ClassVar[str] = "shuffle"
    out: int
    stride: int = 1
    mode: str = "a"
    power: int = 1
    kernel_size: int = 3

    def out_shape(self, in_shape: Shape) -> Shape:
        return (self.out, *(-(-n // self.stride) for n in in_shape[1:]))

    def build(self, in_shape: Shape) -> torch.nn.Module:
        return ConvNormActivation(out=self.out, stride=self.stride).build(in_shape)


@dataclass(frozen=True, kw_only=True)
class NoStage(Block):
    op: ClassVar[str] = "no_stage"
    width: int

    def out_shape(self, in_shape: Shape) -> Shape:
        return in_shape


def test_a_users_block_is_a_type_with_its_fields_as_dimensions() -> None:
    space = family(
        stages=[{"channels": 16}],
        user_blocks={"shuffle": Shuffle, "no_stage": NoStage},
        block_type=["shuffle", "depthwise_separable"],
        mode=["a", "b"],
        power=[1, 2, 3],
        kernel_size=[3, 5],
    )
    assert space.space.count() == 2 * 3 * 2 + 2
    a = space.decode({"stage1.block_type": "shuffle", "stage1.kernel_size": 5,
                      "stage1.mode": "b", "stage1.power": 2})  # fmt: skip
    assert a.blocks[1] == Shuffle(out=16, mode="b", power=2, kernel_size=5)
    _, other = space.sample(random.Random(3))
    assert isinstance(other, Architecture)
    assert "no_stage" not in block_types({"no_stage": NoStage}).kinds


def wrong(**methods: Any) -> Any:
    """A user's block with a mistake."""
    return dataclass(frozen=True, kw_only=True)(type("Wrong", (Shuffle,), methods))


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"out_shape": lambda self, shape: 1 // 0}, "of Wrong failed: ZeroDivisionError"),
        ({"out_shape": lambda self, shape: None}, "out_shape of Wrong gave None, expected"),
        ({"canonical": lambda self, shape: None}, "canonical of Wrong failed: TypeError"),
        (
            {"canonical": lambda self, shape: ()},
            r"gives blocks that end in shape \(16, 16, 16\), but its out_shape says \(24, 8, 8\)",
        ),
    ],
)
def test_a_mistake_in_a_users_block_is_told(methods: dict[str, Any], message: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^stages\.0: shuffle cannot stand in stage1.*" + message
    ):
        family(
            stem={"channels": 16},
            stages=[{"channels": 24, "stride": 2}],
            user_blocks={"shuffle": wrong(**methods)},
            block_type="shuffle",
        )


def test_a_users_dimension_is_checked_by_its_kind() -> None:
    options: dict[str, Any] = {
        "stages": [{"channels": 16}],
        "user_blocks": {"shuffle": Shuffle},
        "block_type": "shuffle",
    }
    with pytest.raises(ConfigError, match="mode: expected a text, got 3"):
        family(**options, mode=3)
    with pytest.raises(
        ConfigError, match=r"power.0: expected a whole number, 0 to 1000000; got -1"
    ):
        family(**options, power=[-1, 2])
    with pytest.raises(ConfigError, match="mode: unknown option 'mode'"):
        family(stages=[{"channels": 16}], mode="a")


def test_a_types_own_defaults_hold_where_nothing_is_said() -> None:
    a = family(stages=[{"channels": 16}], block_type="depthwise_separable").decode({})
    assert a.blocks[1] == DepthwiseSeparable(out=16, activation="relu6")
