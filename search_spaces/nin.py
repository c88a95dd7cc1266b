"""Network in network (arXiv 1312.4400), the ImageNet network of the Caffe zoo."""

from __future__ import annotations

from functools import partial

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import ConvNormActivation, Dropout, GlobalPool, MaxPool, MlpConv
from search_spaces.published import Published

_mlpconv = partial(MlpConv, norm="none")
_pool = MaxPool(kernel_size=3, stride=2, padding=0, ceil=True)


def nin(input_shape: Shape, num_classes: int, width: float = 1) -> Architecture:
    """Figure 2 with four mlpconv layers; the last 1x1 has a map, and a ReLU, for each class.

    Caffe's pooling rounds up, so the sides are 54, 27, 13 and 6 at 224 pixels.

    Raises:
        SpecError: an input that is too small.
    """
    del width
    chain: list[Block] = [
        _mlpconv(out=96, kernel_size=11, stride=4, padding=0),
        _pool,
        _mlpconv(out=256, kernel_size=5),
        _pool,
        _mlpconv(out=384),
        _pool,
        Dropout(dropout=0.5),
        _mlpconv(out=1024, layers=1),
        ConvNormActivation(out=num_classes, kernel_size=1, norm="none"),
        GlobalPool(),
    ]
    return Architecture(
        input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes, init="nin_normal"
    )


NETWORKS: dict[str, Published] = {
    "nin": Published(
        make=nin,
        source="Lin et al. 2013, arXiv 1312.4400; layout of the Caffe model zoo (nin_imagenet)",
    ),
}
