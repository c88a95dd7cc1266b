"""Layer 2: the names under which torchvision saves the weights of networks that we have, too.

Its modules are registered in the order in which they compute, as ours are; sorting its names by
that order gives a pairing of all parameters, which counts only if every pair has one kind and one
shape. It is done for networks of which a test has shown that the paired network computes the same
(`tests/test_torchvision_names.py`), and for no others: branches of equal shapes in another order
would pair wrongly without anybody noticing.

Source of names and epsilons: torchvision/models/resnet.py, mobilenetv2.py, mobilenetv3.py (BSD-3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EPSILONS: Mapping[str, float | None] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), None),
    "mobilenet_v2": None,
    "mobilenet_v3_large": 1e-3,
    "mobilenet_v3_small": 1e-3,
}
"""By network: what torchvision's batch norms add to the variance; None: what ours do."""

_WORDS = (
    *("features", "conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample"),
    *("layer1", "layer2", "layer3", "layer4"),
    *("conv", "block", "fc1", "fc2", "classifier", "fc"),
    *("weight", "bias", "running_mean", "running_var"),
)
_RANK = {word: rank for rank, word in enumerate(_WORDS)}


@dataclass(frozen=True, kw_only=True)
class Renaming:
    """How names of a file become ours.

    Attributes:
        names: theirs by ours.
        epsilon: see `EPSILONS`.
    """

    names: Mapping[str, str]
    epsilon: float | None


def renamed(network: str, given: Mapping[str, Tensor], own: Sequence[str]) -> Renaming | None:
    """The pairing of a file's names with ours; None where these are not torchvision's names, or
    not those of this network. Shapes are the caller's to check.

    Args:
        network: its published name.
        given: parameters and statistics of the file, in any order.
        own: our names, in the order of the module.
    """
    if network not in EPSILONS or len(given) != len(own):
        return None
    order = {name: _order(name) for name in given}
    known = {name: key for name, key in order.items() if key is not None}
    if len(known) != len(given):
        return None
    theirs = sorted(known, key=known.__getitem__)
    pairs = dict(zip(own, theirs, strict=True))
    if any(a.rpartition(".")[2] != b.rpartition(".")[2] for a, b in pairs.items()):
        return None
    return Renaming(names=pairs, epsilon=EPSILONS[network])


def _order(name: str) -> tuple[tuple[int, int], ...] | None:
    """What names are sorted by: numbers as numbers, words in the order of computing; None: a word
    that torchvision does not use."""
    found = []
    for part in name.split("."):
        if part.isdecimal():
            found.append((0, int(part)))
        elif part in _RANK:
            found.append((1, _RANK[part]))
        else:
            return None
    return tuple(found)
