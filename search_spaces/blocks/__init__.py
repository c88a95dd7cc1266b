"""Blocks by name: what an architecture can be made of."""

from __future__ import annotations

from nasctl.arch import Block
from search_spaces.blocks.conv import ConvNormActivation
from search_spaces.blocks.heads import GlobalPoolLinear, GlobalPoolMlp
from search_spaces.blocks.mobile import DepthwiseSeparable, ExpansionResidual, InvertedResidual
from search_spaces.blocks.pool import AvgPool, MaxPool
from search_spaces.blocks.residual import ResidualBasic, ResidualBottleneck, Skip

BLOCKS: dict[str, type[Block]] = {
    "avg_pool": AvgPool,
    "conv_norm_act": ConvNormActivation,
    "depthwise_separable": DepthwiseSeparable,
    "expansion_residual": ExpansionResidual,
    "global_pool_linear": GlobalPoolLinear,
    "global_pool_mlp": GlobalPoolMlp,
    "inverted_residual": InvertedResidual,
    "max_pool": MaxPool,
    "residual_basic": ResidualBasic,
    "residual_bottleneck": ResidualBottleneck,
    "skip": Skip,
}

__all__ = [
    "BLOCKS",
    "AvgPool",
    "ConvNormActivation",
    "DepthwiseSeparable",
    "ExpansionResidual",
    "GlobalPoolLinear",
    "GlobalPoolMlp",
    "InvertedResidual",
    "MaxPool",
    "ResidualBasic",
    "ResidualBottleneck",
    "Skip",
]
