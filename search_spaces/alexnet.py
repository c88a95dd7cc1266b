"""AlexNet: as published in 2012 with its groups, and in one column."""

from __future__ import annotations

from functools import partial
from typing import Literal

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import ConvNormActivation, FlattenLinear, LocalResponseNorm, MaxPool
from search_spaces.published import Published

_convolution = partial(ConvNormActivation, norm="none")
_pool = MaxPool(kernel_size=3, stride=2, padding=0)


def _classifier(
    num_classes: int, dropout_at: Literal["hidden_inputs", "hidden_outputs"]
) -> FlattenLinear:
    """The three linear layers; on other inputs than published, the first adapts to the map."""
    return FlattenLinear(out=num_classes, hidden=(4096, 4096), dropout=0.5, dropout_at=dropout_at)


def alexnet_grouped(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """Section 3.5 and figure 2: the halves of conv2, conv4 and conv5 are on one GPU each.

    The paper says 224 pixels; its sizes need 227 (so have Caffe and later texts).

    Raises:
        SpecError: an input below 67 pixels.
    """
    del width
    chain: list[Block] = [
        _convolution(out=96, kernel_size=11, stride=4, padding=0),
        LocalResponseNorm(),
        _pool,
        _convolution(out=256, kernel_size=5, groups=2),
        LocalResponseNorm(),
        _pool,
        _convolution(out=384),
        _convolution(out=384, groups=2),
        _convolution(out=256, groups=2),
        _pool,
        _classifier(num_classes, "hidden_outputs"),
    ]
    return Architecture(
        input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes, init="alexnet_normal"
    )


def alexnet_single(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """One column, no norm: "one weird trick" (arXiv 1404.5997) in torchvision's layout.

    torchvision's adaptive pooling is left out: at 224 pixels it is the identity.

    Raises:
        SpecError: an input below 63 pixels.
    """
    del width
    chain: list[Block] = [
        _convolution(out=64, kernel_size=11, stride=4, padding=2),
        _pool,
        _convolution(out=192, kernel_size=5),
        _pool,
        _convolution(out=384),
        _convolution(out=256),
        _convolution(out=256),
        _pool,
        _classifier(num_classes, "hidden_inputs"),
    ]
    return Architecture(
        input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes, init="alexnet_normal"
    )


NETWORKS: dict[str, Published] = {
    "alexnet_grouped": Published(
        make=alexnet_grouped,
        input_shape=(3, 227, 227),
        source="Krizhevsky et al. 2012, section 3.5 and figure 2",
    ),
    "alexnet_single": Published(
        make=alexnet_single,
        source="Krizhevsky 2014, arXiv 1404.5997; layout of torchvision",
    ),
}
