"""Layer 2: image files into arrays. IDX, CIFAR binaries, NPZ archives and folders of pictures.

Every reader returns uint8 images of shape (N, C, H, W) and integer labels of shape (N,), reads no
pickles, and explains in one line what is wrong with a file. Nothing here knows what a split is.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nasctl.errors import ConfigError, nearest

if TYPE_CHECKING:
    from PIL import Image

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp"})
PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")  # Pillow decoders that may run
MAX_PICTURE_PIXELS = 64_000_000


def directory(option: str, value: object) -> Path:
    """The existing directory that an option names.

    Raises:
        ConfigError: not a text, or no such directory.
    """
    if not isinstance(value, str | Path) or not str(value):
        raise ConfigError(f"{option}: expected the path of a directory, got {value!r}")
    path = Path(value).expanduser()
    if not path.is_dir():
        raise ConfigError(f"{option}: no such directory: {path}")
    return path


def _read_bytes(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise ConfigError(f"data.path: cannot read {path}: {error}") from None


def read_idx(folder: Path, stem: str, *, rank: int) -> NDArray[np.uint8]:
    """One IDX file of unsigned bytes, `stem` or `stem.gz`.

    Format: two zero bytes, 0x08 (unsigned byte), the rank, each dimension as big-endian int32,
    the values (http://yann.lecun.com/exdb/mnist/).

    Raises:
        ConfigError: missing, unreadable, not IDX, another rank, or longer or shorter than it says.
    """
    path = next((p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()), None)
    if path is None:
        raise ConfigError(f"data.path: {folder} has neither {stem} nor {stem}.gz")
    raw = _read_bytes(path)
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ConfigError(f"data.path: {path} is not an IDX file of unsigned bytes")
    if raw[3] != rank:
        raise ConfigError(f"data.path: {path} has {raw[3]} dimensions, expected {rank}")
    start = 4 + 4 * rank
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    if len(raw) - start != math.prod(shape):
        raise ConfigError(
            f"data.path: {path} is damaged: {max(len(raw) - start, 0)} bytes of values for shape "
            f"{shape}"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def read_idx_pair(folder: Path, prefix: str) -> tuple[Images, Labels]:
    """Images and labels of one split of an MNIST-like data set; `prefix` is `train` or `t10k`.

    Raises:
        ConfigError: see `read_idx`; also when the two files disagree about the number of images.
    """
    images = read_idx(folder, f"{prefix}-images-idx3-ubyte", rank=3)
    labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte", rank=1)
    if len(images) != len(labels):
        raise ConfigError(
            f"data.path: {folder} has {len(images)} {prefix} images but {len(labels)} labels"
        )
    return images[:, None], labels.astype(np.int64)


def read_cifar(
    folder: Path, files: tuple[str, ...], *, label_bytes: int, num_classes: int
) -> tuple[Images, Labels]:
    """Files of CIFAR's binary version, one after the other; the last label byte counts.

    A record is `label_bytes` labels, then 3072 bytes of 3 x 32 x 32 pixels
    (https://www.cs.toronto.edu/~kriz/cifar.html).

    Raises:
        ConfigError: missing or unreadable files, broken records, labels out of range.
    """
    size = label_bytes + 3 * 32 * 32
    records = []
    for name in files:
        path = folder / name
        if not path.is_file():
            pickles = (folder / Path(name).stem).is_file()
            hint = "; this is the Python (pickle) version, get the binary one" if pickles else ""
            raise ConfigError(f"data.path: {folder} has no {name}{hint}")
        raw = _read_bytes(path)
        if not raw or len(raw) % size:
            raise ConfigError(
                f"data.path: {path} is damaged: {len(raw)} bytes are not a multiple of {size}"
            )
        records.append(np.frombuffer(raw, dtype=np.uint8).reshape(-1, size))
    table = np.concatenate(records)
    labels = table[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= num_classes:
        raise ConfigError(f"data.path: {folder}: label {labels.max()} of {num_classes} classes")
    return np.ascontiguousarray(table[:, label_bytes:]).reshape(-1, 3, 32, 32), labels


def read_lines(path: Path) -> tuple[str, ...]:
    """The non-empty lines of a text file of class names; none if there is no such file."""
    if not path.is_file():
        return ()
    return tuple(t.strip() for t in _read_bytes(path).decode("utf-8", "replace").splitlines() if t)


NPZ_KEYS = (
    *("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
    "class_names",
)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an NPZ archive; pickled objects are refused, not executed.

    Raises:
        ConfigError: missing, damaged or hostile file, unknown or missing arrays.
    """
    if not path.is_file():
        where = "" if path.is_absolute() else f" (from the folder {Path.cwd()})"
        raise ConfigError(f"data.path: no such file: {path}{where}")
    try:
        # Opened here: where np.load fails, it may leave a file of its own open.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, Mapping):
                raise ConfigError(f"data.path: {path} is one array, expected an .npz archive")
            problems = [
                f"data.path: {path} has the unknown array {key!r}"
                + (f"; did you mean {guess!r}?" if (guess := nearest(key, NPZ_KEYS)) else "")
                for key in archive
                if key not in NPZ_KEYS
            ]
            problems += [
                f"data.path: {path} has no {k!r}" for k in NPZ_KEYS[:2] if k not in archive
            ]
            if problems:
                raise ConfigError(problems)
            arrays = dict(archive)
            for key, array in arrays.items():
                if not isinstance(array, np.ndarray):  # a member of the zip that is no .npy
                    raise ConfigError(f"data.path: cannot read {path}: {key} is not an array")
            return arrays
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, ConfigError):
            raise
        reason = "it holds pickled objects" if "allow_pickle" in str(error) else str(error)
        raise ConfigError(f"data.path: cannot read {path}: {reason}") from None


def as_images(array: NDArray[Any], name: str) -> Images:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) bytes as (N, C, H, W), C in 1, 3, 4.

    Raises:
        ConfigError: another dtype or shape.
    """
    if array.dtype != np.uint8:
        raise ConfigError(f"{name}: images must be uint8 (0 to 255), got {array.dtype}")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3, 4) and array.shape[3] in (1, 3, 4):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4):
        raise ConfigError(f"{name}: images must be (N, C, H, W), got shape {array.shape}")
    return np.ascontiguousarray(array)


def as_labels(array: NDArray[Any], name: str) -> Labels:
    """Whole numbers of shape (N,) or (N, 1) as int64 of shape (N,).

    Raises:
        ConfigError: another dtype or shape.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ConfigError(
            f"{name}: labels must be whole numbers of shape (N,), got {array.dtype} of shape "
            f"{array.shape}"
        )
    return array.astype(np.int64)


