"""Layer 3: one evaluation of one architecture, as executors run it in a worker."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nasctl.checkpoints import Checkpoints
from nasctl.errors import ConfigError, NasctlError
from nasctl.plugins import Registry, load_plugins
from nasctl.recipe import Recipe
from nasctl.trial import EpochMetrics, Work

if TYPE_CHECKING:
    from torch import nn

    from nasctl.data import Dataset
    from nasctl.pretrained import Pretrained

    Payload = Dataset | tuple[Dataset | None, Mapping[str, Pretrained]] | None

T = TypeVar("T")

CHECKPOINTS = "checkpoints"
"""The folder in a run's folder."""

_registries: dict[tuple[str, ...], Registry] = {}


class EvaluationError(NasctlError):
    """An evaluator or trainer gave something that is not a result; fails that trial only."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What a training that begins with weights from a file does unlike the recipe."""

    lr: float
    warmup: float


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Trains a candidate on the data, by the recipe; picklable, so that a worker can run it.

    Attributes:
        recipe: how to train.
        plugins: modules to import in the worker, for their blocks, families and trainers.
        family: name and options of the family, needed where it has a `build` of its own.
        weights: folder for the weights of finished trainings (safetensors), or None.
        cooldown: length of the cool-down before a rung is judged, as a fraction of the epochs
            before it.
        checkpoints: folder for the state of unfinished trainings, or None.
        checkpoint_s: seconds of training after which an epoch that is no rung is kept too; None:
            rungs alone are.
        starts: what reference networks begin with, by id of the network; others at random.
        fine_tuning: of those.
        published: ids of networks that are references, whatever the number of their work.
        dataset: without its test split: a search never sees test data.
    """

    recipe: Recipe
    plugins: tuple[str, ...] = ()
    family: tuple[str, Mapping[str, Any]] | None = None
    weights: str | None = None
    cooldown: float = 0.0
    checkpoints: str | None = None
    checkpoint_s: float | None = None
    starts: Mapping[str, Pretrained] = field(default_factory=dict)
    fine_tuning: FineTuning | None = None
    published: frozenset[str] = frozenset()
    dataset: Dataset | None = None

    @property
    def payload(self) -> Payload:
        """The data, and weights to begin with where there are some: what is shared between workers
        instead of being copied to each."""
        return (self.dataset, self.starts) if self.starts else self.dataset

    def with_payload(self, payload: Payload) -> TrainingJob:
        """The same job with another one."""
        dataset, starts = payload if isinstance(payload, tuple) else (payload, {})
        return dataclasses.replace(self, dataset=dataset, starts=starts)

    @property
    def folders(self) -> dict[str, str]:
        """What a worker writes into, by name."""
        named = {"weights": self.weights, CHECKPOINTS: self.checkpoints}
        return {name: folder for name, folder in named.items() if folder is not None}

    def with_folders(self, folders: Mapping[str, str]) -> TrainingJob:
        """The same job, writing elsewhere."""
        return dataclasses.replace(
            self, weights=folders.get("weights"), checkpoints=folders.get(CHECKPOINTS)
        )

    def prepare(self) -> None:
        """Once per worker process: imports torch and sets the threads."""
        import torch

        torch.set_num_threads(self.recipe.threads)

    def __call__(self, work: Work) -> Iterator[dict[str, float]]:
        """One dict per epoch, after training it: `accuracy` on the validation split and others.

        Goes on from the last intact checkpoint of an earlier attempt, if the engine knows all
        epochs before it. Trainers of plugins have neither checkpoints nor cool-downs: they begin
        anew, and the value of a rung is that of its epoch.
        """
        from nasctl.train import Branches, save_weights, train
        from search_spaces import network

        if self.dataset is None:
            raise EvaluationError("the job was started without its data")
        registry = _registry(self.plugins)
        recipe = dataclasses.replace(self.recipe, epochs=work.epochs)
        model = self.built(work)
        network.initialise(model, work.architecture, work.seed)
        start = self._start(work)
        if start is not None:
            start.put_into(model)
            if self.fine_tuning is not None:
                recipe = dataclasses.replace(recipe, **dataclasses.asdict(self.fine_tuning))
        trainer = registry.lookup("trainers", "recipe.trainer", recipe.trainer)
        if trainer is not train:
            results = trainer(model, self.dataset, recipe, work.seed)
            who = f"trainer {recipe.trainer!r}"
            yield from map(dict, _within_budget(results, work.epochs, who))
        else:
            kept = self._checkpoints(work, recipe, self.dataset)
            resume = kept.latest(work.known_epochs) if kept and work.known_epochs else None
            epochs = train(
                model,
                self.dataset,
                recipe,
                work.seed,
                branches=Branches(rungs=work.rungs, fraction=self.cooldown),
                checkpoints=kept,
                resume=resume,
            )
            for epoch, metrics in enumerate(epochs, start=resume.epoch + 1 if resume else 1):
                yield EpochMetrics(metrics, epoch)
        if self.weights is not None:
            path = Path(self.weights) / weights_name(work.architecture.id, work.seed)
            about = {"arch_id": work.architecture.id, "seed": str(work.seed)}
            about |= {} if start is None else {"init": start.sha256}
            save_weights(path, model, {**about, "data": self.dataset.fingerprint})

    def built(self, work: Work) -> nn.Module:
        """The module of a network, as its family makes it; its weights are any."""
        from search_spaces import network

        build = network.build
        if self.family is not None and not self._is_reference(work):
            name, options = self.family
            build = _registry(self.plugins).families[name](**options).build or build
        model = build(work.architecture)
        # Trainers read it to resize the images: the resolution may be one of the choices.
        model.input_shape = work.architecture.input_shape  # type: ignore[assignment]  # a module of torch takes any
        return model

    def _is_reference(self, work: Work) -> bool:
        """References are not of the family, and may begin with weights of their own."""
        return work.number < 0 or work.architecture.id in self.published

    def _start(self, work: Work) -> Pretrained | None:
        """Of a reference network; a candidate that is the same network begins at random."""
        return self.starts.get(work.architecture.id) if self._is_reference(work) else None

    def _checkpoints(self, work: Work, recipe: Recipe, dataset: Dataset) -> Checkpoints | None:
        if self.checkpoints is None:
            return None
        start = self._start(work)
        return Checkpoints(
            Path(self.checkpoints) / str(work.number),
            identity={
                **({} if start is None else {"init": start.sha256}),
                "arch_id": work.architecture.id,
                "seed": work.seed,
                "recipe": recipe.to_json(),
                "data": dataset.fingerprint,
            },
            every_s=self.checkpoint_s,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluatorJob:
    """Asks a plugin's evaluator instead of training: tables, simulators, other people's code."""

    evaluator: str
    plugins: tuple[str, ...]

    @property
    def payload(self) -> None:
        """Evaluators bring their own data."""

    def with_payload(self, payload: object) -> EvaluatorJob:
        """The same job: there is no data to bind."""
        del payload
        return self

    def prepare(self) -> None:
        """Once per worker process: imports the plugins."""
        _registry(self.plugins)

    def __call__(self, work: Work) -> Iterator[dict[str, float]]:
        """One dict per epoch, or one at the end."""
        evaluate = _registry(self.plugins).lookup("evaluators", "evaluator", self.evaluator)
        result = evaluate(work.architecture, budget=work.epochs, seed=work.seed)
        if isinstance(result, Mapping):
            # The result of the whole budget: its last epoch, not its first.
            yield EpochMetrics(_checked(self.evaluator, result), work.epochs)
            return
        for metrics in _within_budget(result, work.epochs, f"evaluator {self.evaluator!r}"):
            yield _checked(self.evaluator, metrics)


def _within_budget(results: Iterable[T], epochs: int, who: str) -> Iterator[T]:
    for epoch, metrics in enumerate(results, 1):
        if epoch > epochs:
            raise EvaluationError(f"{who} gave a result after the last of its {epochs} epochs")
        yield metrics


def _checked(evaluator: str, metrics: object) -> dict[str, float]:
    if not isinstance(metrics, Mapping):
        raise EvaluationError(
            f"evaluator {evaluator!r} gave {type(metrics).__name__}, expected a dict of numbers"
        )
    try:
        values = {str(k): float(v) for k, v in metrics.items()}
    except (TypeError, ValueError):
        raise EvaluationError(f"evaluator {evaluator!r} gave {dict(metrics)!r}") from None
    bad = [f"{k} = {v}" for k, v in values.items() if not math.isfinite(v)]
    if bad:
        raise EvaluationError(f"evaluator {evaluator!r} gave {', '.join(bad)}")
    return values


def weights_name(arch_id: str, seed: int) -> str:
    """The file name of the weights of one training."""
    return f"{arch_id}-s{seed}.safetensors"


def _registry(plugins: tuple[str, ...]) -> Registry:
    if plugins not in _registries:
        try:
            _registries[plugins] = load_plugins(plugins)
        except ConfigError as error:
            raise EvaluationError(f"in the worker: {error}") from error
    return _registries[plugins]
