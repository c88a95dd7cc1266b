"""Layer 4: finalists as files for a device: exported, quantised, judged and timed as such.

Of each finalist the training whose weights are handed out (`view.chosen_training`) is exported as
ONNX, which is checked against the trained network, and quantised to int8. Both files are asked for
the test images, if there are any, and timed side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl import augment
from nasctl.arch import Architecture
from nasctl.dataset import Dataset
from nasctl.errors import NasctlError
from nasctl.executors.place import ExecutorPlace
from nasctl.export.flow import export_network
from nasctl.export.images import Resized
from nasctl.export.int8 import (
    accuracy_of,
    calibration_images,
    file_settings,
    latencies_of,
    quantise,
)
from nasctl.export.models import keep_model
from nasctl.kept_files import MODELS
from nasctl.latency import LatencySettings
from nasctl.records import RunRecords
from nasctl.verification.int8 import in_one_line, raise_if_full

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
            raise_if_full(error)
            found[arch_id] = {"seed": seed, "error": in_one_line(error)}
            continue
        found[arch_id] = {"seed": seed, **values}
        files[f"exported {arch_id}"] = paths[0]
        if "int8_bytes" in values:
            files[f"int8 {arch_id}"] = paths[1]
    if timing is not None and files:
        try:
            measured = latencies_of(
                files,
                file_settings(timing.settings),
                canary_ms=timing.canary_ms,
                progress=say,
                place=timing.place,
                device=timing.device,
            )
        except NasctlError as error:  # what was trained and judged is not lost for that
            raise_if_full(error)
            text = f"was not timed as a file: {in_one_line(error)}"
            for arch_id in {name.split(" ")[1] for name in files}:
                found[arch_id].setdefault("problem", text)
            return found
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
    values: dict[str, Any] = {
        "exported_error": made.parity.max_error,
        "exported_bytes": plain.stat().st_size,
    }
    files = {"exported": plain}
    try:
        quantised = quantise(plain, calibration_images(dataset, size), output=small)
    except NasctlError as error:
        raise_if_full(error)
        values["problem"] = f"was not quantised: {in_one_line(error)}"
    else:
        values["int8_bytes"] = quantised.bytes
        files["int8"] = small
    if dataset.test_images is not None and dataset.test_labels is not None:
        images = Resized(images=dataset.test_images, size=size)
        for name, path in files.items():
            judged = accuracy_of(path, images, dataset.test_labels)
            values[f"{name}_accuracy"] = judged.accuracy
    return values


def keep_models(
    directory: Path, members: Iterable[Architecture], dataset: Dataset, *, changed: Container[str]
) -> None:
    """Shows exported members in the tracking store, as models that load without nasctl.

    Args:
        directory: of the verification, with the files in `FOLDER`.
        members: those to show; of the others nothing is shown any more.
        dataset: whose first validation image is the example of an input.
        changed: ids of networks whose files are new.
    """
    networks = {n.id: n for n in members}
    made, shown = (
        {path.stem for path in (directory / folder).glob("*.onnx")} for folder in (FOLDER, MODELS)
    )
    for arch_id in shown - networks.keys():
        for suffix in (".onnx", ".npy"):
            (directory / MODELS / f"{arch_id}{suffix}").unlink(missing_ok=True)
    for arch_id in sorted(networks.keys() & made):
        if arch_id in shown and arch_id not in changed:
            continue
        shape = networks[arch_id].input_shape
        (image,) = augment.resize(dataset.val_images[:1], (shape[1], shape[2]))
        keep_model(directory, directory / FOLDER / f"{arch_id}.onnx", image)


def evaluations(values: Mapping[str, Mapping[str, Any]]) -> int:
    """How often files were judged on the test split."""
    kinds = ("exported_accuracy", "int8_accuracy")
    return sum(kind in v for v in values.values() for kind in kinds)
