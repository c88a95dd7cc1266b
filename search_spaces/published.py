"""What a reference network is: an architecture of the literature, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nasctl.arch import Architecture, Shape


@dataclass(frozen=True, kw_only=True)
class Published:
    """A network of the literature, rebuilt from our blocks.

    Attributes:
        make: from input shape, number of classes and width multiplier to the network; raises
            SpecError for inputs that are too small for it.
        input_shape: of the publication: (channels, height, width).
        num_classes: likewise.
        scalable: whether its publication has a width multiplier; others are given 1.
        source: the paper, and whose layout it is where implementations differ.
    """

    make: Callable[[Shape, int, float], Architecture]
    input_shape: Shape = (3, 224, 224)
    num_classes: int = 1000
    scalable: bool = False
    source: str
