"""GoogLeNet (arXiv 1409.4842) with its two auxiliary classifiers."""

from __future__ import annotations

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import (
    AuxiliaryClassifier,
    ConvNormActivation,
    GlobalPoolLinear,
    Inception,
    MaxPool,
)
from search_spaces.published import Published

MODULES: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj."""

POOLS_AFTER = {"3b": 3, "4e": 2}
"""Kernel of the stride-2 max pool that ends a stage; torchvision's last one is 2x2."""

AUXILIARY_AFTER = ("4a", "4d")


def googlenet(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """Table 1 in torchvision's layout.

    It differs from the paper: batch norm after every convolution instead of local response
    normalisation after two, 3x3 convolutions in the place of the 5x5, a 2x2 last max pool, and
    auxiliary classifiers that average their map adaptively; dropout is 0.2 instead of 0.4.

    Raises:
        SpecError: an input that is too small.
    """
    del width
    chain: list[Block] = [
        ConvNormActivation(out=64, kernel_size=7, stride=2),
        _pool(3),
        ConvNormActivation(out=64, kernel_size=1),
        ConvNormActivation(out=192, kernel_size=3),
        _pool(3),
    ]
    for name, (out1, reduce3, out3, reduce5, out5, pool_proj) in MODULES.items():
        chain.append(
            Inception(
                out1=out1,
                reduce3=reduce3,
                out3=out3,
                reduce5=reduce5,
                out5=out5,
                pool_proj=pool_proj,
                kernel5=3,
            )
        )
        if name in AUXILIARY_AFTER:
            chain.append(AuxiliaryClassifier(out=num_classes, kind="googlenet"))
        if name in POOLS_AFTER:
            chain.append(_pool(POOLS_AFTER[name]))
    chain.append(GlobalPoolLinear(out=num_classes, dropout=0.2))
    return Architecture(
        input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes, init="normal_0.01"
    )


def _pool(kernel_size: int) -> MaxPool:
    return MaxPool(kernel_size=kernel_size, stride=2, padding=0, ceil=True)


NETWORKS: dict[str, Published] = {
    "googlenet": Published(
        make=googlenet,
        source="Szegedy et al. 2014, arXiv 1409.4842, table 1; layout of torchvision",
    )
}
