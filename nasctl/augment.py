"""Layer 2: from a `Dataset` to batches on the device: resizing, order, augmentation, normalisation.

Images stay uint8 in memory. Each process prepares a data set once per resolution and device and
keeps the result; where nothing has to change, the tensors are views of the data set's own arrays.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nasctl.dataset import Dataset
from nasctl.errors import SpecError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CACHED_RESOLUTIONS = 4
RESIZE_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class Scale:
    """`pixel * factor + offset`, both (1, C, 1, 1): mean 0, deviation 1 over the training split."""

    factor: Tensor
    offset: Tensor

    @classmethod
    def of(
        cls, normalisation: tuple[tuple[float, ...], tuple[float, ...]], device: torch.device
    ) -> Scale:
        """From mean and deviation per channel, of pixels in 0 .. 1."""
        import torch

        mean, deviation = (
            torch.tensor(values, dtype=torch.float64)[None, :, None, None]
            for values in normalisation
        )
        factor, offset = 1 / (255 * deviation), -mean / deviation
        return cls(factor=factor.float().to(device), offset=offset.float().to(device))

    def normalise(self, images: Tensor, *, channels_last: bool) -> Tensor:
        """Bytes to float32, in the wanted memory format."""
        import torch

        layout = torch.channels_last if channels_last else torch.contiguous_format
        floats = images.to(memory_format=layout, dtype=torch.float32)
        return floats.mul_(self.factor).add_(self.offset)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A data set on a device, at one resolution.

    Attributes:
        train_images: uint8, (N, C, H + 2 pad, W + 2 pad), reflect-padded for random crops.
        train_labels: int64, (N,).
        val_images: uint8, (M, C, H, W).
        val_labels: int64, (M,).
        pad: how far the training images are padded.
        scale: what turns the bytes into normalised floats.
    """

    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    pad: int
    scale: Scale


_cache: OrderedDict[tuple[object, ...], Prepared] = OrderedDict()


def clear_cache() -> None:
    """Forgets everything prepared in this process; done when memory runs out."""
    _cache.clear()


def prepared(dataset: Dataset, size: tuple[int, int], pad: int, device: torch.device) -> Prepared:
    """The data set at (height, width) `size` on `device`, from this process's cache if possible."""
    key = (dataset.fingerprint, size, pad, str(device))
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    train = resize(dataset.train_images, size)
    if pad:
        train = np.pad(train, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="reflect")
    _cache[key] = Prepared(
        train_images=as_tensor(train).to(device),
        train_labels=as_tensor(dataset.train_labels).to(device),
        val_images=as_tensor(resize(dataset.val_images, size)).to(device),
        val_labels=as_tensor(dataset.val_labels).to(device),
        pad=pad,
        scale=Scale.of(dataset.normalisation, device),
    )
    while len(_cache) > CACHED_RESOLUTIONS:
        _cache.popitem(last=False)
    return _cache[key]


def as_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor that shares the array's memory and is never written to.

    torch warns about read-only arrays, which Ray's object store gives; copying them would cost
    each worker the memory that sharing saves.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def resize(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(N, C, H, W) to (N, C, *size), bilinear with antialiasing; the array itself if it fits."""
    if images.shape[2:] == size:
        return images
    import torch
    from torch.nn import functional

    out = np.empty((*images.shape[:2], *size), dtype=np.uint8)
    for start in range(0, len(images), RESIZE_CHUNK):
        part = as_tensor(images[start : start + RESIZE_CHUNK]).float()
        part = functional.interpolate(
            part, size, mode="bilinear", antialias=True, align_corners=False
        )
        out[start : start + RESIZE_CHUNK] = part.round_().clamp_(0, 255).to(torch.uint8).numpy()
    return out


def generator(purpose: str, seed: int, epoch: int) -> torch.Generator:
    """A random stream of its own for (purpose, seed, epoch); global generators are not touched."""
    import torch

    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def batches(
    data: Prepared, *, batch_size: int, flip: bool, seed: int, epoch: int, channels_last: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled, augmented, normalised training batches.

    The order depends on (seed, epoch) alone, an image's crop and mirroring on (seed, epoch, its
    index), neither on the batch size nor on the network. The incomplete last batch is dropped (a
    tiny one makes batch statistics useless); its images come up in another epoch. A data set
    smaller than `batch_size` is one batch.

    Yields:
        float32 (B, C, H, W) and int64 (B,).
    """
    import torch

    count = len(data.train_labels)
    device = data.train_labels.device
    order = torch.randperm(count, generator=generator("order", seed, epoch)).to(device)
    crop = torch.randint(2 * data.pad + 1, (2, count), generator=generator("crop", seed, epoch))
    top, left = crop.to(device)
    mirror = torch.rand(count, generator=generator("flip", seed, epoch)).to(device) < 0.5
    height, width = data.val_images.shape[2:]
    # (N, C, 2 pad + 1, 2 pad + 1, H, W), a view: every crop of every image.
    crops = data.train_images.unfold(2, height, 1).unfold(3, width, 1)
    batch_size = min(batch_size, count)
    for start in range(0, count - batch_size + 1, batch_size):
        index = order[start : start + batch_size]
        if data.pad:
            images = crops[index, :, top[index], left[index]]
        else:
            images = data.train_images.index_select(0, index)
        if flip:
            images = torch.where(mirror[index][:, None, None, None], images.flip(3), images)
        floats = data.scale.normalise(images, channels_last=channels_last)
        yield floats, data.train_labels[index]


def to_layout(model: torch.nn.Module, channels_last: bool) -> None:
    """Gives the weights of convolutions their memory format, in place."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def resolution(model: torch.nn.Module, dataset: Dataset) -> tuple[int, int]:
    """(height, width) that the model wants: its `input_shape` if it has one, else the data's.

    Raises:
        SpecError: the model wants another number of channels than the data has.
    """
    channels, height, width = getattr(model, "input_shape", dataset.input_shape)
    if channels != dataset.input_shape[0]:
        raise SpecError(
            f"input_shape: the network takes {channels} channels, {dataset.name} has "
            f"{dataset.input_shape[0]}"
        )
    return int(height), int(width)
