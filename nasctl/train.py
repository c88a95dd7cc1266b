"""Layer 2: one plain training loop, a function that yields per-epoch values.

SGD with Nesterov momentum, label smoothing, gradient clipping, bfloat16 where it pays. Same
seed, recipe, data and thread count: the same result, bit by bit, on the same kind of machine,
also if the training was cut off and goes on from a checkpoint. Everything random in an epoch (its
order, augmentation, dropout) is a function of the seed and the epoch alone.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasctl import augment
from nasctl.checkpoints import Checkpoint, Checkpoints
from nasctl.dataset import Dataset
from nasctl.errors import NasctlError
from nasctl.recipe import Recipe
from nasctl.schedule import cooldown, learning_rate
from nasctl.sgd import Sgd
from nasctl.train_setup import (
    Setup,
    accuracy_and_loss,
    evaluate,
    free_memory,
    is_out_of_memory,
)
from nasctl.weights import load_weights, save_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "TRAINERS",
    "Branches",
    "DivergedError",
    "OutOfMemoryTrialError",
    "Setup",
    "evaluate",
    "free_memory",
    "learning_rate",
    "load_weights",
    "save_weights",
    "train",
]

GPU_CHECK_STEPS = 20  # reading the loss waits for the GPU; on the CPU it is free
EXPLODED = 20.0  # times ln(number of classes), the loss of a guess


class DivergedError(NasctlError):
    """The loss became NaN or infinite, or far worse than guessing; fails that trial only."""


class OutOfMemoryTrialError(NasctlError):
    """A training needed more memory than there is; fails that trial only."""


@dataclass(frozen=True, kw_only=True)
class Branches:
    """Where a training branches off to be judged as if it ended there.

    Attributes:
        rungs: after these epochs (1, 2, ...) a copy of the network is cooled down and evaluated.
        fraction: steps of a cool-down, as a fraction of the steps before it.
    """

    rungs: tuple[int, ...] = ()
    fraction: float = 0.0


def train(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    *,
    branches: Branches | None = None,
    checkpoints: Checkpoints | None = None,
    resume: Checkpoint | None = None,
) -> Iterator[dict[str, float]]:
    """Trains `model` in place, on the GPU if there is one.

    Never looks at the test split. Images are resized, once per process, if `model.input_shape`
    asks for another resolution than the data has. Modules that say `training_only` are auxiliary
    classifiers: the loss of their `logits` is added, times their `weight`. Weight decay applies to
    parameters of rank 2 and more. Normalisation layers compute in float32 also under autocast.

    Args:
        model: initialised; (N, C, H, W) float32 to (N, num_classes) logits.
        dataset: with training and validation split.
        recipe: see `Recipe`; sets torch's thread count for the process.
        seed: of the data order, the augmentation and dropout.
        branches: see `Branches`; the trunk goes on as if nothing had been.
        checkpoints: where the state is kept after rungs and long epochs, once the caller has asked
            for more; None: nowhere.
        resume: a state to go on from, with the epoch after it.

    Yields:
        After each epoch `accuracy` and `val_loss` on the validation split, `loss` (mean over the
        epoch, label-smoothed), `images_per_second` and `seconds` of the training part. At a rung
        also `rung_accuracy` and `rung_val_loss` of the branch, and `cooldown_seconds`.

    Raises:
        DivergedError: the loss is NaN, infinite or beyond 20 ln(num_classes).
        OutOfMemoryTrialError: out of memory, on CPU or GPU; caches have been cleared.
        SpecError: the model takes another number of channels than the data has.
    """
    training = None
    try:
        training = _Training(model, dataset, recipe, seed)
        yield from _epochs(training, branches or Branches(), checkpoints, resume)
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"out of memory: {str(error).strip().splitlines()[0][:200]}"
    # Outside the handler: there, the traceback would still hold the tensors.
    training = None
    free_memory()
    raise OutOfMemoryTrialError(message)


def _epochs(
    training: _Training,
    branches: Branches,
    checkpoints: Checkpoints | None,
    resume: Checkpoint | None,
) -> Iterator[dict[str, float]]:
    recipe = training.recipe
    done = 0
    if resume is not None:
        training.restore(resume.tensors)
        done = resume.epoch
    saved = time.monotonic()
    for epoch in range(done, recipe.epochs):
        metrics = training.epoch(epoch)
        is_rung = epoch + 1 in branches.rungs
        if is_rung:
            metrics |= training.branch(epoch + 1, branches.fraction)
        yield metrics
        # Asked for more, so this epoch is known to the caller, and the trial is not stopped.
        last = epoch + 1 == recipe.epochs
        if checkpoints is not None and not last and (is_rung or checkpoints.is_due(saved)):
            checkpoints.save(epoch + 1, training.state())
            saved = time.monotonic()


class _Training:
    """A network, its optimizer and its data; epochs are numbered from 0."""

    def __init__(self, model: nn.Module, dataset: Dataset, recipe: Recipe, seed: int) -> None:
        import torch

        self.recipe = recipe
        self._seed = seed
        self._setup = Setup.of(recipe)
        self._data = augment.prepared(
            dataset, augment.resolution(model, dataset), recipe.pad_crop, self._setup.device
        )
        self._setup.place(model)
        self._model = model
        self._forward: Any = torch.compile(model) if recipe.compile else model
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._auxiliaries = [m for m in model.modules() if getattr(m, "training_only", False)]
        self._optimizer = Sgd(list(self._parameters.values()), recipe)
        self._limit = EXPLODED * math.log(max(dataset.num_classes, 2))
        self._check_every = GPU_CHECK_STEPS if self._setup.device.type == "cuda" else 1
        self.steps_per_epoch = max(len(dataset.train_labels) // recipe.batch_size, 1)

    def epoch(self, epoch: int) -> dict[str, float]:
        """Trains the trunk for an epoch and evaluates it."""
        steps = self.recipe.epochs * self.steps_per_epoch
        first = epoch * self.steps_per_epoch
        start = time.perf_counter()
        total, images = self._train(
            epoch, lambda step: learning_rate(self.recipe, first + step, steps)
        )
        seconds = time.perf_counter() - start
        accuracy, val_loss = self._evaluate()
        return {
            "accuracy": accuracy,
            "loss": total / self.steps_per_epoch,
            "val_loss": val_loss,
            "images_per_second": images / seconds,
            "seconds": seconds,
        }

    def branch(self, done: int, fraction: float) -> dict[str, float]:
        """Cools down after `done` epochs on the batches that come next, evaluates, and puts the
        trunk back where it was."""
        start = time.perf_counter()
        trunk = self.state()
        length = max(round(fraction * done * self.steps_per_epoch), 1)
        steps = self.recipe.epochs * self.steps_per_epoch
        stable = learning_rate(self.recipe, done * self.steps_per_epoch, steps)
        for begin in range(0, length, self.steps_per_epoch):
            epoch = done + begin // self.steps_per_epoch
            self._train(
                epoch,
                lambda step, begin=begin: stable * cooldown((begin + step) / length),  # type: ignore[misc]  # inference
                limit=length - begin,
            )
        accuracy, val_loss = self._evaluate()
        self.restore(trunk)
        return {
            "rung_accuracy": accuracy,
            "rung_val_loss": val_loss,
            "cooldown_seconds": time.perf_counter() - start,
        }

    def _train(
        self, epoch: int, rate: Callable[[int], float], *, limit: int | None = None
    ) -> tuple[float, int]:
        """One pass over the training split, or its first `limit` steps.

        Returns:
            The sum of the losses, the number of images.
        """
        import torch

        recipe, setup = self.recipe, self._setup
        self._model.train()
        total = torch.zeros((), device=setup.device)
        images_seen = 0
        batches = augment.batches(
            self._data,
            batch_size=recipe.batch_size,
            flip=recipe.flip,
            seed=self._seed,
            epoch=epoch,
            channels_last=recipe.channels_last,
        )
        # Dropout draws from the global generator, which the process keeps from one trial to the
        # next; here it is a function of (seed, epoch), and outside untouched.
        devices = [setup.device] if setup.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(_noise_seed(self._seed, epoch))
            for step, (images, labels) in enumerate(itertools.islice(batches, limit)):
                loss = self._step(images, labels, rate(step))
                total += loss
                images_seen += len(labels)
                if (step + 1) % self._check_every == 0 or step + 1 == self.steps_per_epoch:
                    _check(float(loss), self._limit, epoch, epoch * self.steps_per_epoch + step + 1)
        return float(total), images_seen

    def _step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        import torch
        from torch.nn import functional

        with self._setup.precision():
            logits = self._forward(images)
        loss = functional.cross_entropy(
            logits.float(), labels, label_smoothing=self.recipe.label_smoothing
        )
        self._optimizer.forget_gradients()
        torch.autograd.backward(loss + _auxiliary_loss(self._auxiliaries, labels, self.recipe))
        if self.recipe.grad_clip:
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.recipe.grad_clip)
        self._optimizer.step(rate)
        return loss.detach()

    def _evaluate(self) -> tuple[float, float]:
        data = self._data
        return accuracy_and_loss(
            self._forward, data.val_images, data.val_labels, data.scale, self._setup
        )

    def state(self) -> dict[str, Tensor]:
        """A copy of all that the next epoch depends on: weights, statistics, momentum.

        The random state is none of it: that is a function of (seed, epoch).
        """
        held = {f"model/{k}": v for k, v in self._model.state_dict().items()}
        for name, parameter in self._parameters.items():
            momentum = self._optimizer.momenta.get(parameter)
            if momentum is not None:
                held[f"momentum/{name}"] = momentum
        return {k: v.detach().clone() for k, v in held.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts a `state()` back, values only: memory formats stay as they are.

        Raises:
            KeyError: it is the state of another network.
        """
        import torch

        with torch.no_grad():
            for name, tensor in self._model.state_dict().items():
                tensor.copy_(tensors[f"model/{name}"])
            for name, parameter in self._parameters.items():
                momentum = tensors.get(f"momentum/{name}")
                self._optimizer.momenta.pop(parameter, None)
                if momentum is not None:
                    like = torch.empty_like(parameter, memory_format=torch.preserve_format)
                    self._optimizer.momenta[parameter] = like.copy_(momentum)


def _noise_seed(seed: int, epoch: int) -> int:
    digest = hashlib.sha256(f"noise/{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _auxiliary_loss(auxiliaries: list[Any], labels: Tensor, recipe: Recipe) -> Tensor | float:
    """The weighted losses of side heads (Szegedy et al., arXiv 1409.4842, section 5), or 0."""
    from torch.nn import functional

    total: Tensor | float = 0.0
    for head in auxiliaries:
        total = total + head.weight * functional.cross_entropy(
            head.logits.float(), labels, label_smoothing=recipe.label_smoothing
        )
        head.logits = None  # else the graph lives until the next step
    return total


def _check(loss: float, limit: float, epoch: int, step: int) -> None:
    if not loss <= limit:  # also NaN
        what = "is not finite" if not math.isfinite(loss) else "exploded"
        raise DivergedError(f"the loss {what}: {loss:.4g} in epoch {epoch + 1}, step {step}")


TRAINERS: dict[str, Callable[[nn.Module, Dataset, Recipe, int], Iterator[dict[str, float]]]] = {
    "sgd": train
}
