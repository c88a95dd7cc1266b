"""The samplers' own behaviour; what they all promise is in contracts/test_sampler_contract.py."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import yaml

from nasctl.errors import ConfigError
from nasctl.pareto import hypervolume
from nasctl.samplers import SAMPLERS, Observation, Sampler, SamplerContext, create_sampler
from nasctl.space import Choices, Decision, SearchSpace
from tests.sampler_context import FLAT, context

CONF = Path(__file__).parents[1] / "conf" / "sampler"
OBJECTIVES = {"quality": "max", "cost": "min"}
REFERENCE = {"quality": 0.0, "cost": 25.0}


def quality_and_cost(choices: Choices) -> tuple[float, float]:
    """Four decisions pay for their cost, four only cost."""
    values = [choices[f"d{i}"] for i in range(8)]
    return float(sum(v**0.5 for v in values[:4])), float(sum(values))


def search(
    sampler: Sampler, trials: int, *, bound: float | None = None
) -> tuple[list[tuple[float, float]], list[bool]]:
    """Trains what is under the bound; results, and whether each first proposal was feasible."""
    found, feasible = [], []
    for number in range(trials):
        for attempt in range(20):
            proposal = sampler.ask(number, attempt)
            assert proposal is not None
            quality, cost = quality_and_cost(proposal.choices)
            rejected = bound is not None and cost > bound
            if attempt == 0:
                feasible.append(not rejected)
            sampler.tell(
                Observation(
                    number=number,
                    choices=proposal.choices,
                    state=proposal.state,
                    values=None if rejected else (quality, cost),
                    violations={"cost": cost / bound - 1} if bound is not None and rejected else {},
                    rejected=rejected,
                )
            )
            if not rejected:
                found.append((quality, cost))
                break
    return found, feasible


def volume(results: list[tuple[float, float]]) -> float:
    points = [dict(zip(OBJECTIVES, r, strict=True)) for r in results]
    return hypervolume(points, OBJECTIVES, REFERENCE)


@pytest.mark.parametrize(
    ("name", "options", "trials"),
    [
        ("tpe", {}, 60),
        ("nsga2", {"population_size": 10}, 150),
        ("nsga3", {"population_size": 10}, 150),
    ],
)
def test_learns(name: str, options: dict[str, Any], trials: int) -> None:
    learned = [
        volume(search(create_sampler(name, options, context(seed=s)), trials)[0]) for s in range(4)
    ]
    blind = [
        volume(search(create_sampler("random", {}, context(seed=s)), trials)[0]) for s in range(8)
    ]
    assert fmean(learned) > fmean(blind) + stdev(blind)


@pytest.mark.parametrize(
    ("name", "options", "trials"),
    [
        ("tpe", {}, 60),
        ("nsga2", {"population_size": 10}, 60),
        ("nsga3", {"population_size": 10}, 60),
    ],
)
def test_learns_constraints_from_rejections(
    name: str, options: dict[str, Any], trials: int
) -> None:
    """At random 12 % are under the bound; those who learn propose mostly what may be trained."""
    _, feasible = search(create_sampler(name, options, context()), trials, bound=8)
    _, blind = search(create_sampler("random", {}, context()), trials, bound=8)
    half = trials // 2
    assert sum(feasible[half:]) >= 0.5 * (trials - half)
    assert sum(blind) <= 0.3 * trials


def test_gp_learns_constraints_from_rejections() -> None:
    sampler = create_sampler("gp", {"startup_trials": 3}, context())
    rng = random.Random(1)
    told = Counter[bool]()
    while min(told[True], told[False]) < 5:
        choices = FLAT.sample(rng)
        quality, cost = quality_and_cost(choices)
        if told[cost > 8] < 20:
            told[cost > 8] += 1
            values = None if cost > 8 else (quality, cost)
            over = {"cost": cost / 8 - 1} if cost > 8 else {}
            sampler.tell(
                Observation(
                    number=0, choices=choices, values=values, violations=over, rejected=cost > 8
                )
            )
    proposals = [sampler.ask(number, 0) for number in range(3)]
    assert all(quality_and_cost(p.choices)[1] <= 8 for p in proposals if p)


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3"])
def test_what_cannot_be_built_is_avoided(name: str) -> None:
    """Rejected without a violated constraint: infeasible all the same."""
    sampler = create_sampler(name, {"population_size": 8} if name != "tpe" else {}, context())
    bad = Counter[bool]()
    for number in range(80):
        proposal = sampler.ask(number, 0)
        assert proposal is not None
        impossible = proposal.choices["d0"] != 2
        told = {"number": number, "choices": proposal.choices, "state": proposal.state}
        if impossible:
            sampler.tell(Observation(**told, rejected=True))
        else:
            sampler.tell(Observation(**told, values=quality_and_cost(proposal.choices)))
        bad[impossible] += number >= 40
    assert bad[False] > 30


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3", "gp"])
def test_failures_are_ignored(name: str) -> None:
    options = {} if name.startswith("nsga") else {"startup_trials": 2}
    plain, failing = (create_sampler(name, options, context()) for _ in range(2))
    rng = random.Random(0)
    for number in range(5):
        choices = FLAT.sample(rng)
        told = {"choices": choices}
        good = Observation(number=number, **told, values=quality_and_cost(choices))
        plain.tell(good)
        failing.tell(Observation(number=number, **told))
        failing.tell(good)
    assert plain.ask(9, 0) == failing.ask(9, 0)


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_pending_trials_repel(name: str) -> None:
    sampler = create_sampler(name, {"startup_trials": 8}, context())
    search(sampler, 8)
    first = sampler.ask(8, 0)
    assert first is not None
    again = sampler.ask(8, 0, pending=[first.choices] * 3)
    assert again is not None
    assert again != first
    assert sampler.ask(8, 0) == first


def test_children_inherit() -> None:
    """The second generation of a genetic sampler mixes parents, inactive genes included."""
    space = SearchSpace(
        (
            Decision("on", (True, False)),
            *(Decision(f"g{i}", tuple(range(50)), when={"on": (True,)}) for i in range(6)),
        )
    )
    sampler = create_sampler("nsga2", {"population_size": 4}, context(space))
    genes: set[tuple[str, int]] = set()
    for number in range(4):
        proposal = sampler.ask(number, 0)
        assert proposal is not None
        assert ("inactive" in proposal.state) == (not proposal.choices["on"])
        everything = {**proposal.choices, **proposal.state.get("inactive", {})}
        assert len(everything) == 7
        genes |= {(k, int(v)) for k, v in everything.items()}
        sampler.tell(
            Observation(
                number=number,
                choices=proposal.choices,
                state=proposal.state,
                values=(float(number), float(number)),
            )
        )
    inherited = []
    for number in range(4, 24):
        child = sampler.ask(number, 0)
        assert child is not None
        everything = {**child.choices, **child.state.get("inactive", {})}
        inherited += [gene in genes for gene in everything.items()]
    assert sum(inherited) / len(inherited) > 0.75  # one mutation in seven, half of "on" by chance


def test_generations_do_not_depend_on_when_was_asked() -> None:
    """A straggler of the first generation counts, wherever it is told."""
    sampler = create_sampler("nsga2", {"population_size": 4}, context())
    proposals = [sampler.ask(n, 0) for n in range(6)]
    for number in (5, 3, 0, 1):  # the first four told are a generation, whoever they are
        proposal = proposals[number]
        assert proposal is not None
        before = sampler.ask(6, 0)
        values = quality_and_cost(proposal.choices)
        sampler.tell(Observation(number=number, choices=proposal.choices, values=values))
    assert sampler.ask(6, 0) != before


# -- making them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tpee", {}, "sampler.name: unknown sampler 'tpee'; did you mean 'tpe'?"),
        (
            "nsga2",
            {"population": 4},
            "sampler.population: unknown option of nsga2 'population'; did you mean "
            "'population_size'?",
        ),
        ("random", {"seed": 1}, "sampler.seed: unknown option of random 'seed'"),
        (
            "nsga2",
            {"population_size": 1},
            "sampler.population_size: must be between 2 and 1e+06, got 1",
        ),
        ("tpe", {"candidates": 2.5}, "sampler.candidates: expected a whole number, got 2.5"),
        ("tpe", {"candidates": True}, "sampler.candidates: expected a whole number, got True"),
        (
            "gp",
            {"deterministic_objective": 1},
            "sampler.deterministic_objective: expected true or false, got 1",
        ),
        ("nsga3", {"crossover_prob": "x"}, "sampler.crossover_prob: expected a number, got 'x'"),
        (
            "grid",
            {"order": "shufled"},
            "sampler.order: unknown value 'shufled'; did you mean 'shuffled'?",
        ),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create_sampler(name, options, context())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_all_bad_options_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        create_sampler("nsga2", {"swapping_prob": 2, "population_size": 0}, context())
    assert len(caught.value.problems) == 2


def test_packaged_configs_name_every_option() -> None:
    assert {p.stem for p in CONF.glob("*.yaml")} == set(SAMPLERS)
    for path in CONF.glob("*.yaml"):
        options = yaml.safe_load(path.read_text())
        assert options.pop("name") == path.stem
        create_sampler(path.stem, options, context())
        factory = SAMPLERS[path.stem]
        assert options == (factory.__kwdefaults__ or {}), path  # the file shows the defaults


def test_optuna_is_imported_only_when_chosen() -> None:
    script = (
        "import sys; from nasctl.samplers import *; from nasctl.space import *;"
        "c = SamplerContext(space=SearchSpace((Decision('a', (1, 2)),)), directions=('max',),"
        " seed=0, trials=1);"
        "check_options('tpe', {});"
        "[create_sampler(n, {}, c).ask(0, 0) for n in ('random', 'grid')];"
        "assert not {'optuna', 'torch', 'numpy'} & set(sys.modules);"
        "create_sampler('tpe', {}, c).ask(0, 0); assert 'optuna' in sys.modules;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3"])
def test_single_objective(name: str) -> None:
    one = SamplerContext(space=FLAT, directions=("max",), seed=0, trials=9)
    options = {"startup_trials": 4} if name == "tpe" else {"population_size": 6}
    sampler = create_sampler(name, options, one)
    rng = random.Random(0)
    best = 0.0
    for number in range(60):
        choices = sampler.ask(number, 0) if number else None
        drawn = choices.choices if choices else FLAT.sample(rng)
        value = quality_and_cost(drawn)[0]
        best = max(best, value)
        sampler.tell(Observation(number=number, choices=drawn, values=(value,)))
    assert best > 6.3  # of 6.93; the best of 60 at random is about 6.1