def list_pictures(folder: Path, class_names: tuple[str, ...]) -> list[tuple[Path, int]]:
    """(file, label) of every picture in `folder`/CLASS, in the order of their names.

    Raises:
        ConfigError: a class without pictures, or a folder that is not one of `class_names`.
    """
    extra = sorted(set(class_folders(folder)) - set(class_names))
    if extra:
        raise ConfigError(f"data.path: {folder / extra[0]} is not a class of the training split")
    pictures = []
    for label, name in enumerate(class_names):
        files = sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise ConfigError(f"data.path: {folder / name} has no pictures")
        pictures += [(file, label) for file in files]
    return pictures


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the sub-directories, sorted; hidden ones are not classes."""
    return tuple(
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )


def read_pictures(
    pictures: list[tuple[Path, int]], *, size: int | None, channels: int
) -> tuple[Images, Labels]:
    """Decodes pictures to `channels` (1 or 3) and, unless None, resizes them to `size` x `size`.

    Raises:
        ConfigError: unreadable pictures, decompression bombs, or different sizes without `size`.
    """
    from PIL import Image

    images: list[NDArray[np.uint8]] = []
    for path, _ in pictures:
        with _opened(path) as opened:
            picture = opened.convert("L" if channels == 1 else "RGB")
            if size is not None and picture.size != (size, size):
                picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        array = np.asarray(picture, dtype=np.uint8)
        if images and array.shape != images[0].shape:
            height, width = array.shape[:2]
            raise ConfigError(
                f"data.size: {path} is {width} x {height}, others are {images[0].shape[1]} x "
                f"{images[0].shape[0]}; set data.size to resize them"
            )
        images.append(array)
    stacked = np.stack(images)
    stacked = stacked[:, None] if channels == 1 else stacked.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stacked), np.array([n for _, n in pictures], dtype=np.int64)


def are_grey(pictures: list[tuple[Path, int]]) -> bool:
    """Whether no picture has colours, judged by the files' headers."""
    for path, _ in pictures:
        with _opened(path) as opened:
            if opened.mode not in ("1", "L"):
                return False
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose pixels are decoded inside the block; every failure is a ConfigError."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=PICTURE_FORMATS)
        with opened:
            if opened.width * opened.height > MAX_PICTURE_PIXELS:
                raise ConfigError(
                    f"data.path: {path}: {opened.width} x {opened.height} pixels are too many "
                    f"(at most {MAX_PICTURE_PIXELS:,})"
                )
            yield opened
    except (
        *(OSError, ValueError, SyntaxError),  # what Pillow raises for damaged files
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    ) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"data.path: cannot read the picture {path}: {error}") from None
