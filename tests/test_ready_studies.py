"""The packaged ablations: what their comments promise about arms and costs is what is built."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from nasctl.ablation.arms import Arm
from nasctl.ablation.build import Prepared, prepare_study
from nasctl.ablation.claims import parse_claim
from nasctl.config import load_config, recipe_problems
from nasctl.config.ablation import AblationConfig
from nasctl.plugins import load_plugins
from search_spaces.network import build

CONF = Path(__file__).parent.parent / "conf" / "ablation"
READY = sorted(p.stem for p in CONF.glob("*.yaml") if p.stem != "relu_information_loss")
"""All but one, which is more than a study and has tests of its own."""
CIFAR = [name for name in READY if "data: cifar10" in (CONF / f"{name}.yaml").read_text("utf-8")]
MOST_MACS, MOST_PARAMS = 5_000_000, 150_000
"""A core trains an arm in seconds."""


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in the files of CIFAR-10: one image of every class in each."""
    folder, rng = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        table = rng.integers(0, 256, (10, 3073), dtype=np.uint8)
        table[:, 0] = range(10)
        (folder / f"{name}.bin").write_bytes(table.tobytes())
    return folder


@functools.cache
def study(name: str, *overrides: str) -> tuple[AblationConfig, Prepared]:
    config = load_config(name, overrides, kind="ablate").config
    return config, prepare_study(config, load_plugins(()), recipe_problems)


def gpu(name: str, cifar: Path) -> tuple[AblationConfig, Prepared]:
    return study(name, "profile=gpu", f"data.path={cifar}", "data.val_size=10")


def asked(prepared: Prepared) -> dict[str, Arm]:
    """The arms that questions are about."""
    return {a.name: a for a in prepared.study.arms.values() if a.role in ("baseline", "arm")}


def arms(name: str) -> dict[str, Arm]:
    return asked(study(name)[1])


def costs(name: str, metric: str) -> list[float]:
    return [arm.cost[metric] for arm in arms(name).values()]


# Every study


@pytest.mark.parametrize("name", READY)
def test_it_says_what_it_asks_and_who_claims_it(name: str) -> None:
    text = (CONF / f"{name}.yaml").read_text("utf-8")
    comment = text.partition("\ndefaults:")[0]
    assert f"nasctl ablate {name}" in comment
    assert re.search(r"\b20[12]\d\b", comment), "no paper"
    config, _ = study(name)
    assert config.name == name
    assert config.question is not None
    assert config.question.endswith("?")


@pytest.mark.parametrize("name", READY)
def test_every_claim_is_about_real_levels_and_every_level_is_in_a_claim(name: str) -> None:
    config, prepared = study(name)
    first = next(iter(prepared.study.arms.values()))
    levels = {factor: set() for factor in first.levels}
    for arm in asked(prepared).values():
        for factor, level in arm.levels.items():
            levels[factor].add(level)
    claims = [parse_claim(c, {k: sorted(v) for k, v in levels.items()}) for c in config.claims]
    claimed = {side for claim in claims for side in (*claim.better, *claim.worse)}
    factors = {factor for factor, _ in claimed}  # of others a claim is the average
    assert claimed == {(factor, level) for factor in factors for level in levels[factor]}
    compared = [c for c in prepared.study.comparisons if c.claim is not None]
    assert [c.claim for c in compared] == config.claims
    for comparison in compared:
        for sign in (1, -1):
            assert sum(sign * w for w in comparison.weights.values() if sign * w > 0) == 1


@pytest.mark.parametrize("name", READY)
def test_its_arms_are_small_distinct_and_run(name: str) -> None:
    import torch

    config, prepared = study(name)
    made = asked(prepared)
    assert len({arm.variant for arm in made.values()}) == len(made) >= 2
    for arm in made.values():
        network = arm.architecture
        assert arm.cost["macs"] < MOST_MACS
        assert arm.cost["params"] < MOST_PARAMS
        torch.manual_seed(0)
        module = build(network)
        images = torch.rand(2, *network.input_shape)
        with torch.no_grad():
            scores = module.train()(images)
        assert scores.shape == (2, 10)
        assert scores.isfinite().all()
        assert not torch.equal(scores[0], scores[1])
    check_matched(config, made)


def check_matched(config: AblationConfig, made: Mapping[str, Arm]) -> None:
    if config.match == "none":
        assert {arm.width_factor for arm in made.values()} == {1}
        return
    baseline, *others = [arm.cost[config.match] for arm in made.values()]
    for cost in others:
        assert cost == pytest.approx(baseline, rel=config.match_tolerance)


