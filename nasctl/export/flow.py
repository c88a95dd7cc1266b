"""Layer 4: `nasctl export`: a network of a run, its weights, checked and written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.arch import Architecture
from nasctl.dataset import Dataset
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.export.destination import check_destination
from nasctl.export.flat import flatten
from nasctl.export.formats import WRITERS, Card, files_of
from nasctl.export.images import Resized
from nasctl.export.parity import Parity, compare, spread
from nasctl.files import replacing, temporary_folder
from nasctl.kept_files import VERIFIED_JSON, named_weights, verified_training
from nasctl.records import RunRecords
from nasctl.trial import EXACT_METRICS, State, Trial
from nasctl.weights import load_weights

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        files: the one to open last; all paths as given by the user.
        params: numbers in the file: batch norms are folded.
        replaced: those of `files` that were there from an earlier export.
    """

    files: tuple[Path, ...]
    parity: Parity
    card: Card
    params: int
    replaced: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "files": {str(f): f.stat().st_size for f in self.files},
            "replaced": [str(f) for f in self.replaced],
            "params": self.params,
            "parity": self.parity.to_json(),
            **self.card.to_json(),
        }

    def lines(self) -> Iterator[str]:
        """The same for people."""
        parity = self.parity
        for file in self.files:
            yield file_line(file, file.stat().st_size, self.replaced)
        yield (
            f"{self.params:,} parameters; outputs within {parity.max_error:.1g} of the largest "
            f"(mean {parity.mean_error:.1g}); accuracy {parity.exported_accuracy:.4f}, "
            f"{parity.accuracy:.4f} before, on {parity.images:,} validation images"
        )
        origin = self.card.provenance
        whose = "its verification, the best on validation" if "verified" in origin else "the search"
        yield f"weights of seed {origin['seed']}, of {whose}"


def file_line(file: Path, size: int, replaced: Container[Path]) -> str:
    """What is said of a file that was written, `size` bytes of it."""
    instead = ", in place of an earlier export" if file in replaced else ""
    return f"{file}  {size:,} bytes{instead}"


def check_export(records: RunRecords, arch_id: str, path: Path, kind: str) -> tuple[Path, ...]:
    """All that can be known of an export before the data is read; writes nothing.

    Returns:
        Files of an earlier export, which would be replaced.

    Raises:
        ConfigError: `path` does not fit the format, or something else is there.
        EnvironmentProblemError: no weights were kept, or the folder cannot be written to.
    """
    _weights(records, arch_id)
    return check_destination(files_of(path, kind))


def export_network(
    records: RunRecords,
    architecture: Architecture,
    *,
    build: Callable[[Architecture], nn.Module],
    dataset: Dataset,
    kind: str,
    path: Path,
) -> Exported:
    """Writes a trained network of a run as a file of its own, after checking it on real images.

    The images are those of the validation split: test images are opened by `nasctl verify` alone.

    Args:
        build: the module of a network, as it was trained.
        dataset: that the run was trained on.
        kind: `onnx`, `pt2` or `torch`.
        path: where to; an earlier export is replaced in one step.

    Raises:
        ConfigError: `path` does not fit the format, or something else is there.
        EnvironmentProblemError: no weights were kept, or the format cannot hold the network, or
            the disk is full.
        ParityError: the file computes something else; nothing is written then.
    """
    from safetensors import SafetensorError

    replaced = check_export(records, architecture.id, path, kind)
    weights, targets = _weights(records, architecture.id), files_of(path, kind)
    model = build(architecture)
    stored = load_weights(weights, model)
    model.eval()
    if stored.get("data", dataset.fingerprint) != dataset.fingerprint:
        raise EnvironmentProblemError(
            f"{records.directory}: {dataset.name} has changed since {architecture.id} was trained: "
            "its normalisation and classes would be others"
        )
    card = _card(records, architecture, dataset, seed=int(stored.get("seed", "0")))
    size = (architecture.input_shape[1], architecture.input_shape[2])
    chosen = spread(len(dataset.val_labels))
    images = Resized(images=dataset.val_images, size=size, chosen=chosen)
    traced = flatten(model)
    with temporary_folder(str(path)) as folder:
        made = files_of(folder / path.name, kind)
        try:
            run = WRITERS[kind](traced, card, made[-1])
        except SafetensorError as error:
            raise EnvironmentProblemError(f"{path}: cannot be made: {error}") from error
        parity = compare(
            model,
            run,
            images,
            dataset.val_labels[chosen],
            normalisation=dataset.normalisation,
        )
        with contextlib.ExitStack() as renamed_last:
            # The last one here is the first in place: the weights, before what reads them.
            for source, target in reversed(list(zip(made, targets, strict=True))):
                temporary = renamed_last.enter_context(replacing(target))
                temporary.write_bytes(source.read_bytes())
    params = sum(p.numel() for p in traced.parameters())
    return Exported(files=targets, parity=parity, card=card, params=params, replaced=replaced)


