"""ResNet (arXiv 1512.03385): the ImageNet and CIFAR networks and their plain twins."""

from __future__ import annotations

from functools import partial

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import (
    ConvNormActivation,
    GlobalPoolLinear,
    MaxPool,
    ResidualBasic,
    ResidualBottleneck,
)
from search_spaces.blocks.residual import ShortcutType
from search_spaces.published import Published

DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of each stage; table 1."""

CIFAR_DEPTHS = (20, 32, 44, 56, 110)
CIFAR_KINDS: tuple[tuple[str, ShortcutType], ...] = (("resnet", "A"), ("plain", "none"))


def resnet(
    input_shape: Shape,
    num_classes: int,
    width: float = 1,
    *,
    depth: int,
    shortcut: ShortcutType = "B",
) -> Architecture:
    """Table 1: basic blocks up to 34 layers, bottlenecks beyond, their stride on the 3x3.

    Raises:
        SpecError: an input that is too small.
    """
    del width
    chain: list[Block] = [
        ConvNormActivation(out=64, kernel_size=7, stride=2),
        MaxPool(kernel_size=3, stride=2),
    ]
    for index, blocks in enumerate(DEPTHS[depth]):
        for block in range(blocks):
            stride = 2 if index > 0 and block == 0 else 1
            out = 64 * 2**index
            chain.append(
                ResidualBottleneck(out=4 * out, stride=stride, shortcut=shortcut)
                if depth >= 50
                else ResidualBasic(out=out, stride=stride, shortcut=shortcut)
            )
    chain.append(GlobalPoolLinear(out=num_classes))
    return Architecture(input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes)


def resnet_cifar(
    input_shape: Shape,
    num_classes: int,
    width: float = 1,
    *,
    depth: int,
    shortcut: ShortcutType = "A",
) -> Architecture:
    """Section 4.2: 6 n + 2 layers of 16, 32 and 64 channels, shortcuts without parameters.

    Raises:
        SpecError: an input that is too small.
    """
    del width
    chain: list[Block] = [ConvNormActivation(out=16)]
    for index in range(3):
        for block in range((depth - 2) // 6):
            stride = 2 if index > 0 and block == 0 else 1
            chain.append(ResidualBasic(out=16 * 2**index, stride=stride, shortcut=shortcut))
    chain.append(GlobalPoolLinear(out=num_classes))
    return Architecture(input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes)


NETWORKS: dict[str, Published] = {
    **{
        f"resnet{depth}": Published(
            make=partial(resnet, depth=depth),
            source="He et al. 2015, arXiv 1512.03385, table 1; stride on the 3x3 as torchvision",
        )
        for depth in DEPTHS
    },
    **{
        f"plain{depth}": Published(
            make=partial(resnet, depth=depth, shortcut="none"),
            source="He et al. 2015, arXiv 1512.03385, figure 3 (middle)",
        )
        for depth in (18, 34)
    },
    **{
        f"{name}{depth}_cifar": Published(
            make=partial(resnet_cifar, depth=depth, shortcut=shortcut),
            input_shape=(3, 32, 32),
            num_classes=10,
            source="He et al. 2015, arXiv 1512.03385, section 4.2",
        )
        for name, shortcut in CIFAR_KINDS
        for depth in CIFAR_DEPTHS
    },
}
