"""Data sets from files: IDX, CIFAR, folders of pictures, NumPy archives; whole and damaged."""

from __future__ import annotations

import gzip
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasctl.data import (
    Dataset,
    declared_shape,
    load_dataset,
)
from nasctl.errors import ConfigError
from tests.data_samples import rng

# IDX files


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    for prefix, count in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 5, 6), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_idx(idx_folder: Path) -> None:
    options = {"path": str(idx_folder), "val_size": 10}
    data = load_dataset("fashion_mnist", options)
    assert data.train_images.shape == (30, 1, 5, 6)
    assert data.val_images.shape == (10, 1, 5, 6)
    assert sorted(data.val_labels) == list(range(10))
    assert data.test_images is not None
    raw = (idx_folder / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert data.test_images.tobytes() == raw
    other = load_dataset("fashion_mnist", options | {"split_seed": 1})
    assert other.fingerprint != data.fingerprint
    assert len(load_dataset("fashion_mnist", options | {"val_size": 0.5}).val_labels) == 20


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "train-images-idx3-ubyte"), "is damaged: 1193 bytes of values"),
        (
            lambda f: (f / "t10k-labels-idx1-ubyte").write_bytes(
                idx(np.zeros(20, np.uint8)) + b"more"
            ),
            "is damaged: 24 bytes of values",
        ),
        (lambda f: cut(f / "train-labels-idx1-ubyte.gz"), "cannot read"),
        (lambda f: (f / "train-labels-idx1-ubyte.gz").write_bytes(b"no gzip"), "cannot read"),
        (lambda f: (f / "train-images-idx3-ubyte").write_bytes(b"\0\0\x0d\3"), "not an IDX file"),
        (lambda f: (f / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\1"), "expected 3"),
        (lambda f: (f / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\3\0"), "is damaged: 0"),
        (lambda f: (f / "t10k-images-idx3-ubyte").unlink(), "has neither t10k-images-idx3-ubyte"),
        (
            lambda f: (f / "train-labels-idx1-ubyte.gz").write_bytes(
                gzip.compress(idx(np.zeros(3, np.uint8)))
            ),
            "40 train images but 3 labels",
        ),
    ],
)
def test_damaged_idx(idx_folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(idx_folder)
    with pytest.raises(ConfigError, match=message) as caught:
        load_dataset("fashion_mnist", {"path": str(idx_folder), "val_size": 10})
    assert str(idx_folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_beyond_the_classes(idx_folder: Path) -> None:
    labels = np.full(40, 11, np.uint8)
    (idx_folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    with pytest.raises(ConfigError, match="train_labels: 11 to 11 are not in 0 to 9"):
        load_dataset("fashion_mnist", {"path": str(idx_folder), "val_size": 10})


# CIFAR


def write_cifar(path: Path, label_bytes: int, labels: list[int]) -> np.ndarray:
    table = rng.integers(0, 256, (len(labels), label_bytes + 3072), dtype=np.uint8)
    table[:, label_bytes - 1] = labels
    path.write_bytes(table.tobytes())
    return table[:, label_bytes:].reshape(-1, 3, 32, 32)


def test_cifar10(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for n in range(1, 6):
        write_cifar(folder / f"data_batch_{n}.bin", 1, [n - 1, n + 4])
    test = write_cifar(folder / "test_batch.bin", 1, [3, 9])
    data = load_dataset("cifar10", {"path": str(tmp_path), "val_size": 4})
    assert data.train_images.shape == (6, 3, 32, 32)
    assert sorted([*data.train_labels, *data.val_labels]) == list(range(10))
    np.testing.assert_array_equal(data.test_images, test)
    assert data.class_names[3] == "cat"


def test_cifar100_uses_the_fine_labels(tmp_path: Path) -> None:
    write_cifar(tmp_path / "train.bin", 2, [99, 0, 55, 56])
    write_cifar(tmp_path / "test.bin", 2, [7])
    names = [f"class {n}" for n in range(100)]
    (tmp_path / "fine_label_names.txt").write_text("\n".join(names) + "\n\n")
    data = load_dataset("cifar100", {"path": str(tmp_path), "val_size": 1})
    assert sorted([*data.train_labels, *data.val_labels]) == [0, 55, 56, 99]
    assert data.class_names == tuple(names)


def test_broken_cifar(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"a pickle")
    with pytest.raises(ConfigError, match=r"no data_batch_1\.bin; this is the Python \(pickle\)"):
        load_dataset("cifar10", {"path": str(tmp_path)})
    (tmp_path / "train.bin").write_bytes(b"x" * 3000)
    with pytest.raises(ConfigError, match="not a multiple of 3074"):
        load_dataset("cifar100", {"path": str(tmp_path)})
    write_cifar(tmp_path / "train.bin", 2, [100])
    with pytest.raises(ConfigError, match="label 100 of 100 classes"):
        load_dataset("cifar100", {"path": str(tmp_path)})


# Folders of pictures


def pictures(folder: Path, count: int, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> None:
    folder.mkdir(parents=True)
    for n in range(count):
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{n}.png")


def test_image_folder_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("dog", "cat"):
            pictures(tmp_path / split / name, count)
    data = load_dataset("image_folder", {"path": str(tmp_path)})
    assert data.train_images.shape == (6, 3, 5, 6)
    assert data.class_names == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test_labels is not None
    with Image.open(tmp_path / "train" / "cat" / "1.png") as picture:
        expected = np.asarray(picture).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.train_images[1], expected)
    assert len(data.val_labels) == 4
    assert len(data.test_labels) == 2


def test_image_folder_without_splits_grey_and_resized(tmp_path: Path) -> None:
    pictures(tmp_path / "a", 10, mode="L")
    pictures(tmp_path / "b", 10, mode="L", size=(9, 9))
    (tmp_path / ".cache").mkdir()
    data = load_dataset("image_folder", {"path": str(tmp_path), "size": 8, "val_size": 0.2})
    assert data.train_images.shape == (16, 1, 8, 8)
    assert data.val_labels.tolist() == [0, 0, 1, 1]
    assert data.test_images is None
    coloured = load_dataset("image_folder", {"path": str(tmp_path), "size": 8, "channels": 3})
    assert coloured.input_shape == (3, 8, 8)


def test_declared_pictures_need_not_be_there(tmp_path: Path) -> None:
    options = {"path": str(tmp_path / "none"), "size": 224, "channels": 3, "classes": 1000}
    assert declared_shape("image_folder", options) == ((3, 224, 224), 1000)
    for missing in ("size", "channels", "classes", "path"):
        assert declared_shape("image_folder", {**options, missing: None}) is None
    assert declared_shape("npz", options) is None
    for n in range(3):
        pictures(tmp_path / "there" / f"class{n}", 4)
    there = {**options, "path": str(tmp_path / "there")}
    assert declared_shape("image_folder", there) is None, "what is there is looked at"
    with pytest.raises(ConfigError, match=r"data\.classes: expected 1000, but .* has 3 \("):
        load_dataset("image_folder", there)
    assert load_dataset("image_folder", {**there, "classes": 3}).num_classes == 3


def test_broken_image_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(**options: object) -> Dataset:
        return load_dataset("image_folder", {"path": str(tmp_path), **options})

    pictures(tmp_path / "train" / "a", 4)
    with pytest.raises(ConfigError, match=r"has 1 classes \(directories\)"):
        load()
    pictures(tmp_path / "train" / "b", 4, size=(3, 3))
    with pytest.raises(ConfigError, match=r"data\.size: .* is 3 x 3, others are 6 x 5; set"):
        load()
    for value in (0, True, "8"):
        with pytest.raises(ConfigError, match=r"data\.size: expected a positive whole number"):
            load(size=value)
    with pytest.raises(ConfigError, match=r"data\.channels: expected 1 or 3, got 2"):
        load(channels=2)
    pictures(tmp_path / "val" / "c", 1)
    with pytest.raises(ConfigError, match=r"val/c is not a class of the training split"):
        load(size=4)
    (tmp_path / "val" / "c").rename(tmp_path / "val" / "a")
    (tmp_path / "val" / "b").mkdir()
    with pytest.raises(ConfigError, match=r"val/b has no pictures"):
        load(size=4)
    pictures(tmp_path / "val" / "b2", 1)
    (tmp_path / "val" / "b2" / "0.png").rename(tmp_path / "val" / "b" / "0.png")
    (tmp_path / "val" / "b2").rmdir()
    assert load(size=4).val_labels.tolist() == [0, 1]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ConfigError, match=r"cannot read the picture .*decompression bomb"):
        load(size=4)
    monkeypatch.undo()
    monkeypatch.setattr("nasctl.data_readers.MAX_PICTURE_PIXELS", 20)
    with pytest.raises(ConfigError, match="6 x 5 pixels are too many"):
        load(size=4)
    monkeypatch.undo()
    damaged = tmp_path / "train" / "b" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(ConfigError, match=r"cannot read the picture .*2\.png"):
        load(size=4)
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"%!PS-Adobe")
    with pytest.raises(ConfigError, match=r"cannot read the picture .*0\.png"):
        load(size=4, channels=3)


# NPZ


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return {
        "train_images": rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8),
        "train_labels": (np.arange(20, dtype=np.uint8) % 4)[:, None],
    }


def save(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, object]:
    np.savez(path / "data.npz", allow_pickle=True, **arrays)  # type: ignore[arg-type]
    return {"path": str(path / "data.npz")}


def test_npz_as_medmnist_has_it(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    arrays |= {
        "val_images": arrays["train_images"][:4],
        "val_labels": arrays["train_labels"][:4],
        "class_names": np.array(["a", "b", "c", "d"]),
    }
    data = load_dataset("npz", save(tmp_path, arrays))
    assert data.train_images.shape == (20, 3, 8, 8)
    np.testing.assert_array_equal(
        data.train_images[3], arrays["train_images"][3].transpose(2, 0, 1)
    )
    assert data.num_classes == 4
    assert data.class_names == ("a", "b", "c", "d")
    assert data.test_images is None


def test_npz_splits_validation_off(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    arrays["train_images"] = arrays["train_images"][..., 0]
    options = save(tmp_path, arrays) | {"val_size": 8}
    data = load_dataset("npz", options)
    assert data.train_images.shape == (12, 1, 8, 8)
    assert np.bincount(data.val_labels).tolist() == [2, 2, 2, 2]


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_npz_with_pickled_objects_is_refused_and_not_executed(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    canary = tmp_path / "canary"
    arrays["train_labels"] = np.array([Canary(canary)] * 20, dtype=object)
    options = save(tmp_path, arrays)
    with pytest.raises(ConfigError, match="it holds pickled objects"):
        load_dataset("npz", options)
    (tmp_path / "data.npz").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(ConfigError, match=r"cannot read .*data\.npz"):
        load_dataset("npz", options)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((20, 8, 8))}, "train_images: images must be uint8"),
        ({"train_images": np.zeros((20, 64), np.uint8)}, r"must be \(N, C, H, W\)"),
        ({"train_images": np.zeros((20, 2, 8, 8), np.uint8)}, r"must be \(N, C, H, W\)"),
        ({"train_labels": np.zeros(20)}, "labels must be whole numbers"),
        ({"train_labels": np.zeros(19, int)}, "20 images but 19 labels"),
        ({"val_images": np.zeros((2, 8, 8, 3), np.uint8)}, "val_images has no counterpart"),
        ({"train_image": np.zeros(2)}, "unknown array 'train_image'; did you mean 'train_images'"),
        ({"train_labels": None}, "has no 'train_labels'"),
        (
            {"train_images": np.zeros((0, 8, 8), np.uint8), "train_labels": np.zeros(0, int)},
            "there are no images",
        ),
        (
            {"val_images": np.zeros((1, 8, 8, 3), np.uint8), "val_labels": np.array([4])},
            "val_labels: 4 to 4 are not in 0 to 3",
        ),
    ],
)
def test_wrong_npz(
    tmp_path: Path, arrays: dict[str, np.ndarray], changes: dict[str, np.ndarray], message: str
) -> None:
    kept = {k: v for k, v in (arrays | changes).items() if v is not None}
    options = save(tmp_path, kept)
    with pytest.raises(ConfigError, match=message):
        load_dataset("npz", options)


def test_unreadable_npz(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_dataset("npz", {"path": str(tmp_path / "missing.npz")})
    with pytest.raises(ConfigError, match=r"expected the path of an \.npz file, got 3"):
        load_dataset("npz", {"path": 3})
    options = save(tmp_path, arrays)
    file = tmp_path / "data.npz"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ConfigError, match="cannot read"):
        load_dataset("npz", options)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ConfigError, match=r"expected an \.npz archive"):
        load_dataset("npz", {"path": str(tmp_path / "one.npy")})
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("train_images.npy", "not an array")
        archive.writestr("train_labels.npy", "not an array")
    with pytest.raises(ConfigError, match="cannot read"):
        load_dataset("npz", {"path": str(tmp_path / "text.npz")})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fashion_mnist12k", {}, "unknown data set 'fashion_mnist12k'; did you mean 'fashion_mni"),
        ("npz", {}, r"data\.path: missing \(required by npz\)"),
        ("npz", {"path": "x", "valsize": 3}, r"data\.valsize: .*did you mean 'val_size'"),
        ("fashion_mnist", {"path": "/nowhere/at/all"}, "no such directory: /nowhere/at/all"),
        ("fashion_mnist", {"path": 7}, r"data\.path: expected the path of a directory, got 7"),
        ("digits", {"split_seed": -1}, r"data\.split_seed: expected a whole number from 0"),
        ("digits", {"split_seed": "x"}, r"data\.split_seed: expected a whole number from 0"),
    ],
)
def test_wrong_options(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset(name, options)


@pytest.mark.parametrize("value", [0, -3, "many", True, 1797])
def test_wrong_validation_size(
    value: object, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    with pytest.raises(ConfigError, match=r"data\.val_size"):
        load_dataset("npz", save(tmp_path, arrays) | {"val_size": value})
