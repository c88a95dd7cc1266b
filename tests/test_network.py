"""From architecture to module: the chain, and weights that depend on nothing but their place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nasctl.arch import Architecture, Block
from nasctl.errors import NasctlError
from search_spaces.blocks import (
    ConvNormActivation,
    GlobalPoolLinear,
    InvertedResidual,
    ResidualBottleneck,
)
from search_spaces.network import build, initialise

torch.set_num_threads(1)


def architecture(*middle: Block) -> Architecture:
    blocks = (ConvNormActivation(out=8), *middle, GlobalPoolLinear(out=5, dropout=0.5))
    return Architecture(input_shape=(3, 8, 8), blocks=blocks, num_classes=5)


def weights(a: Architecture, seed: int) -> dict[str, Tensor]:
    module = build(a)
    initialise(module, a, seed)
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_module_maps_images_to_logits_and_every_block_gives_its_shape() -> None:
    a = architecture(InvertedResidual(out=16, stride=2), ResidualBottleneck(out=16))
    module = build(a).eval()
    x = torch.randn(2, 3, 8, 8)
    for child, shape in zip(module.children(), a.shapes[1:], strict=True):
        x = child(x)
        assert x.shape == (2, *shape)
    assert x.shape == (2, 5)


def test_same_seed_same_weights_whatever_the_global_generator_did() -> None:
    a = architecture(InvertedResidual(out=16))
    torch.manual_seed(1)
    first = weights(a, 3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    module = build(a)
    state = torch.get_rng_state()
    initialise(module, a, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[n], t) for n, t in module.state_dict().items())


def test_seeds_positions_and_names_differ() -> None:
    a = architecture(ConvNormActivation(out=8), ConvNormActivation(out=8))
    w = weights(a, 0)
    assert not torch.equal(w["1.conv.weight"], w["2.conv.weight"])
    assert not torch.equal(w["1.conv.weight"], weights(a, 1)["1.conv.weight"])
    bottleneck = weights(architecture(ResidualBottleneck(out=8, kernel_size=1, reduction=1)), 0)
    assert not torch.equal(
        bottleneck["1.branch.reduce.conv.weight"], bottleneck["1.branch.restore.conv.weight"]
    )


def test_a_parameter_does_not_depend_on_the_rest_of_the_model() -> None:
    linear = weights(architecture(InvertedResidual(out=16), ConvNormActivation(out=16)), 0)
    relu6 = weights(
        architecture(
            InvertedResidual(out=16, bottleneck_activation="relu6"),
            ResidualBottleneck(out=16),
            ConvNormActivation(out=16),
        ),
        0,
    )
    shared = [n for n in linear if n.startswith(("0.", "1."))]
    assert len(shared) > 10
    assert all(torch.equal(linear[n], relu6[n]) for n in shared)


def test_distributions() -> None:
    a = Architecture(
        input_shape=(3, 8, 8),
        blocks=(
            ConvNormActivation(out=64, kernel_size=3),
            InvertedResidual(out=64, expand_ratio=6),
            GlobalPoolLinear(out=200),
        ),
        num_classes=200,
    )
    w = weights(a, 0)
    assert w["0.conv.weight"].std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.06)
    assert w["1.depthwise.conv.weight"].std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.06)
    assert w["2.linear.weight"].std().item() == pytest.approx(0.01, rel=0.06)
    assert w["2.linear.bias"].abs().max() == 0
    assert w["0.norm.weight"].min() == w["0.norm.weight"].max() == 1


def test_buffers_are_reset() -> None:
    a = architecture()
    module = build(a)
    initialise(module, a, 0)
    fresh = {n: t.clone() for n, t in module.state_dict().items()}
    module.train()(torch.randn(4, 3, 8, 8))
    assert not torch.equal(module.state_dict()["0.norm.running_mean"], fresh["0.norm.running_mean"])
    initialise(module, a, 0)
    assert all(torch.equal(fresh[n], t) for n, t in module.state_dict().items())


def test_other_layers_reset_themselves_under_the_same_seeds() -> None:
    def fresh() -> nn.Module:
        return nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm(3))

    a = architecture()
    one, two = fresh(), fresh()
    initialise(one, a, 5)
    initialise(two, a, 5)
    assert torch.equal(one.state_dict()["0.weight"], two.state_dict()["0.weight"])
    initialise(two, a, 6)
    assert not torch.equal(one.state_dict()["0.weight"], two.state_dict()["0.weight"])


def test_a_layer_that_nobody_can_initialise_is_named() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))

    with pytest.raises(NasctlError, match=r"gain of layer 0 \(Scale\): it has no reset_parameters"):
        initialise(nn.Sequential(Scale()), architecture(), 0)
