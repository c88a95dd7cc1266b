"""Inception-v3 (arXiv 1512.00567) with its auxiliary classifier."""

from __future__ import annotations

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import (
    AuxiliaryClassifier,
    ConvNormActivation,
    GlobalPoolLinear,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
    MaxPool,
)
from search_spaces.published import Published

POOL_FEATURES = (32, 64, 64)
CHANNELS_7X7 = (128, 160, 160, 192)


def inception_v3(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """Table 1 in torchvision's layout; convolutions of the stem are not padded, but for one.

    Raises:
        SpecError: an input that is too small: it needs at least 75x75.
    """
    del width
    pool = MaxPool(kernel_size=3, stride=2, padding=0)
    chain: tuple[Block, ...] = (
        ConvNormActivation(out=32, stride=2, padding=0),
        ConvNormActivation(out=32, padding=0),
        ConvNormActivation(out=64),
        pool,
        ConvNormActivation(out=80, kernel_size=1),
        ConvNormActivation(out=192, padding=0),
        pool,
        *(InceptionA(pool_features=n) for n in POOL_FEATURES),
        InceptionB(),
        *(InceptionC(channels_7x7=n) for n in CHANNELS_7X7),
        AuxiliaryClassifier(out=num_classes, kind="inception_v3"),
        InceptionD(),
        InceptionE(),
        InceptionE(),
        GlobalPoolLinear(out=num_classes, dropout=0.5),
    )
    return Architecture(
        input_shape=input_shape, blocks=chain, num_classes=num_classes, init="normal_0.1"
    )


NETWORKS: dict[str, Published] = {
    "inception_v3": Published(
        make=inception_v3,
        input_shape=(3, 299, 299),
        source="Szegedy et al. 2015, arXiv 1512.00567, table 1; layout of torchvision",
    )
}
