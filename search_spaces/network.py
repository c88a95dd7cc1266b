"""The one place where an `Architecture` becomes an `nn.Module`, and where weights begin."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from nasctl.errors import NasctlError
from search_spaces.initial import Kind, Weighted, draw, find_init

if TYPE_CHECKING:
    from torch import nn

    from nasctl.arch import Architecture


def build(architecture: Architecture) -> nn.Module:
    """The chain of the blocks' modules, named "0", "1", ...: (N, *input_shape) -> (N, classes).

    The weights are torch's own random ones: `initialise` sets them from a seed.
    """
    from torch import nn

    return nn.Sequential(*[block.build(shape) for block, shape in architecture.placed()])


def initialise(module: nn.Module, architecture: Architecture, seed: int) -> None:
    """Sets every parameter and buffer, in place, from (seed, block position, parameter name).

    No parameter depends on the rest of the model or on torch's global state, so the arms of an
    ablation share what they can. Convolutions and linear layers begin as `architecture.init` says
    (`search_spaces.initial`), batch norms with weight 1, bias 0 and fresh statistics. Layers of
    other kinds (plugins) are reset by their own `reset_parameters`, under the same seeds.

    Args:
        module: from `build` or a family's own; the first part of a parameter's name is its
            block's position.
        architecture: what `module` was built from, for messages.
        seed: of the training.

    Raises:
        NasctlError: a layer with parameters that nobody knows how to initialise.
        SpecError: an unknown `architecture.init`.
    """
    import torch
    from torch import nn

    init = find_init(architecture.init)
    batch_norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    index = 0
    with torch.no_grad():
        for path, layer in module.named_modules():
            own = dict(layer.named_parameters(recurse=False))
            if isinstance(layer, batch_norms):
                layer.reset_running_stats()
                if layer.affine:
                    nn.init.ones_(layer.weight)
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
                start = init(_weighted(layer, index))
                index += 1
                layer.weight.copy_(draw(layer.weight.shape, start, _seed(seed, f"{path}.weight")))
                if layer.bias is not None and start.bias is not None:
                    nn.init.constant_(layer.bias, start.bias)
                elif layer.bias is not None:
                    shape, own_seed = layer.bias.shape, _seed(seed, f"{path}.bias")
                    layer.bias.copy_(draw(shape, start, own_seed))
            elif own:
                reset = getattr(layer, "reset_parameters", None)
                if reset is None:
                    raise NasctlError(
                        f"architecture {architecture.id}: cannot initialise {', '.join(own)} of "
                        f"layer {path} ({type(layer).__name__}): it has no reset_parameters()"
                    )
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(_seed(seed, path))
                    reset()


def _weighted(layer: nn.Module, index: int) -> Weighted:
    from torch import nn

    if isinstance(layer, nn.Linear):
        kind: Kind = "conv" if getattr(layer, "is_convolution", False) else "linear"
        return Weighted(
            kind=kind, fan_in=layer.in_features, fan_out=layer.out_features, index=index
        )
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    area = math.prod(layer.kernel_size)
    return Weighted(
        kind="conv",
        fan_in=layer.in_channels * area // layer.groups,
        fan_out=layer.out_channels * area // layer.groups,
        index=index,
    )


def _seed(seed: int, path: str) -> int:
    """63 bits from the seed, the block's position and the name within the block."""
    position, _, name = path.partition(".")
    digest = hashlib.sha256(f"{seed}/{position}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
