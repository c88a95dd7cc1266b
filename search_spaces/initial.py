"""How weights begin: one table of the schemes that papers and common implementations use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from nasctl.arch import DEFAULT_INIT
from nasctl.errors import SpecError, unknown

if TYPE_CHECKING:
    import torch


Kind = Literal["conv", "linear"]


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """What a scheme may look at: a convolution or linear layer in its place.

    Attributes:
        kind: of layer.
        fan_in: inputs of one output: channels of a group x kernel.
        fan_out: outputs of one input: channels of a group x kernel.
        index: among the convolutions and linear layers of the network, from 0 in chain order.
    """

    kind: Kind
    fan_in: int
    fan_out: int
    index: int


class Start(NamedTuple):
    """The distribution of a layer's weights (and, if `bias` is None, of its bias too).

    Attributes:
        law: `normal` with standard deviation `scale`; `truncated`, the same cut at two standard
            deviations; `uniform` in [-scale, scale].
        scale: see above.
        bias: the value that all biases begin with.
    """

    law: Literal["normal", "truncated", "uniform"]
    scale: float
    bias: float | None = 0.0


Init = Callable[[Weighted], Start]


def _he_normal(layer: Weighted) -> Start:
    """He et al. (arXiv 1502.01852), fan_out of one group, as in torchvision's VGG, ResNet and
    MobileNets; linear layers with standard deviation 0.01."""
    scale = 0.01 if layer.kind == "linear" else math.sqrt(2 / layer.fan_out)
    return Start("normal", scale)


def _slim(layer: Weighted) -> Start:
    """MobileNetV1's of tensorflow/models, slim."""
    del layer
    return Start("truncated", 0.09)


INITS: Mapping[str, Init] = {
    DEFAULT_INIT: _he_normal,
    "truncated_normal_0.09": _slim,
}
"""Name to scheme. Norms begin with weight 1 and bias 0 in all of them."""


def find_init(name: str) -> Init:
    """The scheme of an architecture.

    Raises:
        SpecError: there is none of that name.
    """
    if name not in INITS:
        raise SpecError(f"architecture.init: {unknown('initialisation', name, INITS)}")
    return INITS[name]


def draw(shape: torch.Size, start: Start, seed: int) -> torch.Tensor:
    """A tensor of a distribution, a function of the seed alone."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(shape)
    if start.law == "uniform":
        return values.uniform_(-start.scale, start.scale, generator=generator)
    if start.law == "truncated":
        bound = 2 * start.scale
        torch.nn.init.trunc_normal_(values, 0, start.scale, -bound, bound, generator=generator)
        return values
    return values.normal_(0, start.scale, generator=generator)