def _check_verified(records: RunRecords, arch_id: str) -> None:
    """Raises where a verification has come to something else than what would be handed out."""
    path = records.directory / VERIFIED_JSON
    remedy = f"nasctl verify {records.directory}"
    if path.exists() and records.verified is None:
        raise EnvironmentProblemError(f"{path}: cannot be read; {remedy} writes it again")
    named = named_weights(records.verified, arch_id)
    if named is not None and not (records.directory / named).is_file():
        raise EnvironmentProblemError(
            f"{records.directory / named}: the verified weights are gone; {remedy} --fresh trains "
            f"again, without {path} those of the search are exported"
        )


def _weights(records: RunRecords, arch_id: str) -> Path:
    _check_verified(records, arch_id)
    found = records.best_weights(arch_id)
    if found is not None:
        return found
    trained = (*records.trials(), *records.references())
    kept = sorted({t.arch_id for t in trained if records.weights(t.arch_id) is not None})
    shown = ", ".join(kept[:3]) + (", ..." if len(kept) > 3 else "")
    hint = f"; those of {shown} are there" if kept else ""
    noted = any(name.startswith(f"weights/{arch_id}-s") for name in records.meta("artifacts") or {})
    ended = any(t.arch_id == arch_id and t.state is State.COMPLETE for t in trained)
    if noted or (kept and ended):
        raise EnvironmentProblemError(
            f"{records.directory}: the weights of {arch_id} are gone; only a copy of them "
            f"helps{hint}"
        )
    raise EnvironmentProblemError(
        f"{records.directory}: the weights of {arch_id} were not kept: its training did not end, "
        f"or nothing was trained{hint}"
    )


def _card(records: RunRecords, architecture: Architecture, dataset: Dataset, *, seed: int) -> Card:
    arch_id = architecture.id
    if dataset.input_shape[0] != architecture.input_shape[0]:
        raise ConfigError(
            f"{records.directory}: its data has {dataset.input_shape[0]} channels now, the network "
            f"{architecture.input_shape[0]}"
        )
    trained = [t for t in (*records.trials(), *records.references()) if t.arch_id == arch_id]
    metrics = dict(next((t.metrics for t in trained if t.seed == seed and t.metrics), {}))
    # Weights of a verification are of a seed that the search has not trained on.
    fresh = verified_training(records.verified, arch_id, seed) or {}
    if fresh:
        metrics = {**next((t.cost for t in trained), {}), **fresh.pop("metrics")}
    if (measured := records.measurements.get(arch_id)) is not None:
        metrics["latency_ms_measured"] = measured["p50_ms"]
    mean, std = dataset.normalisation
    version = metadata.version("nasctl")
    classes = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
    channels, height, width = architecture.input_shape
    return Card(
        title=f"Network {arch_id} of the nasctl run {records.name}, trained on {dataset.name}",
        version=version,
        input_shape=(channels, height, width),
        classes=tuple(classes),
        mean=mean,
        std=std,
        provenance={
            "run": records.name,
            "run_uid": records.uid,
            "arch_id": arch_id,
            "architecture": architecture.to_json(),
            "seed": seed,
            "data": dataset.name,
            "data_fingerprint": dataset.fingerprint,
            "metrics": metrics,
            "metrics_split": "val",
            "metrics_source": {name: _source(name, trained) for name in metrics},
            "latency_device": (records.latency or {}).get("device"),
            **fresh,
            "git_commit": records.environment.get("git_commit"),
            "torch": records.environment.get("torch"),
        },
    )


def _source(metric: str, trained: Sequence[Trial]) -> str:
    """How a metric is known; see `nasctl.trial.Uncertainty`."""
    if any(metric in t.cost_intervals for t in trained):
        return "predicted"
    is_exact = metric in EXACT_METRICS or any(metric in t.cost for t in trained)
    return "exact" if is_exact else "measured"
