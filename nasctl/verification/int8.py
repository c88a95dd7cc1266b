"""Layer 4: finalists in int8, where the verified front is judged by that (`verify.front=int8`).

A worker quantises the weights of every training and asks the file for the validation images, which
decide, and for the test images, which are only reported. How fast a file is and how large does not
depend on its weights: that is measured on untrained ones, before anything is trained, since it
decides who gets more seeds.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.arch import Architecture
from nasctl.data_readers import Images, Labels
from nasctl.dataset import Dataset
from nasctl.errors import FULL, EnvironmentProblemError, NasctlError
from nasctl.evaluate import EvaluationError
from nasctl.export.flat import flatten
from nasctl.export.formats import WRITERS, Card
from nasctl.export.images import Resized
from nasctl.export.int8 import accuracy_of, calibration_images, quantise
from nasctl.export.parity import compare, spread
from nasctl.files import temporary_folder
from nasctl.kept_files import INT8, TEST_INT8
from nasctl.onnx_runtime import with_metadata

if TYPE_CHECKING:
    from torch import nn


def in_one_line(error: NasctlError) -> str:
    return " ".join(str(error).split())


_OF_THE_DISK = tuple(os.strerror(n) for n in (*FULL, errno.EROFS))


def raise_if_full(error: NasctlError) -> None:
    """A disk that takes no more (full, quota used up, turned read-only) ends the verification, and
    the same command goes on: it says nothing of a network, which would be off the front for good.
    """
    if isinstance(error, EnvironmentProblemError) and any(t in str(error) for t in _OF_THE_DISK):
        raise error


def int8_accuracies(
    model: nn.Module,
    architecture: Architecture,
    data: Dataset,
    test_images: Images | None,
    test_labels: Labels | None,
) -> dict[str, float]:
    """The accuracy of a trained network through its int8 file, on validation and test images.

    Args:
        model: with its weights; moved to the CPU.
        data: what it was trained on; calibrated on its training images.
        test_images, test_labels: None: there is no test split.

    Raises:
        EvaluationError: it cannot be exported or quantised, or the exported file computes something
            else than the network.
        EnvironmentProblemError: the disk is full.
    """
    size = (architecture.input_shape[1], architecture.input_shape[2])
    with temporary_folder(f"{architecture.id} in int8") as folder:
        try:
            path = _quantised(model, architecture, data, folder, checked=True)
            validation = Resized(images=data.val_images, size=size)
            found = {INT8: accuracy_of(path, validation, data.val_labels).accuracy}
            if test_images is not None and test_labels is not None:
                test = Resized(images=test_images, size=size)
                found[TEST_INT8] = accuracy_of(path, test, test_labels).accuracy
        except NasctlError as error:
            raise_if_full(error)
            raise EvaluationError(f"not in int8: {in_one_line(error)}") from error
    return found


def untrained_files(
    networks: Sequence[Architecture],
    *,
    build: Callable[[Architecture], nn.Module],
    dataset: Dataset,
    folder: Path,
    say: Callable[[str], None],
) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """An int8 file of each network, with the weights that it is built with.

    Returns:
        Those files, and what is known of all networks, both by architecture id: `bytes` of the
        graph (without what is said about its origin), or `error`, why there is no file.

    Raises:
        EnvironmentProblemError: the disk is full.
    """
    files: dict[str, Path] = {}
    known: dict[str, dict[str, Any]] = {}
    for done, network in enumerate(networks):
        say(f"quantising untrained finalists {done}/{len(networks)}")
        place = folder / network.id
        place.mkdir()
        try:
            path = _quantised(_unlike(build(network)), network, dataset, place, checked=False)
        except NasctlError as error:
            raise_if_full(error)
            known[network.id] = {"error": in_one_line(error)}
            continue
        files[network.id] = path
        known[network.id] = {"bytes": len(with_metadata(path.read_bytes(), {}))}
    return files, known


def _unlike(model: nn.Module) -> nn.Module:
    """The same network, no two tensors of which are alike, as after training.

    The exporter keeps equal ones once, under another name: with all biases 0 the file of a small
    network was 2.3 % smaller than that of the trained one.
    """
    import torch

    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in (*model.parameters(), *model.buffers()):
            if values.is_floating_point():
                values.add_(0.01 * torch.rand(values.shape, generator=noise).to(values))
    return model


def errors_of(files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Why a network has no int8 file, by architecture id."""
    return {arch_id: str(f["error"]) for arch_id, f in files.items() if "error" in f}


def _quantised(
    model: nn.Module, architecture: Architecture, data: Dataset, folder: Path, *, checked: bool
) -> Path:
    """Writes the float file of a network into `folder`, and from that the int8 one.

    Args:
        checked: whether the float file is compared with the network, as `nasctl export` does it.
    """
    plain, small = folder / "float.onnx", folder / "int8.onnx"
    size = (architecture.input_shape[1], architecture.input_shape[2])
    model.cpu().eval()
    run = WRITERS["onnx"](flatten(model), _card(architecture, data), plain)
    if checked:
        chosen = spread(len(data.val_labels))
        images = Resized(images=data.val_images, size=size, chosen=chosen)
        compare(model, run, images, data.val_labels[chosen], normalisation=data.normalisation)
    quantise(plain, calibration_images(data, size), output=small)
    return small


def _card(architecture: Architecture, data: Dataset) -> Card:
    """Of a file that nobody is handed: how images are prepared is what counts."""
    mean, std = data.normalisation
    channels, height, width = architecture.input_shape
    return Card(
        title=architecture.id,
        version=metadata.version("nasctl"),
        input_shape=(channels, height, width),
        classes=tuple(map(str, range(data.num_classes))),
        mean=mean,
        std=std,
        provenance={},
    )
