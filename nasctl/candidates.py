"""Layer 3: from a sampler's proposals to the next network worth training.

Candidates that cannot be built, break a constraint, or are already known cost nothing here: they
are turned away before any training, and the sampler is told. A known network is let through where
another training of it, with the next seed, is wanted.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from nasctl.arch import Architecture, Cost, Scalar
from nasctl.errors import SpecError
from nasctl.samplers.base import Known, Observation, Sampler, derive_seed
from nasctl.space import Choices, Decision, Family
from nasctl.trial import Rejection, Trial

T = TypeVar("T")

SAMPLER_ATTEMPTS = 20
"""Proposals asked of the sampler for one trial before unseen ones are drawn at random."""
RANDOM_ATTEMPTS = 5_000
ENUMERATION_LIMIT = 200_000
FALLBACK_REJECTIONS = 50
"""Rejected random draws that are recorded for one trial; the sampler is not told of them."""


@dataclass(frozen=True, kw_only=True)
class Priced:
    """Costs of a network before training; intervals (95 %) for those that are predictions."""

    cost: Cost
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def violations(self, constraints: Mapping[str, float]) -> dict[str, float]:
        """How far each constraint is broken, as a fraction of its bound; predictions count with
        the upper end of their interval. A metric that the cost does not have is left out."""
        over = {}
        for metric, bound in constraints.items():
            if metric in self.cost:
                value = self.intervals.get(metric, (0.0, self.cost[metric]))[1]
                if value > bound:
                    over[metric] = (value - bound) / (abs(bound) or 1.0)
        return over


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network that may be trained.

    Attributes:
        repeat: how many trainings of it there are already.
        seed: of its training; None: what `training_seed` says.
        epochs: of its training; None: those of the recipe.
    """

    choices: Choices
    architecture: Architecture
    priced: Priced
    sampler_state: Mapping[str, object] = field(default_factory=dict)
    repeat: int = 0
    seed: int | None = None
    epochs: int | None = None


def training_seed(seed: int, repeat: int) -> int:
    """The seed of the training that `repeat` others of the same network came before.

    First trainings share the seed of the run, second ones the next, and so on: comparisons between
    networks are paired, and no two trainings of one network are the same.

    Args:
        seed: of the run, below 2^32.
    """
    return (seed + repeat) % 2**32


def in_ledger_order(values: Mapping[str, T]) -> dict[str, T]:
    """With the keys in the order in which they come back from the ledger, so that nothing can
    depend on whether they were there."""
    return dict(sorted(values.items()))


def _no_trainings(_arch_id: str) -> int:
    return 0


class Source(Protocol):
    """Where candidates come from; see `CandidateSource`."""

    @property
    def closest(self) -> Rejection | None: ...
    def note(self, rejection: Rejection) -> None: ...
    def is_ready(self, number: int, trials: Mapping[int, Trial]) -> bool: ...
    def find(
        self,
        number: int,
        sampler: Sampler,
        *,
        pending: Sequence[Choices],
        known: Container[str],
        trainings: Callable[[str], int],
        begun: Iterable[Choices],
    ) -> tuple[Candidate | None, list[Rejection], int]: ...


