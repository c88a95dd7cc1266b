"""MobileNetV2 (arXiv 1801.04381) at any width multiplier."""

from __future__ import annotations

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import ConvNormActivation, GlobalPoolLinear, InvertedResidual
from search_spaces.blocks.shapes import make_divisible
from search_spaces.published import Published

ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1))  # fmt: skip
"""(expand ratio, channels, blocks, stride of the first); table 2."""


def mobilenet_v2(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """Table 2. The last 1x1 convolution keeps its 1,280 channels for multipliers below 1.

    Raises:
        SpecError: an input that is too small.
    """
    chain: list[Block] = [
        ConvNormActivation(out=make_divisible(32 * width), stride=2, activation="relu6")
    ]
    chain += [
        InvertedResidual(
            out=make_divisible(channels * width),
            stride=stride if block == 0 else 1,
            expand_ratio=ratio,
        )
        for ratio, channels, blocks, stride in ROWS
        for block in range(blocks)
    ]
    last = make_divisible(1280 * max(1, width))
    chain += [
        ConvNormActivation(out=last, kernel_size=1, activation="relu6"),
        GlobalPoolLinear(out=num_classes, dropout=0.2),
    ]
    return Architecture(input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes)


NETWORKS: dict[str, Published] = {
    "mobilenet_v2": Published(
        make=mobilenet_v2,
        scalable=True,
        source="Sandler et al. 2018, arXiv 1801.04381, table 2; initialisation of torchvision",
    ),
}
