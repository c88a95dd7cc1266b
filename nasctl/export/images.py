"""Layer 4: images of a data set at the size of a network, resized as they are asked for.

A resized split of many large images does not fit into memory; a batch of it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasctl import augment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Resized:
    """Images as `augment.resize` gives them, a slice at a time.

    Attributes:
        images: uint8, (N, C, H, W).
        size: height and width wanted.
        chosen: which of them, in this order; None: all.
    """

    images: NDArray[np.uint8]
    size: tuple[int, int]
    chosen: NDArray[np.intp] | None = None

    def __len__(self) -> int:
        return len(self.images if self.chosen is None else self.chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """(number of images, C, *size)."""
        return (len(self), self.images.shape[1], *self.size)

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        own = self.images[part] if self.chosen is None else self.images[self.chosen[part]]
        return augment.resize(own, self.size)


if TYPE_CHECKING:
    Images = NDArray[np.uint8] | Resized
    """uint8, (N, C, H, W): an array, or what gives one for each slice."""


def batches(images: Images, count: int = BATCH) -> Iterator[NDArray[np.uint8]]:
    """All of them, (at most `count`, C, H, W) at a time."""
    for begin in range(0, len(images), count):
        yield images[begin : begin + count]
