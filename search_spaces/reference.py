"""The reference networks: every published one by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nasctl.arch import Architecture, Shape
from nasctl.errors import SpecError, unknown
from search_spaces import (
    alexnet,
    densenet,
    googlenet,
    inception_v3,
    lenet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    nin,
    resnet,
    vgg,
    xception,
)
from search_spaces.published import Published

NETWORKS: Mapping[str, Published] = {
    **lenet.NETWORKS,
    **alexnet.NETWORKS,
    **nin.NETWORKS,
    **vgg.NETWORKS,
    **googlenet.NETWORKS,
    **inception_v3.NETWORKS,
    **resnet.NETWORKS,
    **densenet.NETWORKS,
    **xception.NETWORKS,
    **mobilenet_v1.NETWORKS,
    **mobilenet_v2.NETWORKS,
    **mobilenet_v3.NETWORKS,
}


LARGEST = (65_536, 4_096, 4_096)
"""Channels (and classes), height and width."""


def reference_network(
    name: str,
    *,
    input_shape: Shape | None = None,
    num_classes: int | None = None,
    width: float = 1,
) -> Architecture:
    """A network of the literature, for its own input and classes or for others.

    Args:
        name: one of `NETWORKS`.
        input_shape: (channels, height, width); None: that of the publication.
        num_classes: None: that of the publication.
        width: the multiplier, where the publication has one.

    Raises:
        SpecError: an unknown name, a width for a network that has none, or an input that is too
            small for the network.
    """
    if name not in NETWORKS:
        raise SpecError(unknown("network", name, NETWORKS))
    published = NETWORKS[name]
    if width != 1 and not published.scalable:
        scalable = ", ".join(n for n, p in NETWORKS.items() if p.scalable)
        raise SpecError(f"width {width}: {name} has no width multiplier; these have: {scalable}")
    if not (math.isfinite(width) and 0 < width <= 16):
        raise SpecError(f"width: expected a number above 0 and up to 16, got {width}")
    shape = published.input_shape if input_shape is None else input_shape
    classes = published.num_classes if num_classes is None else num_classes
    if any(n > limit for n, limit in zip(shape, LARGEST, strict=False)):
        size, largest = "x".join(map(str, shape)), "x".join(map(str, LARGEST))
        raise SpecError(f"input {size}: expected at most {largest}")
    if classes > LARGEST[0]:
        raise SpecError(f"classes: expected at most {LARGEST[0]:,}, got {classes}")
    try:
        return published.make(shape, classes, width)
    except SpecError as error:
        size = "x".join(map(str, shape))
        raise SpecError([f"{name} on {size} input: {p}" for p in error.problems]) from None
