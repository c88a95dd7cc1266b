"""Layer 4: exported networks in int8: quantised, compared with the float file, timed beside it.

    images = calibration_images(dataset, size)
    quantise(float_path, images, output=int8_path) -> Quantised
    accuracy_of(path, images, labels) -> Accuracy
    agreement_of(float_path, int8_path, images, labels) -> Agreement
    latencies_of({"float": float_path, "int8": int8_path}, settings) -> {name: WholeLatency}

Files are those of `nasctl export --format onnx`; images are uint8, (N, C, H, W), of the size that
the network takes (`augment.resize`), and are normalised as the metadata of the file say. How a
graph is quantised, and why so, says `nasctl.onnx_int8`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.dataset import Dataset, stratified_split
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.export.formats import METADATA
from nasctl.export.images import Resized, batches
from nasctl.export.parity import LogitComparison
from nasctl.files import replacing
from nasctl.latency import measure_graphs
from nasctl.latency_place import HERE, Place
from nasctl.latency_settings import LatencySettings
from nasctl.latency_table import WholeLatency
from nasctl.onnx_int8 import SCHEME, quantise_graph
from nasctl.onnx_runtime import INPUT, OUTPUT, metadata_of, session, with_metadata

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nasctl.export.images import Images

    Labels = NDArray[np.int64]

CALIBRATION_IMAGES = 256
"""More changed nothing: 8 to 1,024 images gave the same accuracy within two images of a thousand
on three networks, each with five draws."""
LEAST_IMAGES = 32
"""With fewer a draw may miss whole classes, and with them the extremes of activations."""
LEAST_AGREEMENT = 0.97
"""Share of images that both name the same class; below it a user is warned. Sound networks agree
on 98.8 to 99.6 %, one quantised badly on 17 %."""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """An int8 file.

    Attributes:
        path: as given.
        bytes, float_bytes: of this file and of the one that it was made from.
        images: that the ranges of activations were taken from.
        float_operators: kinds of operators that are still computed in float32.
    """

    path: Path
    bytes: int
    float_bytes: int
    images: int
    float_operators: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How many of `images` a network named right."""

    images: int
    correct: int

    @property
    def accuracy(self) -> float:
        """A fraction."""
        return self.correct / self.images


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two networks on the same images.

    Attributes:
        float_accuracy, accuracy: fractions, of the float and of the int8 file.
        agreement: share of images of which the two name the same class.
        agreement_here: the same with the kernels that the runtime takes by default on this
            processor, which saturate on x86 without VNNI; elsewhere it is `agreement`.
        max_error, mean_error: of logits, relative to the largest one in float.
    """

    images: int
    float_accuracy: float
    accuracy: float
    agreement: float
    agreement_here: float
    max_error: float
    mean_error: float

    @property
    def is_sound(self) -> bool:
        """Whether the int8 file can pass for the network that it was made from."""
        return self.agreement >= LEAST_AGREEMENT

    @property
    def is_sound_here(self) -> bool:
        """Whether it also can where the runtime is left to choose its kernels on this processor."""
        return self.agreement_here >= LEAST_AGREEMENT

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def calibration_images(
    dataset: Dataset, size: tuple[int, int], *, count: int = CALIBRATION_IMAGES, seed: int = 0
) -> Resized:
    """Training images, in the shares of their classes; all of them if there are no more.

    Args:
        size: height and width that the network takes.
        count: how many.
        seed: which ones; the same for ever.

    Returns:
        uint8, (count, C, *size), resized as they are asked for.

    Raises:
        ConfigError: fewer than `LEAST_IMAGES` were asked for, or are there.
    """
    check_count(count)
    check_dataset(dataset)
    if count >= len(dataset.train_labels):
        return Resized(images=dataset.train_images, size=size)
    _, chosen = stratified_split(dataset.train_labels, count, seed)
    return Resized(images=dataset.train_images, size=size, chosen=chosen)


def check_count(count: int) -> None:
    """Raises a ConfigError where fewer calibration images are asked for than will do."""
    if count < LEAST_IMAGES:
        raise ConfigError(f"calibration images: {count} are too few; at least {LEAST_IMAGES}")


def check_dataset(dataset: Dataset) -> None:
    """Raises a ConfigError where there are fewer training images than calibration takes."""
    there = len(dataset.train_labels)
    _enough(there, f"{dataset.name} has {there} training images")


def _enough(count: int, what: str) -> None:
    if count < LEAST_IMAGES:
        raise ConfigError(f"{what}: too few to calibrate int8 with; at least {LEAST_IMAGES}")


def quantise(onnx_path: Path, images: Images, *, output: Path) -> Quantised:
    """Writes the int8 file of an exported float file; its metadata go along.

    Args:
        onnx_path: written by `nasctl export`.
        images: to calibrate with: of the training split, `LEAST_IMAGES` or more.
        output: an older file is replaced in one step.

    Raises:
        ConfigError: too few images, or of another shape than the network takes.
        EnvironmentProblemError: an operator that the runtime lacks or that cannot be quantised;
            no file of `nasctl export`; the disk is full. Nothing is written then.
    """
    model, card = read_exported(onnx_path)
    if "quantisation" in card:
        raise ConfigError(f"{onnx_path}: is in int8 already")
    _enough(len(images), f"{len(images)} images")
    graph = quantise_graph(model, normalised(images, card, onnx_path))
    card["quantisation"] = {
        "scheme": SCHEME,
        "calibration_images": len(images),
        "float_operators": list(graph.float_operators),
        "onnxruntime": metadata.version("onnxruntime"),
    }
    content = with_metadata(graph.model, {METADATA: json.dumps(card)})
    with replacing(output) as temporary:
        temporary.write_bytes(content)
    return Quantised(
        path=output,
        bytes=len(content),
        float_bytes=len(model),
        images=len(images),
        float_operators=graph.float_operators,
    )


def accuracy_of(onnx_path: Path, images: Images, labels: Labels) -> Accuracy:
    """How often the class with the largest logit is the right one: as the file says it, the same on
    every processor.

    Args:
        onnx_path: float or int8, written by `nasctl export`.
        images: of any split; `labels` (N,) are theirs.

    Raises:
        ConfigError: images of another shape than the network takes.
        EnvironmentProblemError: an operator that the runtime lacks; no file of `nasctl export`.
    """
    correct = 0
    for begin, (logits,) in _logits(onnx_path, images):
        correct += int((logits.argmax(1) == labels[begin : begin + len(logits)]).sum())
    return Accuracy(images=len(labels), correct=correct)


def agreement_of(float_path: Path, int8_path: Path, images: Images, labels: Labels) -> Agreement:
    """Both files on the same images; see `accuracy_of`.

    Raises:
        ConfigError, EnvironmentProblemError: see `accuracy_of`.
    """
    found, agreeing_here = LogitComparison(), 0
    both = zip(
        _logits(float_path, images),
        _logits(int8_path, images, kernels=(_EXACT, _DEFAULT)),
        strict=True,
    )
    for (begin, (a,)), (_, (b, here)) in both:
        found.add(a, b, labels[begin : begin + len(a)])
        agreeing_here += int((a.argmax(1) == here.argmax(1)).sum())
    float_accuracy, accuracy = found.accuracies
    return Agreement(
        images=found.images,
        float_accuracy=float_accuracy,
        accuracy=accuracy,
        agreement=found.agreeing / found.images,
        agreement_here=agreeing_here / found.images,
        max_error=found.max_error,
        mean_error=found.mean_error,
    )


def latencies_of(
    paths: Mapping[str, Path],
    settings: LatencySettings,
    *,
    canary_ms: float | None = None,
    progress: Callable[[str], None] | None = None,
    seed: int = 0,
    place: Place = HERE,
    device: str | None = None,
) -> dict[str, WholeLatency]:
    """Latencies of files, float and int8, in the same interleaved rounds as whole networks.

    Give all files that are to be compared at once; nothing else should run on the machine.

    Args:
        paths: by any name.
        settings: what latency means; `runtime=torch` runs no such files.
        canary_ms, progress, seed, place, device: see `nasctl.latency.measure_networks`.

    Returns:
        By the names of `paths`.

    Raises:
        ConfigError, EnvironmentProblemError: see `nasctl.latency.measure_graphs`.
    """
    return measure_graphs(
        {name: _content(path) for name, path in paths.items()},
        settings,
        canary_ms=canary_ms,
        progress=progress,
        seed=seed,
        place=place,
        device=device,
    )


def file_settings(settings: LatencySettings) -> LatencySettings:
    """Of a run, for its exported files: torch runs none, so ONNX Runtime does."""
    if settings.runtime != "torch":
        return settings
    return LatencySettings(
        batch=settings.batch,
        threads=settings.threads,
        calls=settings.calls,
        rounds=settings.rounds,
        precision=settings.precision,
        budget_s=settings.budget_s,
    )


# -- files ----------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentProblemError(f"{path}: cannot be read: {error}") from error


def read_exported(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A file, and its `Card` as JSON."""
    model = _content(path)
    try:
        card = json.loads(metadata_of(model)[METADATA])
    except (EnvironmentProblemError, KeyError, ValueError) as error:
        raise EnvironmentProblemError(
            f"{path}: not written by nasctl export --format onnx: it does not say how images are "
            "to be prepared"
        ) from error
    return model, dict(card)


def normalised(
    images: Images, card: Mapping[str, Any], path: Path
) -> Iterator[NDArray[np.float32]]:
    """Normalised, as `parity.compare` does it."""
    import numpy as np

    prepared = card["preprocessing"]
    if list(images.shape[1:]) != prepared["input_shape"]:
        raise ConfigError(
            f"{path}: takes images of {prepared['input_shape']}, given {list(images.shape[1:])}"
        )
    mean, std = (np.float32(prepared[k]).reshape(1, -1, 1, 1) for k in ("mean", "std"))
    return ((part.astype(np.float32) / np.float32(255) - mean) / std for part in batches(images))


_EXACT, _DEFAULT = True, False
"""Whether products of int8 are summed without saturation on every processor."""


def _logits(
    path: Path, images: Images, *, kernels: Sequence[bool] = (_EXACT,)
) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """Batch by batch the number of images before it, and its logits (N, classes) by each of
    `kernels`."""
    model, card = read_exported(path)
    opened = [session(model, threads=1, exact_int8=exact) for exact in kernels]
    begin = 0
    for batch in normalised(images, card, path):
        yield begin, [s.run([OUTPUT], {INPUT: batch})[0] for s in opened]
        begin += len(batch)
