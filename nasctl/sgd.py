"""Layer 2: SGD with momentum and weight decay, without loading torch's compiler.

The update is `torch.optim`'s own, by its functional form. The class around it, `torch.optim.SGD`,
imports `torch._dynamo` when it is made, only to be left out of compiled code: 1.5 seconds of CPU in
every process that trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nasctl.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn


class Sgd:
    """Nesterov's where there is momentum; weight decay for parameters of rank 2 and more.

    Attributes:
        momenta: of the parameters that have been moved; may be replaced between steps.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], recipe: Recipe) -> None:
        decayed = [p for p in parameters if p.ndim >= 2]
        spared = [p for p in parameters if p.ndim < 2]
        self._groups = [(decayed, recipe.weight_decay), (spared, 0.0)]
        self._momentum = recipe.momentum
        self.momenta: dict[nn.Parameter, Tensor] = {}

    def forget_gradients(self) -> None:
        """As if there had been no backward pass."""
        for parameters, _ in self._groups:
            for parameter in parameters:
                parameter.grad = None

    def step(self, rate: float) -> None:
        """Moves the parameters that have gradients."""
        import torch

        with torch.no_grad():
            for parameters, weight_decay in self._groups:
                self._move([p for p in parameters if p.grad is not None], weight_decay, rate)

    def _move(self, parameters: list[nn.Parameter], weight_decay: float, rate: float) -> None:
        from torch.optim.sgd import sgd

        momenta = [self.momenta.get(p) for p in parameters] if self._momentum else []
        sgd(
            list(parameters),
            [p.grad for p in parameters if p.grad is not None],
            momenta,
            fused=True,
            weight_decay=weight_decay,
            momentum=self._momentum,
            lr=rate,
            dampening=0.0,
            nesterov=self._momentum > 0,
            maximize=False,
        )
        if self._momentum:  # the first step makes them
            made = zip(parameters, momenta, strict=True)
            self.momenta |= {p: m for p, m in made if m is not None}
