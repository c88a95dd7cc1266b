"""Layer 1: what may be chosen. Decisions, conditional spaces and the families that decode them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasctl.arch import Architecture, Block, Cost, Scalar, Shape, normal_number
from nasctl.errors import SpecError, unknown

if TYPE_CHECKING:
    from torch import nn

Choices = dict[str, Scalar]
"""From decision name to the chosen scalar; active decisions only."""


@dataclass(frozen=True)
class Decision:
    """One thing to choose.

    Args:
        name: `stage2.block1.kernel_size`, or `width_multiplier` for the whole network.
        choices: the alternatives, distinct scalars.
        when: earlier decision names mapped to the values under which this one is active.

    Raises:
        SpecError: no choices, equal choices, or something that is not a finite scalar.
    """

    name: str
    choices: tuple[Scalar, ...]
    when: Mapping[str, Sequence[Scalar]] | None = None

    def __post_init__(self) -> None:
        values: list[Scalar] = []
        for choice in self.choices:
            value = normal_number(choice)
            if not isinstance(value, str | int | float | bool) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise SpecError(f"{self.name}: a choice must be a text, number or bool: {choice!r}")
            if any(value == v and type(value) is type(v) for v in values):
                raise SpecError(f"{self.name}: choice {choice!r} is given twice")
            values.append(value)
        if not values:
            raise SpecError(f"{self.name}: no choices")
        object.__setattr__(self, "choices", tuple(values))
        when = {k: tuple(normal_number(v) for v in vs) for k, vs in (self.when or {}).items()}
        object.__setattr__(self, "when", when or None)

    def is_active(self, chosen: Mapping[str, Scalar]) -> bool:
        """Whether this decision exists, given the active decisions before it."""
        return all(name in chosen and chosen[name] in vs for name, vs in (self.when or {}).items())


@dataclass(frozen=True)
class SearchSpace:
    """An ordered, conditional space: every decision depends on earlier ones only.

    Raises:
        SpecError: a name is used twice, or `when` names something that is not an earlier decision
            or a value that it does not have.
    """

    decisions: tuple[Decision, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "decisions", tuple(self.decisions))
        earlier: dict[str, Decision] = {}
        problems = []
        for d in self.decisions:
            if d.name in earlier:
                problems.append(f"{d.name}: declared twice")
            for name, values in (d.when or {}).items():
                if name not in earlier:
                    problems.append(f"{d.name}.when: {unknown('earlier decision', name, earlier)}")
                    continue
                problems += [
                    f"{d.name}.when.{name}: {unknown('choice', v, earlier[name].choices)}"
                    for v in values
                    if v not in earlier[name].choices
                ]
            earlier[d.name] = d
        if problems:
            raise SpecError(problems)

    def decide(self, pick: Callable[[Decision], Scalar]) -> Choices:
        """Walks the decisions in order and asks `pick` for each active one."""
        chosen: Choices = {}
        for d in self.decisions:
            if d.is_active(chosen):
                chosen[d.name] = pick(d)
        return chosen

    def sample(self, rng: random.Random) -> Choices:
        """Each active decision uniformly at random, independently."""
        return self.decide(lambda d: d.choices[rng.randrange(len(d.choices))])

    def validate(self, choices: Mapping[str, Scalar]) -> Choices:
        """The choices in declaration order with normalised numbers.

        Raises:
            SpecError: unknown or inactive names, missing active ones, values that do not exist;
                all problems at once.
        """
        problems: list[str] = []
        chosen: Choices = {}
        for d in self.decisions:
            if not d.is_active(chosen):
                continue
            value = normal_number(choices.get(d.name))
            if d.name not in choices:
                problems.append(f"{d.name}: missing")
                value = d.choices[0]
            elif value not in d.choices:
                problems.append(f"{d.name}: {unknown('choice', value, d.choices)}")
                value = d.choices[0]
            chosen[d.name] = d.choices[d.choices.index(value)]
        names = [d.name for d in self.decisions]
        for name in choices:
            if name not in names:
                problems.append(unknown("decision", name, names))
            elif name not in chosen:
                problems.append(f"{name}: inactive here, given {choices[name]!r}")
        if problems:
            raise SpecError(problems)
        return chosen

    def _frontier(self) -> list[set[str]]:
        """For each position, the earlier names that a later `when` still refers to."""
        needed: set[str] = set()
        frontier: list[set[str]] = [set()] * len(self.decisions)
        for i in range(len(self.decisions) - 1, -1, -1):
            needed = needed - {self.decisions[i].name}
            needed |= set(self.decisions[i].when or {})
            frontier[i] = set(needed)
        return frontier

    def count(self) -> int:
        """The exact number of configurations (assignments of active decisions).

        Dynamic programme over the decisions whose values later conditions still refer to; the
        cost grows with the number of their combinations, not with the size of the space.
        """
        frontier = [*self._frontier(), set()][1:]
        states: dict[tuple[tuple[str, Scalar], ...], int] = {(): 1}
        for d, keep in zip(self.decisions, frontier, strict=True):
            after: dict[tuple[tuple[str, Scalar], ...], int] = {}
            for state, ways in states.items():
                chosen = dict(state)
                options: Iterable[Mapping[str, Scalar]] = (
                    [{d.name: c} for c in d.choices] if d.is_active(chosen) else [{}]
                )
                for option in options:
                    merged = {**chosen, **option}
                    key = tuple((k, merged[k]) for k in sorted(merged) if k in keep)
                    after[key] = after.get(key, 0) + ways
            states = after
        return sum(states.values())

    def enumerate(self) -> Iterator[Choices]:
        """Every configuration once, in lexicographic order of the declared choices."""
        return self._extend({}, 0)

    def _extend(self, chosen: Choices, index: int) -> Iterator[Choices]:
        # Iterative odometer: spaces have more decisions than Python has stack frames to spare.
        stack: list[tuple[int, Iterator[Scalar]]] = []
        while True:
            while index < len(self.decisions):
                d = self.decisions[index]
                if d.is_active(chosen):
                    values = iter(d.choices)
                    chosen[d.name] = next(values)
                    stack.append((index, values))
                index += 1
            yield dict(chosen)
            while stack:
                index, values = stack[-1]
                for later in self.decisions[index:]:
                    chosen.pop(later.name, None)
                value = next(values, None)
                if value is None:
                    stack.pop()
                    continue
                chosen[self.decisions[index].name] = value
                index += 1
                break
            else:
                return


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of network that can be searched: what may be chosen, and what the choices mean.

    Args:
        space: the decisions.
        decode: from active choices to the network; must be pure. May raise SpecError for
            combinations that cannot exist: such candidates are rejected.
        build: from an architecture to its module; by default blocks are chained.
        cost: prices an architecture without its module (tables); by default the block table does.
        blocks: every (block, input shape) that can be reached, for measuring tables ahead.
        count_networks: the exact number of distinct networks, where the family can tell.
    """

    space: SearchSpace
    decode: Callable[[Choices], Architecture]
    build: Callable[[Architecture], nn.Module] | None = None
    cost: Callable[[Architecture], Cost] | None = None
    blocks: Callable[[], Iterable[tuple[Block, Shape]]] | None = None
    count_networks: Callable[[], int] | None = None

    def sample(self, rng: random.Random, *, attempts: int = 1000) -> tuple[Choices, Architecture]:
        """A random configuration that decodes.

        Raises:
            SpecError: the last problem, when none of `attempts` draws decodes.
        """
        last: SpecError | None = None
        for _ in range(attempts):
            choices = self.space.sample(rng)
            try:
                return choices, self.decode(choices)
            except SpecError as error:
                last = error
        raise SpecError(f"none of {attempts} random configurations can be built; last: {last}")


