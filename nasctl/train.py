"""Layer 2: one plain training loop, a function that yields per-epoch values.

SGD with Nesterov momentum, label smoothing, gradient clipping, bfloat16 where it pays. Same
seed, recipe, data and thread count: the same result, bit by bit, on the same kind of machine.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nasctl import augment, precision
from nasctl.dataset import Dataset
from nasctl.errors import EnvironmentProblemError, NasctlError
from nasctl.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

EVAL_BATCH = 500
GPU_CHECK_STEPS = 20  # reading the loss waits for the GPU; on the CPU it is free
EXPLODED = 20.0  # times ln(number of classes), the loss of a guess


class DivergedError(NasctlError):
    """The loss became NaN or infinite, or far worse than guessing; fails that trial only."""


class OutOfMemoryTrialError(NasctlError):
    """A training needed more memory than there is; fails that trial only."""


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of 0-based `step` of `steps`.

    `onecycle` (Smith & Topin 2017, arXiv:1708.07120): linear from lr / 25 to lr over the first
    `warmup` of the steps, then a cosine down to 0. `cosine` (Loshchilov & Hutter 2016,
    arXiv:1608.03983): the same without the warm-up, one half period.
    """
    peak = recipe.warmup * steps if recipe.schedule == "onecycle" else 0.0
    if step < peak:
        return recipe.lr * (1 / 25 + (1 - 1 / 25) * step / peak)
    progress = (step - peak) / max(steps - peak, 1.0)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    model: nn.Module, dataset: Dataset, recipe: Recipe, seed: int
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
        seed: of the data order and the augmentation.

    Yields:
        After each epoch `accuracy` and `val_loss` on the validation split, `loss` (mean over the
        epoch, label-smoothed), `images_per_second` and `seconds` of the training part.

    Raises:
        DivergedError: the loss is NaN, infinite or beyond 20 ln(num_classes).
        OutOfMemoryTrialError: out of memory, on CPU or GPU; caches have been cleared.
        SpecError: the model takes another number of channels than the data has.
    """
    try:
        yield from _train(model, dataset, recipe, seed)
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"out of memory: {str(error).strip().splitlines()[0][:200]}"
    # Outside the handler: there, the traceback would still hold the tensors.
    free_memory()
    raise OutOfMemoryTrialError(message)


def _train(
    model: nn.Module, dataset: Dataset, recipe: Recipe, seed: int
) -> Iterator[dict[str, float]]:
    import torch
    from torch.nn import functional

    setup = Setup.of(recipe)
    data = augment.prepared(
        dataset, augment.resolution(model, dataset), recipe.pad_crop, setup.device
    )
    setup.place(model)
    forward = torch.compile(model) if recipe.compile else model
    parameters = [p for p in model.parameters() if p.requires_grad]
    auxiliaries = [m for m in model.modules() if getattr(m, "training_only", False)]
    optimizer = _optimizer(parameters, recipe)
    steps_per_epoch = max(len(dataset.train_labels) // recipe.batch_size, 1)
    steps = recipe.epochs * steps_per_epoch
    limit = EXPLODED * math.log(max(dataset.num_classes, 2))
    check_every = GPU_CHECK_STEPS if setup.device.type == "cuda" else 1
    step = 0
    for epoch in range(recipe.epochs):
        model.train()
        start = time.perf_counter()
        total = torch.zeros((), device=setup.device)
        images_seen = 0
        for images, labels in augment.batches(
            data,
            batch_size=recipe.batch_size,
            flip=recipe.flip,
            seed=seed,
            epoch=epoch,
            channels_last=recipe.channels_last,
        ):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, steps)
            with setup.precision():
                logits = forward(images)
            loss = functional.cross_entropy(
                logits.float(), labels, label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss + _auxiliary_loss(auxiliaries, labels, recipe))
            if recipe.grad_clip:
                torch.nn.utils.clip_grad_norm_(parameters, recipe.grad_clip)
            optimizer.step()
            total += loss.detach()
            step += 1
            images_seen += len(labels)
            if step % check_every == 0 or step % steps_per_epoch == 0:
                _check(float(loss.detach()), limit, epoch, step)
        seconds = time.perf_counter() - start
        mean_loss = float(total) / steps_per_epoch
        accuracy, val_loss = _evaluate(forward, data.val_images, data.val_labels, data.scale, setup)
        yield {
            "accuracy": accuracy,
            "loss": mean_loss,
            "val_loss": val_loss,
            "images_per_second": images_seen / seconds,
            "seconds": seconds,
        }


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


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    import torch

    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [g for g in groups if g["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,
    )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where and in which precision a training runs."""

    device: torch.device
    bf16: bool
    channels_last: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Setup:
        """Decides for this process, and sets torch's threads and denormal handling."""
        import torch

        torch.set_num_threads(recipe.threads)
        torch.set_flush_denormal(True)  # momentum of dead weights decays into slow denormals
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        bf16 = recipe.amp == "bf16" or (recipe.amp == "auto" and precision.bf16_pays(device))
        return cls(device=device, bf16=bf16, channels_last=recipe.channels_last)

    def place(self, model: nn.Module) -> None:
        """Moves the model to the device and memory format."""
        model.to(self.device)
        augment.to_layout(model, self.channels_last)

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Of the forward pass: bfloat16 autocast or float32."""
        import torch

        with contextlib.ExitStack() as stack:
            if self.bf16:
                stack.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
                if self.device.type == "cpu":
                    stack.enter_context(precision.slow_convolutions_in_float32())
            yield


def evaluate(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    recipe: Recipe,
    *,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
) -> tuple[float, float]:
    """Accuracy (a fraction) and mean cross-entropy on images, in evaluation mode.

    Args:
        model: trained; moved to the device.
        images: uint8, (N, C, H, W), resized if `model.input_shape` says so.
        labels: (N,).
        recipe: for precision, memory format and threads.
        normalisation: the training split's: `Dataset.normalisation`.
    """
    setup = Setup.of(recipe)
    setup.place(model)
    size = tuple(getattr(model, "input_shape", images.shape[1:])[1:])
    pixels = augment.as_tensor(augment.resize(images, (size[0], size[1])))
    scale = augment.Scale.of(normalisation, setup.device)
    targets = augment.as_tensor(labels).to(setup.device)
    return _evaluate(model, pixels.to(setup.device), targets, scale, setup)


def _evaluate(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    scale: augment.Scale,
    setup: Setup,
) -> tuple[float, float]:
    import torch
    from torch.nn import functional

    if isinstance(model, torch.nn.Module):
        model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=setup.device)
    loss = torch.zeros((), dtype=torch.float64, device=setup.device)
    with torch.inference_mode():
        for start in range(0, len(labels), EVAL_BATCH):
            batch = images[start : start + EVAL_BATCH]
            target = labels[start : start + EVAL_BATCH]
            with setup.precision():
                logits = model(scale.normalise(batch, channels_last=setup.channels_last))
            logits = logits.float()
            correct += (logits.argmax(1) == target).sum()
            loss += functional.cross_entropy(logits, target, reduction="sum")
    return int(correct) / len(labels), float(loss) / len(labels)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is a failed allocation, on CPU or GPU."""
    import torch

    texts = ("not enough memory", "DefaultCPUAllocator", "can't allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def free_memory() -> None:
    """Gives back what this process keeps for speed, so that the next training has it."""
    import torch

    augment.clear_cache()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def save_weights(path: Path, module: nn.Module, metadata: Mapping[str, str]) -> None:
    """Writes parameters and buffers as safetensors; a crash leaves the old file or the new one.

    Args:
        path: its directory is created.
        module: any memory format and device; stored contiguous, under the state dict's names.
        metadata: texts, stored in the file's header.

    Raises:
        EnvironmentProblemError: the file cannot be written.
    """
    from safetensors.torch import save

    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(save(state, metadata=dict(metadata)))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentProblemError(f"cannot write {path}: {error.strerror}") from None


def load_weights(path: Path, module: nn.Module) -> dict[str, str]:
    """Loads what `save_weights` wrote into a freshly built module, strictly; gives the metadata.

    Raises:
        EnvironmentProblemError: missing or damaged file, or weights of another architecture.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        module.load_state_dict(state, strict=True)
    except (OSError, SafetensorError) as error:
        raise EnvironmentProblemError(f"cannot read the weights {path}: {error}") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise EnvironmentProblemError(
            f"{path} has the weights of another network: {reason}"
        ) from None
    return metadata


TRAINERS: dict[str, Callable[[nn.Module, Dataset, Recipe, int], Iterator[dict[str, float]]]] = {
    "sgd": train
}
