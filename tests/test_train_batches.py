"""Batches: normalised, shuffled, cropped and mirrored images."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from nasctl import augment
from nasctl.data import Dataset

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_cache() -> Iterator[None]:
    yield
    augment.clear_cache()


def one_epoch(data: augment.Prepared, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    defaults = {"batch_size": 100, "flip": False, "seed": 0, "epoch": 0, "channels_last": True}
    parts = list(augment.batches(data, **(defaults | options)))
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def test_batches_are_the_normalised_images_in_an_order_of_their_own(digits: Dataset) -> None:
    data = augment.prepared(digits, (8, 8), 0, CPU)
    images, labels = one_epoch(data, batch_size=9)
    assert len(images) == 1197
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std().item() == pytest.approx(1, abs=1e-3)
    mean, deviation = digits.normalisation
    order = torch.randperm(1197, generator=augment.generator("order", 0, 0))
    wanted = (digits.train_images[order[5]] / 255 - mean[0]) / deviation[0]
    np.testing.assert_allclose(images[5].numpy(), wanted, atol=1e-5)
    assert labels[5] == digits.train_labels[order[5]]
    assert not torch.equal(labels, one_epoch(data, batch_size=9, epoch=1)[1])
    assert not torch.equal(labels, one_epoch(data, batch_size=9, seed=1)[1])


def test_incomplete_last_batch_is_dropped(digits: Dataset) -> None:
    data = augment.prepared(digits, (8, 8), 0, CPU)
    assert len(one_epoch(data, batch_size=100)[0]) == 1100
    assert len(one_epoch(data, batch_size=5000)[0]) == 1197, "one batch if that is all there is"


def test_crops_and_mirrors_do_not_depend_on_the_batch_size(digits: Dataset) -> None:
    data = augment.prepared(digits, (8, 8), 2, CPU)
    small, large = (one_epoch(data, batch_size=n, flip=True)[0] for n in (9, 171))
    assert torch.equal(small, large)


def test_every_crop_is_one_of_the_padded_image(digits: Dataset) -> None:
    pad = 2
    data = augment.prepared(digits, (8, 8), pad, CPU)
    plain = augment.prepared(digits, (8, 8), 0, CPU)
    images, same = one_epoch(data, batch_size=9)[0], one_epoch(plain, batch_size=9)[0]
    padded = functional.pad(same, (pad,) * 4, mode="reflect")
    seen = set()
    for image, larger in zip(images[:300], padded, strict=False):
        crops = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(larger[:, y : y + 8, x : x + 8], image)
        ]
        assert crops
        seen.add(crops[0])
    assert len(seen) == 25


def test_about_half_of_the_images_are_mirrored(digits: Dataset) -> None:
    data = augment.prepared(digits, (8, 8), 0, CPU)
    plain, flipped = (one_epoch(data, batch_size=9, flip=f)[0] for f in (False, True))
    same = (plain == flipped).flatten(1).all(1)
    mirrored = (plain.flip(3) == flipped).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 0.4 < mirrored.float().mean().item() < 0.6


def test_validation_images_are_not_augmented(digits: Dataset) -> None:
    data = augment.prepared(digits, (8, 8), 2, CPU)
    np.testing.assert_array_equal(data.val_images.numpy(), digits.val_images)


def test_read_only_arrays_are_shared_without_a_copy_or_a_warning(digits: Dataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = augment.prepared(digits, (8, 8), 0, CPU)
    assert data.train_images.data_ptr() == digits.train_images.ctypes.data
    assert data.val_images.data_ptr() == digits.val_images.ctypes.data
    assert augment.prepared(digits, (8, 8), 0, CPU) is data
    copy = dataclasses.replace(digits, name="arrived by another task")
    assert augment.prepared(copy, (8, 8), 0, CPU) is data


def test_cache_is_bounded(digits: Dataset) -> None:
    first = augment.prepared(digits, (8, 8), 0, CPU)
    for size in range(9, 9 + augment.CACHED_RESOLUTIONS):
        augment.prepared(digits, (size, size), 0, CPU)
    assert augment.prepared(digits, (8, 8), 0, CPU) is not first
