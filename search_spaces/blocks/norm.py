"""What stands between layers: norms of their own, and dropout."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.heads import require_dropout
from search_spaces.blocks.shapes import (
    feature_map,
    normalise_activations,
    require_odd,
    require_positive,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class BatchNormActivation(Block):
    """Batch norm and activation on their own; (c, h, w) -> (c, h, w).

    After a convolution that has a bias, as in torchvision's VGG-BN; convolutions without one have
    the norm inside (`conv_norm_act`).
    """

    op: ClassVar[str] = "batch_norm_act"
    activation: str = "relu"

    def __post_init__(self) -> None:
        normalise_activations(self, "activation")
        super().__post_init__()

    def out_shape(self, in_shape: Shape) -> Shape:
        return feature_map(in_shape)

    def build(self, in_shape: Shape) -> nn.Module:
        from collections import OrderedDict

        from torch import nn

        from search_spaces.blocks.modules import activation_module

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["norm"] = nn.BatchNorm2d(in_shape[0])
        if self.activation != "linear":
            layers["activation"] = activation_module(self.activation)
        return nn.Sequential(layers)


@dataclass(frozen=True, kw_only=True)
class LocalResponseNorm(Block):
    """x / (k + alpha * s)^beta, s the sum of x^2 over the `size` nearest channels.

    AlexNet (Krizhevsky et al. 2012), section 3.3; (c, h, w) -> (c, h, w). `alpha` multiplies the
    sum, as there; in Caffe and torch it multiplies the mean.

    Raises:
        SpecError: an even `size`; a number that is not above 0.
    """

    op: ClassVar[str] = "local_response_norm"
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "size")
        require_odd(self, "size")
        problems = [
            f"{self.op}.{name}: must be above 0, got {getattr(self, name)}"
            for name in ("alpha", "beta", "k")
            if getattr(self, name) <= 0
        ]
        if problems:
            raise SpecError(problems)

    def out_shape(self, in_shape: Shape) -> Shape:
        return feature_map(in_shape)

    def _reach(self, in_shape: Shape) -> int:
        """Where there are few channels, several sizes reach all of them: the smallest of these."""
        channels, *_ = feature_map(in_shape)
        return min(self.size, 2 * channels - 1)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        return (dataclasses.replace(self, size=self._reach(in_shape)),)

    def build(self, in_shape: Shape) -> nn.Module:
        from search_spaces.blocks.modules_classic import AcrossChannelsNorm

        return AcrossChannelsNorm(self._reach(in_shape), self.alpha, self.beta, self.k)


@dataclass(frozen=True, kw_only=True)
class Dropout(Block):
    """In training every value is dropped with this probability; the shape stays.

    NIN (arXiv 1312.4400, section 4) has it between its mlpconv layers.

    Raises:
        SpecError: no probability below 1.
    """

    op: ClassVar[str] = "dropout"
    dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_dropout(self)

    def out_shape(self, in_shape: Shape) -> Shape:
        return in_shape

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        del in_shape
        return (self,) if self.dropout > 0 else ()

    def build(self, in_shape: Shape) -> nn.Module:
        del in_shape
        from torch import nn

        return nn.Dropout(self.dropout)