@dataclass(frozen=True, kw_only=True)
class SpaceSize:
    """How large a space is: see `measure_space`."""

    configurations: int
    networks: int
    networks_exact: bool
    networks_error: float | None = None


def measure_space(family: Family, *, seed: int = 0, limit: int = 20_000) -> SpaceSize:
    """The number of configurations (exact) and of distinct networks.

    The latter is exact where the family can count or the space is small enough to enumerate;
    otherwise it is estimated from collisions among `limit` uniformly drawn configurations:
    n (n - 1) / (2 collisions), the number of equally likely networks that would collide as often,
    which is at most the true number; its relative standard error is 1 / sqrt(collisions).
    """
    configurations = family.space.count()
    if family.count_networks is not None:
        return SpaceSize(
            configurations=configurations, networks=family.count_networks(), networks_exact=True
        )
    if configurations <= limit:
        ids = {a.id for a in _decoded(family, family.space.enumerate())}
        return SpaceSize(configurations=configurations, networks=len(ids), networks_exact=True)
    rng = random.Random(seed)
    drawn: dict[str, int] = {}
    samples = (family.space.sample(rng) for _ in range(limit))
    for architecture in _decoded(family, samples):
        drawn[architecture.id] = drawn.get(architecture.id, 0) + 1
    n = sum(drawn.values())
    collisions = sum(k * (k - 1) // 2 for k in drawn.values())
    if collisions == 0:
        return SpaceSize(configurations=configurations, networks=n, networks_exact=False)
    networks = min(configurations, max(len(drawn), round(n * (n - 1) / (2 * collisions))))
    return SpaceSize(
        configurations=configurations,
        networks=networks,
        networks_exact=False,
        networks_error=1 / math.sqrt(collisions),
    )


def _decoded(family: Family, configurations: Iterable[Choices]) -> Iterator[Architecture]:
    for choices in configurations:
        try:
            yield family.decode(choices)
        except SpecError:
            continue


def cost_range(costs: Iterable[Cost]) -> dict[str, tuple[float, float]]:
    """Minimum and maximum of every metric over a sample of costs."""
    listed = list(costs)
    names = list(dict.fromkeys(itertools.chain.from_iterable(listed)))
    return {
        n: (min(c[n] for c in listed if n in c), max(c[n] for c in listed if n in c)) for n in names
    }
