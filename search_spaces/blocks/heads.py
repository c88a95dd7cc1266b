"""Classifiers: from the last feature map to the class scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.shapes import feature_map, normal_activation, require_positive

if TYPE_CHECKING:
    from torch import nn


def require_dropout(block: Block) -> None:
    """Checks the field `dropout`.

    Raises:
        SpecError: it is no probability below 1.
    """
    dropout: float = block.dropout  # type: ignore[attr-defined]
    if not 0 <= dropout < 1:
        raise SpecError(f"{block.op}.dropout: must be in [0, 1), got {dropout}")


@dataclass(frozen=True, kw_only=True)
class GlobalPoolLinear(Block):
    """Average over the map, dropout (in training), linear layer; (c, h, w) -> (out,)."""

    op: ClassVar[str] = "global_pool_linear"
    out: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "out")
        require_dropout(self)

    def out_shape(self, in_shape: Shape) -> Shape:
        feature_map(in_shape)
        return (self.out,)

    def build(self, in_shape: Shape) -> nn.Module:
        from collections import OrderedDict

        from torch import nn

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        if self.dropout > 0:
            layers["dropout"] = nn.Dropout(self.dropout)
        layers["linear"] = nn.Linear(in_shape[0], self.out)
        return nn.Sequential(layers)


@dataclass(frozen=True, kw_only=True)
class GlobalPoolMlp(Block):
    """Average over the map, linear, activation, dropout, linear; (c, h, w) -> (out,).

    MobileNetV3's efficient last stage (arXiv 1905.02244, figure 5): the wide layer comes after the
    pooling.

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "global_pool_mlp"
    out: int
    hidden: int
    activation: str = "hard_swish"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        name = normal_activation(self.op, "activation", self.activation)
        object.__setattr__(self, "activation", name)
        super().__post_init__()
        require_positive(self, "out", "hidden")
        require_dropout(self)

    def out_shape(self, in_shape: Shape) -> Shape:
        feature_map(in_shape)
        return (self.out,)

    def build(self, in_shape: Shape) -> nn.Module:
        from collections import OrderedDict

        from torch import nn

        from search_spaces.blocks.modules import activation_module

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["hidden"] = nn.Linear(in_shape[0], self.hidden)
        if self.activation != "linear":
            layers["activation"] = activation_module(self.activation)
        if self.dropout > 0:
            layers["dropout"] = nn.Dropout(self.dropout)
        layers["linear"] = nn.Linear(self.hidden, self.out)
        return nn.Sequential(layers)
