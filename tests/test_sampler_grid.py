"""Enumerating a space: ranks of configurations, the grid sampler, uniform draws."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasctl.samplers import Observation, create_sampler
from nasctl.samplers.ranking import Ranking, permuted
from nasctl.space import Choices, Decision, SearchSpace
from tests.sampler_context import context

# -- grid ---------------------------------------------------------------------------------------

CONDITIONAL = SearchSpace(
    (
        Decision("depth", (1, 2, 3)),
        Decision("a", ("x", "y"), when={"depth": (2, 3)}),
        Decision("b", (1, 2, 3), when={"a": ("y",), "depth": (3,)}),
        Decision("c", (True, False)),
    )
)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    decisions: list[Decision] = []
    for i in range(draw(st.integers(1, 6))):
        choices = tuple(range(draw(st.integers(1, 3))))
        when = {}
        for d in decisions:
            if draw(st.booleans()) and draw(st.booleans()):
                when[d.name] = draw(st.lists(st.sampled_from(d.choices), min_size=1, unique=True))
        decisions.append(Decision(f"d{i}", choices, when=when))
    return SearchSpace(tuple(decisions))


def test_ranking_knows_alternatives_of_conditions() -> None:
    either = ({"a": (0,)}, {"b": (0,)})
    space = SearchSpace(
        (Decision("a", (0, 1)), Decision("b", (0, 1)), Decision("c", (3, 5), any_of=either))
    )
    ranking = Ranking(space)
    assert [ranking[i] for i in range(len(ranking))] == list(space.enumerate())


@given(spaces())
@settings(deadline=None)
def test_ranking_is_the_enumeration(space: SearchSpace) -> None:
    ranking = Ranking(space)
    assert len(ranking) == space.count()
    assert [ranking[i] for i in range(len(ranking))] == list(space.enumerate())
    for outside in (-1, len(ranking)):
        with pytest.raises(IndexError):
            ranking[outside]


def test_ranking_of_a_huge_space() -> None:
    space = SearchSpace(tuple(Decision(f"d{i}", tuple(range(10))) for i in range(60)))
    choices = Ranking(space)[int("4" * 30 + "7" * 30)]
    assert set(choices.values()) == {4, 7}
    assert choices["d29"] == 4
    assert choices["d30"] == 7


@pytest.mark.parametrize("count", [1, 2, 3, 17, 256, 1000])
def test_permutation(count: int) -> None:
    first = [permuted(i, count, 1) for i in range(count)]
    assert sorted(first) == list(range(count))
    if count > 3:
        assert first != list(range(count))
        assert first != [permuted(i, count, 2) for i in range(count)]


@pytest.mark.parametrize("order", ["shuffled", "lexicographic"])
@pytest.mark.parametrize("window", [0, 3])
def test_grid_visits_everything_once(order: str, window: int) -> None:
    """With trials in flight, rejections, and networks that several configurations share."""
    sampler = create_sampler("grid", {"order": order}, context(CONDITIONAL))
    seen: list[str] = []
    judged: list[Choices] = []
    flying: list[Observation] = []
    for number in itertools.count():
        if len(flying) > window:
            sampler.tell(flying.pop(0))
        for attempt in itertools.count():
            proposal = sampler.ask(number, attempt)
            if proposal is None:
                break
            told = {"number": number, "choices": proposal.choices, "state": proposal.state}
            network = "same" if proposal.choices["depth"] == 2 else str(proposal.choices)
            if network in seen:
                if proposal.choices not in judged:
                    judged.append(proposal.choices)
                continue
            seen.append(network)
            judged.append(proposal.choices)
            if proposal.choices.get("b") == 2:
                sampler.tell(Observation(**told, rejected=True))
                continue
            flying.append(Observation(**told, values=(1.0, 1.0)))
            break
        else:
            raise AssertionError
        if proposal is None:
            break
    everything = list(CONDITIONAL.enumerate())
    assert sorted(map(str, judged)) == sorted(map(str, everything))
    if order == "lexicographic":
        assert judged == everything


def test_grid_shuffles_by_seed() -> None:
    orders = {
        tuple(str(create_sampler("grid", {}, context(seed=s)).ask(0, a)) for a in range(4))
        for s in range(5)
    }
    assert len(orders) == 5


# -- random -------------------------------------------------------------------------------------


def test_random_is_uniform() -> None:
    sampler = create_sampler("random", {}, context())
    counts = Counter(sampler.ask(n, 0).choices["d3"] for n in range(2000))  # type: ignore[union-attr]
    assert all(430 < counts[v] < 570 for v in range(4))
