"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition")."""

from __future__ import annotations

from functools import partial

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import (
    AvgPool,
    ConvNormActivation,
    FlattenLinear,
    LeNetC3,
    RbfOutput,
    ScaledTanh,
    TrainableSubsampling,
)
from search_spaces.published import Published

INPUT = 32
"""The paper's digits of 28 pixels stand in the middle of as many."""

INIT = "lenet_uniform"


def _first(input_shape: Shape, activation: str) -> Block:
    """C1; smaller images get the rim that the paper puts around its digits: 28 pixels are 32."""
    padding = 2 if min(input_shape[1:], default=INPUT) < INPUT else 0
    return ConvNormActivation(
        out=6, kernel_size=5, padding=padding, norm="none", activation=activation
    )


def lenet5(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """Section II.B: C1, S2, C3, S4, C5, F6 and the output, the sides 32, 28, 14, 10, 5 and 1.

    Raises:
        SpecError: an input below 28 pixels.
    """
    del width
    chain: list[Block] = [
        _first(input_shape, "linear"),
        ScaledTanh(),
        TrainableSubsampling(),
        ScaledTanh(),
        LeNetC3(),
        ScaledTanh(),
        TrainableSubsampling(),
        ScaledTanh(),
        ConvNormActivation(out=120, kernel_size=5, padding=0, norm="none", activation="linear"),
        ScaledTanh(),
        FlattenLinear(out=84),
        ScaledTanh(),
        RbfOutput(out=num_classes),
    ]
    return Architecture(
        input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes, init=INIT
    )


def lenet5_modern(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """What is called LeNet-5 today: all maps connected, average pooling, tanh, a linear output.

    Raises:
        SpecError: an input that is too small.
    """
    del width
    chain: list[Block] = [
        _first(input_shape, "tanh"),
        AvgPool(kernel_size=2, stride=2),
        ConvNormActivation(out=16, kernel_size=5, padding=0, norm="none", activation="tanh"),
        AvgPool(kernel_size=2, stride=2),
        FlattenLinear(out=num_classes, hidden=(120, 84), activation="tanh"),
    ]
    return Architecture(
        input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes, init=INIT
    )


_published = partial(Published, input_shape=(1, INPUT, INPUT), num_classes=10)

NETWORKS: dict[str, Published] = {
    "lenet5": _published(
        make=lenet5,
        source="LeCun et al. 1998, section II.B, table I and figure 2; random codes of the output",
    ),
    "lenet5_modern": _published(
        make=lenet5_modern,
        source="LeCun et al. 1998 with all maps of C3 connected, average pooling, linear output",
    ),
}
