"""Chains of blocks inside a block: their shapes, canonical form and modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from nasctl.arch import Block, Shape

if TYPE_CHECKING:
    from torch import nn


def chain_shape(chain: Iterable[Block], in_shape: Shape) -> Shape:
    """The shape after the last block.

    Raises:
        SpecError: a block does not fit the shape it is given.
    """
    for block in chain:
        in_shape = block.out_shape(in_shape)
    return in_shape


def canonical_chain(chain: Iterable[Block], in_shape: Shape) -> tuple[Block, ...]:
    """The simplest blocks that build the same.

    Raises:
        SpecError: a block does not fit the shape it is given.
    """
    simplest: list[Block] = []
    for block in chain:
        simplest += block.canonical(in_shape)
        in_shape = block.out_shape(in_shape)
    return tuple(simplest)


def build_chain(chain: Mapping[str, Block], in_shape: Shape) -> OrderedDict[str, nn.Module]:
    """The modules under the names of their blocks, for a sequence."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, block in chain.items():
        layers[name] = block.build(in_shape)
        in_shape = block.out_shape(in_shape)
    return layers
