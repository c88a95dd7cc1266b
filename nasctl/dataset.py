"""Layer 2: the value that a data set is, how it is validated, identified and split.

Its arrays are read-only, so that Ray's workers can share one copy in the object store. A search
gets `without_test()`; test images are opened by `nasctl verify` alone.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from dataclasses import dataclass

import numpy as np

from nasctl.data_readers import Images, Labels
from nasctl.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images and labels of a classification task in three splits.

    Attributes:
        name: as in `data=NAME`.
        train_images: uint8, (N, C, H, W), native channels and size.
        train_labels: whole numbers 0 .. num_classes - 1, (N,); kept as int64.
        val_images: what a search is judged by; same C, H, W.
        val_labels: as `train_labels`.
        num_classes: length of the network's output.
        test_images: opened once, for the finalists; None where there is none or it is hidden.
        test_labels: None together with `test_images`.
        class_names: one per class; by default "0", "1", ...

    Raises:
        ConfigError: arrays of wrong dtype, shape or length, or labels out of range; all at once.
    """

    name: str
    train_images: Images
    train_labels: Labels
    val_images: Images
    val_labels: Labels
    num_classes: int
    test_images: Images | None = None
    test_labels: Labels | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        for split in ("train", "val", "test"):
            images = getattr(self, f"{split}_images")
            labels = getattr(self, f"{split}_labels")
            if split == "test" and images is None and labels is None:
                continue
            problems += _split_problems(split, images, labels, self)
        names = tuple(str(n) for n in self.class_names or range(self.num_classes))
        if len(names) != self.num_classes:
            problems.append(f"class_names: {len(names)} names for {self.num_classes} classes")
        if problems:
            raise ConfigError([f"data {self.name}: {problem}" for problem in problems])
        object.__setattr__(self, "class_names", names)
        for field in ("train", "val", "test"):
            for kind, dtype in (("images", np.uint8), ("labels", np.int64)):
                if (array := getattr(self, f"{field}_{kind}")) is not None:
                    array = np.ascontiguousarray(array, dtype=dtype).view()
                    array.flags.writeable = False
                    object.__setattr__(self, f"{field}_{kind}", array)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the stored images."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @functools.cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the sha256 of all that a search sees: training and validation.

        The test split is left out, so `without_test()` has the same one.
        """
        parts = (self.train_images, self.train_labels, self.val_images, self.val_labels)
        return _digest(self.num_classes, *parts)

    @functools.cached_property
    def test_fingerprint(self) -> str | None:
        """The same of the test split; None where it is hidden."""
        if self.test_images is None or self.test_labels is None:
            return None
        return _digest(self.num_classes, self.test_images, self.test_labels)

    @functools.cached_property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of every channel of the training split, pixels in 0 .. 1.

        Computed from whole numbers, hence the same on every machine. A constant channel gets the
        deviation 1.
        """
        means, deviations = [], []
        for channel in range(self.input_shape[0]):
            counts = np.bincount(self.train_images[:, channel].reshape(-1), minlength=256).tolist()
            number = sum(counts)
            total = sum(level * n for level, n in enumerate(counts))
            squares = sum(level * level * n for level, n in enumerate(counts))
            means.append(total / number / 255)
            spread = number * squares - total * total  # whole: exactly 0 for a constant
            deviations.append(math.sqrt(spread) / number / 255 if spread else 1.0)
        return tuple(means), tuple(deviations)

    def without_test(self) -> Dataset:
        """What a search and its workers may see: the same data, no test images."""
        seen = dataclasses.replace(self, test_images=None, test_labels=None)
        # Hashed here once, so that pickled copies carry it and no worker hashes again.
        seen.__dict__.update(fingerprint=self.fingerprint, normalisation=self.normalisation)
        return seen


def _digest(num_classes: int, *arrays: Images | Labels) -> str:
    digest = hashlib.sha256(str(num_classes).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _split_problems(split: str, images: object, labels: object, data: Dataset) -> list[str]:
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
        return [f"{split}: images and labels must both be NumPy arrays"]
    problems = []
    if images.dtype != np.uint8:
        problems.append(f"{split}_images: must be uint8 (0 to 255), got {images.dtype}")
    if images.ndim != 4 or 0 in images.shape:
        problems.append(f"{split}_images: must be (N, C, H, W), N > 0, got {images.shape}")
    elif images.shape[1:] != (expected := np.shape(data.train_images)[1:]):
        problems.append(f"{split}_images: {images.shape[1:]}, but training has {expected}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        problems.append(f"{split}_labels: must be whole numbers of shape (N,)")
    elif len(labels) != len(images):
        problems.append(f"{split}: {len(images)} images but {len(labels)} labels")
    elif len(labels) and not 0 <= labels.min() <= labels.max() < data.num_classes:
        problems.append(
            f"{split}_labels: {labels.min()} to {labels.max()} are not in 0 to "
            f"{data.num_classes - 1}"
        )
    return problems


def stratified_split(labels: Labels, count: int, seed: int) -> tuple[Labels, Labels]:
    """Indices of the rest and of `count` samples that keep the class shares, both ascending.

    Shares are rounded by largest remainder, ties to the lower class. The stream of RandomState is
    frozen (NEP 19), so a seed means the same split for ever.

    Raises:
        ConfigError: `count` leaves either side empty.
    """
    if not 0 < count < len(labels):
        raise ConfigError(f"data.val_size: {count} of {len(labels)} images cannot be split off")
    rng = np.random.RandomState(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * (count / len(labels))
    take = np.floor(exact).astype(int)
    order = np.argsort(-(exact - take), kind="stable")
    take[order[: count - take.sum()]] += 1
    chosen = np.concatenate(
        [
            rng.permutation(np.flatnonzero(labels == c))[:n]
            for c, n in zip(classes, take, strict=True)
        ]
    )
    mask = np.zeros(len(labels), dtype=bool)
    mask[chosen] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)
