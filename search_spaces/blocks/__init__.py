"""Blocks by name: what an architecture can be made of."""

from __future__ import annotations

from nasctl.arch import Block
from search_spaces.blocks.auxiliary import AuxiliaryClassifier
from search_spaces.blocks.conv import ConvNormActivation
from search_spaces.blocks.dense import Dense, DenseBlock, DenseLayer, PreActivationStem, Transition
from search_spaces.blocks.heads import FlattenLinear, GlobalPool, GlobalPoolLinear, GlobalPoolMlp
from search_spaces.blocks.inception import Inception
from search_spaces.blocks.inception_v3 import (
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)
from search_spaces.blocks.lenet import LeNetC3, RbfOutput, ScaledTanh, TrainableSubsampling
from search_spaces.blocks.mobile import DepthwiseSeparable, ExpansionResidual, InvertedResidual
from search_spaces.blocks.norm import BatchNormActivation, Dropout, LocalResponseNorm
from search_spaces.blocks.plain import ConvStack, FactorisedConv, MlpConv
from search_spaces.blocks.pool import AvgPool, MaxPool
from search_spaces.blocks.residual import ResidualBasic, ResidualBottleneck, Skip
from search_spaces.blocks.xception import SeparableConv, XceptionModule

BLOCKS: dict[str, type[Block]] = {
    "auxiliary_classifier": AuxiliaryClassifier,
    "avg_pool": AvgPool,
    "batch_norm_act": BatchNormActivation,
    "conv_norm_act": ConvNormActivation,
    "conv_stack": ConvStack,
    "dense": Dense,
    "dense_block": DenseBlock,
    "dense_layer": DenseLayer,
    "depthwise_separable": DepthwiseSeparable,
    "dropout": Dropout,
    "expansion_residual": ExpansionResidual,
    "factorised_conv": FactorisedConv,
    "flatten_linear": FlattenLinear,
    "global_pool": GlobalPool,
    "global_pool_linear": GlobalPoolLinear,
    "global_pool_mlp": GlobalPoolMlp,
    "inception": Inception,
    "inception_a": InceptionA,
    "inception_b": InceptionB,
    "inception_c": InceptionC,
    "inception_d": InceptionD,
    "inception_e": InceptionE,
    "inverted_residual": InvertedResidual,
    "lenet_c3": LeNetC3,
    "local_response_norm": LocalResponseNorm,
    "max_pool": MaxPool,
    "mlpconv": MlpConv,
    "pre_activation_stem": PreActivationStem,
    "rbf_output": RbfOutput,
    "residual_basic": ResidualBasic,
    "residual_bottleneck": ResidualBottleneck,
    "scaled_tanh": ScaledTanh,
    "separable_conv": SeparableConv,
    "skip": Skip,
    "trainable_subsampling": TrainableSubsampling,
    "transition": Transition,
    "xception": XceptionModule,
}

__all__ = [
    "BLOCKS",
    "AuxiliaryClassifier",
    "AvgPool",
    "BatchNormActivation",
    "ConvNormActivation",
    "ConvStack",
    "Dense",
    "DenseBlock",
    "DenseLayer",
    "DepthwiseSeparable",
    "Dropout",
    "ExpansionResidual",
    "FactorisedConv",
    "FlattenLinear",
    "GlobalPool",
    "GlobalPoolLinear",
    "GlobalPoolMlp",
    "Inception",
    "InceptionA",
    "InceptionB",
    "InceptionC",
    "InceptionD",
    "InceptionE",
    "InvertedResidual",
    "LeNetC3",
    "LocalResponseNorm",
    "MaxPool",
    "MlpConv",
    "PreActivationStem",
    "RbfOutput",
    "ResidualBasic",
    "ResidualBottleneck",
    "ScaledTanh",
    "SeparableConv",
    "Skip",
    "TrainableSubsampling",
    "Transition",
    "XceptionModule",
]
