"""Layer 4: how much of a block's input can be read back, linearly, from what it passes on.

Activations are sampled at random positions of many images. An affine map from the channels of the
output to those of the input is fitted on half of the images; its R^2 is taken on the other half.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nasctl.arch import Architecture
from nasctl.errors import NasctlError
from search_spaces.blocks import InvertedResidual

if TYPE_CHECKING:
    from torch import Tensor, nn

Floats = NDArray[np.float64]

BATCH = 250
RIDGE = 1e-6  # of the variance of a standardised feature: only so that dead channels do no harm


@dataclass(frozen=True, kw_only=True)
class BlockReadBack:
    """How well an inverted residual's input can be read back, as R^2 on held-out images.

    Attributes:
        position: of the block in the chain, from 0.
        in_channels: of its input.
        out_channels: of its output.
        stride: of its depthwise convolution. Above 1, what is read back is the mean of the
            stride x stride cell of input pixels that the output's pixel stands for.
        shortcut: whether the input is added to the output.
        projection: from the normalised projection, before the bottleneck's activation.
        branch: from the residual branch alone: after that activation, before any addition.
        output: from what the block passes on; without a shortcut that is the branch.
        silent: fraction of the branch's channels that are constant wherever they were sampled.
        samples: positions, of all images together; half of them for the fit.
    """

    position: int
    in_channels: int
    out_channels: int
    stride: int
    shortcut: bool
    projection: float
    branch: float
    output: float
    silent: float
    samples: int


def read_back(
    model: nn.Module, architecture: Architecture, images: Tensor, *, positions: int, seed: int
) -> tuple[BlockReadBack, ...]:
    """Measures every inverted residual of a network, with forward hooks.

    Args:
        model: built from `architecture` by `search_spaces.network.build`; it is put into
            evaluation mode and otherwise left as it was.
        architecture: the chain.
        images: normalised, float32, (N, *architecture.input_shape); every second one is held out.
        positions: pixels of each block's output that are sampled per image, with replacement.
        seed: of their choice; the same for networks of the same shapes.

    Raises:
        NasctlError: the input of a block does not vary, so there is nothing to read back.
        ValueError: fewer than two images, or no position.
    """
    if len(images) < 2 or positions < 1:
        raise ValueError(f"{len(images)} images, {positions} positions: expected 2 and 1 or more")
    found = []
    sampled = _sampled(model, architecture, images, positions, seed)
    held_out = np.repeat(np.arange(len(images)) % 2 == 1, positions)
    for index, parts in sampled.items():
        block, (channels, *_) = architecture.blocks[index], architecture.shapes[index]
        assert isinstance(block, InvertedResidual)
        target = parts["input"]
        if not np.ptp(target, axis=0).any():
            raise NasctlError(f"architecture {architecture.id}: block {index} has a constant input")
        found.append(
            BlockReadBack(
                position=index,
                in_channels=channels,
                out_channels=block.out,
                stride=block.stride,
                shortcut=block.has_shortcut(architecture.shapes[index]),
                projection=held_out_r2(parts["projection"], target, held_out),
                branch=held_out_r2(parts["branch"], target, held_out),
                output=held_out_r2(parts["output"], target, held_out),
                silent=float(np.mean(np.ptp(parts["branch"], axis=0) == 0)),
                samples=len(target),
            )
        )
    return tuple(found)


def held_out_r2(features: Floats, targets: Floats, held_out: NDArray[np.bool_]) -> float:
    """R^2 of the least-squares affine map from features to targets, on rows it was not fitted to.

    1 - (sum of squared errors) / (sum of squares about the mean), both summed over the targets'
    columns: a column counts by its variance. Below 0 where the mean would have been better.

    Args:
        features: (rows, p).
        targets: (rows, q), not constant on the rows held out.
        held_out: (rows,): which rows judge; the others are fitted.
    """
    x, y = features[~held_out], targets[~held_out]
    centre, level = x.mean(axis=0), y.mean(axis=0)
    spread = x.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    x = (x - centre) / scale
    gram = x.T @ x / len(x) + RIDGE * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y - level) / len(x))
    judged = targets[held_out]
    errors = judged - level - (features[held_out] - centre) / scale @ weights
    total = np.square(judged - judged.mean(axis=0)).sum()
    return float(1 - np.square(errors).sum() / total)


def _sampled(
    model: nn.Module, architecture: Architecture, images: Tensor, positions: int, seed: int
) -> dict[int, dict[str, Floats]]:
    """Position in the chain to part (see `_taps`) to values, (N * positions, channels)."""
    import torch

    chosen = [i for i, b in enumerate(architecture.blocks) if isinstance(b, InvertedResidual)]
    places = {i: _places(architecture, i, len(images), positions, seed) for i in chosen}
    parts: dict[int, dict[str, list[Floats]]] = {i: {} for i in chosen}
    device = next(model.parameters()).device
    model.eval()
    for start in range(0, len(images), BATCH):
        seen: dict[tuple[int, str], Tensor] = {}
        with _hooks(model, architecture, chosen, seen), torch.inference_mode():
            model(images[start : start + BATCH].to(device))
        for (index, part), values in seen.items():
            here = torch.from_numpy(places[index][start : start + BATCH]).to(device)
            taken = values.flatten(2).gather(2, here[:, None].expand(-1, values.shape[1], -1))
            rows = taken.transpose(1, 2).flatten(0, 1).double().cpu().numpy()
            parts[index].setdefault(part, []).append(rows)
    return {i: {p: np.concatenate(rows) for p, rows in found.items()} for i, found in parts.items()}


def _places(
    architecture: Architecture, index: int, images: int, positions: int, seed: int
) -> NDArray[np.int64]:
    """Pixels of a block's output, row by row of the map, (images, positions)."""
    _, height, width = architecture.shapes[index + 1]
    rng = np.random.default_rng([seed, index])
    return rng.integers(height * width, size=(images, positions))


@contextlib.contextmanager
def _hooks(
    model: nn.Module,
    architecture: Architecture,
    chosen: list[int],
    seen: dict[tuple[int, str], Tensor],
) -> Iterator[None]:
    """While it lasts, a forward pass leaves its maps in `seen`."""
    handles: list[Any] = []
    try:
        for index in chosen:
            block = architecture.blocks[index]
            assert isinstance(block, InvertedResidual)
            handles += _taps(model.get_submodule(str(index)), index, block.stride, seen)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _taps(
    module: Any, index: int, stride: int, seen: dict[tuple[int, str], Tensor]
) -> Iterator[Any]:
    """Hooks for `input` (averaged to the output's resolution), `projection`, `branch`, `output`.

    The branch is tapped where it ends, inside the block: the output minus the input would carry
    the input in its rounding errors.
    """
    from torch.nn import functional

    def keep_input(_module: Any, arguments: tuple[Tensor, ...]) -> None:
        (given,) = arguments
        if stride > 1:
            given = functional.avg_pool2d(given, stride, ceil_mode=True)
        seen[index, "input"] = given.clone()

    def keep(part: str) -> Any:
        def hook(_module: Any, _arguments: Any, result: Tensor) -> None:
            seen[index, part] = result.clone()  # activations work in place

        return hook

    yield module.register_forward_pre_hook(keep_input)
    yield module.pointwise.norm.register_forward_hook(keep("projection"))
    yield module.pointwise.register_forward_hook(keep("branch"))
    yield module.register_forward_hook(keep("output"))
