"""Known networks again: as another seed where that is wanted, turned away and counted elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nasctl.candidates import CandidateSource, Priced, training_seed
from nasctl.engine import Engine, EngineSettings, Signal
from nasctl.history import history_hash
from nasctl.ledger import Ledger
from nasctl.samplers.base import Observation, Proposal
from nasctl.trial import Outcome, OutcomeKind, State, Work
from tests import toy
from tests.toy import Recorder, finish, make_engine, run

A = {"depth": 1, "width": 1}
B = {"depth": 2, "width": 1}
C = {"depth": 3, "width": 1}
BIG = {"depth": 7, "width": 7}  # 5,610 parameters


class Scripted:
    """Proposes by trial number what it was told to, then by attempt what comes next."""

    exhaustive: ClassVar[bool] = False

    def __init__(self, script: Mapping[int, Sequence[Proposal]]) -> None:
        self.script = script
        self.told: list[Observation] = []

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        proposals = self.script[number]
        return proposals[min(attempt, len(proposals) - 1)]

    def tell(self, observation: Observation) -> None:
        self.told.append(observation)


def new(choices: Mapping[str, int]) -> Proposal:
    return Proposal(choices=dict(choices))


def again(choices: Mapping[str, int]) -> Proposal:
    return Proposal(choices=dict(choices), repeat=True)


def scripted(
    path: Path,
    *script: Sequence[Proposal],
    constraints: Mapping[str, float] | None = None,
    max_seeds: int = 3,
    repeat_duplicates: bool = False,
    **settings: Any,
) -> tuple[Engine, Scripted]:
    family = toy.toy_family()
    sampler = Scripted(dict(enumerate(script)))
    engine = Engine(
        ledger=Ledger(path, {}),
        settings=EngineSettings(
            objectives=toy.OBJECTIVES,  # type: ignore[arg-type]
            constraints=constraints or {},
            trials=len(script),
            seed=7,
            epochs=2,
            **settings,
        ),
        source=CandidateSource(
            family=family,
            price=lambda a: Priced(cost=toy.cost(a)),
            constraints=constraints or {},
            seed=7,
            max_seeds=max_seeds,
            repeat_duplicates=repeat_duplicates,
        ),
        sampler=sampler,
        observer=Recorder(),
    )
    return engine, sampler


def begin(engine: Engine) -> Work:
    found = engine.next()
    assert isinstance(found, Work)
    return found


def seeds(engine: Engine) -> list[tuple[int, int]]:
    """(depth, seed) of every trial."""
    return [(int(t.choices["depth"]), t.seed) for t in engine.trials]


def test_a_repeat_is_a_trial_with_the_next_seed_and_its_own_observation(tmp_path: Path) -> None:
    engine, sampler = scripted(
        tmp_path / "l", [new(A)], [again(A)], [new(B)], [again(A)], [new(C)], window=1
    )
    run(engine)
    assert seeds(engine) == [(1, 7), (1, 8), (2, 7), (1, 9), (3, 7)]
    assert {t.state for t in engine.trials} == {State.COMPLETE}
    assert [(o.number, o.choices["depth"]) for o in sampler.told] == [(0, 1), (1, 1), (2, 2)]
    assert all(o.values is not None for o in sampler.told)


def test_seeds_of_one_network_are_never_the_same() -> None:
    assert [training_seed(2**32 - 2, k) for k in range(4)] == [2**32 - 2, 2**32 - 1, 0, 1]


def test_a_repeat_of_a_network_that_still_runs_is_another_training(tmp_path: Path) -> None:
    engine, _ = scripted(tmp_path / "l", [new(A)], [again(A)])
    first, second = begin(engine), begin(engine)
    assert first.architecture.id == second.architecture.id
    assert (first.seed, second.seed) == (7, 8)


def test_no_network_has_more_seeds_than_asked_for(tmp_path: Path) -> None:
    engine, _ = scripted(
        tmp_path / "l", [new(A)], *([again(A), new({"depth": n, "width": 1})] for n in range(2, 5)),
        max_seeds=2,
    )  # fmt: skip
    run(engine)
    assert seeds(engine) == [(1, 7), (1, 8), (3, 7), (4, 7)]
    assert engine.duplicates == 2
    once, _ = scripted(tmp_path / "once", [new(A)], [again(A), new(B)], max_seeds=1)
    run(once)
    assert seeds(once) == [(1, 7), (2, 7)]


def test_a_repeat_of_what_was_never_trained_is_a_new_network_or_turned_away(
    tmp_path: Path,
) -> None:
    engine, _ = scripted(
        tmp_path / "l", [again(A)], [new(BIG), again(BIG), new(B)], constraints={"params": 3000}
    )
    run(engine)
    assert seeds(engine) == [(1, 7), (2, 7)]
    assert [r.choices for r in engine._ledger.rejections()] == [BIG]
    assert engine.duplicates == 1


def test_what_failed_is_not_repeated_but_its_seed_is_used_up(tmp_path: Path) -> None:
    script = [[new(A)], [new(B)], [again(A), new(C)], [new(A), again(B)], [again(B)]]
    engine, _ = scripted(tmp_path / "l", *script, window=1)
    engine.end(begin(engine), Outcome(kind=OutcomeKind.FAILED, error="no memory"))
    finish(engine, begin(engine))
    finish(engine, begin(engine))
    engine.end(begin(engine), Outcome(kind=OutcomeKind.FAILED, error="no memory"))
    finish(engine, begin(engine))
    assert seeds(engine) == [(1, 7), (2, 7), (3, 7), (2, 8), (2, 9)]
    assert engine.duplicates == 2  # A came up twice more


@pytest.mark.parametrize("fails_at_once", [True, False])
def test_whether_a_pending_network_may_be_repeated_does_not_depend_on_timing(
    tmp_path: Path, fails_at_once: bool
) -> None:
    engine, _ = scripted(tmp_path / "l", [new(A)], [again(A), new(B)], window=4)
    first = begin(engine)
    failed = Outcome(kind=OutcomeKind.FAILED, error="no memory")
    if fails_at_once:
        engine.end(first, failed)
    begin(engine)
    assert seeds(engine) == [(1, 7), (1, 8)]


def test_in_the_async_order_only_what_runs_or_came_out_well_is_repeated(tmp_path: Path) -> None:
    engine, _ = scripted(
        tmp_path / "l", [new(A)], [again(A)], [new(B)], [again(B), new(C)], order="async"
    )
    first = begin(engine)
    finish(engine, begin(engine))
    finish(engine, first)
    engine.end(begin(engine), Outcome(kind=OutcomeKind.FAILED, error="no memory"))
    begin(engine)
    assert seeds(engine) == [(1, 7), (1, 8), (2, 7), (3, 7)]


def test_every_duplicate_becomes_a_seed_where_that_is_wanted(tmp_path: Path) -> None:
    script = [[new(A)], [new(A), new(B)], [new(A), new(B)], [new(A), new(B)]]
    engine, _ = scripted(tmp_path / "repeat", *script, repeat_duplicates=True)
    run(engine)
    assert seeds(engine) == [(1, 7), (1, 8), (1, 9), (2, 7)]
    assert engine.duplicates == 1
    engine, _ = scripted(tmp_path / "replace", [new(A)], [new(A), new(B)])
    run(engine)
    assert seeds(engine) == [(1, 7), (2, 7)]


def test_a_space_smaller_than_the_budget_is_filled_with_seeds(tmp_path: Path) -> None:
    engine = make_engine(
        tmp_path / "l", trials=120, source={"max_seeds": 3, "repeat_duplicates": True}
    )
    run(engine)
    counts = Counter(t.arch_id for t in engine.trials)
    assert len(engine.trials) == 120  # there are 57 networks
    assert max(counts.values()) == 3
    per_network: dict[str, set[int]] = {}
    for t in engine.trials:
        per_network.setdefault(t.arch_id, set()).add(t.seed)
    assert {n: len(s) for n, s in per_network.items()} == counts


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
@pytest.mark.parametrize("crash", [3, 17, 40])
def test_a_run_with_repeats_continues_as_if_nothing_had_happened(
    tmp_path: Path, sampler: str, crash: int
) -> None:
    options: dict[str, Any] = {
        "sampler": sampler,
        "trials": 48,
        "constraints": {"params": 3000},
        "source": {"max_seeds": 3, "repeat_duplicates": True},
    }
    expected = make_engine(tmp_path / "a", **options)
    run(expected)
    assert max(Counter(t.arch_id for t in expected.trials).values()) > 1
    first = make_engine(tmp_path / "b", **options)
    for _ in range(crash):
        finish(first, begin(first))
    begin(first)
    first.prefetch()  # lost with the process
    second = make_engine(tmp_path / "b", **options)
    run(second)
    assert history_hash(second.trials) == history_hash(expected.trials)
    assert second.duplicates == expected.duplicates
    assert len(second._ledger.rejections()) == len(expected._ledger.rejections())


def test_trainings_avoided_are_counted_once_however_often_a_run_is_continued(
    tmp_path: Path,
) -> None:
    whole = make_engine(tmp_path / "a", trials=100)  # there are 57 networks
    run(whole)
    assert whole.exhausted
    assert whole.duplicates > 0
    for _ in range(4):  # the last one only finds that nothing new is left
        engine = make_engine(tmp_path / "b", trials=100)
        for _ in range(19):
            if isinstance(work := engine.next(), Work):
                finish(engine, work)
    assert engine.next() is Signal.DONE
    engine = make_engine(tmp_path / "b", trials=100)
    assert engine.exhausted
    assert not engine.has_work()
    assert engine.next() is Signal.DONE
    assert (len(engine.trials), engine.duplicates) == (57, whole.duplicates)


def test_nothing_feasible_is_still_said_when_the_same_command_is_given_again(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        engine = make_engine(tmp_path / "l", constraints={"params": 5})
        assert engine.next() is Signal.DONE
        assert "params 10 is over 5" in str(engine.fatal)
        assert len(engine._ledger.rejections()) > 0
