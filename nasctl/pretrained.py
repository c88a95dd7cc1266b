"""Layer 3: weights that a reference network begins with, from a file of the user's.

A file holds a state dict (`torch.save(model.state_dict(), FILE)`, or safetensors) under our names,
as runs leave it in `weights/`, or under those of torchvision for the networks of which that is
verified (`torchvision_names`). Only the classifier may differ, in the number of classes: it begins
anew then. Pickled code is never run.
"""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nasctl.errors import ConfigError
from nasctl.files import sha256
from nasctl.torchvision_names import Renaming, renamed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nasctl.arch import Architecture

KEY = "init.weights"
SHOWN = 3  # names in a message
ALIKE = 0.9  # of the shapes of two networks: then the file is rather of the other one
COUNTER = "num_batches_tracked"
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PARALLEL = "module."  # torch.nn.DataParallel puts it before every name


@dataclass(frozen=True, kw_only=True, eq=False)
class Pretrained:
    """What a network begins with.

    Attributes:
        file: as the user named it.
        sha256: of the file; part of the identity of what is trained from it.
        arrays: by the names of our module.
        fresh: parameters that are not in it: of a classifier with other classes.
    """

    file: str
    sha256: str
    arrays: Mapping[str, NDArray[Any]]
    fresh: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The file's name and the beginning of its hash."""
        return f"{Path(self.file).name}@{self.sha256[:12]}"

    def put_into(self, model: nn.Module) -> None:
        """Replaces what an initialised model has by what is known."""
        import torch

        state = model.state_dict()
        with torch.no_grad():
            for name, array in self.arrays.items():
                state[name].copy_(torch.tensor(array))  # a copy: shared arrays are read-only


