"""MobileNetV1 (arXiv 1704.04861) at any width multiplier, and its twin of full convolutions."""

from __future__ import annotations

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import ConvNormActivation, DepthwiseSeparable, GlobalPoolLinear
from search_spaces.published import Published

ROWS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2),
        (1024, 1))  # fmt: skip
"""(channels, stride) of the separable layers; table 1."""


def mobilenet_v1(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """Table 1. Channels are int(channels x width), at least 8, as in the authors' code.

    Raises:
        SpecError: an input that is too small.
    """
    return _network(input_shape, num_classes, width, separable=True)


def conv_mobilenet(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """Table 4's "Conv MobileNet": every separable layer a full 3x3 convolution.

    Raises:
        SpecError: an input that is too small.
    """
    return _network(input_shape, num_classes, width, separable=False)


def _network(
    input_shape: Shape, num_classes: int, width: float, *, separable: bool
) -> Architecture:
    def channels(n: int) -> int:
        return max(8, int(n * width))

    chain: list[Block] = [ConvNormActivation(out=channels(32), stride=2, activation="relu6")]
    chain += [
        DepthwiseSeparable(out=channels(out), stride=stride)
        if separable
        else ConvNormActivation(out=channels(out), stride=stride, activation="relu6")
        for out, stride in ROWS
    ]
    chain.append(GlobalPoolLinear(out=num_classes, dropout=0.001))
    return Architecture(
        input_shape=input_shape,
        blocks=tuple(chain),
        num_classes=num_classes,
        init="truncated_normal_0.09",
    )


_SOURCE = "Howard et al. 2017, arXiv 1704.04861"

NETWORKS: dict[str, Published] = {
    "mobilenet_v1": Published(
        make=mobilenet_v1,
        scalable=True,
        source=f"{_SOURCE}, table 1; ReLU6, dropout and initialisation of tensorflow/models, slim",
    ),
    "mobilenet_v1_conv": Published(
        make=conv_mobilenet, scalable=True, source=f"{_SOURCE}, table 4: full convolutions"
    ),
}
