"""LeNet, AlexNet, NIN and VGG: published costs, one training step, and the blocks they are from."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasctl.arch import Architecture, Shape
from nasctl.blocktable import BlockTable
from nasctl.errors import SpecError
from search_spaces.blocks import BLOCKS, LeNetC3, TrainableSubsampling
from search_spaces.network import build, initialise
from search_spaces.reference import reference_network
from tests.test_blocks import built

torch.set_num_threads(1)

PARAMS = {
    # LeCun et al. 1998, section II.B: "60,000 trainable free parameters".
    "lenet5": 60_000,
    # 156 + 2,416 + 48,120 + 10,164 + 850: all of the 96 pairs of C3, a linear output.
    "lenet5_modern": 61_706,
    # "60 million parameters" (Krizhevsky et al. 2012); exactly as in Caffe's bvlc_alexnet.
    "alexnet_grouped": 60_965_224,
    # The following are `num_params` of torchvision's weights.
    "alexnet_single": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    # The layers of the Caffe zoo's nin_imagenet, summed.
    "nin": 7_595_176,
}
Maps = tuple[int, int, int, int, int]
"""Of a convolution: channels that an output sees, outputs, kernel, height, width."""
CONVOLUTIONS: dict[str, tuple[Maps, ...]] = {
    "lenet5": ((1, 6, 5, 28, 28), (60, 1, 5, 10, 10), (16, 120, 5, 1, 1)),
    "lenet5_modern": ((1, 6, 5, 28, 28), (6, 16, 5, 10, 10)),
    "alexnet_grouped": (
        (3, 96, 11, 55, 55), (48, 256, 5, 27, 27), (256, 384, 3, 13, 13), (192, 384, 3, 13, 13),
        (192, 256, 3, 13, 13),
    ),
    "alexnet_single": (
        (3, 64, 11, 55, 55), (64, 192, 5, 27, 27), (192, 384, 3, 13, 13), (384, 256, 3, 13, 13),
        (256, 256, 3, 13, 13),
    ),
    "nin": (
        (3, 96, 11, 54, 54), *((96, 96, 1, 54, 54),) * 2,
        (96, 256, 5, 27, 27), *((256, 256, 1, 27, 27),) * 2,
        (256, 384, 3, 13, 13), *((384, 384, 1, 13, 13),) * 2,
        (384, 1024, 3, 6, 6), (1024, 1024, 1, 6, 6), (1024, 1000, 1, 6, 6),
    ),
}  # fmt: skip
LINEAR: dict[str, tuple[int, ...]] = {  # the last of LeNet-5 are its distances to the codes
    "lenet5": (120, 84, 10),
    "lenet5_modern": (400, 120, 84, 10),
    "alexnet_grouped": (9216, 4096, 4096, 1000),
    "alexnet_single": (9216, 4096, 4096, 1000),
    "nin": (),
}
VGG = {  # table 1 of arXiv 1409.1556; M is a pool
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}
for _name, _row in VGG.items():
    _channels, _side = 3, 224
    _maps: list[Maps] = []
    for _entry in _row.split():
        if _entry == "M":
            _side //= 2
        else:
            _maps.append((_channels, int(_entry), 3, _side, _side))
            _channels = int(_entry)
    for _key in (_name, f"{_name}_bn"):
        CONVOLUTIONS[_key] = tuple(_maps)
        LINEAR[_key] = (512 * 7 * 7, 4096, 4096, 1000)

EXACT_MACS = {  # published or well-known; the others are the formula alone
    "lenet5_modern": 416_520,
    "alexnet_grouped": 724_406_816,
    "nin": 1_100_188_800,
}
GMACS = {  # `_ops` of torchvision's weights
    "alexnet_single": 0.714,
    "vgg11": 7.609, "vgg13": 11.308, "vgg16": 15.470, "vgg19": 19.632,
    "vgg11_bn": 7.609, "vgg13_bn": 11.308, "vgg16_bn": 15.470, "vgg19_bn": 19.632,
}  # fmt: skip
TABLE = BlockTable()


@pytest.mark.parametrize("name", PARAMS)
def test_costs_are_the_published_ones(name: str) -> None:
    cost = TABLE.price(reference_network(name))
    assert cost["params"] == PARAMS[name]
    convolutions = [c * out * k * k * h * w for c, out, k, h, w in CONVOLUTIONS[name]]
    macs = sum(convolutions) + sum(a * b for a, b in itertools.pairwise(LINEAR[name]))
    assert cost["macs"] == macs
    assert EXACT_MACS.get(name, macs) == macs
    assert GMACS.get(name, round(macs / 1e9, 3)) == round(macs / 1e9, 3)
    # Of the partly connected C3, the formula's row has the pairs and not the maps.
    acts = {"lenet5": 15 * 10 * 10}.get(name, 0)
    assert cost["activations"] == acts + sum(out * h * w for _, out, _, h, w in CONVOLUTIONS[name])


@pytest.mark.parametrize(
    "name",
    ["lenet5", "lenet5_modern", "alexnet_grouped", "alexnet_single", "nin", "vgg11", "vgg16_bn"],
)
def test_torchs_own_flop_counter_agrees(name: str) -> None:
    network = reference_network(name)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        module = build(network).eval()
        assert module(torch.empty(1, *network.input_shape)).shape == (1, network.num_classes)
    assert counter.get_total_flops() == 2 * TABLE.price(network)["macs"]


def test_lenet5_has_the_papers_parameters_and_connections() -> None:
    network = reference_network("lenet5")
    costs = [TABLE.block(*placed) for placed in network.placed()]
    assert [c.params for c in costs if c.params] == [156, 12, 1_516, 32, 48_120, 10_164]
    c3 = next(c for c, b in zip(costs, network.blocks, strict=True) if isinstance(b, LeNetC3))
    assert c3.macs == 60 * 25 * 100 == 150_000
    biases = 6 * 28 * 28 + 16 * 10 * 10 + 120 + 84
    subsampling = 5 * (6 * 14 * 14 + 16 * 5 * 5)  # four inputs and a bias each
    assert sum(c.macs for c in costs) + biases + subsampling == 340_908  # its "connections"
    on_mnist = reference_network("lenet5", input_shape=(1, 28, 28))
    assert on_mnist.shapes[1:] == network.shapes[1:]
    assert TABLE.price(on_mnist) == TABLE.price(network)


STEPS: dict[str, tuple[Shape, float]] = {  # a reduced input and a learning rate
    "lenet5": ((1, 32, 32), 0.01),
    "lenet5_modern": ((1, 28, 28), 0.1),
    "alexnet_grouped": ((3, 67, 67), 0.001),
    "alexnet_single": ((3, 63, 63), 0.001),
    "nin": ((3, 64, 64), 0.1),
    **{name: ((3, 32, 32), 0.01) for name in PARAMS if name.startswith("vgg")},
}


def digits(shape: Shape, number: int = 4) -> tuple[Tensor, Tensor]:
    """Real images (scikit-learn's digits) at the size of the network, and their classes."""
    data = load_digits()
    x = torch.tensor(data.images[:number], dtype=torch.float32).unsqueeze(1) / 8 - 1
    x = nn.functional.interpolate(x, size=shape[1:], mode="bilinear", align_corners=False)
    return x.repeat(1, shape[0], 1, 1), torch.tensor(data.target[:number])


@pytest.mark.parametrize("name", STEPS)
def test_one_step_lowers_the_loss(name: str) -> None:
    shape, learning_rate = STEPS[name]
    network = reference_network(name, input_shape=shape, num_classes=10)
    module = build(network)
    initialise(module, network, 0)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    x, y = digits(shape)
    optimiser = torch.optim.SGD(module.parameters(), lr=learning_rate)
    before = nn.functional.cross_entropy(module(x), y)
    before.backward()
    assert all(p.grad.abs().max() > 0 for p in module.parameters() if p.ndim > 1)
    optimiser.step()
    with torch.no_grad():
        after = nn.functional.cross_entropy(module(x), y)
    assert before.item() - after.item() > 1e-4 * before.item()


@pytest.mark.parametrize("name", PARAMS)
def test_networks_survive_json(name: str) -> None:
    network = reference_network(name)
    data = json.loads(json.dumps(network.to_json()))
    copy = Architecture.from_json(data, BLOCKS, opaque=False)
    assert copy == network
    assert copy.id == network.id


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lenet5", (1, 27, 27), "on 1x27x27 input: .*kernel_size 5 is larger than the 4x4"),
        ("lenet5_modern", (1, 11, 11), "1x11x11 input: .*stride 2 is larger than the 1x1"),
        ("lenet5", (5,), r"lenet5 on 5 input: .*needs a feature map .* got shape \(5,\)"),
        ("alexnet_grouped", (3, 66, 66), "3x66x66 input: .*kernel_size 3 .* the 2x2"),
        ("alexnet_single", (3, 62, 62), "3x62x62 input: .*kernel_size 3 .* the 2x2"),
        ("vgg16_bn", (3, 31, 40), "vgg16_bn on 3x31x40 input: .*stride 2 .* the 1x2"),
        ("nin", (3, 10, 10), "nin on 3x10x10 input: .*kernel_size 11 is larger than the 10x10"),
    ],
)
def test_inputs_that_are_too_small_are_named(name: str, shape: Shape, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        reference_network(name, input_shape=shape, num_classes=10)


def test_chains_follow_their_publications() -> None:
    def ops(name: str) -> str:
        short = {"conv_norm_act": "conv", "local_response_norm": "lrn", "max_pool": "pool"}
        return " ".join(short.get(b.op, b.op) for b in reference_network(name).blocks)

    conv_3 = " ".join(["conv"] * 3)
    head = "pool flatten_linear"
    assert ops("alexnet_grouped") == f"conv lrn pool conv lrn pool {conv_3} {head}"
    assert ops("alexnet_single") == f"conv pool conv pool {conv_3} {head}"
    assert ops("nin") == f"{conv_3} pool {conv_3} pool {conv_3} pool dropout {conv_3} global_pool"
    assert ops("vgg11_bn").startswith("conv batch_norm_act pool conv batch_norm_act pool")
    squashed = "conv scaled_tanh trainable_subsampling scaled_tanh lenet_c3 scaled_tanh"
    assert ops("lenet5").startswith(squashed)
    where = {"alexnet_grouped": "outputs", "alexnet_single": "inputs", "vgg16": "outputs"}
    for name, side in where.items():
        fields = reference_network(name).blocks[-1].fields()
        assert (fields["dropout"], fields["dropout_at"]) == (0.5, f"hidden_{side}")


def start(name: str, shape: Shape) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of the convolutions and linear layers, as the network begins."""
    network = reference_network(name, input_shape=shape, num_classes=10)
    module = build(network)
    initialise(module, network, 0)
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [(m.weight.detach(), m.bias.detach()) for m in layers]


def test_weights_begin_as_the_papers_say() -> None:
    alexnet = start("alexnet_single", (3, 63, 63))
    assert [b.unique().tolist() for _, b in alexnet] == [[v] for v in (0, 1, 0, 1, 1, 1, 1, 0)]
    assert all(w.std().item() == pytest.approx(0.01, rel=0.05) for w, _ in alexnet)
    nin = [w.std().item() for w, _ in start("nin", (3, 64, 64))]
    small = (0, 6, 11)
    assert nin == pytest.approx([0.01 if i in small else 0.05 for i in range(12)], rel=0.05)
    for weight, bias in start("lenet5", (1, 32, 32)):
        bound = 2.4 / weight[0].numel()
        assert 0.9 * bound < weight.abs().max() <= bound
        assert 0 < bias.abs().max() <= bound
    subsampling = built((TrainableSubsampling(),), (500, 2, 2))
    assert 0.59 < max(p.abs().max().item() for p in subsampling.parameters()) <= 0.6
