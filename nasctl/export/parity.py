"""Layer 4: does an exported network say what the trained one says, on real images?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasctl.augment import as_tensor
from nasctl.errors import NasctlError
from nasctl.export.images import batches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from nasctl.export.images import Images

TOLERANCE = 1e-4
"""Of the largest error, relative to the largest logit."""
IMAGES = 2000
"""Compared at most: a wrong graph shows on the first, and large networks take their time."""

Runner = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]
"""Normalised images (N, C, H, W) to logits (N, classes)."""


class ParityError(NasctlError):
    """The exported network computes something else; nothing is left of it."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What a comparison on `images` images gave.

    Attributes:
        max_error, mean_error: of logits, relative to the largest one.
        differing: images of which the two name different classes.
        accuracy, exported_accuracy: fractions, of the trained and of the exported network.
        split: that the images are of.
    """

    images: int
    max_error: float
    mean_error: float
    differing: int
    accuracy: float
    exported_accuracy: float
    split: str = "val"

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def spread(count: int) -> NDArray[np.intp]:
    """At most `IMAGES` of so many, evenly: in folders of pictures they are sorted by class."""
    import numpy as np

    return np.unique(np.linspace(0, count - 1, min(count, IMAGES)).round().astype(np.intp))


class LogitComparison:
    """Adds up how far two networks lie apart, batch by batch; keeps no logits."""

    def __init__(self) -> None:
        self.images = 0
        self._entries = 0
        self._largest = self._furthest = 0.0
        self._sum = 0.0
        self._correct = [0, 0]
        self._agreeing = 0

    def add(
        self, ours: NDArray[np.float32], theirs: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> None:
        """Logits (N, classes) of both, and the classes (N,) of the same images."""
        import numpy as np

        apart = np.abs(ours - theirs)
        first, second = ours.argmax(1), theirs.argmax(1)
        self.images += len(labels)
        self._entries += apart.size
        # Of NumPy: unlike Python's, its maximum of anything and NaN is NaN.
        self._largest = float(np.maximum(self._largest, np.abs(ours).max()))
        self._furthest = float(np.maximum(self._furthest, apart.max()))
        self._sum += float(apart.sum(dtype=np.float64))
        self._correct[0] += int((first == labels).sum())
        self._correct[1] += int((second == labels).sum())
        self._agreeing += int((first == second).sum())

    @property
    def _scale(self) -> float:
        return self._largest or 1.0

    @property
    def max_error(self) -> float:
        """Of a logit, relative to the largest one of the first network."""
        return self._furthest / self._scale

    @property
    def mean_error(self) -> float:
        return self._sum / self._entries / self._scale

    @property
    def accuracies(self) -> tuple[float, float]:
        """Fractions, of both."""
        return self._correct[0] / self.images, self._correct[1] / self.images

    @property
    def agreeing(self) -> int:
        """Images of which both name the same class."""
        return self._agreeing


def compare(
    trained: nn.Module,
    exported: Runner,
    images: Images,
    labels: NDArray[np.int64],
    *,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
) -> Parity:
    """Both on the same images, a batch at a time.

    Args:
        trained: in evaluation mode, on the CPU.
        images: uint8, (N, C, H, W), of the size that the network takes.
        labels: (N,).
        normalisation: see `Dataset.normalisation`.

    Raises:
        ParityError: the error is above `TOLERANCE`, or something is not finite.
    """
    import torch

    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in normalisation)
    found = LogitComparison()
    with torch.no_grad():
        for batch in batches(images):
            part = (as_tensor(batch).float() / 255 - mean) / std
            ours, theirs = trained(part).numpy(), exported(part.numpy())
            if ours.shape != theirs.shape:
                raise ParityError(
                    f"the exported network gives {theirs.shape}, the trained one {ours.shape}"
                )
            found.add(ours, theirs, labels[found.images : found.images + len(batch)])
    accuracy, exported_accuracy = found.accuracies
    parity = Parity(
        images=found.images,
        max_error=found.max_error,
        mean_error=found.mean_error,
        differing=found.images - found.agreeing,
        accuracy=accuracy,
        exported_accuracy=exported_accuracy,
    )
    if not parity.max_error <= TOLERANCE:  # not a number is no parity either
        raise ParityError(
            f"the exported network differs from the trained one by {parity.max_error:.2g} of the "
            f"largest output on {parity.images:,} images, more than {TOLERANCE:g}; nothing written"
        )
    return parity
