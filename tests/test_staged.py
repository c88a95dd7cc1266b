"""The staged space: options, decisions that matter, decoding, reaching and counting."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from nasctl.arch import Architecture
from nasctl.errors import ConfigError, SpecError
from nasctl.space import Family, measure_space
from search_spaces import FAMILIES
from search_spaces.blocks import BLOCKS, DepthwiseSeparable, ExpansionResidual, InvertedResidual
from search_spaces.staged import StagedSpace, staged
from search_spaces.staged_count import count_networks
from search_spaces.staged_options import read_options
from tests.staged_spaces import (
    SPACES,
    STEM,
    family,
    packaged,
    packaged_family,
    scoped,
)


@pytest.fixture(params=SPACES, scope="module")
def small(request: pytest.FixtureRequest) -> Family:
    return family(**SPACES[request.param])


def test_counts_are_those_of_brute_force(small: Family) -> None:
    configurations = list(small.space.enumerate())
    assert small.space.count() == len(configurations) < 20_000
    assert len({json.dumps(c, sort_keys=True) for c in configurations}) == len(configurations)
    networks = {small.decode(c) for c in configurations}
    assert small.count_networks is not None
    assert small.count_networks() == len(networks) == len({a.id for a in networks})


def test_reachable_blocks_are_those_of_brute_force(small: Family) -> None:
    seen = {pair for c in small.space.enumerate() for pair in small.decode(c).placed()}
    assert small.blocks is not None
    listed = list(small.blocks())
    assert set(listed) == seen
    assert len(listed) == len(seen)


def test_decoding_gives_what_construction_would(small: Family) -> None:
    rng = random.Random(1)
    for _ in range(60):
        a = small.decode(small.space.sample(rng))
        b = Architecture(input_shape=a.input_shape, blocks=a.blocks, num_classes=a.num_classes)
        assert (a, a.id, a.shapes) == (b, b.id, b.shapes)
        assert Architecture.from_json(json.loads(json.dumps(a.to_json())), BLOCKS).id == a.id


def test_a_choice_is_active_only_if_it_reaches_a_block(small: Family) -> None:
    rng = random.Random(2)
    for _ in range(40):
        choices = small.space.sample(rng)
        a = small.decode(choices)
        users = InvertedResidual | DepthwiseSeparable | ExpansionResidual
        if not any(isinstance(b, users) for b in a.blocks):
            assert not [n for n in choices if "bottleneck" in n or "expand" in n]


def test_inactive_choices_do_not_appear() -> None:
    f = family(**SPACES["stage choices of skipped blocks"])
    skips = {
        "stage1.block1.block_type": "skip",
        "stage1.block2.block_type": "skip",
        "stage2.depth": 1,
        "stage2.block1.block_type": "depthwise_separable",
        "stage2.kernel_size": 3,
    }
    assert f.space.validate(skips) == skips
    decoded = f.decode(skips)
    assert [b.op for b in decoded.blocks] == [
        "conv_norm_act",
        "depthwise_separable",
        "global_pool_linear",
    ]
    for extra in ({"stage2.expand_ratio": 3}, {"stage1.kernel_size": 3}):
        with pytest.raises(SpecError, match="inactive here"):
            f.decode({**skips, **extra})


def test_a_skip_after_the_first_block_is_the_same_network_as_less_depth() -> None:
    f = family(**SPACES["skips commute"])

    def network(*types: str) -> str:
        choices: dict[str, Any] = {"stage1.depth": len(types)}
        for i, kind in enumerate(types, 1):
            choices[f"stage1.block{i}.block_type"] = kind
            if kind != "skip":
                choices[f"stage1.block{i}.kernel_size"] = 3
        return f.decode(choices).id

    d, s, r = "depthwise_separable", "skip", "residual_bottleneck"
    assert network(d) == network(d, s) == network(d, s, s)
    assert network(d, s, r) == network(d, r, s) == network(d, r)
    assert network(s, d) != network(d, s)  # the first one strides, so it is a convolution
    assert network(d, r) != network(r, d)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"stage1.depth": 4}, "stage1.depth: unknown choice 4"),
        ({"stage1.depht": 1}, "unknown decision 'stage1.depht'; did you mean 'stage1.depth'"),
        ({"stage1.depth": None}, "stage1.depth: "),
        ({"kernel_size": 3}, "unknown decision 'kernel_size'"),
        ({"width_multiplier": 1}, "unknown decision 'width_multiplier'"),
    ],
)
def test_decoding_refuses_wrong_choices(change: dict[str, Any], problem: str) -> None:
    f = family(**SPACES["skips commute"])
    choices = f.space.sample(random.Random(3))
    f.decode(choices)
    changed = {n: v for n, v in {**choices, **change}.items() if v is not None}
    for _ in range(2):  # wrong choices are not remembered as right
        with pytest.raises(SpecError, match=problem):
            f.decode(changed)


def test_decoding_is_pure() -> None:
    rng = random.Random(4)
    drawn = [packaged_family().space.sample(rng) for _ in range(50)]
    before = [dict(c) for c in drawn]
    one, two = packaged_family(), packaged_family()
    forward = [one.decode(c).id for c in drawn]
    assert [two.decode(c).id for c in reversed(drawn)] == forward[::-1]
    assert [one.decode(c).id for c in drawn] == forward
    assert drawn == before


def test_mobilenet_v2_rounds_its_hidden_channels_and_keeps_a_narrow_head() -> None:
    options = {
        "stem": {"channels": 32, "stride": 2},
        "stages": [{"channels": 24, "stride": 2}],
        "head": {"channels": 1280, "dropout": 0.2},
    }
    narrow = family(width_multiplier=0.75, expand_ratio=1.5, **options).decode({})
    # 32 * .75 = 24 -> 24 * 1.5 = 36 -> hidden 40; 24 * .75 = 18 -> 24 (16 would be below 90 %)
    assert narrow.to_json()["blocks"][0]["out"] == 24
    block = narrow.blocks[1]
    assert isinstance(block, InvertedResidual)
    assert (block.out, block.hidden_channels(24)) == (24, 40)
    assert narrow.to_json()["blocks"][2]["out"] == 1280
    assert narrow.to_json()["blocks"][3] == {"op": "global_pool_linear", "out": 4, "dropout": 0.2}
    wide = family(width_multiplier=1.4, **options).decode({})
    assert wide.to_json()["blocks"][2]["out"] == 1792


def test_every_scope_names_its_decisions() -> None:
    stages = [{"channels": 8, "depth": 2}, {"channels": 8}]
    names = {
        scope: [
            d.name
            for d in family(
                stages=stages, stem=STEM, kernel_size=scoped([3, 5], scope)
            ).space.decisions
        ]
        for scope in ("network", "stage", "block")
    }
    assert names == {
        "network": ["kernel_size"],
        "stage": ["stage1.kernel_size", "stage2.kernel_size"],
        "block": [
            "stage1.block1.kernel_size",
            "stage1.block2.kernel_size",
            "stage2.block1.kernel_size",
        ],
    }


def test_lists_have_their_documented_scopes() -> None:
    f = family(
        stem=STEM,
        stages=[{"channels": 8}],
        width_multiplier=[1, 2],
        block_type=["inverted_residual", "depthwise_separable"],
        expand_ratio=[3, 6],
        kernel_size=[3, 5],
        bottleneck_activation=["linear", "relu"],
    )
    assert {d.name for d in f.space.decisions} == {
        "width_multiplier",
        "stage1.block_type",
        "stage1.expand_ratio",
        "stage1.kernel_size",
        "bottleneck_activation",
    }


def test_choices_that_no_block_can_use_are_no_decisions() -> None:
    f = family(stem=STEM, stages=[{"channels": 8}], block_type="skip", kernel_size=[3, 5])
    assert f.space.decisions == ()
    assert f.space.count() == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"widht_multiplier": 1}, "widht_multiplier: unknown option 'widht_multiplier'; did you"),
        ({"stages": []}, "stages: expected a list of 1 to 32"),
        ({"stages": {"channels": 8}}, "stages: expected a list"),
        ({"stages": [{"depth": 1}]}, "stages.0.channels: missing"),
        ({"stages": [{"channels": 8, "depht": 1}]}, r"stages.0.depht: .*did you mean 'depth'"),
        ({"stages": [{"channels": 8, "depth": [1, "two"]}]}, r"stages.0.depth.1: .*got 'two'"),
        ({"stages": [{"channels": 8, "depth": 0}]}, "stages.0.depth: .* 1 to 64; got 0"),
        ({"stages": [{"channels": 8, "depth": 10**9}]}, "stages.0.depth: .* 1 to 64"),
        ({"stages": [{"channels": 8, "stride": 0}]}, "stages.0.stride: .*got 0"),
        ({"stages": ["x"]}, "stages.0: expected a mapping with channels, depth"),
        ({"stages": [{"channels": 8, "depth": [2, 2]}]}, "stages.0.depth: 2 is given twice"),
        (
            {"stages": [{"channels": 8, "kernel_size": scoped([3, 5], "network")}]},
            "stages.0.kernel_size.scope: a stage's own",
        ),
        (
            {"stem": {"chanels": 8}},
            "stem.chanels: unknown option 'chanels'; did you mean 'channels'",
        ),
        (
            {"stem": {"channels": 8, "activation": "relu7"}},
            "stem.activation: .*did you mean 'relu'",
        ),
        (
            {"stem": {"channels": 8, "kernel_size": 4}},
            "stem.kernel_size: a kernel size must be odd",
        ),
        ({"head": {"dropout": 1.5}}, "head.dropout: expected 0 to 0.99, got 1.5"),
        ({"kernel_size": [3, 4]}, "kernel_size.1: a kernel size must be odd, got 4"),
        ({"kernel_size": []}, "kernel_size: expected 1 to 64 choices, got 0"),
        ({"kernel_size": True}, "kernel_size: expected a whole number"),
        ({"expand_ratio": [6, 6.0]}, "expand_ratio: 6 is given twice"),
        ({"expand_ratio": float("nan")}, "expand_ratio: expected 0.1 to 64, got nan"),
        ({"expand_ratio": {"choices": [3]}, "depth": 2}, "depth: unknown option"),
        ({"expand_ratio": {"scope": "block"}}, "expand_ratio.choices: missing"),
        ({"expand_ratio": scoped([3, 6], "blok")}, "expand_ratio.scope: .*did you mean 'block'"),
        ({"expand_ratio": {"choise": [3]}}, "expand_ratio.choise: .*did you mean 'choices'"),
        ({"width_multiplier": "wide"}, "width_multiplier: expected a number, got 'wide'"),
        ({"block_type": "inverted_residua"}, "block_type: .*did you mean 'inverted_residual'"),
        ({"bottleneck_activation": ["linear", "identity"]}, "'linear' is given twice"),
        ({"bottleneck_activation": 6}, "bottleneck_activation: unknown activation 6"),
        ({"resolution": [8, 0]}, "resolution.1: .*got 0"),
    ],
)
def test_wrong_options_name_key_and_value(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        family(**{"stem": STEM, "stages": [{"channels": 8}], **change})
    assert caught.value.exit_code == 2


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        family(stem={"channels": -1}, stages=[{"channels": 8, "stride": "x"}], kernel_size=2)
    assert sorted(p.split(":")[0] for p in caught.value.problems) == [
        "kernel_size",
        "stages.0.stride",
        "stem.channels",
    ]


def test_a_network_that_cannot_exist_is_found_without_building() -> None:
    stages = [{"channels": 8, "stride": 2}] * 4
    family(16, stem=STEM, stages=stages)
    with pytest.raises(
        ConfigError, match=r"stages.3.stride: .* in stage4 on a 8x1x1 map: stride 2 is larger"
    ):
        family(8, stem=STEM, stages=stages)
    with pytest.raises(ConfigError, match=r"stages.3.stride: .* 1x1"):
        family(16, stem=STEM, stages=stages, resolution=[16, 8])
    with pytest.raises(ConfigError, match=r"stem.stride: stride 9 is larger than the 8x8"):
        family(8, stem={"channels": 8, "stride": 9}, stages=[{"channels": 8}])
    with pytest.raises(ConfigError, match="a staged space needs"):
        staged(input_shape=(64,), num_classes=2, stages=[{"channels": 8}])


def test_counting_gives_up_at_its_bound_and_measuring_estimates_instead() -> None:
    space = StagedSpace(read_options((1, 28, 28), 10, packaged()))
    assert count_networks(space, max_steps=100) is None
    exact = packaged_family()
    assert exact.count_networks is not None
    networks = exact.count_networks()
    assert networks is not None
    assert 10**6 < networks < exact.space.count()
    guess = Family(space=exact.space, decode=exact.decode, count_networks=lambda: None)
    size = measure_space(guess, limit=2000)
    assert not size.networks_exact


def test_the_packaged_space_is_small_enough_to_measure_and_searches_all_dimensions() -> None:
    f = packaged_family()
    assert f.blocks is not None
    assert len(list(f.blocks())) <= 250
    names = " ".join(d.name for d in f.space.decisions)
    for dimension in ("width_multiplier", "expand_ratio", "kernel_size", "block_type", "depth"):
        assert dimension in names
    assert "bottleneck_activation" in names
    assert FAMILIES["staged"] is staged
