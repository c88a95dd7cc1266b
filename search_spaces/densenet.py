"""DenseNet (arXiv 1608.06993): the ImageNet networks and BC on CIFAR, with its additive twin."""

from __future__ import annotations

from functools import partial

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import (
    BatchNormActivation,
    ConvNormActivation,
    DenseBlock,
    GlobalPoolLinear,
    MaxPool,
    PreActivationStem,
    Transition,
)
from search_spaces.blocks.dense import Combine
from search_spaces.published import Published

LAYERS: dict[int, tuple[int, int, int, int]] = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
}
"""Of each block; table 1."""

INIT = "he_normal_fan_in"


def _trunk(
    channels: int, layers: tuple[int, ...], growth_rate: int, combine: Combine
) -> list[Block]:
    """Dense blocks, transitions that halve channels and map between them, and the last norm."""
    chain: list[Block] = []
    for index, depth in enumerate(layers):
        if index:
            # The additive twin has as many channels after a transition as the network itself.
            channels //= 2
            chain.append(Transition(out=channels))
        chain.append(DenseBlock(layers=depth, growth_rate=growth_rate, combine=combine))
        channels += depth * growth_rate
    return [*chain, BatchNormActivation()]


def densenet(input_shape: Shape, num_classes: int, width: float = 1, *, depth: int) -> Architecture:
    """Table 1, growth rate 32: 64 channels from a 7x7, bottlenecks, compression by 0.5.

    Raises:
        SpecError: an input that is too small.
    """
    del width
    chain = (
        ConvNormActivation(out=64, kernel_size=7, stride=2),
        MaxPool(kernel_size=3, stride=2),
        *_trunk(64, LAYERS[depth], 32, "concat"),
        GlobalPoolLinear(out=num_classes),
    )
    return Architecture(input_shape=input_shape, blocks=chain, num_classes=num_classes, init=INIT)


def densenet_cifar(
    input_shape: Shape,
    num_classes: int,
    width: float = 1,
    *,
    growth_rate: int = 12,
    depth: int = 100,
    combine: Combine = "concat",
) -> Architecture:
    """DenseNet-BC of sections 3 and 4.2: three blocks of (depth - 4) / 6 bottleneck layers.

    The additive twin has the same layers in number and inner width, and the same transitions.

    Raises:
        SpecError: an input that is too small.
    """
    del width
    chain = (
        PreActivationStem(out=2 * growth_rate),
        *_trunk(2 * growth_rate, ((depth - 4) // 6,) * 3, growth_rate, combine),
        GlobalPoolLinear(out=num_classes),
    )
    return Architecture(input_shape=input_shape, blocks=chain, num_classes=num_classes, init=INIT)


NETWORKS: dict[str, Published] = {
    **{
        f"densenet{depth}": Published(
            make=partial(densenet, depth=depth),
            source="Huang et al. 2016, arXiv 1608.06993, table 1; layout of torchvision",
        )
        for depth in LAYERS
    },
    "densenet100_cifar": Published(
        make=densenet_cifar,
        input_shape=(3, 32, 32),
        num_classes=10,
        source="Huang et al. 2016, arXiv 1608.06993, table 2: DenseNet-BC, L = 100, k = 12",
    ),
    "densenet100_add_cifar": Published(
        make=partial(densenet_cifar, combine="add"),
        input_shape=(3, 32, 32),
        num_classes=10,
        source="the additive twin of densenet100_cifar: no publication",
    ),
}
