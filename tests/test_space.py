"""Conditional spaces: activity, exact counts, enumeration, validation, measuring."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasctl.arch import Architecture, Cost, Opaque
from nasctl.errors import SpecError
from nasctl.samplers.known_cost.pool import mutate
from nasctl.space import Choices, Decision, Family, SearchSpace, cost_range, measure_space

KIND = Decision("kind", ("conv", "pool", "none"))
KERNEL = Decision("kernel", (3, 5), when={"kind": ("conv", "pool")})
GROUPS = Decision("groups", (1, 2, 4), when={"kind": ("conv",), "kernel": (3,)})
SPACE = SearchSpace((KIND, KERNEL, GROUPS))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Up to six decisions with conditions on any earlier ones, `when` and `any_of` mixed."""
    decisions: list[Decision] = []

    def condition() -> dict[str, tuple[Any, ...]]:
        asked = draw(st.lists(st.sampled_from(decisions), max_size=2, unique_by=lambda d: d.name))
        return {
            d.name: tuple(draw(st.lists(st.sampled_from(d.choices), min_size=1, unique=True)))
            for d in asked
        }

    for i in range(draw(st.integers(1, 6))):
        choices = tuple(range(draw(st.integers(1, 3))))
        when = condition() if decisions else None
        any_of = [condition() for _ in range(draw(st.integers(0, 3)))] if decisions else None
        decisions.append(Decision(f"d{i}", choices, when=when, any_of=any_of))
    return SearchSpace(tuple(decisions))


@settings(deadline=None, max_examples=200)
@given(spaces())
def test_count_is_the_length_of_the_enumeration(space: SearchSpace) -> None:
    listed = list(space.enumerate())
    assert space.count() == len(listed)
    assert len({json.dumps(c) for c in listed}) == len(listed)
    for choices in listed:
        assert space.validate(choices) == choices
    everything = itertools.product(*[(None, *d.choices) for d in space.decisions])
    if len(space.decisions) <= 4:
        valid = 0
        for values in everything:
            given_ = {
                d.name: v for d, v in zip(space.decisions, values, strict=True) if v is not None
            }
            chosen: Choices = {}
            for d in space.decisions:
                if d.is_active(chosen) != (d.name in given_):
                    break
                if d.name in given_:
                    chosen[d.name] = given_[d.name]
            else:
                valid += 1
        assert valid == len(listed)


@settings(deadline=None, max_examples=50)
@given(spaces(), st.integers(0, 99))
def test_samples_are_valid_and_reproducible(space: SearchSpace, seed: int) -> None:
    drawn = space.sample(random.Random(seed))
    assert space.validate(drawn) == drawn == space.sample(random.Random(seed))


@settings(deadline=None, max_examples=100)
@given(spaces(), st.integers(0, 99))
def test_a_mutant_is_valid_and_changes_what_it_says(space: SearchSpace, seed: int) -> None:
    rng = random.Random(seed)
    parent = space.sample(rng)
    mutant = mutate(space, parent, rng, 1)
    assert space.validate(mutant) == mutant
    assert list(mutant) == [d.name for d in space.decisions if d.name in mutant]
    changed = [n for n in parent if n in mutant and parent[n] != mutant[n]]
    assert len(changed) == any(len(space.by_name[n].choices) > 1 for n in parent)
    assert set(parent) ^ set(mutant) <= {later for n in changed for later in space.dependents[n]}


def test_dependents_are_found_through_others() -> None:
    assert SPACE.dependents == {
        "kind": frozenset({"kernel", "groups"}),
        "kernel": frozenset({"groups"}),
        "groups": frozenset(),
    }


def test_enumeration_is_lexicographic() -> None:
    listed = list(SPACE.enumerate())
    assert listed[:4] == [
        {"kind": "conv", "kernel": 3, "groups": 1},
        {"kind": "conv", "kernel": 3, "groups": 2},
        {"kind": "conv", "kernel": 3, "groups": 4},
        {"kind": "conv", "kernel": 5},
    ]
    assert listed[-1] == {"kind": "none"}
    assert SPACE.count() == len(listed) == 7


def test_count_of_a_large_space_is_exact() -> None:
    decisions = [Decision("depth", tuple(range(1, 61)))]
    for j in range(1, 61):
        depths = tuple(range(j, 61))
        decisions.append(Decision(f"b{j}", ("x", "y", "skip"), when={"depth": depths}))
        decisions.append(Decision(f"k{j}", (3, 5), when={f"b{j}": ("x", "y")}))
    # each existing block: x or y with two kernels, or a skip
    assert SearchSpace(tuple(decisions)).count() == sum(5**depth for depth in range(1, 61))


def test_count_with_alternatives_does_not_grow_with_their_number() -> None:
    blocks = [Decision(f"b{j}", ("conv", "skip")) for j in range(40)]
    shared = Decision("kernel", (3, 5, 7), any_of=[{b.name: ("conv",)} for b in blocks])
    assert SearchSpace((*blocks, shared)).count() == (2**40 - 1) * 3 + 1


