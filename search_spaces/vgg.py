"""VGG (arXiv 1409.1556) with 11, 13, 16 and 19 layers, with and without batch norm."""

from __future__ import annotations

from functools import partial

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import ConvStack, FlattenLinear
from search_spaces.published import Published

DEPTHS: dict[int, tuple[int, int, int, int, int]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""3x3 convolutions of each stage; table 1, columns A, B, D and E."""

CHANNELS = (64, 128, 256, 512, 512)


def vgg(
    input_shape: Shape, num_classes: int, width: float = 1, *, depth: int, batch_norm: bool
) -> Architecture:
    """Table 1: five stacks, each with a 2x2 max pool, then three linear layers.

    On other inputs than 224 pixels the first linear layer adapts to the map.

    Raises:
        SpecError: an input below 32 pixels.
    """
    del width
    chain: list[Block] = [
        ConvStack(
            out=out,
            layers=layers,
            stride=2,
            norm="batch" if batch_norm else "none",
            bias=True,
        )
        for out, layers in zip(CHANNELS, DEPTHS[depth], strict=True)
    ]
    chain.append(
        FlattenLinear(
            out=num_classes, hidden=(4096, 4096), dropout=0.5, dropout_at="hidden_outputs"
        )
    )
    return Architecture(input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes)


NETWORKS: dict[str, Published] = {
    f"vgg{depth}{suffix}": Published(
        make=partial(vgg, depth=depth, batch_norm=batch_norm),
        source="Simonyan & Zisserman 2014, arXiv 1409.1556, table 1; layout of torchvision",
    )
    for suffix, batch_norm in (("", False), ("_bn", True))
    for depth in DEPTHS
}
