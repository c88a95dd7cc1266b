"""Classifiers: from the last feature map to the class scores."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.shapes import feature_map, normalise_activations, require_positive

if TYPE_CHECKING:
    from torch import nn


def require_dropout(block: Block) -> None:
    """Checks the field `dropout`.

    Raises:
        SpecError: it is no probability below 1.
    """
    dropout: float = block.dropout  # type: ignore[attr-defined]  # every head has one
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
        normalise_activations(self, "activation")
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


@dataclass(frozen=True, kw_only=True)
class GlobalPool(Block):
    """Average over the map; (c, h, w) -> (c,). NIN's head (arXiv 1312.4400, section 3.2)."""

    op: ClassVar[str] = "global_pool"

    def out_shape(self, in_shape: Shape) -> Shape:
        channels, *_ = feature_map(in_shape)
        return (channels,)

    def build(self, in_shape: Shape) -> nn.Module:
        del in_shape
        from collections import OrderedDict

        from torch import nn

        return nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))


@dataclass(frozen=True, kw_only=True)
class FlattenLinear(Block):
    """Fully connected layers on all values of a map or vector; any shape -> (out,).

    Linear layers of `hidden` features, each with the activation, then one to `out`. `dropout_at`,
    in training: `all`, before every linear layer; `hidden_inputs`, before every hidden one
    (torchvision's AlexNet); `hidden_outputs`, after every hidden activation (AlexNet's paper and
    VGG).

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "flatten_linear"
    out: int
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.0
    dropout_at: Literal["all", "hidden_inputs", "hidden_outputs"] = "all"
    bias: bool = True

    def __post_init__(self) -> None:
        normalise_activations(self, "activation")
        super().__post_init__()
        require_positive(self, "out")
        require_dropout(self)
        if min(self.hidden, default=1) < 1:
            raise SpecError(f"{self.op}.hidden: must be at least 1 each, got {self.hidden}")

    def out_shape(self, in_shape: Shape) -> Shape:
        del in_shape
        return (self.out,)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """What does nothing has its default; on a 1x1 map these are heads after global pooling."""
        dropout, where = self.dropout, self.dropout_at
        if not self.hidden and where != "all":
            dropout = 0.0
        if dropout == 0:
            where = "all"
        if len(in_shape) == 3 and in_shape[1:] == (1, 1) and self.bias:
            if not self.hidden:
                return (GlobalPoolLinear(out=self.out, dropout=dropout),)
            if len(self.hidden) == 1 and (dropout == 0 or where == "hidden_outputs"):
                return (
                    GlobalPoolMlp(
                        out=self.out,
                        hidden=self.hidden[0],
                        activation=self.activation,
                        dropout=dropout,
                    ),
                )
        activation = self.activation if self.hidden else "relu"
        return (
            dataclasses.replace(self, activation=activation, dropout=dropout, dropout_at=where),
        )

    def build(self, in_shape: Shape) -> nn.Module:
        from collections import OrderedDict

        from torch import nn

        from search_spaces.blocks.modules import activation_module

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if len(in_shape) > 1:
            layers["flatten"] = nn.Flatten()
        widths = (math.prod(in_shape), *self.hidden, self.out)
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            first, last = index == 1, index == len(widths) - 1
            number = "" if first else str(index)
            skipped = {"all": False, "hidden_inputs": last, "hidden_outputs": first}
            if self.dropout > 0 and not skipped[self.dropout_at]:
                layers[f"dropout{number}"] = nn.Dropout(self.dropout)
            name = "linear" if last else f"hidden{number}"
            layers[name] = nn.Linear(inputs, outputs, bias=self.bias)
            if not last and self.activation != "linear":
                layers[f"activation{number}"] = activation_module(self.activation)
        return nn.Sequential(layers)
