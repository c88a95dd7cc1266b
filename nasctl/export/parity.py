"""Layer 4: does an exported network say what the trained one says, on real images?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasctl.errors import NasctlError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

TOLERANCE = 1e-4
"""Of the largest error, relative to the largest logit."""
BATCH = 100
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


def compare(
    trained: nn.Module,
    exported: Runner,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
) -> Parity:
    """Both on the same images.

    Args:
        trained: in evaluation mode, on the CPU.
        images: uint8, (N, C, H, W), of the size that the network takes.
        labels: (N,).
        normalisation: see `Dataset.normalisation`.

    Raises:
        ParityError: the error is above `TOLERANCE`, or something is not finite.
    """
    import numpy as np
    import torch

    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in normalisation)
    ours, theirs = [], []
    with torch.no_grad():
        for begin in range(0, len(images), BATCH):  # as floats all of them may not fit
            part = (torch.from_numpy(images[begin : begin + BATCH]).float() / 255 - mean) / std
            ours.append(trained(part).numpy())
            theirs.append(exported(part.numpy()))
    a, b = np.concatenate(ours), np.concatenate(theirs)
    if a.shape != b.shape:
        raise ParityError(f"the exported network gives {b.shape}, the trained one {a.shape}")
    scale = float(np.abs(a).max()) or 1.0
    error = np.abs(a - b) / scale
    found = Parity(
        images=len(images),
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        differing=int((a.argmax(1) != b.argmax(1)).sum()),
        accuracy=float((a.argmax(1) == labels).mean()),
        exported_accuracy=float((b.argmax(1) == labels).mean()),
    )
    if not found.max_error <= TOLERANCE:  # not a number is no parity either
        raise ParityError(
            f"the exported network differs from the trained one by {found.max_error:.2g} of the "
            f"largest output on {found.images:,} images, more than {TOLERANCE:g}; nothing written"
        )
    return found
