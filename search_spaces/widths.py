"""Networks made wider or narrower, block by block, without rounding to multiples of 8."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nasctl.arch import Architecture, Block
from nasctl.errors import SpecError

CHANNELS: Mapping[str, tuple[str, ...]] = {
    "conv_norm_act": ("out",),
    "conv_stack": ("out",),
    "dense": ("growth_rate", "out"),
    "dense_block": ("growth_rate",),
    "dense_layer": ("growth_rate",),
    "depthwise_separable": ("out",),
    "expansion_residual": ("out", "bottleneck"),
    "factorised_conv": ("out",),
    "global_pool_mlp": ("hidden",),
    "inception": ("out1", "reduce3", "out3", "reduce5", "out5", "pool_proj"),
    "inverted_residual": ("out",),
    "mlpconv": ("out",),
    "pre_activation_stem": ("out",),
    "residual_basic": ("out",),
    "residual_bottleneck": ("out",),
    "separable_conv": ("out",),
    "skip": ("out",),
    "transition": ("out",),
    "xception": ("out",),
}
"""The fields of each block that are numbers of channels."""

FIXED = ("inception_a", "inception_b", "inception_c", "inception_d", "inception_e", "lenet_c3")
"""Blocks whose channels are written into them."""


def scaled(architecture: Architecture, factor: float) -> Architecture:
    """The same network with `factor` times the channels everywhere, but in its input and output.

    Channels are rounded to whole numbers, or to multiples of the groups of a grouped convolution;
    a last convolution that gives the classes keeps them.

    Raises:
        SpecError: a block has channels that cannot be changed, or the result cannot be built.
    """
    if factor == 1:
        return architecture
    last = _last_with_channels(architecture)
    blocks = []
    for place, block in enumerate(architecture.blocks):
        if block.op in FIXED:
            raise SpecError(f"block {place + 1}: {block.op} has no width that could be scaled")
        fields = CHANNELS.get(block.op, ())
        if block.op == "flatten_linear" and (hidden := getattr(block, "hidden", ())):
            blocks.append(_with(block, hidden=tuple(_times(h, factor) for h in hidden)))
            continue
        gives_classes = place == last and getattr(block, "out", None) == architecture.num_classes
        changes: dict[str, Any] = {
            name: _times(value, factor, _unit(architecture.blocks, place))
            for name in fields
            if isinstance(value := getattr(block, name), int)
            and value
            and not (gives_classes and name == "out")
        }
        blocks.append(_with(block, **changes) if changes else block)
    return dataclasses.replace(architecture, blocks=tuple(blocks))


def _last_with_channels(architecture: Architecture) -> int:
    places = [i for i, b in enumerate(architecture.blocks) if hasattr(b, "out")]
    return places[-1] if places else -1


def _unit(blocks: tuple[Block, ...], place: int) -> int:
    """What the output of a block has to be divisible by: its groups, and those of the next."""
    own = int(getattr(blocks[place], "groups", 1))
    follows = [int(getattr(b, "groups", 1)) for b in blocks[place + 1 :] if hasattr(b, "out")]
    return max(own, follows[0] if follows else 1)


def _times(channels: int, factor: float, unit: int = 1) -> int:
    return max(unit, round(channels * factor / unit) * unit)


def _with(block: Block, **changes: Any) -> Block:
    fields: Any = block  # mypy does not see that every block type is a dataclass
    changed: Block = dataclasses.replace(fields, **changes)
    return changed
