"""Layer 1: what may be chosen. Decisions, conditional spaces and the families that decode them."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasctl.arch import Architecture, Block, Cost, Scalar, Shape
from nasctl.errors import SpecError, unknown
from nasctl.fields import normal_number

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
        any_of: alternatives to each other, written like `when`; at least one must hold as well
            (a kernel size for a whole stage matters if any block of it has a kernel).

    Raises:
        SpecError: no choices, equal choices, or something that is not a finite scalar.
    """

    name: str
    choices: tuple[Scalar, ...]
    when: Mapping[str, Sequence[Scalar]] | None = None
    any_of: Sequence[Mapping[str, Sequence[Scalar]]] | None = None

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
        object.__setattr__(self, "when", _normal_condition(self.when or {}) or None)
        any_of = tuple(_normal_condition(condition) for condition in self.any_of or ())
        object.__setattr__(self, "any_of", any_of or None)

    def is_active(self, chosen: Mapping[str, Scalar]) -> bool:
        """Whether this decision exists, given the active decisions before it."""
        if self.when and not _holds(self.when, chosen):
            return False
        if not self.any_of:
            return True
        return any(_holds(condition, chosen) for condition in self.any_of)

    def conditions(self) -> tuple[Mapping[str, Sequence[Scalar]], ...]:
        """`when` and `any_of` as one list of alternatives; a single empty one is always true."""
        when = self.when or {}
        return tuple(
            {
                **condition,
                **{
                    name: tuple(v for v in values if v in condition.get(name, values))
                    for name, values in when.items()
                },
            }
            for condition in self.any_of or ({},)
        )


def _normal_condition(
    condition: Mapping[str, Sequence[Scalar]],
) -> dict[str, tuple[Scalar, ...]]:
    return {k: tuple(normal_number(v) for v in vs) for k, vs in condition.items()}  # type: ignore[misc]  # scalars


def _holds(condition: Mapping[str, Sequence[Scalar]], chosen: Mapping[str, Scalar]) -> bool:
    for name, values in condition.items():
        if name not in chosen or chosen[name] not in values:
            return False
    return True


def _condition_problems(
    where: str, condition: Mapping[str, Sequence[Scalar]], earlier: Mapping[str, Decision]
) -> Iterator[str]:
    for name, values in condition.items():
        if name not in earlier:
            yield f"{where}: {unknown('earlier decision', name, earlier)}"
            continue
        for v in values:
            if v not in earlier[name].choices:
                yield f"{where}.{name}: {unknown('choice', v, earlier[name].choices)}"


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
            problems += _condition_problems(f"{d.name}.when", d.when or {}, earlier)
            for i, condition in enumerate(d.any_of or ()):
                problems += _condition_problems(f"{d.name}.any_of.{i}", condition, earlier)
            earlier[d.name] = d
        if problems:
            raise SpecError(problems)

    @functools.cached_property
    def by_name(self) -> Mapping[str, Decision]:
        """The decisions by their names."""
        return {d.name: d for d in self.decisions}

    @functools.cached_property
    def dependents(self) -> Mapping[str, frozenset[str]]:
        """For each decision those that may come or go when it changes, through others as well."""
        found: dict[str, set[str]] = {d.name: set() for d in self.decisions}
        for d in self.decisions:  # after all that it depends on
            conditions = ((d.when or {}), *(d.any_of or ()))
            direct = {name for condition in conditions for name in condition}
            for name, later in found.items():
                if name in direct or not later.isdisjoint(direct):
                    later.add(d.name)
        return {name: frozenset(later) for name, later in found.items()}

    def decide(self, pick: Callable[[Decision], Scalar]) -> Choices:
        """Walks the decisions in order and asks `pick` for each active one."""
        chosen: Choices = {}
        for d in self.decisions:
            if (d.when is None and d.any_of is None) or d.is_active(chosen):
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

    def count(self) -> int:
        """The exact number of configurations (assignments of active decisions).

        Dynamic programme in the order of declaration. All that later decisions need to know of
        the earlier choices is which alternatives of their conditions are still possible, so that
        is the state; the cost grows with the number of such states, not with the space.
        """
        conditions = [d.conditions() for d in self.decisions]
        position = {d.name: i for i, d in enumerate(self.decisions)}
        # For each decision, the (later decision, alternative, values) that ask about it, and for
        # each alternative the position after which it is settled.
        asked: list[list[tuple[int, int, Sequence[Scalar]]]] = [[] for _ in self.decisions]
        settled: dict[tuple[int, int], int] = {}
        for later, alternatives in enumerate(conditions):
            for k, condition in enumerate(alternatives):
                settled[later, k] = max((position[n] for n in condition), default=-1)
                for name, values in condition.items():
                    asked[position[name]].append((later, k, values))
        # A state holds the alternatives that have failed, and the decisions sure to be active.
        states: dict[tuple[frozenset[tuple[int, int]], frozenset[int]], int] = {
            (frozenset(), frozenset()): 1
        }
        for i, d in enumerate(self.decisions):
            after: dict[tuple[frozenset[tuple[int, int]], frozenset[int]], int] = {}
            every = {(i, k) for k in range(len(conditions[i]))}
            for (failed, sure), ways in states.items():
                options: Iterable[Scalar | None] = (
                    d.choices if i in sure or not every <= failed else (None,)
                )
                kept = {alternative for alternative in failed if alternative[0] != i}
                for choice in options:
                    now_failed, now_sure = set(kept), set(sure - {i})
                    for later, k, values in asked[i]:
                        if choice is None or choice not in values:
                            now_failed.add((later, k))
                        elif settled[later, k] == i and (later, k) not in now_failed:
                            now_sure.add(later)
                    key = (
                        frozenset(a for a in now_failed if a[0] not in now_sure),
                        frozenset(now_sure),
                    )
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
        count_networks: the exact number of distinct networks; None where it would take too long.
    """

    space: SearchSpace
    decode: Callable[[Choices], Architecture]
    build: Callable[[Architecture], nn.Module] | None = None
    cost: Callable[[Architecture], Cost] | None = None
    blocks: Callable[[], Iterable[tuple[Block, Shape]]] | None = None
    count_networks: Callable[[], int | None] | None = None

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
    exact = family.count_networks() if family.count_networks is not None else None
    if exact is not None:
        return SpaceSize(configurations=configurations, networks=exact, networks_exact=True)
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
