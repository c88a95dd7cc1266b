"""Small data sets, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nasctl.data import (
    Dataset,
)

ROOT = Path(__file__).parent.parent
IDX = Path("/usr/share/datasets/fashion-mnist")


rng = np.random.default_rng(0)


def tiny(**changes: object) -> Dataset:
    values: dict[str, object] = {
        "name": "tiny",
        "train_images": rng.integers(0, 256, (6, 1, 4, 4), dtype=np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "val_images": np.zeros((3, 1, 4, 4), np.uint8),
        "val_labels": np.array([0, 1, 2]),
        "test_images": np.ones((2, 1, 4, 4), np.uint8),
        "test_labels": np.array([0, 1]),
        "num_classes": 3,
    }
    return Dataset(**(values | changes))  # type: ignore[arg-type]
