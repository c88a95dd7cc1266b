"""Layer 3: the interface of search strategies, and the values that cross it.

The property that everything rests on (`tests/contracts/sampler_contract.py`): a proposal is a pure
function of the seed, the trial number, the attempt, the pending choices and the sequence of
observations told so far. Asking leaves no trace. So a sampler rebuilt from the ledger after a
crash continues as the one that lived through it, and nothing of a sampler needs to be saved.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from nasctl.fields import canonical_json
from nasctl.space import Choices, SearchSpace
from nasctl.trial import Direction


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A configuration to try.

    Attributes:
        choices: the active decisions.
        state: what the sampler cannot rebuild from the choices; plain JSON, stored with the trial
            and handed back in its observation.
        repeat: train the network again, with another seed, although it is known: its result is
            doubtful and matters. Without it a known network is turned away.
    """

    choices: Choices
    state: Mapping[str, Any] = field(default_factory=dict)
    repeat: bool = False


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What became of a proposal.

    Attributes:
        number: of the trial; for a rejected candidate, of the trial that it was proposed for.
        choices: the active decisions.
        state: as proposed; empty for configurations that no sampler proposed.
        values: one per objective, in their order and units; None if the trial failed or the
            candidate was rejected.
        violations: constraint name to how far the value is over its bound, in any fixed scale;
            0 or less is feasible. Constraints left out are satisfied.
        rejected: never trained, because it breaks a constraint or cannot be built.
        rungs: accuracy by epoch at the rungs that the trial reached, each after a cool-down; empty
            without early stopping.
        pruned: stopped at a rung; it has rungs and no values.
    """

    number: int
    choices: Mapping[str, Any]
    state: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] | None = None
    violations: Mapping[str, float] = field(default_factory=dict)
    rejected: bool = False
    rungs: Mapping[int, float] = field(default_factory=dict)
    pruned: bool = False


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a configuration before training.

    Attributes:
        id: of the network; configurations that decode to one network share it.
        costs: metric to value.
        feasible: within all constraints.
    """

    id: str
    costs: Mapping[str, float]
    feasible: bool


def checked_values(observation: Observation, objectives: int) -> tuple[float, ...] | None:
    """The values of an observation.

    Raises:
        ValueError: there are not so many objectives, or one is not finite.
    """
    values = observation.values
    if values is not None and (len(values) != objectives or not all(map(math.isfinite, values))):
        raise ValueError(
            f"trial {observation.number}: expected {objectives} finite objective values, "
            f"got {values}"
        )
    return values


class Sampler(Protocol):
    """A search strategy.

    Attributes:
        exhaustive: proposals for one number run through everything that is left, so it pays to ask
            until None; otherwise a caller gives up after some attempts.
    """

    exhaustive: ClassVar[bool]

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        """The proposal for a trial; None when the space is exhausted.

        Args:
            number: of the trial, from 0.
            attempt: how many proposals for this trial were turned away (rejected or known).
            pending: choices of trials that were proposed but are not told yet; they must be a
                function of the trial number too if histories are to be reproducible.
        """
        ...

    def tell(self, observation: Observation) -> None:
        """Adds to the history; the order of calls matters, their timing does not.

        Raises:
            ValueError: the number of values is wrong, or one is not finite.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SamplerContext:
    """What every sampler is given.

    Attributes:
        space: the decisions.
        directions: of the objectives, in the order of `Observation.values`.
        seed: of the search.
        trials: how many will be run; strategies may plan with it.
        objectives: their names, in the same order; empty if there is nothing to know but values.
        reference_point: of the hypervolume, by objective.
        price: what is known of a configuration before training; None: it cannot be built. Pure.
        max_seeds: trainings of one network at most; 1: no proposal is a repeat.
    """

    space: SearchSpace
    directions: tuple[Direction, ...]
    seed: int
    trials: int
    objectives: tuple[str, ...] = ()
    reference_point: Mapping[str, float] = field(default_factory=dict)
    price: Callable[[Choices], Known | None] | None = None
    max_seeds: int = 1


def derive_seed(*parts: str | int, bits: int = 64) -> int:
    """A seed from its parts alone: the first `bits` of the sha256 of their canonical JSON."""
    digest = hashlib.sha256(canonical_json(list(parts)).encode()).digest()
    return int.from_bytes(digest, "big") >> (256 - bits)
