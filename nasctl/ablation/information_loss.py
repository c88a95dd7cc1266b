"""Layer 4: the study `relu_information_loss`: does ReLU destroy what a narrow layer carries?

MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) argues for linear bottlenecks with its figure 1:
a spiral in the plane, embedded into n dimensions at random, cut by ReLU and projected back. Here
the picture is measured (`measure_spiral`), and so are trained networks (`measure_networks`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from nasctl.ablation.read_back import BlockReadBack, Floats, read_back
from nasctl.arch import Architecture, Shape
from nasctl.data import Dataset, load_dataset
from nasctl.errors import ConfigError
from nasctl.files import replacing, write_json
from nasctl.recipe import Recipe
from nasctl.stats import median_interval, t_interval
from search_spaces.blocks import ConvNormActivation, GlobalPoolLinear, InvertedResidual

if TYPE_CHECKING:
    from torch import Tensor

Announce = Callable[[str], None]

TURNS = 2
ARMS = ("linear", "relu6")
ROWS = ((12, 1), (12, 1), (16, 2), (16, 1), (24, 1), (24, 1))
"""(output channels, stride) of the inverted residuals; the stem has 8 channels."""
PARTS = ("projection", "branch", "output")


@dataclass(frozen=True, kw_only=True)
class InformationLossSettings:
    """What is measured, and how often.

    Attributes:
        dimensions: of the spaces that the spiral is embedded into; the paper's by default.
        draws: random embeddings per dimension.
        points: of the spiral, equally spaced in angle.
        seed: of the embeddings; the trainings have the seeds `seed`, `seed + 1`, ...
        trained: whether networks are trained too.
        seeds: trainings of each arm.
        epochs: of each training.
        images: of the validation split, from its start, that the read-out is fitted and judged on.
        positions: sampled per image and block.
        dataset: as in `data=NAME`.

    Raises:
        ConfigError: values that cannot be measured, all at once.
    """

    dimensions: tuple[int, ...] = (2, 3, 5, 15, 30)
    draws: int = 500
    points: int = 400
    seed: int = 0
    trained: bool = True
    seeds: int = 5
    epochs: int = 3
    images: int = 2000
    positions: int = 8
    dataset: str = "fashion_mnist_12k"

    def __post_init__(self) -> None:
        least = {"draws": 2, "points": 4, "seed": 0, "seeds": 1, "epochs": 1, "images": 4}
        least["positions"] = 1
        problems = [
            f"{name}: expected at least {low}, got {getattr(self, name)}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        if not self.dimensions or min(self.dimensions) < 1:
            problems.append(f"dimensions: expected numbers from 1, got {self.dimensions}")
        if problems:
            raise ConfigError(problems)


def run_information_loss(
    settings: InformationLossSettings,
    directory: Path,
    announce: Announce,
    render: Callable[[Mapping[str, Any]], Mapping[str, bytes]],
) -> dict[str, Any]:
    """Measures, and writes `information_loss.json` and the report's files into `directory`.

    The same settings give the same file (trainings: on the same kind of machine). Running it again
    replaces the files one by one, each of them whole.

    Args:
        settings: what is measured.
        directory: made if need be.
        announce: told what happens, a line each.
        render: from the result to file names and contents: `information_loss_files` of
            `nasctl.report.information_loss`, which this layer may not import.

    Returns:
        The content of `information_loss.json`.

    Raises:
        EnvironmentProblemError: the files cannot be written.
        NasctlError: a training diverged or ran out of memory.
    """
    announce(
        f"spiral: {settings.draws} embeddings in each of {len(settings.dimensions)} dimensions"
    )
    found: dict[str, Any] = {
        "study": "relu_information_loss",
        "settings": {**asdict(settings), "dimensions": list(settings.dimensions)},
        "spiral": [
            measure_spiral(n, draws=settings.draws, points=settings.points, seed=settings.seed)
            for n in settings.dimensions
        ],
        "picture": _picture(settings),
        "trained": measure_networks(settings, announce) if settings.trained else None,
    }
    write_json(directory / "information_loss.json", found)
    for name, content in render(found).items():
        with replacing(directory / name) as temporary:
            temporary.write_bytes(content)
    return found


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """Mean, 95 % t interval (None for a single value) and number of values."""
    interval = list(t_interval(values)) if len(values) > 1 else None
    return {"mean": fmean(values), "interval": interval, "n": len(values)}


def spiral(points: int) -> Floats:
    """Two turns of an Archimedean spiral, (points, 2); radius up to 1, the centre left out."""
    angle = TURNS * 2 * np.pi * (np.arange(points) + 0.5) / points
    radius = angle / (TURNS * 2 * np.pi)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def lost_probability(n: int) -> float:
    """P(fewer than 2 of n coordinates of T x are positive) = (n + 1) / 2^n.

    For Gaussian T and any fixed x other than 0 the signs are n independent fair coins, so this is
    the exact expectation, over T, of every point's loss, and of the fraction of lost points.
    """
    return float((n + 1) / 2**n)


def lost_standard_error(x: Floats, n: int, draws: int) -> float:
    """The exact standard error of the fraction of lost points of `x`, a mean over `draws` of T.

    A row of T gives two points at an angle a equal signs with probability 1 - a / pi. Both points
    are lost if the rows positive for them are none, one in all, or one each.
    """
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    apart = np.arccos(np.clip(unit @ unit.T, -1, 1)) / (2 * np.pi)  # only one certain side positive
    neither = 0.5 - apart
    both_lost = neither**n + n * neither ** (n - 1) * (1 - neither)
    if n > 1:
        both_lost += n * (n - 1) * neither ** (n - 2) * apart**2
    variance = both_lost.mean() - lost_probability(n) ** 2
    return math.sqrt(max(variance, 0.0) / draws)


def measure_spiral(n: int, *, draws: int, points: int, seed: int) -> dict[str, Any]:
    """Figure 1 in numbers, for embeddings into n dimensions by Gaussian T, (n, 2).

    Returns:
        `lost`: the fraction of points with fewer than 2 positive coordinates, whose place in the
        plane the others do not determine; measured (over draws), expected, and the standard error
        that so many draws have. `affine_error`: of the best affine map from ReLU(T x) to x, and
        `pinv_error`: of T^+ ReLU(T x) as the paper has it; squared errors relative to the variance
        of x. The latter's median: at n = 2 and 3 the mean is infinite, since T^+ of a nearly
        singular T is unbounded.
    """
    x = spiral(points)
    variance = np.square(x - x.mean(axis=0)).sum()
    lost, affine, pinv = [], [], []
    for embedding in _embeddings(n, draws, seed):
        kept = np.maximum(x @ embedding.T, 0)
        lost.append(float(np.mean((kept > 0).sum(axis=1) < 2)))
        affine.append(float(np.square(affine_read_out(kept, x) - x).sum() / variance))
        back = kept @ np.linalg.pinv(embedding).T
        pinv.append(float(np.square(back - x).sum() / variance))
    return {
        "n": n,
        "lost": {
            **estimate(lost),
            "expected": lost_probability(n),
            "standard_error": lost_standard_error(x, n, draws),
        },
        "affine_error": estimate(affine),
        "pinv_error": {
            "median": float(np.median(pinv)),
            "interval": list(median_interval(pinv)),
            "n": draws,
        },
    }


def affine_read_out(features: Floats, targets: Floats) -> Floats:
    """The least-squares affine prediction of targets from features, row by row."""
    design = np.column_stack([features, np.ones(len(features))])
    weights = np.linalg.lstsq(design, targets, rcond=None)[0]
    predicted: Floats = design @ weights
    return predicted


def _embeddings(n: int, draws: int, seed: int) -> Floats:
    """(draws, n, 2), standard normal; of (seed, n) alone, so a list of dimensions may be cut."""
    return np.random.default_rng([seed, n]).standard_normal((draws, n, 2))


def _picture(settings: InformationLossSettings) -> dict[str, Any]:
    """The spiral and what the first embedding of every dimension leaves of it."""
    x = spiral(settings.points)
    panels = []
    for n in settings.dimensions:
        embedding = _embeddings(n, settings.draws, settings.seed)[0]
        kept = np.maximum(x @ embedding.T, 0)
        shown = {"pinv": kept @ np.linalg.pinv(embedding).T, "affine": affine_read_out(kept, x)}
        panels.append({"n": n, **{k: np.round(v, 5).tolist() for k, v in shown.items()}})
    return {"input": np.round(x, 5).tolist(), "panels": panels}


def bottleneck_network(
    bottleneck_activation: str, input_shape: Shape, num_classes: int
) -> Architecture:
    """A small MobileNetV2: a strided stem, six inverted residuals (expansion 6), a 1x1 convolution.

    Of the blocks, three have shortcuts, two widen and one strides.
    """
    blocks = (
        ConvNormActivation(out=8, stride=2, activation="relu6"),
        *(
            InvertedResidual(out=out, stride=stride, bottleneck_activation=bottleneck_activation)
            for out, stride in ROWS
        ),
        ConvNormActivation(out=96, kernel_size=1, activation="relu6"),
        GlobalPoolLinear(out=num_classes),
    )
    return Architecture(input_shape=input_shape, blocks=blocks, num_classes=num_classes)


def measure_networks(settings: InformationLossSettings, announce: Announce) -> dict[str, Any]:
    """Trains both arms with the same seeds and reads every block's input back.

    Returns:
        `accuracy` on validation images and, per block, R^2 by part (see `BlockReadBack`) and the
        fraction of silent channels: `linear`, `relu6` and their paired `difference` (linear minus
        relu6), as estimates over seeds. `relu6_cost` is what the activation itself costs: in the
        relu6 arm, R^2 of the projection minus that of the branch.
    """
    dataset = load_dataset(settings.dataset, {}).without_test()
    recipe = Recipe(epochs=settings.epochs, amp="off")
    seeds = [settings.seed + i for i in range(settings.seeds)]
    accuracy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    blocks: dict[str, list[tuple[BlockReadBack, ...]]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        for arm in ARMS:
            value, found = _trained(arm, dataset, recipe, seed, settings)
            announce(f"seed {seed}, bottleneck_activation {arm}: accuracy {value:.4f}")
            accuracy[arm].append(value)
            blocks[arm].append(found)
    return {
        "dataset": dataset.name,
        "recipe": recipe.to_json(),
        "seeds": seeds,
        "architectures": {
            arm: bottleneck_network(arm, dataset.input_shape, dataset.num_classes).id
            for arm in ARMS
        },
        "accuracy": _compared(accuracy),
        "blocks": [_block(blocks, i) for i in range(len(ROWS))],
    }


def _trained(
    arm: str, dataset: Dataset, recipe: Recipe, seed: int, settings: InformationLossSettings
) -> tuple[float, tuple[BlockReadBack, ...]]:
    """Validation accuracy, and what can be read back, of one training."""
    from nasctl.train import train
    from search_spaces.network import build, initialise

    architecture = bottleneck_network(arm, dataset.input_shape, dataset.num_classes)
    model = build(architecture)
    initialise(model, architecture, seed)
    *_, last = train(model, dataset, recipe, seed)
    images = _normalised(dataset, settings.images)
    found = read_back(model, architecture, images, positions=settings.positions, seed=settings.seed)
    return last["accuracy"], found


def _normalised(dataset: Dataset, count: int) -> Tensor:
    """Validation images as the network sees them, float32."""
    import torch

    from nasctl import augment

    scale = augment.Scale.of(dataset.normalisation, torch.device("cpu"))
    return scale.normalise(augment.as_tensor(dataset.val_images[:count]), channels_last=False)


def _block(blocks: Mapping[str, Sequence[Sequence[BlockReadBack]]], index: int) -> dict[str, Any]:
    """One block, over all seeds and both arms."""
    first = dataclasses.asdict(blocks[ARMS[0]][0][index])
    fixed = ("position", "in_channels", "out_channels", "stride", "shortcut", "samples")
    measured = {
        part: _compared({arm: [getattr(f[index], part) for f in blocks[arm]] for arm in ARMS})
        for part in (*PARTS, "silent")
    }
    cost = [f[index].projection - f[index].branch for f in blocks["relu6"]]
    return {**{name: first[name] for name in fixed}, **measured, "relu6_cost": estimate(cost)}


def _compared(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Each arm, and the difference linear - relu6, paired by seed."""
    pairs = zip(values["linear"], values["relu6"], strict=True)
    return {
        **{arm: {**estimate(values[arm]), "values": list(values[arm])} for arm in ARMS},
        "difference": estimate([a - b for a, b in pairs]),
    }
