"""Xception (arXiv 1610.02357)."""

from __future__ import annotations

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import (
    ConvNormActivation,
    GlobalPoolLinear,
    SeparableConv,
    XceptionModule,
)
from search_spaces.published import Published


def xception(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """Figure 5 in the layout of Keras: the two convolutions of the stem are not padded.

    Dropout 0.5 before the classifier as section 4.3 has it.

    Raises:
        SpecError: an input that is too small.
    """
    del width
    chain: tuple[Block, ...] = (
        ConvNormActivation(out=32, stride=2, padding=0),
        ConvNormActivation(out=64, padding=0),
        XceptionModule(out=128, stride=2, first_activation=False),
        XceptionModule(out=256, stride=2),
        XceptionModule(out=728, stride=2),
        *(XceptionModule(out=728, layers=3) for _ in range(8)),
        XceptionModule(out=1024, stride=2, grow="last"),
        SeparableConv(out=1536),
        SeparableConv(out=2048),
        GlobalPoolLinear(out=num_classes, dropout=0.5),
    )
    return Architecture(
        input_shape=input_shape, blocks=chain, num_classes=num_classes, init="glorot_uniform"
    )


NETWORKS: dict[str, Published] = {
    "xception": Published(
        make=xception,
        input_shape=(3, 299, 299),
        source="Chollet 2016, arXiv 1610.02357, figure 5; layout of Keras",
    )
}
