"""torchvision's weights compute the same here: for every network for which the pairing is done."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nasctl.errors import ConfigError
from nasctl.pretrained import load_pretrained
from nasctl.torchvision_names import EPSILONS, renamed
from search_spaces import network
from search_spaces.reference import reference_network
from tests import torchvision_like


@pytest.mark.parametrize("name", [n for n in EPSILONS if n not in ("resnet101", "resnet152")])
def test_a_network_with_the_weights_of_torchvision_computes_the_same(
    name: str, tmp_path: Path
) -> None:
    theirs = torchvision_like.make(name, classes=7)
    # Sorted by name, as safetensors has them: the order in the file means nothing.
    save_file(dict(sorted(theirs.state_dict().items())), tmp_path / "w.safetensors")
    architecture = reference_network(name, input_shape=(3, 64, 64), num_classes=7)
    ours = network.build(architecture)
    network.initialise(ours, architecture, seed=0)
    found = load_pretrained(str(tmp_path / "w.safetensors"), name, architecture)
    assert found.fresh == ()
    found.put_into(ours)
    images = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        expected, computed = theirs(images), ours.eval()(images)
    assert expected.std() > 1e-4
    assert torch.allclose(computed, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["resnet101", "resnet152"])
def test_the_deepest_pair_in_kind_and_shape(name: str) -> None:
    """They repeat the blocks of resnet50, whose outputs are compared above."""
    with torch.device("meta"):
        theirs = {k: v for k, v in torchvision_like.make(name, 10).state_dict().items()}
        own = network.build(reference_network(name, num_classes=10)).state_dict()
    given = {k: v for k, v in theirs.items() if "num_batches" not in k}
    wanted = {k: v for k, v in own.items() if "num_batches" not in k}
    pairs = renamed(name, given, list(wanted))
    assert pairs is not None
    assert all(given[b].shape == wanted[a].shape for a, b in pairs.names.items())


def test_other_names_other_counts_and_other_networks_are_not_paired() -> None:
    tensor = torch.zeros(1)
    assert renamed("lenet5", {"conv1.weight": tensor}, ["0.conv.weight"]) is None
    assert renamed("resnet18", {"stem.weight": tensor}, ["0.conv.weight"]) is None
    assert renamed("resnet18", {"conv1.weight": tensor}, ["a.weight", "b.weight"]) is None
    assert renamed("resnet18", {"conv1.bias": tensor}, ["0.conv.weight"]) is None
    assert renamed("resnet18", {"conv1.weight": tensor}, ["0.conv.weight"]) is not None


def test_weights_of_another_depth_are_refused_and_named(tmp_path: Path) -> None:
    torch.save(torchvision_like.make("resnet34", 1000).state_dict(), tmp_path / "w.pt")
    architecture = reference_network("resnet18", input_shape=(3, 64, 64), num_classes=10)
    with pytest.raises(ConfigError, match="looks like the weights of resnet34") as caught:
        load_pretrained(str(tmp_path / "w.pt"), "resnet18", architecture)
    assert "\n" not in str(caught.value)
