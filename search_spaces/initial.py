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


def _lenet(layer: Weighted) -> Start:
    """LeCun et al. 1998, appendix A: weights and biases uniform in +-2.4 / fan_in."""
    return Start("uniform", 2.4 / layer.fan_in, None)


def _alexnet(layer: Weighted) -> Start:
    """Krizhevsky et al. 2012, section 5: biases 1 in the second, fourth and fifth convolution and
    the hidden linear layers, so that their ReLUs begin with positive inputs."""
    return Start("normal", 0.01, 1.0 if layer.index in (1, 3, 4, 5, 6) else 0.0)


def _nin(layer: Weighted) -> Start:
    """The ImageNet model of the Caffe zoo: 0.01 in conv1, conv3 and cccp8, 0.05 in the others."""
    return Start("normal", 0.01 if layer.index in (0, 6, 11) else 0.05)


def _googlenet(layer: Weighted) -> Start:
    """torchvision's GoogLeNet; it cuts at +-2, which is 200 standard deviations. Biases of linear
    layers, left as torch draws them there, begin with 0."""
    del layer
    return Start("normal", 0.01)


def _inception_v3(layer: Weighted) -> Start:
    """torchvision's Inception-v3, cut at 20 standard deviations; the last two layers of its
    auxiliary classifier, with 0.01 and 0.001 there, are no exception here."""
    del layer
    return Start("normal", 0.1)


def _densenet(layer: Weighted) -> Start:
    """torchvision's DenseNet: He et al. with fan_in; linear layers uniform in
    +-1 / sqrt(fan_in), their biases 0."""
    if layer.kind == "linear":
        return Start("uniform", 1 / math.sqrt(layer.fan_in))
    return Start("normal", math.sqrt(2 / layer.fan_in))


def _glorot(layer: Weighted) -> Start:
    """Glorot & Bengio 2010, equation 16: the default of Keras, for Xception. Fans are those of one
    group; Keras takes all channels for the fan_in of a depthwise convolution, but the norm after
    it takes its scale away."""
    return Start("uniform", math.sqrt(6 / (layer.fan_in + layer.fan_out)))


INITS: Mapping[str, Init] = {
    DEFAULT_INIT: _he_normal,
    "alexnet_normal": _alexnet,
    "glorot_uniform": _glorot,
    "he_normal_fan_in": _densenet,
    "lenet_uniform": _lenet,
    "nin_normal": _nin,
    "normal_0.01": _googlenet,
    "normal_0.1": _inception_v3,
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
