"""GoogLeNet, Inception-v3, DenseNet and Xception: their blocks, and the networks to the last
parameter. Figures are counted by hand here, layer by layer, and equal the published ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from nasctl.arch import Architecture
from nasctl.blocktable import BlockTable
from nasctl.dataset import Dataset
from nasctl.errors import SpecError
from nasctl.recipe import Recipe
from nasctl.train import train
from search_spaces.blocks import (
    BLOCKS,
    AuxiliaryClassifier,
    ConvNormActivation,
    GlobalPoolLinear,
)
from search_spaces.initial import Start, Weighted, find_init
from search_spaces.network import build, initialise
from search_spaces.reference import reference_network

torch.set_num_threads(1)


class Hand:
    """Counts a network layer by layer; convolutions have a norm, of 2 parameters per channel."""

    def __init__(self) -> None:
        self.params = self.macs = self.acts = 0

    def conv(self, c: int, out: int, area: int, pixels: int, norm: int | None = None) -> int:
        """`c` input channels per group, `area` of the kernel, `pixels` of the output."""
        self.params += c * out * area + 2 * (out if norm is None else norm)
        self.macs += c * out * area * pixels
        self.acts += out * pixels
        return out

    def separable(self, c: int, out: int, side: int) -> int:
        self.conv(1, c, 9, side**2, norm=0)
        return self.conv(c, out, 1, side**2)

    def linear(self, c: int, out: int) -> None:
        self.params += (c + 1) * out
        self.macs += c * out

    def chain(self, c: int, pixels: int, *layers: tuple[int, int]) -> int:
        """Convolutions one after the other, as (output channels, area of the kernel)."""
        for out, area in layers:
            c = self.conv(c, out, area, pixels)
        return c


def hand_googlenet() -> Hand:
    hand = Hand()
    hand.conv(3, 64, 49, 112**2)
    c = hand.chain(64, 56**2, (64, 1), (192, 9))
    for side, one, reduce3, three, reduce5, five, pool in (
        (28, 64, 96, 128, 16, 32, 32),
        (28, 128, 128, 192, 32, 96, 64),
        (14, 192, 96, 208, 16, 48, 64),
        (14, 160, 112, 224, 24, 64, 64),
        (14, 128, 128, 256, 24, 64, 64),
        (14, 112, 144, 288, 32, 64, 64),
        (14, 256, 160, 320, 32, 128, 128),
        (7, 256, 160, 320, 32, 128, 128),
        (7, 384, 192, 384, 48, 128, 128),
    ):
        branches = [(one, 1)], [(reduce3, 1), (three, 9)], [(reduce5, 1), (five, 9)], [(pool, 1)]
        c = sum(hand.chain(c, side**2, *branch) for branch in branches)
    hand.linear(c, 1000)
    return hand


def hand_inception_v3() -> Hand:
    hand = Hand()
    hand.conv(3, 32, 9, 149**2)
    hand.chain(32, 147**2, (32, 9), (64, 9))
    hand.conv(64, 80, 1, 73**2)
    c = hand.conv(80, 192, 9, 71**2)
    p = 35**2
    for pool in (32, 64, 64):
        c = (
            hand.chain(c, p, (64, 1))
            + hand.chain(c, p, (48, 1), (64, 25))
            + hand.chain(c, p, (64, 1), (96, 9), (96, 9))
            + hand.chain(c, p, (pool, 1))
        )
    hand.chain(c, p, (64, 1), (96, 9))
    c += hand.conv(c, 384, 9, 17**2) + hand.conv(96, 96, 9, 17**2)
    p = 17**2
    for n in (128, 160, 160, 192):
        c = (
            hand.chain(c, p, (192, 1))
            + hand.chain(c, p, (n, 1), (n, 7), (192, 7))
            + hand.chain(c, p, (n, 1), (n, 7), (n, 7), (n, 7), (192, 7))
            + hand.chain(c, p, (192, 1))
        )
    hand.chain(c, p, (192, 1))
    hand.chain(c, p, (192, 1), (192, 7), (192, 7))
    c += hand.conv(192, 320, 9, 8**2) + hand.conv(192, 192, 9, 8**2)
    p = 8**2
    for _ in range(2):
        inner = hand.chain(c, p, (384, 1)), hand.chain(c, p, (448, 1), (384, 9))
        pairs = sum(hand.conv(n, 384, 3, p) for n in (*inner, *inner))
        c = hand.chain(c, p, (320, 1)) + pairs + hand.chain(c, p, (192, 1))
    hand.linear(c, 1000)
    return hand


def hand_densenet(c: int, sides: tuple[int, ...], layers: tuple[int, ...], k: int) -> Hand:
    """From the stem's output on; norms come before convolutions."""
    hand = Hand()
    for index, (side, depth) in enumerate(zip(sides, layers, strict=True)):
        if index:
            hand.conv(c, c // 2, 1, (2 * side) ** 2, norm=c)
            c //= 2
        for _ in range(depth):
            hand.conv(c, 4 * k, 1, side**2, norm=c)
            hand.conv(4 * k, k, 9, side**2, norm=4 * k)
            c += k
    hand.params += 2 * c
    hand.linear(c, 10 if k == 12 else 1000)
    return hand


def hand_densenet_imagenet(*layers: int) -> Hand:
    hand = hand_densenet(64, (56, 28, 14, 7), layers, 32)
    hand.conv(3, 64, 49, 112**2)
    return hand


def hand_densenet_cifar() -> Hand:
    hand = hand_densenet(24, (32, 16, 8), (16, 16, 16), 12)
    hand.conv(3, 24, 9, 32**2, norm=0)
    return hand


def hand_densenet_add() -> Hand:
    """Inner layers of 48 channels; 24, 108 and 150 channels, as the dense one has on entering."""
    hand = Hand()
    hand.conv(3, 24, 9, 32**2, norm=0)
    for side, c, after in ((32, 24, 108), (16, 108, 150), (8, 150, 0)):
        for _ in range(16):
            hand.conv(c, 48, 1, side**2, norm=c)
            hand.conv(48, c, 9, side**2, norm=48)
        if after:
            hand.conv(c, after, 1, side**2, norm=c)
    hand.params += 2 * 150
    hand.linear(150, 10)
    return hand


def hand_xception() -> Hand:
    hand = Hand()
    hand.conv(3, 32, 9, 149**2)
    c = hand.conv(32, 64, 9, 147**2)
    for side, inner, out in ((147, 128, 128), (74, 256, 256), (37, 728, 728), (19, 728, 1024)):
        if out == 1024:
            for _ in range(24):
                hand.separable(728, 728, side)
        hand.conv(c, out, 1, ((side + 1) // 2) ** 2)
        hand.separable(hand.separable(c, inner, side), out, side)
        c = out
    hand.linear(hand.separable(hand.separable(1024, 1536, 10), 2048, 10), 1000)
    return hand


GOLDEN: dict[str, tuple[int, int, float | None, Callable[[], Hand]]] = {
    # torchvision: num_params (without the side heads) and _ops; both heads: 3,188,840 and
    # 3,191,144 = 128 (c + 2) + 2049 x 1024 + 1025 x 1000 with c = 512 and 528
    "googlenet": (6_624_904, 13_004_888, 1.498, hand_googlenet),
    # torchvision: num_params (with the head) and _ops
    "inception_v3": (23_834_568, 27_161_264, 5.713, hand_inception_v3),
    # torchvision: num_params and _ops
    "densenet121": (
        7_978_856, 7_978_856, 2.834, lambda: hand_densenet_imagenet(6, 12, 24, 16)
    ),
    "densenet169": (
        14_149_480, 14_149_480, 3.36, lambda: hand_densenet_imagenet(6, 12, 32, 32)
    ),
    "densenet201": (
        20_013_928, 20_013_928, 4.291, lambda: hand_densenet_imagenet(6, 12, 48, 32)
    ),
    # table 2 of the paper: 0.8 M
    "densenet100_cifar": (769_162, 769_162, None, hand_densenet_cifar),
    "densenet100_add_cifar": (2_200_906, 2_200_906, None, hand_densenet_add),
    # table 3 of the paper
    "xception": (22_855_952, 22_855_952, None, hand_xception),
}  # fmt: skip

REDUCED = {"inception_v3": 75, "xception": 71, "densenet100_cifar": 16, "densenet100_add_cifar": 16}
"""Side of the input on which a network is trained; 32 for the others."""


@pytest.mark.parametrize("name", GOLDEN)
def test_networks_cost_what_is_published(name: str) -> None:
    params, params_training, giga_macs, count = GOLDEN[name]
    network, table, hand = reference_network(name), BlockTable(), count()
    cost = table.price(network)
    assert (cost["params"], hand.params) == (params, params)
    assert sum(table.block(*placed).params_training for placed in network.placed()) == (
        params_training
    )
    assert (cost["macs"], cost["activations"]) == (hand.macs, hand.acts)
    if giga_macs is not None:
        assert round(cost["macs"] / 1e9, 3) == giga_macs


def test_further_published_figures() -> None:
    xception = hand_xception()
    assert (xception.macs, xception.acts) == (8_357_403_496, 35_824_968)
    # timm: 6.90 M activations of DenseNet-121
    assert round(hand_densenet_imagenet(6, 12, 24, 16).acts / 1e6, 2) == 6.9
    heads = [128 * (c + 2) + 2049 * 1024 + 1025 * 1000 for c in (512, 528)]
    assert GOLDEN["googlenet"][0] + sum(heads) == GOLDEN["googlenet"][1]
    head = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 769 * 1000
    assert GOLDEN["inception_v3"][0] + head == GOLDEN["inception_v3"][1]


@pytest.mark.parametrize("name", GOLDEN)
def test_networks_survive_json(name: str) -> None:
    network = reference_network(name)
    again = Architecture.from_json(network.to_json(), BLOCKS, opaque=False)
    assert (again, again.id) == (network, network.id)


def digits(side: int, count: int) -> tuple[Tensor, Tensor]:
    """Real images: handwritten digits, enlarged, three equal channels of mean 0."""
    images, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(images[:count], dtype=torch.float32).reshape(-1, 1, 8, 8)
    x = interpolate(x, size=(side, side), mode="bilinear")
    return ((x - x.mean()) / x.std()).expand(-1, 3, -1, -1), torch.as_tensor(labels[:count])


@pytest.mark.parametrize("name", GOLDEN)
def test_one_step_lowers_the_loss_of_a_batch(name: str) -> None:
    side = REDUCED.get(name, 32)
    network = reference_network(name, input_shape=(3, side, side), num_classes=10)
    module = build(network).train()
    initialise(module, network, 1)
    images, labels = digits(side, 8)
    heads = [m for m in module.modules() if getattr(m, "training_only", False)]

    def loss() -> Tensor:
        torch.manual_seed(2)  # the same dropout
        total = cross_entropy(module(images), labels)
        return total + sum(head.weight * cross_entropy(head.logits, labels) for head in heads)

    before = loss()
    before.backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert len(gradients) == len(list(module.parameters()))
    # So far along the gradient that a straight line would lose 2 %: networks of 100 layers with
    # fresh batch norms bend soon after.
    rate = 0.02 * before.item() / sum(float(g.square().sum()) for g in gradients)
    torch.optim.SGD(module.parameters(), lr=rate).step()
    with torch.no_grad():
        assert 0.975 < loss().item() / before.item() < 0.995


def test_inputs_too_small_for_a_network_are_errors() -> None:
    reference_network("inception_v3", input_shape=(3, 75, 75))
    with pytest.raises(SpecError, match=r"inception_v3 on 3x74x74 input: block .*2x2 feature map"):
        reference_network("inception_v3", input_shape=(3, 74, 74))


def test_training_trains_the_auxiliary_classifier() -> None:
    images, labels = load_digits(return_X_y=True)
    pixels = np.uint8(np.repeat(images.reshape(-1, 1, 8, 8) * 15, 3, axis=1))
    data = Dataset(
        name="digits",
        train_images=pixels[:64],
        train_labels=labels[:64],
        val_images=pixels[64:96],
        val_labels=labels[64:96],
        num_classes=10,
    )
    network = Architecture(
        input_shape=(3, 8, 8),
        blocks=(
            ConvNormActivation(out=8, stride=2),
            AuxiliaryClassifier(out=10, kind="inception_v3"),
            GlobalPoolLinear(out=10),
        ),
        num_classes=10,
    )
    module = build(network)
    initialise(module, network, 0)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    (epoch,) = train(module, data, Recipe(epochs=1, batch_size=32, amp="off"), 0)
    assert math.isfinite(epoch["loss"])
    assert {n.split(".")[0] for n in before} == {"0", "1", "2"}
    assert all(not torch.equal(before[n], p) for n, p in module.named_parameters())
    assert module[1].logits is None  # type: ignore[index, union-attr]


def test_weights_begin_as_in_the_common_implementations() -> None:
    conv = Weighted(kind="conv", fan_in=72, fan_out=144, index=3)
    linear = Weighted(kind="linear", fan_in=100, fan_out=10, index=4)
    inits = {name: reference_network(name).init for name in GOLDEN}
    assert find_init(inits["googlenet"])(conv) == Start("normal", 0.01, 0)
    assert find_init(inits["inception_v3"])(linear) == Start("normal", 0.1, 0)
    assert find_init(inits["densenet121"])(conv) == Start("normal", 1 / 6, 0)
    assert find_init(inits["densenet100_cifar"])(linear) == Start("uniform", 0.1, 0)
    assert find_init(inits["xception"])(conv) == Start("uniform", 1 / 6, 0)
