"""Weights on disk: saved whole or not at all, read only if they fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from nasctl import train
from nasctl.data import Dataset
from nasctl.errors import EnvironmentProblemError
from nasctl.recipe import Recipe
from tests.small_network import network


def test_weights_round_trip(digits: Dataset, tmp_path: Path) -> None:
    model = network()
    list(train.train(model, digits, Recipe(epochs=1, amp="off"), 0))
    path = tmp_path / "new" / "weights.safetensors"
    train.save_weights(path, model, {"arch_id": "abc", "seed": "0"})
    fresh = network(seed=5)
    assert train.load_weights(path, fresh) == {"arch_id": "abc", "seed": "0"}
    for (name, a), b in zip(model.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    train.save_weights(path, network(), {"n": "1"})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblemError, match=r"cannot write .*: No space left on device"):
        train.save_weights(path, network(1), {"n": "2"})
    monkeypatch.undo()
    assert train.load_weights(path, network()) == {"n": "1"}
    assert len(list(tmp_path.iterdir())) == 1


def test_saving_again_replaces_the_file_instead_of_writing_into_it(tmp_path: Path) -> None:
    path, link = tmp_path / "weights.safetensors", tmp_path / "link"
    train.save_weights(path, network(), {"n": "1"})
    link.hardlink_to(path)
    train.save_weights(path, network(1), {"n": "2"})
    assert train.load_weights(link, network()) == {"n": "1"}
    assert train.load_weights(path, network()) == {"n": "2"}


def test_bad_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(EnvironmentProblemError, match="cannot read the weights"):
        train.load_weights(path, network())
    train.save_weights(path, network(), {})
    with pytest.raises(EnvironmentProblemError, match="has the weights of another network"):
        train.load_weights(path, nn.Sequential(nn.Linear(3, 3)))
    longer = network()
    longer.append(nn.Linear(10, 10))
    with pytest.raises(EnvironmentProblemError, match="has the weights of another network"):
        train.load_weights(path, longer)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(EnvironmentProblemError, match="cannot read the weights"):
        train.load_weights(path, network())
