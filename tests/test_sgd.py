"""Our SGD moves parameters as torch's does, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nasctl.recipe import Recipe
from nasctl.sgd import Sgd
from tests.small_network import network

STEPS = 5


def gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_steps_are_those_of_torchs_optimizer(momentum: float, weight_decay: float) -> None:
    ours, theirs = network(), network()
    theirs.load_state_dict(ours.state_dict())
    start = nn.utils.parameters_to_vector(ours.parameters()).detach().clone()
    optimizer = Sgd(list(ours.parameters()), Recipe(momentum=momentum, weight_decay=weight_decay))
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    theirs_optimizer = torch.optim.SGD(
        groups, lr=0.1, momentum=momentum, nesterov=momentum > 0, fused=True
    )
    for step in range(STEPS):
        rate = 0.1 / (step + 1)
        for group in theirs_optimizer.param_groups:
            group["lr"] = rate
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step(rate)
        theirs_optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
        if momentum:
            assert torch.equal(optimizer.momenta[a], theirs_optimizer.state[b]["momentum_buffer"])
    assert bool(optimizer.momenta) is bool(momentum)
    assert not torch.equal(start, nn.utils.parameters_to_vector(ours.parameters()))


def test_parameters_without_gradients_stay() -> None:
    model = network()
    optimizer = Sgd(list(model.parameters()), Recipe())
    gradients(model, 0)
    optimizer.forget_gradients()
    assert all(p.grad is None for p in model.parameters())
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer.step(0.1)
    assert torch.equal(before, nn.utils.parameters_to_vector(model.parameters()))
    assert not optimizer.momenta
