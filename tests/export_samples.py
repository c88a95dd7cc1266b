"""Every block type and every network of the literature, small, as exporting them is tried on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from search_spaces import network
from search_spaces.blocks import BLOCKS
from search_spaces.reference import NETWORKS, reference_network

SHAPE = (8, 12, 12)
FIELDS: dict[str, dict[str, Any]] = {
    "auxiliary_classifier": {"kind": "inception_v3", "out": 3},
    "avg_pool": {"kernel_size": 3, "stride": 2, "ceil": True},
    "batch_norm_act": {},
    "conv_norm_act": {"out": 6, "kernel_size": (1, 3), "groups": 2, "activation": "hard_swish"},
    "conv_stack": {"out": 6, "stride": 2},
    "dense": {"growth_rate": 4, "layers": 2, "out": 6, "stride": 2},
    "dense_block": {"growth_rate": 4, "layers": 2},
    "dense_layer": {"growth_rate": 4, "combine": "add"},
    "depthwise_separable": {"out": 6, "stride": 2},
    "dropout": {},
    "expansion_residual": {"out": 16, "bottleneck": 4, "stride": 2},
    "factorised_conv": {"out": 6, "kernel_size": 5},
    "flatten_linear": {"out": 5, "hidden": (7,), "dropout": 0.5},
    "global_pool": {},
    "global_pool_linear": {"out": 5, "dropout": 0.2},
    "global_pool_mlp": {"out": 5, "hidden": 9},
    "inception": {"out1": 4, "reduce3": 3, "out3": 4, "reduce5": 2, "out5": 3, "pool_proj": 2},
    "inception_a": {"pool_features": 8},
    "inception_b": {},
    "inception_c": {"channels_7x7": 8},
    "inception_d": {},
    "inception_e": {},
    "inverted_residual": {"out": 8, "expand_ratio": 2, "se_ratio": 0.25},
    "lenet_c3": {},
    "local_response_norm": {},
    "max_pool": {"kernel_size": 3, "stride": 2},
    "mlpconv": {"out": 6},
    "pre_activation_stem": {"out": 6},
    "rbf_output": {"out": 10},
    "residual_basic": {"out": 16, "stride": 2, "shortcut": "A"},
    "residual_bottleneck": {"out": 16, "stride": 2},
    "scaled_tanh": {},
    "separable_conv": {"out": 6, "order": "act_conv_norm"},
    "skip": {"out": 12, "stride": 2},
    "trainable_subsampling": {},
    "transition": {"out": 5},
    "xception": {"out": 12, "stride": 2},
}
INPUTS: dict[str, tuple[int, int, int]] = {
    "lenet_c3": (6, 14, 14),
    "rbf_output": (84, 1, 1),
}
SMALL = ("lenet5", "resnet20_cifar", "mobilenet_v2", "mobilenet_v3_small", "googlenet")
"""Those that take a second or two."""


def lived(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """With statistics in its batch norms that are not the initial ones."""
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(2 * torch.rand(4, *shape) + 0.3)
    return module.eval()


def block_module(op: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of one block, and the shape of its images."""
    torch.manual_seed(0)
    shape = INPUTS.get(op, SHAPE if not op.startswith("inception_") else (16, 17, 17))
    block = BLOCKS[op].from_json({"op": op, **FIELDS[op]})
    before = nn.Flatten() if op == "rbf_output" else nn.Identity()  # behind a linear layer
    return lived(nn.Sequential(before, block.build(shape), nn.Flatten()), shape), shape


def network_module(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of the literature for ten classes of the smallest images it takes, about."""
    torch.manual_seed(0)
    channels, *size = NETWORKS[name].input_shape
    least = 227 if name.startswith("alexnet") else 75
    shape = (channels, min(size[0], least), min(size[1], least))
    architecture = reference_network(name, input_shape=shape, num_classes=10)
    module = network.build(architecture)
    network.initialise(module, architecture, seed=0)
    return lived(module, shape), shape
