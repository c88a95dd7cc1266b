"""Layer 1: how much of the recipe a trial gets: the settings of successive halving, its rungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

MOST_ETA = 10**6
LONGEST_COOLDOWN = 10.0  # as a fraction of the epochs before it


@dataclass(frozen=True, kw_only=True)
class HalvingSettings:
    """The section `fidelity` of a configuration with `fidelity=halving`.

    Attributes:
        first: epochs of the first rung.
        eta: each rung has this many times the epochs of the one before; the best 1 / eta survive.
        cooldown: length of the cool-down at a rung, as a fraction of the epochs before it.
        p_stop: a trial goes on if it joins the final front with at least this probability.
        min_pairs: finished trials with a value at a rung before the rung decides anything.
        control_every: one in so many trials is never stopped; 0: none.
        min_correlation: a first rung that ranks worse than this decides nothing any more.
    """

    first: int = 1
    eta: int = 3
    cooldown: float = 0.3
    p_stop: float = 0.05
    min_pairs: int = 6
    control_every: int = 10
    min_correlation: float = 0.5

    @classmethod
    def of(cls, section: Mapping[str, object]) -> HalvingSettings:
        """From a section of a configuration, which may hold more."""
        known = {f.name: section[f.name] for f in fields(cls) if f.name in section}
        return cls(**known)  # type: ignore[arg-type]  # the schema has checked the types

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """The rungs of a training of `epochs`; see `rung_epochs`."""
        return rung_epochs(self.first, self.eta, epochs, self.cooldown)


def rung_epochs(first: int, eta: int, epochs: int, cooldown: float = 0.0) -> tuple[int, ...]:
    """The rungs below the top: first, first * eta, ... < epochs; without those so late that a
    stop saves less than eta times what the cool-down costs."""
    found = []
    while first < epochs and first * (1 + eta * cooldown) <= epochs:
        found.append(first)
        first *= eta
    return tuple(found)


def expected_epochs(rungs: Sequence[int], epochs: int, settings: HalvingSettings) -> float:
    """Epochs of a trial, cool-downs included, if one in eta goes on at each rung."""
    total, part, before = 0.0, 1.0, 0
    for rung in rungs:
        total += part * (rung - before + settings.cooldown * rung)
        part, before = part / settings.eta, rung
    return total + part * (epochs - before)
