"""Auxiliary classifiers: side heads that only training sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from nasctl.arch import Block, Shape
from search_spaces.blocks.shapes import feature_map, require_positive

if TYPE_CHECKING:
    from torch import nn

AuxiliaryKind = Literal["googlenet", "inception_v3"]

LOSS_WEIGHTS: Mapping[AuxiliaryKind, float] = {"googlenet": 0.3, "inception_v3": 0.4}
"""GoogLeNet, section 5; the references of torchvision train Inception-v3 with 0.4."""

PUBLISHED_MAP = 17
"""The side of the map that Inception-v3's head is made for."""


@dataclass(frozen=True, kw_only=True)
class AuxiliaryClassifier(Block):
    """A classifier with `out` classes beside the chain; the identity on (c, h, w).

    Its loss is added to the network's in training; the deployed network does not have it. The
    layouts are torchvision's. `googlenet` (arXiv 1409.4842, section 5): average to 4x4, 1x1
    convolution to 128, linear to 1024, ReLU, dropout 0.7, linear; the paper's 5x5/3 average also
    gives 4x4 of its 14x14 map, from other windows. `inception_v3` (arXiv 1512.00567, figure 8):
    average 5x5/3, 1x1 convolution to 128, 5x5 convolution to 768, global average, linear; maps
    below 17x17 are averaged to 5x5 instead.

    Raises:
        SpecError: values that cannot be built.
    """

    op: ClassVar[str] = "auxiliary_classifier"
    training_only: ClassVar[bool] = True
    out: int
    kind: AuxiliaryKind = "googlenet"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "out")

    def out_shape(self, in_shape: Shape) -> Shape:
        return feature_map(in_shape)

    def build(self, in_shape: Shape) -> nn.Module:
        from search_spaces.blocks.modules_branches import (
            AuxiliaryHead,
            googlenet_head,
            inception_v3_head,
        )

        channels, *sides = feature_map(in_shape)
        if self.kind == "googlenet":
            layers = googlenet_head(channels, self.out)
        else:
            published = min(sides) >= PUBLISHED_MAP
            layers = inception_v3_head(channels, self.out, published=published)
        return AuxiliaryHead(layers, weight=LOSS_WEIGHTS[self.kind])
