"""Layer 4: what the workers of a study run: each training by the recipe and data of its arm."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasctl.dataset import Dataset, stratified_split
from nasctl.evaluate import EvaluatorJob, TrainingJob
from nasctl.recipe import Recipe
from nasctl.trial import EpochMetrics, Work

Epochs = tuple[tuple[int, Mapping[str, float]], ...]
"""What a training reported: (epoch, metrics)."""


@dataclass(frozen=True, kw_only=True)
class AblationJob:
    """Trains the arms of a study; picklable.

    Attributes:
        inner: with the first recipe and no data; an evaluator's job ignores recipes and data.
        recipes: by arm.
        data: by arm, the key of its data in `datasets`.
        shared: trainings of other studies by their key: told again instead of done again.
        datasets: without test splits.
    """

    inner: TrainingJob | EvaluatorJob
    recipes: Mapping[str, Recipe]
    data: Mapping[str, str]
    shared: Mapping[str, Epochs]
    datasets: Mapping[str, Dataset] | None = None

    @property
    def payload(self) -> Mapping[str, Dataset] | None:
        """The data: what is shared between workers instead of being copied to each."""
        return self.datasets

    def with_payload(self, payload: Mapping[str, Dataset] | None) -> AblationJob:
        """The same job with other data."""
        return dataclasses.replace(self, datasets=payload)

    @property
    def folders(self) -> dict[str, str]:
        """What a worker writes into, by name."""
        return self.inner.folders if isinstance(self.inner, TrainingJob) else {}

    def with_folders(self, folders: Mapping[str, str]) -> AblationJob:
        """The same job, writing elsewhere."""
        if not isinstance(self.inner, TrainingJob):
            return self
        return dataclasses.replace(self, inner=self.inner.with_folders(folders))

    def prepare(self) -> None:
        """Once per worker process."""
        self.inner.prepare()

    def __call__(self, work: Work) -> Iterator[Mapping[str, float]]:
        """One dict per epoch."""
        known = self.shared.get(str(work.choices["training"]))
        if known is not None and "shared_from" in work.choices:
            for epoch, metrics in known:
                yield EpochMetrics(metrics, epoch)
            return
        inner = self.inner
        if isinstance(inner, TrainingJob):
            assert self.datasets is not None, "the job was started without its data"
            arm = str(work.choices["arm"])
            key, split = self.data[arm], int(work.choices["split"])
            inner = dataclasses.replace(
                inner,
                recipe=dataclasses.replace(self.recipes[arm], lr=float(work.choices["lr"])),
                dataset=_split(self.datasets[key], key, split),
            )
        yield from inner(work)


_splits: dict[tuple[str, str, int], Dataset] = {}


def _split(dataset: Dataset, key: str, split: int) -> Dataset:
    """Kept for a while: all arms of one seed have the same."""
    if split == 0:
        return dataset
    found = _splits.get((key, dataset.fingerprint, split))
    if found is None:
        _splits.clear()
        found = _splits[key, dataset.fingerprint, split] = resplit(dataset, split)
    return found


def resplit(dataset: Dataset, split: int) -> Dataset:
    """The same training and validation images, divided anew at the same sizes and class shares.

    Args:
        split: 0: as they are; else the seed of the division.
    """
    if split == 0:
        return dataset
    images = np.concatenate([dataset.train_images, dataset.val_images])
    labels = np.concatenate([dataset.train_labels, dataset.val_labels])
    train, val = stratified_split(labels, len(dataset.val_labels), split)
    return dataclasses.replace(
        dataset,
        train_images=images[train],
        train_labels=labels[train],
        val_images=images[val],
        val_labels=labels[val],
    )


def epochs_of(evaluations: Any) -> Epochs:
    """The reports of a finished training, as a job gives them again."""
    return tuple((e.epoch, dict(e.metrics)) for e in evaluations)
