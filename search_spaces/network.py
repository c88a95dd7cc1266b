"""The one place where an `Architecture` becomes an `nn.Module`, and where weights begin."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from nasctl.errors import NasctlError

if TYPE_CHECKING:
    import torch
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
    ablation share what they can. Convolutions: normal, variance 2 / fan_out (He et al., arXiv
    1502.01852), fan_out counting one group as in the MobileNets; linear layers: normal, standard
    deviation 0.01, bias 0; batch norms: weight 1, bias 0, statistics reset. Layers of other kinds
    (plugins) are reset by their own `reset_parameters`, under the same seeds.

    Args:
        module: from `build` or a family's own; the first part of a parameter's name is its
            block's position.
        architecture: what `module` was built from, for messages.
        seed: of the training.

    Raises:
        NasctlError: a layer with parameters that nobody knows how to initialise.
    """
    import torch
    from torch import nn

    batch_norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    with torch.no_grad():
        for path, layer in module.named_modules():
            own = dict(layer.named_parameters(recurse=False))
            if isinstance(layer, batch_norms):
                layer.reset_running_stats()
                if layer.affine:
                    nn.init.ones_(layer.weight)
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
                _normal(layer.weight, _standard_deviation(layer), _seed(seed, f"{path}.weight"))
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
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


def _standard_deviation(layer: nn.Module) -> float:
    from torch import nn

    if isinstance(layer, nn.Linear):
        return 0.01
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    fan_out = layer.out_channels * math.prod(layer.kernel_size) // layer.groups
    return math.sqrt(2 / fan_out)


def _seed(seed: int, path: str) -> int:
    """63 bits from the seed, the block's position and the name within the block."""
    position, _, name = path.partition(".")
    digest = hashlib.sha256(f"{seed}/{position}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _normal(weight: torch.Tensor, std: float, seed: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(weight.shape, dtype=weight.dtype)
    weight.copy_(values.normal_(0, std, generator=generator))
