"""Layer 4: what the workers of a verification run: a training, then the test split, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.data_readers import Images, Labels
from nasctl.dataset import Dataset
from nasctl.evaluate import TrainingJob, weights_name
from nasctl.kept_files import TEST
from nasctl.pretrained import Pretrained
from nasctl.trial import EpochMetrics, Work

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A data set whose test split is open.

    Attributes:
        seen: what trainings see: without the test split.
        starts: weights that reference networks begin with, by architecture id.
        test_images, test_labels: None where there is no test split.
    """

    seen: Dataset
    starts: Mapping[str, Pretrained]
    test_images: Images | None
    test_labels: Labels | None

    @classmethod
    def of(cls, dataset: Dataset, starts: Mapping[str, Pretrained]) -> Opened:
        return cls(
            seen=dataset.without_test(),
            starts=starts,
            test_images=dataset.test_images,
            test_labels=dataset.test_labels,
        )


@dataclass(frozen=True, kw_only=True)
class VerificationJob:
    """Trains on the training split, and judges the finished network on the test split; picklable.

    Attributes:
        inner: the training, without data.
        data: with the test split.
        int8: whether the network is quantised and judged in int8 as well.
    """

    inner: TrainingJob
    data: Opened | None = None
    int8: bool = False

    @property
    def payload(self) -> Opened | None:
        """The data: what is shared between workers instead of being copied to each."""
        return self.data

    def with_payload(self, payload: Opened | None) -> VerificationJob:
        """The same job with other data."""
        return dataclasses.replace(self, data=payload)

    @property
    def folders(self) -> dict[str, str]:
        """What a worker writes into, by name."""
        return self.inner.folders

    def with_folders(self, folders: Mapping[str, str]) -> VerificationJob:
        """The same job, writing elsewhere."""
        return dataclasses.replace(self, inner=self.inner.with_folders(folders))

    def prepare(self) -> None:
        """Once per worker process."""
        self.inner.prepare()

    def __call__(self, work: Work) -> Iterator[Mapping[str, float]]:
        """One dict per epoch; the last one is held back until the test accuracy is in it."""
        assert self.data is not None, "the job was started without its data"
        inner = self.inner.with_payload((self.data.seen, self.data.starts))
        number, held = 0, None
        for metrics in inner(work):
            if held is not None:
                yield held
            number = metrics.epoch if isinstance(metrics, EpochMetrics) else number + 1
            held = EpochMetrics(metrics, number)
            if number < work.epochs:  # before it goes on: checkpoints are of epochs that are known
                yield held
                held = None
        if held is None:
            return
        yield EpochMetrics({**held, **self._judged(inner, work, self.data)}, held.epoch)

    def _judged(self, inner: TrainingJob, work: Work, data: Opened) -> dict[str, float]:
        """What the finished network is worth on the test split, and in int8, from the weights that
        it left."""
        if data.test_labels is None and not self.int8:
            return {}
        from nasctl.weights import load_weights

        assert inner.weights is not None, "verified networks keep their weights"
        model: Any = inner.built(work)
        load_weights(Path(inner.weights) / weights_name(work.architecture.id, work.seed), model)
        found = {}
        if data.test_labels is not None:
            found[TEST] = self._on_test(inner, model, data)
        if self.int8:
            from nasctl.verification.int8 import int8_accuracies

            found |= int8_accuracies(
                model, work.architecture, data.seen, data.test_images, data.test_labels
            )
        return found

    def _on_test(self, inner: TrainingJob, model: nn.Module, data: Opened) -> float:
        from nasctl.train_setup import evaluate

        assert data.test_images is not None
        assert data.test_labels is not None
        accuracy, _ = evaluate(
            model,
            data.test_images,
            data.test_labels,
            inner.recipe,
            normalisation=data.seen.normalisation,
        )
        return accuracy