@pytest.mark.parametrize("name", CIFAR)
def test_the_gpu_profile_asks_the_same_of_larger_networks(name: str, cifar: Path) -> None:
    config, prepared = gpu(name, cifar)
    assert config.data.name == "cifar10"
    assert config.recipe.epochs == 100
    small, large = arms(name), asked(prepared)
    assert [len(a.levels) for a in large.values()] == [len(a.levels) for a in small.values()]
    for before, after in zip(small.values(), large.values(), strict=True):
        assert after.architecture.input_shape[0] == 3
        assert after.architecture.shapes[-1] == (10,)
        assert after.cost["macs"] > 10 * before.cost["macs"]
    check_matched(config, large)


# What the comments say of single ones


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_shortcuts_are_placed_in_the_same_layers(metric: str) -> None:
    assert len(set(costs("shortcut_placement", metric))) == 1


def test_plain_arms_have_the_convolutions_of_the_residual_ones() -> None:
    for metric in ("macs", "params"):
        shallow, deep, plain, plain_deep = (
            arms("residual_vs_plain")[name].cost[metric]
            for name in ("baseline", "depth=deep", "blocks=plain", "blocks=plain, depth=deep")
        )
        assert (shallow, deep) == (plain, plain_deep)
        assert deep > 4 * shallow
    ops = [b.op for b in arms("residual_vs_plain")["blocks=plain, depth=deep"].architecture.blocks]
    assert len(ops) == 26
    assert set(ops) == {"conv_norm_act", "global_pool_linear"}


def test_on_cifar_the_deep_residual_arm_is_the_published_network(cifar: Path) -> None:
    """pycls gives 853,018 parameters for ResNet-56 with identity shortcuts."""
    _, prepared = gpu("residual_vs_plain", cifar)
    assert prepared.study.arms["depth=deep"].cost["params"] == 853_018


def test_full_convolutions_cost_several_times_as_much() -> None:
    separable, full = costs("depthwise_separable_vs_full", "macs")
    assert 5 < full / separable < 9


def test_resolution_changes_work_but_not_weights() -> None:
    sides = [a.architecture.input_shape[1] for a in arms("resolution_multiplier").values()]
    assert sides == [28, 24, 20, 16]
    assert [side / 28 for side in sides] == pytest.approx([r / 224 for r in (224, 192, 160, 128)])
    assert len(set(costs("resolution_multiplier", "params"))) == 1
    macs = costs("resolution_multiplier", "macs")
    assert macs == sorted(macs, reverse=True)


def test_every_width_is_another_network() -> None:
    macs = costs("width_multiplier", "macs")
    ratios = [cost / macs[0] for cost in macs]
    # Nearly with the square of the width, as in the paper: 1, 0.57, 0.26, 0.07.
    assert ratios == pytest.approx([1, 0.57, 0.26, 0.07], abs=0.05)


def test_half_of_a_grouped_network_has_half_of_its_kernels_and_no_groups() -> None:
    whole, half = (a.architecture.blocks for a in arms("grouped_convolution").values())
    convolutions = [(a, b) for a, b in zip(whole, half, strict=True) if a.op == "conv_norm_act"]
    assert [b.out * 2 for _, b in convolutions] == [a.out for a, _ in convolutions]
    assert [a.groups for a, _ in convolutions] == [1, 2, 1, 2, 2]
    assert {b.groups for _, b in convolutions} == {1}


def test_only_the_heads_differ() -> None:
    average, *connected = (
        a.architecture.blocks for a in arms("global_average_pooling_vs_fc").values()
    )
    assert all(blocks[:-1] == average[:-1] for blocks in connected)
    assert [blocks[-1].dropout for blocks in connected] == [0, 0.5]


def test_the_auxiliary_classifier_is_not_deployed() -> None:
    without, with_it = arms("auxiliary_classifier").values()
    assert without.cost == with_it.cost
    blocks = list(with_it.architecture.blocks)
    assert [b.op for b in blocks].index("auxiliary_classifier") == 3
    del blocks[3]
    assert tuple(blocks) == without.architecture.blocks


def test_hard_swish_comes_late_or_everywhere() -> None:
    def where(arm: Arm) -> list[str]:
        return [b.activation for b in arm.architecture.blocks if hasattr(b, "activation")]

    relu, late, everywhere = map(where, arms("hard_swish").values())
    assert set(relu) == {"relu"}
    assert set(everywhere) == {"hard_swish"}
    assert late == ["relu"] * 3 + ["hard_swish"] * 2