def test_conditions_multiply_when_with_any_of() -> None:
    d = Decision("d", (1,), when={"a": (1, 2)}, any_of=[{"a": (2, 3)}, {"b": (1,)}])
    assert d.conditions() == ({"a": (2,)}, {"b": (1,), "a": (1, 2)})
    assert d.is_active({"a": 2, "b": 0})
    assert d.is_active({"a": 1, "b": 1})
    assert not d.is_active({"a": 3, "b": 1})
    assert not d.is_active({"a": 1, "b": 0})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Decision("a", ()), "a: no choices"),
        (lambda: Decision("a", (1, 1.0)), "a: choice 1.0 is given twice"),
        (lambda: Decision("a", ([1],)), "a: a choice must be a text, number or bool"),  # type: ignore[arg-type]
        (lambda: Decision("a", (float("nan"),)), "a: a choice must be"),
        (lambda: SearchSpace((KIND, KIND)), "kind: declared twice"),
        (lambda: SearchSpace((KERNEL, KIND)), "kernel.when: unknown earlier decision 'kind'"),
        (
            lambda: SearchSpace((KIND, Decision("x", (1,), when={"kind": ("cov",)}))),
            "x.when.kind: unknown choice 'cov'; did you mean 'conv'",
        ),
        (
            lambda: SearchSpace((KIND, Decision("x", (1,), any_of=[{"kid": ("conv",)}]))),
            "x.any_of.0: unknown earlier decision 'kid'; did you mean 'kind'",
        ),
    ],
)
def test_spaces_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_one_and_true_are_different_choices() -> None:
    assert Decision("a", (1, True)).choices == (1, True)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"kind": "conv", "kernel": 4, "groups": 1}, "kernel: unknown choice 4"),
        ({"kind": "conv"}, "kernel: missing"),
        ({"kind": "none", "kernel": 3}, "kernel: inactive here, given 3"),
        ({"kind": "none", "kernl": 3}, "unknown decision 'kernl'; did you mean 'kernel'"),
        ({"kind": "pol", "grups": 3}, "4 problems"),
    ],
)
def test_validation_lists_every_problem(choices: Choices, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        SPACE.validate(choices)


def test_validation_normalises_numbers_and_order() -> None:
    chosen = SPACE.validate({"kernel": 3.0, "groups": 2, "kind": "conv"})
    assert list(chosen.items()) == [("kind", "conv"), ("kernel", 3), ("groups", 2)]
    assert type(chosen["kernel"]) is int


def table(choices: Choices) -> Architecture:
    if choices.get("groups") == 4:
        raise SpecError("four groups do not fit")
    kept = {n: v for n, v in choices.items() if n != "groups"}
    return Architecture(input_shape=(1,), blocks=(Opaque("cell", **kept),), num_classes=2)


def test_measuring_a_small_space_is_exact_and_leaves_out_what_cannot_be_built() -> None:
    size = measure_space(Family(space=SPACE, decode=table))
    assert (size.configurations, size.networks, size.networks_exact) == (7, 5, True)


def test_measuring_a_large_space_estimates_with_an_error() -> None:
    space = SearchSpace(tuple(Decision(f"d{i}", tuple(range(10))) for i in range(8)))

    def decode(choices: Choices) -> Architecture:
        block = Opaque("cell", a=choices["d0"], b=choices["d1"], c=choices["d2"])
        return Architecture(input_shape=(1,), blocks=(block,), num_classes=2)

    size = measure_space(Family(space=space, decode=decode), limit=1000)
    assert size.configurations == 10**8
    assert not size.networks_exact
    assert size.networks_error is not None
    assert abs(size.networks - 1000) < 3 * size.networks_error * 1000


def test_a_family_that_can_count_is_asked_and_one_that_gives_up_is_not_believed() -> None:
    assert (
        measure_space(Family(space=SPACE, decode=table, count_networks=lambda: 42)).networks == 42
    )
    assert (
        measure_space(Family(space=SPACE, decode=table, count_networks=lambda: None)).networks == 5
    )


def test_sampling_a_family_skips_what_cannot_be_built() -> None:
    family = Family(space=SPACE, decode=table)
    rng = random.Random(0)
    assert all(family.sample(rng)[0].get("groups") != 4 for _ in range(200))

    def never(choices: Choices) -> Architecture:
        raise SpecError("too small")

    with pytest.raises(SpecError, match=r"none of 5 random configurations .* last: too small"):
        Family(space=SPACE, decode=never).sample(rng, attempts=5)


def test_cost_range() -> None:
    costs = [Cost(params=3, macs=5), Cost(params=1), Cost(params=2, macs=7)]
    assert cost_range(costs) == {"params": (1, 3), "macs": (5, 7)}