class CandidateSource:
    """Finds the next feasible candidate that is unseen, or known and worth another seed.

    Args:
        family: what can be built.
        price: costs of a network, before training.
        constraints: upper bounds by cost metric.
        seed: of the run.
        max_seeds: trainings of one network at most.
        repeat_duplicates: every proposal of a known network asks for another seed, not only those
            that say so.
    """

    def __init__(
        self,
        *,
        family: Family,
        price: Callable[[Architecture], Priced],
        constraints: Mapping[str, float],
        seed: int,
        max_seeds: int = 1,
        repeat_duplicates: bool = False,
    ) -> None:
        self._family = family
        self._price = price
        self._constraints = constraints
        self._seed = seed
        self._max_seeds = max_seeds
        self._repeat_duplicates = repeat_duplicates
        self._left: list[Choices] | None = None  # of a small space, in the order of fallback
        self.closest: Rejection | None = None
        """The rejected candidate that breaks the constraints least."""

    def is_ready(self, number: int, trials: Mapping[int, Trial]) -> bool:
        """Whether trial `number` may be proposed now, as far as the source knows: always. A plan
        waits for the results that decide how it goes on."""
        del number, trials
        return True

    def known(self, choices: Choices) -> Known | None:
        """What is known of a configuration before training; None: it cannot be built."""
        try:
            architecture = self._family.decode(choices)
        except SpecError:
            return None
        priced = self._price(architecture)
        feasible = not priced.violations(self._constraints)
        return Known(id=architecture.id, costs=priced.cost, feasible=feasible)

    def note(self, rejection: Rejection) -> None:
        """Remembers a rejection (also those of an earlier process) for `closest`."""
        if rejection.violations and (
            self.closest is None
            or sum(rejection.violations.values()) < sum(self.closest.violations.values())
        ):
            self.closest = rejection

    def find(
        self,
        number: int,
        sampler: Sampler,
        *,
        pending: Sequence[Choices],
        known: Container[str],
        trainings: Callable[[str], int] = _no_trainings,
        begun: Iterable[Choices] = (),
    ) -> tuple[Candidate | None, list[Rejection], int]:
        """The candidate for trial `number`, what was rejected on the way, and how often a
        network came up that is known already.

        The result is a pure function of the seed, the number, the sampler's history, the
        `pending` choices, `known`, `trainings` and `begun`. None: nothing new is left, or was
        found.

        Args:
            known: ids of trained and of rejected networks.
            trainings: how many there are of a network by its id; 0 where it may not be repeated,
                since it was never trained, or in vain.
            begun: the choices of all trials so far; looked at only where nothing else is found.
        """
        rejections: list[Rejection] = []
        rejected: set[str] = set()
        duplicates = 0
        for attempt in itertools.count():
            if attempt == SAMPLER_ATTEMPTS and not sampler.exhaustive:
                break
            proposal = sampler.ask(number, attempt, pending)
            if proposal is None:
                return None, rejections, duplicates
            again = trainings if proposal.repeat or self._repeat_duplicates else _no_trainings
            found = self._judge(
                number,
                proposal.choices,
                known,
                rejected,
                trainings=again,
                state=proposal.state,
                attempt=attempt,
            )
            if isinstance(found, Candidate):
                return found, rejections, duplicates
            if found is None:
                duplicates += 1
                continue
            rejections.append(found)
            sampler.tell(rejection_observation(found))
        for choices in self._fallbacks(number, known, begun):
            found = self._judge(number, choices, known, rejected, state={}, attempt=None)
            if isinstance(found, Candidate):
                return found, rejections, duplicates
            if found is not None and (
                found is self.closest or len(rejections) < SAMPLER_ATTEMPTS + FALLBACK_REJECTIONS
            ):
                rejections.append(found)
        return None, rejections, duplicates

    def _judge(
        self,
        number: int,
        choices: Choices,
        known: Container[str],
        rejected: set[str],
        *,
        trainings: Callable[[str], int] = _no_trainings,
        state: Mapping[str, object],
        attempt: int | None,
    ) -> Candidate | Rejection | None:
        """A candidate, a rejection that is new, or None for what is known already."""
        try:
            architecture = self._family.decode(choices)
        except SpecError as error:
            key = f"impossible:{sorted(choices.items())!r}"
            if key in rejected:
                return None
            rejected.add(key)
            return Rejection(
                before=number,
                choices=in_ledger_order(choices),
                architecture=None,
                cost=Cost(),
                violations={},
                reason=str(error),
                sampler_state=state,
                attempt=attempt,
            )
        repeat = 0
        if architecture.id in known or architecture.id in rejected:
            repeat = trainings(architecture.id)
            if not 0 < repeat < self._max_seeds:
                return None
        priced = self._price(architecture)
        violations = priced.violations(self._constraints)
        if not violations:
            return Candidate(
                choices=choices,
                architecture=architecture,
                priced=priced,
                sampler_state=state,
                repeat=repeat,
            )
        rejected.add(architecture.id)
        reason = "; ".join(
            f"{m} {priced.intervals.get(m, (0, priced.cost[m]))[1]:.6g} is over "
            f"{self._constraints[m]:.6g}"
            for m in violations
        )
        rejection = Rejection(
            before=number,
            choices=in_ledger_order(choices),
            architecture=architecture,
            cost=priced.cost,
            violations=in_ledger_order(violations),
            reason=reason,
            sampler_state=state,
            attempt=attempt,
        )
        self.note(rejection)
        return rejection

    def _is_known(self, choices: Choices, known: Container[str]) -> bool:
        try:
            return self._family.decode(choices).id in known
        except SpecError:
            return False

    def _fallbacks(
        self, number: int, known: Container[str], begun: Iterable[Choices]
    ) -> Iterator[Choices]:
        """Small spaces whole, in random order; large ones at random, then downhill from the
        candidate that breaks the constraints least, then beside what was feasible."""
        space = self._family.space
        if self._left is None and space.count() <= ENUMERATION_LIMIT:
            self._left = list(space.enumerate())
            random.Random(derive_seed(self._seed, "fallback")).shuffle(self._left)
        if self._left is not None:
            # Once known, always known: what is at the end need not be looked at again.
            while self._left and self._is_known(self._left[-1], known):
                self._left.pop()
            yield from reversed(self._left)
            return
        rng = random.Random(derive_seed(self._seed, number, "fallback"))
        for _ in range(RANDOM_ATTEMPTS):
            yield space.sample(rng)
        best: Rejection | None = None
        while self.closest is not None and self.closest is not best:
            best = self.closest
            yield from self._neighbours(best.choices)
        feasible = list(begun)
        rng.shuffle(feasible)
        for choices in feasible:
            yield from self._neighbours(choices)

    def _neighbours(self, choices: Choices) -> Iterator[Choices]:
        """Every configuration that differs in one decision; newly active ones take their first
        choice."""
        space = self._family.space
        for decision in space.decisions:
            for value in decision.choices if decision.name in choices else ():
                if value != choices[decision.name]:
                    yield space.decide(_follow({**choices, decision.name: value}))


def _follow(wanted: Mapping[str, Scalar]) -> Callable[[Decision], Scalar]:
    return lambda d: wanted.get(d.name, d.choices[0])


def rejection_observation(rejection: Rejection) -> Observation:
    """What a sampler is told about a candidate that was never trained."""
    return Observation(
        number=rejection.before,
        choices=rejection.choices,
        state=rejection.sampler_state,
        values=None,
        violations=rejection.violations,
        rejected=True,
    )
