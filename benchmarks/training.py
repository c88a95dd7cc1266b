"""Training throughput of nasctl's loop beside the usual one, in images per second and core.

The usual loop: float32, NCHW, a DataLoader (in the same process, as one core is all there is) over
a Dataset that turns each image into a normalised tensor, mirrors and crops it; the same optimizer,
schedule, clipping and loss. The two loops take turns; a figure is the median over the turns, with
the lowest and highest in brackets. One thread each.

    python benchmarks/training.py [--turns 7] [--images 2560] [--amp auto|off|bf16]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from nasctl import precision
from nasctl.arch import Architecture
from nasctl.data import Dataset as NasDataset
from nasctl.data import load_dataset
from nasctl.recipe import Recipe
from nasctl.train import learning_rate, train
from search_spaces import network
from search_spaces.staged import staged


class UsualDataset(Dataset[tuple[Tensor, int]]):
    """One image at a time, the way torchvision's transforms do it."""

    def __init__(self, data: NasDataset, recipe: Recipe) -> None:
        self.images, self.labels = data.train_images, data.train_labels
        mean, deviation = data.normalisation
        self.mean, self.deviation = (torch.tensor(v)[:, None, None] for v in (mean, deviation))
        self.recipe = recipe

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.tensor(self.images[index]).float().div(255)
        if pad := self.recipe.pad_crop:
            height, width = image.shape[1:]
            image = functional.pad(image[None], (pad,) * 4, mode="reflect")[0]
            top, left = torch.randint(2 * pad + 1, (2,)).tolist()
            image = image[:, top : top + height, left : left + width]
        if self.recipe.flip and torch.rand(()) < 0.5:
            image = image.flip(2)
        return (image - self.mean) / self.deviation, int(self.labels[index])


def usual_epoch(model: nn.Module, data: NasDataset, recipe: Recipe) -> float:
    """Seconds that the usual loop takes for one epoch."""
    loader = DataLoader(UsualDataset(data, recipe), recipe.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    model.train()
    start = time.perf_counter()
    for step, (images, labels) in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, len(loader))
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
    return time.perf_counter() - start


def our_epoch(model: nn.Module, data: NasDataset, recipe: Recipe) -> float:
    """Seconds that nasctl's loop takes for one epoch, without validation."""
    return next(iter(train(model, data, recipe, 0)))["seconds"]


def networks() -> dict[str, Architecture]:
    """Three networks of blocks that conf/mbv2_space.yaml offers."""

    def build(block_type: str, width: float, expand_ratio: int) -> Architecture:
        family = staged(
            input_shape=(1, 28, 28),
            num_classes=10,
            stem={"channels": 16, "stride": 2},
            stages=[
                {"channels": 16, "depth": 1, "stride": 1},
                {"channels": 32, "depth": 2, "stride": 2},
                {"channels": 64, "depth": 2, "stride": 2},
            ],
            width_multiplier=width,
            block_type=block_type,
            expand_ratio=expand_ratio,
            kernel_size=3,
            bottleneck_activation="linear",
        )
        return family.decode({})

    return {
        "inverted residual x1.0": build("inverted_residual", 1.0, 6),
        "depthwise separable x1.0": build("depthwise_separable", 1.0, 6),
        "residual bottleneck x2.0": build("residual_bottleneck", 2.0, 6),
    }


def measure(architecture: Architecture, data: NasDataset, recipe: Recipe, turns: int) -> None:
    """Prints one line of the table."""
    loops: dict[str, Callable[[nn.Module, NasDataset, Recipe], float]] = {
        "usual": usual_epoch,
        "nasctl": our_epoch,
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    images = len(data.train_labels) // recipe.batch_size * recipe.batch_size
    for turn in range(turns + 1):
        for name, loop in loops.items():
            model = network.build(architecture)
            network.initialise(model, architecture, seed=0)
            rate = images / loop(model, data, recipe)
            if turn:  # the first one warms up
                rates[name].append(rate)
    cells = [f"{statistics.median(r):7.0f} [{min(r):.0f}, {max(r):.0f}]" for r in rates.values()]
    ratio = statistics.median(rates["nasctl"]) / statistics.median(rates["usual"])
    print(f"{cells[0]:>24} {cells[1]:>24} {ratio:7.2f}", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--images", type=int, default=2560, help="per epoch")
    parser.add_argument("--amp", choices=("auto", "off", "bf16"), default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    full = load_dataset("fashion_mnist_12k", {})
    data = NasDataset(
        name="part",
        train_images=full.train_images[: arguments.images],
        train_labels=full.train_labels[: arguments.images],
        val_images=full.val_images[:10],
        val_labels=full.val_labels[:10],
        num_classes=10,
    )
    recipe = Recipe(epochs=1, amp=arguments.amp)
    auto = "bf16" if precision.bf16_pays(torch.device("cpu")) else "off"
    print(f"torch {torch.__version__}, amp {recipe.amp} (auto is {auto} here), 1 thread,")
    print(f"n = {arguments.turns} turns of {arguments.images} images, batch {recipe.batch_size}\n")
    print(f"{'images/s/core':26} {'usual':>24} {'nasctl':>24}   ratio")
    for name, architecture in networks().items():
        print(f"{name:26} ", end="")
        measure(architecture, data, recipe, arguments.turns)


if __name__ == "__main__":
    main()
