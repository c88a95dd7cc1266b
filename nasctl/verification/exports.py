"""Layer 4: finalists as files for a device: exported, quantised, judged and timed as such.

Of each finalist the training whose weights are handed out (`view.chosen_training`) is exported as
ONNX, which is checked against the trained network, and quantised to int8. Both files are asked for
the test images, if there are any, and timed side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl import augment
from nasctl.arch import Architecture
from nasctl.dataset import Dataset
from nasctl.errors import EnvironmentProblemError, NasctlError
from nasctl.executors.place import ExecutorPlace
from nasctl.export.flow import export_network
from nasctl.export.int8 import (
    accuracy_of,
    calibration_images,
    file_settings,
    latencies_of,
    quantise,
)
from nasctl.export.models import keep_model
from nasctl.latency import LatencySettings
from nasctl.records import RunRecords

if TYPE_CHECKING:
    from torch import nn

FOLDER = "exported"
"""In the folder of a verification."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How files are timed; see `nasctl.export.int8.latencies_of`."""

    settings: LatencySettings
    place: ExecutorPlace
    device: str | None
    canary_ms: float | None


def delivered(
    home: RunRecords,
    networks: Mapping[str, tuple[Architecture, int]],
    *,
    build: Callable[[Architecture], nn.Module],
    dataset: Dataset,
    folder: Path,
    timing: Timing | None,
    say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """What finalists are worth as files, by architecture id.

    Args:
        home: the search, whose `verified.json` says which weights are handed out.
        networks: by id, with the seed of those weights.
        build: the module of a network, as it was trained.
        dataset: with its test split, if there is one.
        folder: for the files.
        timing: None: they are not timed.
        say: told in words what happens.

    Returns:
        `seed`; `exported_accuracy` and `int8_accuracy` on the test split, `exported_error` (the
        largest difference of an output, relative), bytes and latencies of both; or `error`, where
        a network cannot be exported.
    """
    found: dict[str, dict[str, Any]] = {}
    files: dict[str, Path] = {}
    for done, (arch_id, (architecture, seed)) in enumerate(networks.items()):
        say(f"exporting and quantising finalists {done}/{len(networks)}")
        paths = (folder / f"{arch_id}.onnx", folder / f"{arch_id}-int8.onnx")
        try:
            values = _one(home, architecture, build, dataset, paths)
        except NasctlError as error:
            if isinstance(error, EnvironmentProblemError) and "No space left" in str(error):
                raise
            found[arch_id] = {"seed": seed, "error": " ".join(str(error).split())}
            continue
        found[arch_id] = {"seed": seed, **values}
        files |= {f"exported {arch_id}": paths[0], f"int8 {arch_id}": paths[1]}
    if timing is not None and files:
        measured = latencies_of(
            files,
            file_settings(timing.settings),
            canary_ms=timing.canary_ms,
            progress=say,
            place=timing.place,
            device=timing.device,
        )
        for name, latency in measured.items():
            kind, arch_id = name.split(" ")
            found[arch_id][f"{kind}_latency_ms"] = latency.p50_ms
    return found


def _one(
    home: RunRecords,
    architecture: Architecture,
    build: Callable[[Architecture], nn.Module],
    dataset: Dataset,
    paths: Sequence[Path],
) -> dict[str, Any]:
    plain, small = paths
    made = export_network(home, architecture, build=build, dataset=dataset, kind="onnx", path=plain)
    size = (architecture.input_shape[1], architecture.input_shape[2])
    quantised = quantise(plain, calibration_images(dataset, size), output=small)
    values: dict[str, Any] = {
        "exported_error": made.parity.max_error,
        "exported_bytes": quantised.float_bytes,
        "int8_bytes": quantised.bytes,
    }
    if dataset.test_images is not None and dataset.test_labels is not None:
        images = augment.resize(dataset.test_images, size)
        for name, path in (("exported", plain), ("int8", small)):
            judged = accuracy_of(path, images, dataset.test_labels)
            values[f"{name}_accuracy"] = judged.accuracy
    return values


def keep_models(directory: Path, networks: Iterable[Architecture], dataset: Dataset) -> None:
    """Shows exported networks in the tracking store, as models that load without nasctl.

    Args:
        directory: of the verification, with the files in `FOLDER`.
        networks: those to show.
        dataset: whose first validation image is the example of an input.
    """
    for network in networks:
        size = (network.input_shape[1], network.input_shape[2])
        (image,) = augment.resize(dataset.val_images[:1], size)
        keep_model(directory, directory / FOLDER / f"{network.id}.onnx", image)


def evaluations(values: Mapping[str, Mapping[str, Any]]) -> int:
    """How often files were judged on the test split."""
    kinds = ("exported_accuracy", "int8_accuracy")
    return sum(kind in v for v in values.values() for kind in kinds)
