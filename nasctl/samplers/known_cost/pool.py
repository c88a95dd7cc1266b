"""The candidates that a proposal is chosen from: a fixed pool, and relatives of good networks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nasctl.arch import Scalar
from nasctl.samplers.base import Known
from nasctl.space import Choices, Decision, SearchSpace

Price = Callable[[Choices], Known | None]

ENUMERATED = 20_000  # configurations up to which the pool is all of them
DRAWS = 5  # random configurations per place in the pool, before relatives of feasible ones
REMEMBERED = 50_000  # prices


@dataclass(frozen=True)
class Candidate:
    """A feasible network and the first configuration that led to it."""

    choices: Choices
    known: Known


class PriceList:
    """Prices by configuration; remembers the latest."""

    def __init__(self, price: Price) -> None:
        self._price = price
        self._prices: dict[tuple[tuple[str, Scalar], ...], Known | None] = {}

    def __call__(self, choices: Mapping[str, Scalar]) -> Known | None:
        key = tuple(choices.items())
        if key not in self._prices:
            if len(self._prices) >= REMEMBERED:
                self._prices.clear()
            self._prices[key] = self._price(dict(choices))
        return self._prices[key]


def feasible(configurations: Iterable[Choices], price: Price, size: int) -> list[Candidate]:
    """The first `size` distinct networks that can be built within the constraints."""
    found: dict[str, Candidate] = {}
    for choices in configurations:
        known = price(choices)
        if known is not None and known.feasible and known.id not in found:
            found[known.id] = Candidate(choices, known)
            if len(found) == size:
                break
    return list(found.values())


def build_pool(
    space: SearchSpace,
    price: Price,
    size: int,
    rng: random.Random,
    found: Sequence[Candidate] = (),
) -> list[Candidate]:
    """All feasible networks of a small space; of a large one, a random `size` of them.

    Where hardly anything is feasible, mutations of what is fill the places; where nothing is among
    the random ones, those of what was `found` otherwise.
    """
    if space.count() <= ENUMERATED:
        return feasible(space.enumerate(), price, ENUMERATED)
    drawn = (space.sample(rng) for _ in range(0 if found else DRAWS * size))
    pool = [*found, *feasible(drawn, price, size)]
    if 0 < len(pool) < size:
        taken = {c.known.id for c in pool}
        for _ in range(DRAWS * size):
            choices = mutate(space, rng.choice(pool).choices, rng, rng.choice((1, 1, 2, 3)))
            known = price(choices)
            if known is not None and known.feasible and known.id not in taken:
                taken.add(known.id)
                pool.append(Candidate(choices, known))
                if len(pool) == size:
                    break
    return pool


def mutate(
    space: SearchSpace, choices: Mapping[str, Scalar], rng: random.Random, changes: int
) -> Choices:
    """Changes some active decisions; decisions that become active are drawn at random."""
    decisions = space.by_name
    # In the order of the space: what comes back from a ledger has its keys in another one.
    free = [n for n, d in decisions.items() if n in choices and len(d.choices) > 1]
    changed = set(rng.sample(free, min(changes, len(free))))
    affected = frozenset[str]().union(*(space.dependents[n] for n in changed))

    def pick(name: str) -> Scalar:
        alternatives = decisions[name].choices
        if name not in choices:
            return rng.choice(alternatives)
        if name in changed:
            return rng.choice([c for c in alternatives if c != choices[name]])
        return choices[name]

    if not affected:
        others = {name: pick(name) for name in sorted(changed)}
        return {**choices, **others}
    mutant: Choices = {}
    for name, decision in decisions.items():
        if decision.is_active(mutant) if name in affected else name in choices:
            mutant[name] = pick(name)
    return mutant


def cross(
    space: SearchSpace, a: Mapping[str, Scalar], b: Mapping[str, Scalar], rng: random.Random
) -> Choices:
    """Every decision from one of two parents; what neither has decided is drawn at random."""

    def pick(d: Decision) -> Scalar:
        parents = [p[d.name] for p in (a, b) if d.name in p]
        return rng.choice(parents or list(d.choices))

    return space.decide(pick)


def relatives(
    space: SearchSpace, parents: Sequence[Mapping[str, Scalar]], rng: random.Random, n: int
) -> Iterator[Choices]:
    """`n` configurations: half one mutation away from a parent, the rest two to four away, or
    crossed with the parent beside it."""
    for i in range(n if parents else 0):
        at = i % len(parents)
        kind = (i // len(parents)) % 4
        if kind == 3 and len(parents) > 1:
            yield cross(space, parents[at], parents[(at + 1) % len(parents)], rng)
        else:
            yield mutate(space, parents[at], rng, rng.randint(2, 4) if kind == 2 else 1)


def feasible_relatives(
    space: SearchSpace,
    price: Price,
    parents: Sequence[Mapping[str, Scalar]],
    rng: random.Random,
    n: int,
) -> list[Candidate]:
    """The distinct networks of `n` `relatives` that can be built within the constraints."""
    return feasible(relatives(space, parents, rng, n), price, n)
