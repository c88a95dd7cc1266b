"""Layer 2: the data sets that `data=NAME` can choose, and how their options are checked."""

from __future__ import annotations

import gzip
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from nasctl import data_readers as readers
from nasctl.arch import Shape
from nasctl.data_readers import Images, Labels
from nasctl.dataset import Dataset, stratified_split
from nasctl.errors import ConfigError, EnvironmentProblemError, unknown

__all__ = ["DATASETS", "Dataset", "load_dataset", "stratified_split"]

FASHION_MNIST_CLASSES = (
    *("t-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)


def _split_off(
    images: Images, labels: Labels, val_size: float, split_seed: int
) -> tuple[Images, Labels, Images, Labels]:
    """Training and validation from one split; `val_size` is a count, or a fraction below 1."""
    if isinstance(val_size, bool) or not isinstance(val_size, int | float) or val_size <= 0:
        raise ConfigError(f"data.val_size: expected a count or a fraction, got {val_size!r}")
    if isinstance(split_seed, bool) or not isinstance(split_seed, int) or split_seed < 0:
        raise ConfigError(f"data.split_seed: expected a whole number from 0, got {split_seed!r}")
    count = round(val_size * len(labels)) if val_size < 1 else int(val_size)
    rest, chosen = stratified_split(labels, count, split_seed)
    return images[rest], labels[rest], images[chosen], labels[chosen]


def fashion_mnist_12k() -> Dataset:
    """The packaged subset of Fashion-MNIST: 10,000 training, 2,000 validation, 5,000 test images.

    Drawn by `scripts/make_fashion_mnist_12k.py` (Xiao et al. 2017, arXiv:1708.07747; MIT licence,
    see `nasctl/assets/LICENSE.fashion_mnist`). 1 x 28 x 28, 10 classes.
    """
    with resources.as_file(resources.files("nasctl.assets") / "fashion_mnist_12k.npz") as path:
        arrays = readers.read_npz(path)
    return _from_arrays("fashion_mnist_12k", arrays, FASHION_MNIST_CLASSES)


def fashion_mnist(
    path: str = "/usr/share/datasets/fashion-mnist", val_size: float = 5000, split_seed: int = 0
) -> Dataset:
    """Fashion-MNIST (or MNIST, or any like it) from its four IDX files, plain or .gz.

    Args:
        path: the directory; by default where Debian's `dataset-fashion-mnist` puts them.
        val_size: images split off the 60,000, stratified: a count, or a fraction below 1.
        split_seed: which ones.
    """
    folder = readers.directory("data.path", path)
    train = _split_off(*readers.read_idx_pair(folder, "train"), val_size, split_seed)
    test = readers.read_idx_pair(folder, "t10k")
    return _dataset("fashion_mnist", train, test, FASHION_MNIST_CLASSES)


def cifar10(path: str, val_size: float = 5000, split_seed: int = 0) -> Dataset:
    """CIFAR-10, binary version: `data_batch_1.bin` ... `test_batch.bin` in `path`."""
    folder = _inside(readers.directory("data.path", path), "cifar-10-batches-bin")
    batches = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
    images, labels = readers.read_cifar(folder, batches, label_bytes=1, num_classes=10)
    test = readers.read_cifar(folder, ("test_batch.bin",), label_bytes=1, num_classes=10)
    train = _split_off(images, labels, val_size, split_seed)
    return _dataset("cifar10", train, test, CIFAR10_CLASSES)


def cifar100(path: str, val_size: float = 5000, split_seed: int = 0) -> Dataset:
    """CIFAR-100 with its fine labels, binary version: `train.bin`, `test.bin` in `path`."""
    folder = _inside(readers.directory("data.path", path), "cifar-100-binary")
    images, labels = readers.read_cifar(folder, ("train.bin",), label_bytes=2, num_classes=100)
    test = readers.read_cifar(folder, ("test.bin",), label_bytes=2, num_classes=100)
    train = _split_off(images, labels, val_size, split_seed)
    names = readers.read_lines(folder / "fine_label_names.txt")
    return _dataset("cifar100", train, test, names or tuple(str(n) for n in range(100)))


def image_folder(
    path: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    val_size: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """Pictures in `path`/train/CLASS/, `path`/val/CLASS/ and `path`/test/CLASS/.

    Without `train`, the classes are the directories of `path`; without `val`, validation images
    are split off the training images; `test` is optional.

    Args:
        path: the directory.
        size: resize every picture to size x size; None: they must all have one size.
        channels: 1 or 3; None: 1 if no picture has colours, else 3.
        classes: how many there must be; None: any number.
        val_size: a count, or a fraction below 1, used without `val`.
        split_seed: which ones.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError(f"data.size: expected a positive whole number, got {size!r}")
    if channels not in (None, 1, 3):
        raise ConfigError(f"data.channels: expected 1 or 3, got {channels!r}")
    root = readers.directory("data.path", path)
    train_root = root / "train" if (root / "train").is_dir() else root
    names = readers.class_folders(train_root)
    if len(names) < 2:
        raise ConfigError(f"data.path: {train_root} has {len(names)} classes (directories)")
    if classes is not None and len(names) != classes:
        raise ConfigError(
            f"data.classes: expected {classes}, but {train_root} has {len(names)} (directories)"
        )
    folders = {"train": train_root}
    if train_root != root:
        folders |= {s: root / s for s in ("val", "test") if (root / s).is_dir()}
    listed = {split: readers.list_pictures(f, names) for split, f in folders.items()}
    if channels is None:
        channels = 1 if all(readers.are_grey(pictures) for pictures in listed.values()) else 3
    arrays = {
        split: readers.read_pictures(pictures, size=size, channels=channels)
        for split, pictures in listed.items()
    }
    if "val" in arrays:
        train = (*arrays["train"], *arrays["val"])
    else:
        train = _split_off(*arrays["train"], val_size, split_seed)
    return _dataset("image_folder", train, arrays.get("test"), names)


def declared_shape(name: str, options: Mapping[str, Any]) -> tuple[Shape, int] | None:
    """(image shape, number of classes) of pictures that are not there, if the options say them.

    So that a space can be counted and priced without its data; None for any other problem.
    """
    size, channels, classes = (options.get(key) for key in ("size", "channels", "classes"))
    path = options.get("path")
    if name != "image_folder" or not isinstance(path, str) or Path(path).expanduser().exists():
        return None
    if not (isinstance(size, int) and isinstance(channels, int) and isinstance(classes, int)):
        return None
    return (channels, size, size), classes


def npz(path: str, val_size: float = 0.1, split_seed: int = 0) -> Dataset:
    """An archive of NumPy arrays: train_images, train_labels and, optionally, val_*, test_*.

    Images are uint8, (N, H, W), (N, H, W, C) or (N, C, H, W); labels whole numbers from 0;
    `class_names` may be there too. MedMNIST's files fit. Without val_*, `val_size` (a count, or a
    fraction below 1) is split off.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise ConfigError(f"data.path: expected the path of an .npz file, got {path!r}")
    arrays = readers.read_npz(Path(path).expanduser())
    names = tuple(str(n) for n in np.atleast_1d(arrays.get("class_names", ())))
    return _from_arrays("npz", arrays, names, val_size, split_seed)


def digits(split_seed: int = 0) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 1 x 8 x 8: tiny, for trying things out.

    300 validation and 300 test images; the 17 grey levels are spread over 0 .. 255.
    """
    table = _digits_of_sklearn()
    images = np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    rest, rest_labels, test, test_labels = _split_off(images, labels, 300, split_seed)
    train = _split_off(rest, rest_labels, 300, split_seed)
    return _dataset("digits", train, (test, test_labels), tuple(str(n) for n in range(10)))


def _digits_of_sklearn() -> np.ndarray:
    """Grey levels 0 .. 16 of 64 pixels and the digit, (1797, 65).

    From the file that `load_digits` reads, without the two seconds of importing scikit-learn.

    Raises:
        EnvironmentProblemError: scikit-learn, or its file, is not there.
    """
    package = importlib.util.find_spec("sklearn")  # finds it, imports nothing
    folders = package.submodule_search_locations if package else None
    file = Path(next(iter(folders or ()), "")) / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            return np.loadtxt(lines, delimiter=",")
    except OSError as error:
        raise EnvironmentProblemError(f"data=digits: scikit-learn's {file}: {error}") from None


def _inside(folder: Path, usual: str) -> Path:
    """The archive's own sub-directory where the user named the one above it."""
    return folder / usual if (folder / usual).is_dir() else folder


def _dataset(
    name: str,
    train: tuple[Images, Labels, Images, Labels],
    test: tuple[Images, Labels] | None,
    class_names: tuple[str, ...],
) -> Dataset:
    images, labels, val_images, val_labels = train
    return Dataset(
        name=name,
        train_images=images,
        train_labels=labels,
        val_images=val_images,
        val_labels=val_labels,
        test_images=test[0] if test else None,
        test_labels=test[1] if test else None,
        num_classes=len(class_names),
        class_names=class_names,
    )


def _from_arrays(
    name: str,
    arrays: Mapping[str, np.ndarray],
    class_names: tuple[str, ...],
    val_size: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """A data set from the arrays of `readers.read_npz`."""
    pairs: dict[str, tuple[Images, Labels]] = {}
    for split in ("train", "val", "test"):
        given = [k for k in (f"{split}_images", f"{split}_labels") if k in arrays]
        if len(given) == 1:
            raise ConfigError(f"data.path: {given[0]} has no counterpart in the archive")
        if given:
            images = readers.as_images(arrays[given[0]], given[0])
            labels = readers.as_labels(arrays[given[1]], given[1])
            if len(images) != len(labels):
                raise ConfigError(f"{given[0]}: {len(images)} images but {len(labels)} labels")
            if not len(images):
                raise ConfigError(f"{given[0]}: there are no images")
            pairs[split] = (images, labels)
    if "val" in pairs:
        train = (*pairs["train"], *pairs["val"])
    else:
        train = _split_off(*pairs["train"], val_size, split_seed)
    if not class_names:
        class_names = tuple(str(n) for n in range(int(pairs["train"][1].max()) + 1))
    return _dataset(name, train, pairs.get("test"), class_names)


DATASETS: dict[str, Callable[..., Dataset]] = {
    "fashion_mnist_12k": fashion_mnist_12k,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "image_folder": image_folder,
    "npz": npz,
    "digits": digits,
}


def check_dataset_options(
    name: str,
    options: Mapping[str, object],
    datasets: Mapping[str, Callable[..., Dataset]] = DATASETS,
) -> None:
    """Whether a data set can be asked for with these options; reads nothing.

    Args:
        name, options, datasets: see `load_dataset`.

    Raises:
        ConfigError: unknown name, or unknown or missing options: all of them at once.
    """
    if name not in datasets:
        raise ConfigError(f"data.name: {unknown('data set', name, datasets)}")
    parameters = inspect.signature(datasets[name]).parameters.values()
    taken = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    none = "" if taken else " (it takes none)"
    problems = [
        f"data.{key}: {unknown(f'option of {name}', key, taken)}{none}"
        for key in options
        if key not in taken and not open_ended
    ]
    problems += [
        f"data.{key}: missing (required by {name})"
        for key, p in taken.items()
        if p.default is p.empty and key not in options
    ]
    if problems:
        raise ConfigError(problems)


def load_dataset(
    name: str,
    options: Mapping[str, object],
    datasets: Mapping[str, Callable[..., Dataset]] = DATASETS,
) -> Dataset:
    """Loads a data set by name.

    Args:
        name: a key of `datasets`.
        options: its keyword arguments: the other keys of the `data` section.
        datasets: the packaged ones and those of plugins.

    Raises:
        ConfigError: unknown name, unknown or missing options, or unusable data.
    """
    check_dataset_options(name, options, datasets)
    dataset = datasets[name](**options)
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"data.name: {name} gave {type(dataset).__name__}, expected a Dataset")
    return dataset
