"""Exported networks are compared a batch at a time: the same figures, and never a whole split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nasctl import augment
from nasctl.export import images as images_module
from nasctl.export.flat import flatten
from nasctl.export.formats import WRITERS, Card
from nasctl.export.images import BATCH, Resized, batches
from nasctl.export.int8 import accuracy_of, agreement_of, quantise
from nasctl.export.parity import LogitComparison, compare

SIZE = (12, 10)
CARD = Card(
    title="x",
    version="0",
    input_shape=(3, *SIZE),
    classes=("a", "b", "c"),
    mean=(0.5, 0.4, 0.3),
    std=(0.25, 0.3, 0.2),
    provenance={"run": "r", "arch_id": "a", "data": "d", "seed": 1},
)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 16, 14), dtype=np.uint8)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8, 3)).eval()


def test_a_slice_is_that_of_the_resized_whole() -> None:
    whole = pictures(250)
    chosen = np.arange(0, 250, 3)
    for view, expected in (
        (Resized(images=whole, size=SIZE), augment.resize(whole, SIZE)),
        (Resized(images=whole, size=SIZE, chosen=chosen), augment.resize(whole[chosen], SIZE)),
    ):
        assert view.shape == expected.shape
        assert len(view) == len(expected)
        assert np.array_equal(np.concatenate(list(batches(view, 32))), expected)
        assert [len(b) for b in batches(view)][:-1] == [BATCH] * (len(view) // BATCH)


def test_no_more_than_a_batch_is_resized_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    plain = augment.resize

    def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        sizes.append(len(images))
        return plain(images, size)

    monkeypatch.setattr(images_module.augment, "resize", resize)
    view = Resized(images=pictures(250), size=SIZE, chosen=np.arange(230))
    labels = np.arange(230) % 3
    module, path = network(), tmp_path / "n.onnx"
    run = WRITERS["onnx"](flatten(module), CARD, path)
    compare(module, run, view, labels, normalisation=(CARD.mean, CARD.std))
    quantise(path, view, output=tmp_path / "int8.onnx")
    agreement_of(path, tmp_path / "int8.onnx", view, labels)
    accuracy_of(path, view, labels)
    assert max(sizes) == BATCH
    assert sum(sizes) == 230 * 5  # compared, calibrated, both files, the float file again


def test_batches_give_what_the_whole_gives(tmp_path: Path) -> None:
    module, path = network(), tmp_path / "n.onnx"
    run = WRITERS["onnx"](flatten(module), CARD, path)
    view = Resized(images=pictures(250), size=SIZE)
    whole, labels = view[:], np.arange(250) % 3
    found = compare(module, run, view, labels, normalisation=(CARD.mean, CARD.std))
    mean, std = (np.float32(v).reshape(1, -1, 1, 1) for v in (CARD.mean, CARD.std))
    inputs = (whole.astype(np.float32) / np.float32(255) - mean) / std
    with torch.no_grad():
        ours = module(torch.from_numpy(inputs)).numpy()
    theirs = run(inputs)
    assert found.images == 250
    assert found.accuracy == (ours.argmax(1) == labels).mean()
    assert found.exported_accuracy == (theirs.argmax(1) == labels).mean()
    assert found.max_error < 1e-5
    quantise(path, view, output=tmp_path / "int8.onnx")
    streamed = agreement_of(path, tmp_path / "int8.onnx", view, labels)
    assert streamed == agreement_of(path, tmp_path / "int8.onnx", whole, labels)
    assert accuracy_of(path, view, labels).accuracy == found.exported_accuracy


def test_errors_are_relative_to_the_largest_of_all_batches() -> None:
    rng = np.random.default_rng(1)
    a = rng.standard_normal((90, 4)).astype(np.float32)
    a[-1] *= 50  # the largest is in the last batch
    b = a + rng.standard_normal((90, 4)).astype(np.float32) * 0.01
    labels = rng.integers(0, 4, 90)
    found = LogitComparison()
    for begin in range(0, 90, 25):
        part = slice(begin, begin + 25)
        found.add(a[part], b[part], labels[part])
    error = np.abs(a - b) / np.abs(a).max()
    assert found.images == 90
    assert found.max_error == pytest.approx(error.max(), rel=1e-6)
    assert found.mean_error == pytest.approx(error.mean(), rel=1e-5)
    assert found.agreeing == (a.argmax(1) == b.argmax(1)).sum()
    assert found.accuracies == (
        (a.argmax(1) == labels).mean(),
        (b.argmax(1) == labels).mean(),
    )


def test_what_is_no_number_stays_none_whatever_follows() -> None:
    found = LogitComparison()
    bad, good = np.full((2, 3), np.nan, np.float32), np.ones((2, 3), np.float32)
    found.add(good, bad, np.zeros(2, np.int64))
    found.add(good, good, np.zeros(2, np.int64))
    assert np.isnan(found.max_error)