def load_pretrained(file: str, network: str, architecture: Architecture) -> Pretrained:
    """Reads and checks a file for a network, before anything trains.

    Args:
        file: path, as the user named it.
        network: its published name.
        architecture: of it, for the input and classes of the data.

    Raises:
        ConfigError: one line: there is no such file, it holds something else than tensors, or the
            weights of another network (names the nearest).
    """
    state = _read(file)
    model = _on_meta(architecture)
    own = {k: v for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
    given = {k: v for k, v in state.items() if not k.endswith(COUNTER)}
    if given.keys() != own.keys():
        renaming = renamed(network, given, list(own))
        if renaming is None:
            raise ConfigError(_wrong_names(file, network, architecture, own, given))
        given = _translated(given, renaming, model)
    head = set(_head(model))
    wrong, fresh, arrays = [], [], {}
    for name, tensor in own.items():
        found = _reshaped(given[name], tuple(tensor.shape))
        if found is not None:
            arrays[name] = found.detach().to(tensor.dtype).contiguous().numpy()
        elif name in head and given[name].shape[1:] == tensor.shape[1:]:
            fresh.append(name)
        else:
            wrong.append(f"{name} is {_size(given[name])} there and {_size(tensor)} here")
    if wrong:
        raise ConfigError(f"{KEY}: {file}: other shapes than {network} has here: {_some(wrong)}")
    odd = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if odd:
        raise ConfigError(f"{KEY}: {file}: not finite: {_some(odd)}")
    return Pretrained(file=file, sha256=sha256(Path(file)), arrays=arrays, fresh=tuple(fresh))


def _on_meta(architecture: Architecture) -> nn.Module:
    import torch

    from search_spaces import network

    with torch.device("meta"):
        return network.build(architecture)


def _read(file: str) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    import torch
    from safetensors.torch import load_file

    path = Path(file)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise ConfigError(f"{KEY}: {file}: {what}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ConfigError(
            f"{KEY}: {file}: holds more than tensors, and unpickling it could run code; save the "
            "weights alone: torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # damaged files end in many ways (struct.error, AssertionError, ...)
        text = " ".join(str(error).split())[:150] or type(error).__name__
        raise ConfigError(f"{KEY}: {file}: cannot be read as weights: {text}") from None
    if isinstance(data, dict):
        data = next((data[k] for k in _WRAPPERS if isinstance(data.get(k), dict)), data)
    if not isinstance(data, dict) or not data or not all(map(_is_named_tensor, data.items())):
        raise ConfigError(f"{KEY}: {file}: is no state dict (names and tensors)")
    if all(name.startswith(_PARALLEL) for name in data):
        data = {name.removeprefix(_PARALLEL): tensor for name, tensor in data.items()}
    return dict(data)


def _is_named_tensor(item: tuple[object, object]) -> bool:
    import torch

    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)


def _reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """With the shape wanted: as it is, or a 1x1 convolution as a linear layer and the other way
    round, which compute the same."""
    own = tuple(tensor.shape)
    if own == shape:
        return tensor
    ones = (1, 1)
    same = (len(own) == 4 and own == (*shape, *ones)) or (
        len(shape) == 4 and shape == (*own, *ones)
    )
    return tensor.reshape(shape) if same else None


def _head(model: nn.Module) -> Iterator[str]:
    """The parameters of the classifier, and of auxiliary ones: the last weights of each."""
    auxiliary = [
        (path, module)
        for path, module in model.named_modules()
        if getattr(module, "training_only", False)
    ]
    inside = {id(p) for _, module in auxiliary for p in module.parameters()}
    weights = [n for n, p in model.named_parameters() if p.ndim > 1 and id(p) not in inside]
    last = weights[-1:]
    for path, module in auxiliary:
        last += [f"{path}.{n}" for n, p in module.named_parameters() if p.ndim > 1][-1:]
    for name in last:
        yield name
        yield f"{name.removesuffix('weight')}bias"


def _translated(
    given: Mapping[str, Tensor], renaming: Renaming, model: nn.Module
) -> dict[str, Tensor]:
    """Under our names. Where batch norms there add another epsilon to the variance, their weights
    are scaled so that the network computes the same."""
    state = {own: given[theirs] for own, theirs in renaming.names.items()}
    if renaming.epsilon is not None:
        for path, layer in model.named_modules():
            epsilon = getattr(layer, "eps", None)
            if f"{path}.running_var" in state and epsilon is not None:
                variance = state[f"{path}.running_var"].double()
                factor = ((variance + epsilon) / (variance + renaming.epsilon)).sqrt()
                weight = state[f"{path}.weight"]
                state[f"{path}.weight"] = (weight.double() * factor).to(weight.dtype)
    return state


# -- what is said of a file that does not fit ------------------------------------------------------


def _wrong_names(
    file: str,
    network: str,
    architecture: Architecture,
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
) -> str:
    missing = [name for name in own if name not in given]
    strange = [name for name in given if name not in own]
    parts = [f"missing {_some(missing)}"] if missing else []
    parts += [f"unknown {_some(strange)}"] if strange else []
    other = _nearest_network(given, architecture)
    hint = f"; it looks like the weights of {other}" if other not in (None, network) else ""
    return f"{KEY}: {file}: not the weights of {network}: {'; '.join(parts)}{hint}"


def _nearest_network(given: Mapping[str, Tensor], architecture: Architecture) -> str | None:
    """The published network whose shapes are most like those of a file; None: none is."""
    from search_spaces.reference import NETWORKS, reference_network

    theirs: Counter[tuple[int, ...]] = Counter(tuple(t.squeeze().shape) for t in given.values())
    best: tuple[float, str] | None = None
    for name, published in NETWORKS.items():
        shape = (architecture.input_shape[0], *published.input_shape[1:])
        model = _on_meta(reference_network(name, input_shape=shape))
        own: Counter[tuple[int, ...]] = Counter(
            tuple(t.squeeze().shape) for k, t in model.state_dict().items() if COUNTER not in k
        )
        share = (own & theirs).total() / (own | theirs).total()
        best = max(best or (0.0, ""), (share, name))
    return best[1] if best is not None and best[0] >= ALIKE else None


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return f"{', '.join(texts[:SHOWN])}{more}"


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) if math.prod(tensor.shape) != 1 else "a number"
