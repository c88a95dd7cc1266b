"""The packaged search configurations: they validate, are as large as they say, and are priced."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from nasctl.blocktable import BlockTable
from nasctl.config import load_config
from nasctl.errors import SpecError
from nasctl.space import Family, measure_space
from search_spaces.network import build
from search_spaces.staged import staged

CONF = Path(__file__).parent.parent / "conf"
READY = sorted(p.stem for p in CONF.glob("*_space.yaml"))
GREY, IMAGENET = ((1, 28, 28), 10), ((3, 224, 224), 1000)

CONFIGURATIONS = {
    "macro_skip_space": 3**8,
    # Stage 1: 2 x (3 x 2 x 2); the others have 2 depths, kernels, SE and activations, 3 ratios.
    "mbv3_space": 2 * 24 * (2 * 24) ** 3,
    # Per stage basic or a bottleneck with reduction and cardinality, and the depth.
    "resnet_space": 2 * 4 * (2 * (1 + 2 * 2)) ** 3,
    "mbv2_imagenet_space": 2 * 3 * 2 * 2 * 4**6 * 2**5,
}


def family(name: str) -> Family:
    shape, classes = IMAGENET if "imagenet" in name else GREY
    options = load_config(name).config.space.options
    return staged(input_shape=shape, num_classes=classes, **options)


@pytest.mark.parametrize("name", READY)
def test_every_ready_space_is_documented(name: str) -> None:
    page = CONF.parent / "docs" / "spaces" / f"{name}.md"
    assert name in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_are_counted(name: str) -> None:
    assert family(name).space.count() == CONFIGURATIONS[name]


@pytest.mark.parametrize("name", READY)
def test_random_networks_are_built_and_priced(name: str) -> None:
    import torch

    space, table, rng = family(name), BlockTable(), random.Random(0)
    assert space.blocks is not None
    reachable = set(space.blocks())
    for _ in range(3):
        _, architecture = space.sample(rng)
        assert set(architecture.placed()) <= reachable
        with torch.device("meta"):
            module = build(architecture).eval()
            out = module(torch.empty(1, *architecture.input_shape))
        assert out.shape == (1, architecture.num_classes)
        cost = table.price(architecture)
        assert cost["params"] == sum(p.numel() for p in module.parameters())


def test_skips_commute_after_the_first_block_of_a_stage() -> None:
    """9 x 21 x 21: of the later blocks of a stage, only the kept ones and their order count."""
    space = family("macro_skip_space")
    size = measure_space(space)
    assert (size.configurations, size.networks, size.networks_exact) == (6561, 3969, True)
    assert 9 * 21 * 21 == len({space.decode(c).id for c in space.space.enumerate()}) == 3969


def test_the_default_table_stays_small() -> None:
    blocks = family("mbv2_space").blocks
    assert blocks is not None
    assert len(list(blocks())) <= 250


def test_the_shortcut_matters_where_shapes_change() -> None:
    space = family("resnet_space")
    fixed = {"width_multiplier": 1, "stage1.depth": 1, "stage2.depth": 1, "stage3.depth": 1}
    fixed |= {f"stage{i}.block_type": "residual_basic" for i in (1, 2, 3)}
    ids = {s: space.decode({**fixed, "shortcut": s}).id for s in ("A", "B", "C", "none")}
    assert len(set(ids.values())) == 4
    with pytest.raises(SpecError, match="cardinality"):
        space.decode({**fixed, "shortcut": "A", "stage1.cardinality": 4})
