"""Blocks by name: what an architecture can be made of."""

from __future__ import annotations

from nasctl.arch import Block
from search_spaces.blocks.conv import ConvNormActivation, GlobalPoolLinear, MaxPool
from search_spaces.blocks.mobile import DepthwiseSeparable, InvertedResidual
from search_spaces.blocks.residual import ResidualBottleneck, Skip

BLOCKS: dict[str, type[Block]] = {
    "conv_norm_act": ConvNormActivation,
    "depthwise_separable": DepthwiseSeparable,
    "global_pool_linear": GlobalPoolLinear,
    "inverted_residual": InvertedResidual,
    "max_pool": MaxPool,
    "residual_bottleneck": ResidualBottleneck,
    "skip": Skip,
}

__all__ = [
    "BLOCKS",
    "ConvNormActivation",
    "DepthwiseSeparable",
    "GlobalPoolLinear",
    "InvertedResidual",
    "MaxPool",
    "ResidualBottleneck",
    "Skip",
]
