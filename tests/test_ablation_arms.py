"""Factors become arms: keys, fields, scopes, widths, and mistakes that are named."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from nasctl.ablation.arms import (
    Factor,
    Workshop,
    check_distinct,
    matched,
    name_of,
    narrowed,
    read_factor,
    same_again,
)
from nasctl.ablation.baseline import build_network, changed, with_field
from nasctl.arch import Architecture, Cost
from nasctl.blocktable import BlockTable
from nasctl.errors import ConfigError, SpecError
from nasctl.ledger import Ledger
from nasctl.plugins import load_plugins
from nasctl.trial import State, Trial
from search_spaces import network
from search_spaces.widths import CHANNELS, FIXED, scaled

REGISTRY = load_plugins([])
BLOCKS: list[dict[str, Any]] = [
    {"op": "conv_norm_act", "out": 8, "stride": 2},
    {"op": "inverted_residual", "out": 8, "expand_ratio": 3},
    {"op": "inverted_residual", "out": 16, "expand_ratio": 3, "stride": 2},
    {"op": "inverted_residual", "out": 16, "expand_ratio": 3},
    {"op": "global_pool_linear", "out": 10},
]
SETTINGS: dict[str, Any] = {
    "baseline": {"blocks": BLOCKS, "family": None, "network": None, "options": {}},
    "recipe": {"lr": 0.4, "epochs": 2},
    "data": {"name": "digits", "size": 8},
}
SHAPE, CLASSES = (1, 8, 8), 10


def build(**baseline: Any) -> Architecture:
    return build_network(baseline, REGISTRY, input_shape=SHAPE, num_classes=CLASSES)


@pytest.fixture
def price(tmp_path: Path) -> Any:
    table = BlockTable(tmp_path / "blocks.json")

    def of(architecture: Architecture) -> Cost:
        table.warm(architecture.placed())
        return table.price(architecture)

    return of


def workshop(price: Any, *factors: Factor, settings: Mapping[str, Any] = SETTINGS) -> Workshop:
    return Workshop(
        settings=dict(settings),
        factors=factors,
        registry=REGISTRY,
        shape_of=lambda data: ((1, data["size"], data["size"]), CLASSES),
        price=price,
    )


# -- dotted keys ----------------------------------------------------------------------------------


def test_changed_copies_and_follows_keys_through_lists() -> None:
    made = changed(
        SETTINGS, {"baseline.blocks.1.out": 12, "recipe.epochs": 5, "data.size": 12}, "f"
    )
    assert made["baseline"]["blocks"][1]["out"] == 12
    assert (made["recipe"]["epochs"], made["data"]["size"]) == (5, 12)
    assert SETTINGS["baseline"]["blocks"][1]["out"] == 8
    whole = changed(SETTINGS, {"baseline.blocks.0": {"op": "skip", "out": 8}}, "f")
    assert whole["baseline"]["blocks"][0]["op"] == "skip"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("recipe.epoch", "f: recipe.epoch: unknown key 'epoch'; did you mean 'epochs'?"),
        ("recip.epochs", "f: recip.epochs: unknown key 'recip'; did you mean 'recipe'?"),
        ("baseline.blocks.9.out", "'9' is no place in a list of 5"),
        ("baseline.blocks.x", "'x' is no place in a list of 5"),
    ],
)
def test_a_key_that_leads_nowhere(key: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        changed(SETTINGS, {key: 1}, "f")


# -- baselines ------------------------------------------------------------------------------------


def test_the_forms_of_a_baseline() -> None:
    from_blocks = build(blocks=BLOCKS)
    assert [b.op for b in from_blocks.blocks] == [b["op"] for b in BLOCKS]
    published = build(network="resnet20_cifar")
    assert published.num_classes == CLASSES
    options = {
        "stem": {"channels": 8, "stride": 1},
        "stages": [{"channels": 16, "depth": 2, "stride": 2}],
        "head": {"channels": 0, "dropout": 0.0},
        "block_type": "inverted_residual",
        "width_multiplier": 1.0,
        "expand_ratio": 3,
        "kernel_size": 3,
        "bottleneck_activation": "linear",
    }
    one = build(family="staged", options=options)
    assert [b.op for b in one.blocks].count("inverted_residual") == 2
    with pytest.raises(ConfigError, match=r"one network, but .* several choices"):
        build(family="staged", options={**options, "expand_ratio": [3, 6]})


@pytest.mark.parametrize(
    ("baseline", "problem"),
    [
        ({"network": "mobilenet_v4"}, "baseline.network: unknown network 'mobilenet_v4'; did you"),
        ({"network": "lenet5", "width": 0.5}, "baseline.width: lenet5 has no width multiplier"),
        ({"blocks": [{"op": "conv"}]}, "baseline: blocks.0.op: unknown block 'conv'"),
        ({"blocks": [3]}, "baseline: blocks.0: expected {op: ..., field: value}, got 3"),
        ({"blocks": [{"op": "skip"}]}, "baseline: blocks.0: skip.out: missing"),
        ({"family": "stagd"}, "baseline.family: unknown family 'stagd'; did you mean 'staged'?"),
        ({"family": "staged", "options": {"stems": 1}}, "baseline.options.stems: unknown"),
    ],
)
def test_a_baseline_that_cannot_be(baseline: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        build(**baseline)


# -- fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "changed_blocks"),
    [
        ("all", [1, 2, 3]),
        ("stage 1", [1]),
        ("stage 2", [2, 3]),
        ("block 3", [2]),
        ("blocks 2-3", [1, 2]),
    ],
)
def test_a_field_is_set_where_the_scope_says(scope: str, changed_blocks: list[int]) -> None:
    architecture = build(blocks=BLOCKS)
    made = with_field(architecture, "bottleneck_activation", "relu6", scope, "factors.a")
    differ = [
        i for i, (a, b) in enumerate(zip(architecture.blocks, made.blocks, strict=True)) if a != b
    ]
    assert differ == changed_blocks


@pytest.mark.parametrize(
    ("field", "value", "scope", "problem"),
    [
        (
            "kernel",
            5,
            "all",
            "factors.a: unknown field of the blocks 'kernel'; did you mean",
        ),
        ("kernel_size", 5, "stage 7", "factors.a.scope: there are stages 1 to 3, got 'stage 7'"),
        ("kernel_size", 5, "block 0", "factors.a.scope: there are blocks 1 to 5, got 'block 0'"),
        ("kernel_size", 5, "everything", "factors.a.scope: expected all, `stage N`"),
        ("expand_ratio", "six", "all", "factors.a: inverted_residual.expand_ratio"),
    ],
)
def test_a_field_that_cannot_be_set(field: str, value: Any, scope: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        with_field(build(blocks=BLOCKS), field, value, scope, "factors.a")


# -- arms -----------------------------------------------------------------------------------------


def test_arms_have_the_levels_of_their_factors(price: Any) -> None:
    shop = workshop(
        price,
        read_factor("bottleneck_activation", ["linear", "relu6"]),
        read_factor("rate", [0.4, 0.2], key="recipe.lr"),
        read_factor("stem", {"plain": {}, "wide": {"baseline.blocks.0.out": 16}}),
        read_factor("resolution", [8, 12], key="data.size"),
    )
    first = {f.name: next(iter(f.levels)) for f in shop.factors}
    baseline = shop.make("baseline", "baseline", first)
    assert baseline.architecture.id == build(blocks=BLOCKS).id
    levels = {
        "bottleneck_activation": "relu6",
        "rate": "0.2",
        "stem": "wide",
        "resolution": "12",
    }
    arm = shop.make("all", "arm", levels)
    assert arm.lr == 0.2
    assert arm.architecture.input_shape == (1, 12, 12)
    assert arm.architecture.blocks[0].fields()["out"] == 16
    assert arm.architecture.blocks[1].fields()["bottleneck_activation"] == "relu6"
    assert arm.cost["params"] > baseline.cost["params"]
    assert (
        name_of(levels, first) == "bottleneck_activation=relu6, rate=0.2, stem=wide, resolution=12"
    )
    assert name_of(first, first) == "baseline"


def test_a_level_that_cannot_be_built_is_blamed(price: Any) -> None:
    shop = workshop(price, read_factor("stride", [1, 9], key="baseline.blocks.1.stride"))
    with pytest.raises(ConfigError, match=r"factors.stride.levels.9: .*stride 9"):
        shop.make("stride=9", "arm", {"stride": "9"})


def test_a_factor_that_changes_nothing_is_refused(price: Any) -> None:
    # A skip block has no kernel: 3 and 5 are one network.
    shop = workshop(
        price, read_factor("k", {"a": {}, "b": {"baseline.blocks.1.expand_ratio": 3.0}})
    )
    arms = [shop.make("baseline", "baseline", {"k": "a"}), shop.make("k=b", "arm", {"k": "b"})]
    with pytest.raises(ConfigError, match="'k=b' and 'baseline' are the same network"):
        check_distinct(arms)
    check_distinct([arms[0], same_again(arms[0])])  # the null control is meant to be


def test_the_same_network_with_another_recipe_is_another_arm(price: Any) -> None:
    shop = workshop(price, read_factor("epochs", [2, 4], key="recipe.epochs"))
    short, long = (shop.make(f"e{e}", "arm", {"epochs": e}) for e in ("2", "4"))
    check_distinct([short, long])
    assert short.variant != long.variant
    assert (short.epochs, long.epochs) == (2, 4)


def test_rates_are_no_part_of_a_variant(price: Any) -> None:
    shop = workshop(price, read_factor("rate", [0.4, 0.2], key="recipe.lr"))
    one, other = (shop.make(r, "arm", {"rate": r}) for r in ("0.4", "0.2"))
    assert one.variant == other.variant
    check_distinct([one, other])


# -- widths ---------------------------------------------------------------------------------------


def test_every_block_with_channels_can_be_scaled_or_is_known_not_to_be() -> None:
    without = {
        *("auxiliary_classifier", "avg_pool", "batch_norm_act", "dropout", "flatten_linear"),
        *("global_pool", "global_pool_linear", "local_response_norm", "max_pool", "rbf_output"),
        *("scaled_tanh", "trainable_subsampling"),
    }
    assert set(REGISTRY.blocks) == set(CHANNELS) | set(FIXED) | without
    for op, fields in CHANNELS.items():
        assert set(fields) <= {f for f in REGISTRY.blocks[op].__dataclass_fields__}  # type: ignore[attr-defined]


def test_scaled_changes_the_channels_and_nothing_else() -> None:
    architecture = build(blocks=BLOCKS)
    half = scaled(architecture, 0.5)
    assert [b.fields().get("out") for b in half.blocks] == [4, 4, 8, 8, 10]
    assert scaled(architecture, 1.0) is architecture
    module = network.build(half).eval()
    assert module(torch.zeros(2, *SHAPE)).shape == (2, CLASSES)
    odd = scaled(architecture, 0.63)  # no rounding to multiples of 8
    assert odd.blocks[0].fields()["out"] == 5


def test_grouped_convolutions_keep_their_groups() -> None:
    blocks = [
        {"op": "conv_norm_act", "out": 8},
        {"op": "conv_norm_act", "out": 16, "groups": 4},
        {"op": "conv_norm_act", "out": 10},
        {"op": "global_pool"},
    ]
    narrow = scaled(build(blocks=blocks), 0.4)
    # The last convolution gives the classes.
    assert [b.fields().get("out") for b in narrow.blocks] == [4, 8, 10, None]


def test_blocks_without_a_width_are_named() -> None:
    blocks = [{"op": "inception_a", "pool_features": 32}, {"op": "global_pool_linear", "out": 10}]
    with pytest.raises(SpecError, match="block 1: inception_a has no width"):
        scaled(build(blocks=blocks), 0.5)


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_an_arm_is_matched_within_two_per_cent(price: Any, metric: str) -> None:
    wide = changed(
        SETTINGS,
        {f"baseline.blocks.{i}.out": n for i, n in enumerate((32, 32, 64, 64))},
        "f",
    )
    shop = workshop(price, read_factor("expand_ratio", [3, 6, 1]), settings=wide)
    baseline = shop.make("baseline", "baseline", {"expand_ratio": "3"})
    for level, wider in (("6", False), ("1", True)):
        arm = shop.make("arm", "arm", {"expand_ratio": level})
        found = matched(arm, baseline.cost, metric, 0.02, shop)
        assert abs(found.cost[metric] / baseline.cost[metric] - 1) <= 0.02
        assert (found.width_factor > 1) is wider
        assert found.architecture.blocks[1].fields()["expand_ratio"] == float(level)
    assert matched(baseline, baseline.cost, metric, 0.0, shop).width_factor == 1.0


def test_what_cannot_be_matched_says_how_close_it_came(price: Any) -> None:
    tiny = changed(SETTINGS, {f"baseline.blocks.{i}.out": 2 for i in range(4)}, "f")
    shop = workshop(price, read_factor("expand_ratio", [3, 6]), settings=tiny)
    baseline = shop.make("baseline", "baseline", {"expand_ratio": "3"})
    arm = shop.make("expand_ratio=6", "arm", {"expand_ratio": "6"})
    with pytest.raises(ConfigError, match=r"match: 'expand_ratio=6' comes to .* at best"):
        matched(arm, baseline.cost, "macs", 0.001, shop)


def test_a_control_that_changes_nothing_is_refused(price: Any) -> None:
    head = [{"op": "conv_norm_act", "out": 10}, {"op": "global_pool"}]
    settings = {**SETTINGS, "baseline": {**SETTINGS["baseline"], "blocks": head}}
    shop = workshop(price, read_factor("kernel_size", [3, 5]), settings=settings)
    baseline = shop.make("baseline", "baseline", {"kernel_size": "3"})
    with pytest.raises(ConfigError, match=r"controls.positive.width: 0.5 changes nothing"):
        narrowed(baseline, 0.5, shop)


def test_a_network_of_other_data_is_refused(tmp_path: Path, price: Any) -> None:
    (tmp_path / "runs" / "old").mkdir(parents=True)
    ledger = Ledger(tmp_path / "runs" / "old" / "ledger.sqlite", REGISTRY.blocks)
    other = build_network({"blocks": BLOCKS}, REGISTRY, input_shape=(3, 8, 8), num_classes=10)
    trial = Trial(
        number=0, state=State.COMPLETE, choices={}, architecture=other, seed=0, epochs=1, attempts=1
    )
    ledger.put_trial(trial)
    ledger.close()
    run = {"run": str(tmp_path / "runs" / "old"), "arch_id": other.id}
    settings = {**SETTINGS, "baseline": run}
    shop = workshop(price, read_factor("kernel_size", [3, 5]), settings=settings)
    with pytest.raises(
        ConfigError, match="baseline: the network takes 3 channels, the data have 1"
    ):
        shop.make("baseline", "baseline", {"kernel_size": "3"})
    grey = dataclasses.replace(shop, shape_of=lambda data: ((3, 8, 8), CLASSES))
    assert grey.make("baseline", "baseline", {"kernel_size": "3"}).architecture.id == other.id
    more = dataclasses.replace(shop, shape_of=lambda data: ((3, 8, 8), 7))
    with pytest.raises(ConfigError, match="the network has 10 classes, the data 7"):
        more.make("baseline", "baseline", {"kernel_size": "3"})
    wrong = {**settings, "baseline": {**run, "arch_id": other.id[:-1] + "x"}}
    with pytest.raises(ConfigError, match=f"unknown network .*did you mean '{other.id}'"):
        workshop(price, settings=wrong).make("baseline", "baseline", {})


def test_networks_without_costs_cannot_be_matched(price: Any) -> None:
    shop = workshop(lambda architecture: Cost(), read_factor("kernel_size", [3, 5]))
    arm = shop.make("baseline", "baseline", {"kernel_size": "3"})
    with pytest.raises(ConfigError, match="match: these networks have no macs"):
        matched(arm, arm.cost, "macs", 0.02, shop)


def test_the_positive_control_has_fewer_channels(price: Any) -> None:
    shop = workshop(price, read_factor("expand_ratio", [3, 6]))
    baseline = shop.make("baseline", "baseline", {"expand_ratio": "3"})
    control = narrowed(baseline, 0.5, shop)
    assert control.role == "positive_control"
    assert control.cost["params"] < 0.5 * baseline.cost["params"]
