"""Layer 2: where and how precisely a training computes, how it is judged, and what it leaves."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nasctl import augment, precision
from nasctl.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

EVAL_BATCH = 500


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
    return accuracy_and_loss(model, pixels.to(setup.device), targets, scale, setup)


def accuracy_and_loss(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    scale: augment.Scale,
    setup: Setup,
) -> tuple[float, float]:
    """As `evaluate`, of images and labels that are prepared and on the device."""
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
