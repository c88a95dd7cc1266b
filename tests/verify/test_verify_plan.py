"""Which trainings a verification does: fresh seeds, more where it is open, also after a crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nasctl.engine import Engine, EngineSettings, Signal
from nasctl.ledger import Ledger
from nasctl.planned import NoSampler
from nasctl.trial import Outcome, OutcomeKind, Trial
from nasctl.verification.finalists import nearest
from nasctl.verification.judging import judge
from nasctl.verification.plan import FRESH, Limit, VerificationPlan, fresh_seeds
from nasctl.verification.settings import VerifySettings
from tests.toy import Recorder
from tests.verify_samples import OBJECTIVES, finalist

A, B, C = finalist(1, 0.90, 1.0), finalist(2, 0.95, 2.0), finalist(3, 0.95, 2.0, "near")
REFERENCE = finalist(9, 0.5, 9.0, "reference", name="lenet5", choices={})
SETTINGS = VerifySettings(seeds=2, max_seeds=4)
OF = {f.arch_id: f for f in (A, B, C, REFERENCE)}


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1])
def test_fresh_seeds_are_none_of_the_search(seed: int) -> None:
    fresh = fresh_seeds(seed, 1000)
    searched = {(seed + k) % 2**32 for k in (*range(1000), 10**9 - 1)}  # search.max_seeds at most
    assert len(set(fresh)) == 1000
    assert not searched & set(fresh)
    assert all(0 <= s < 2**32 for s in fresh)
    assert fresh[:3] == fresh_seeds(seed, 3)
    assert fresh[0] == (seed + FRESH) % 2**32


def test_of_results_in_a_circle_those_that_were_seen_are_not_fresh() -> None:
    found = fresh_seeds(1, 10, circle=5, used=[1, 2])
    assert {s % 5 for s in found} == {0, 3, 4}
    assert len(found) == 3
    assert fresh_seeds(0, 3, circle=1, used=[0]) == ()


def test_candidates_that_lack_least_are_nearest() -> None:
    class Seen:
        def __init__(self, accuracy: float, latency: float) -> None:
            self.decisive = {"accuracy": accuracy, "latency_ms": latency}

    members = [Seen(0.90, 1.0), Seen(0.95, 2.0)]
    far, close = Seen(0.93, 2.0), Seen(0.89, 1.5)  # lack 0.02 and 0.01
    assert nearest([far, close], members, OBJECTIVES) == [close, far]  # type: ignore[arg-type, list-item]


Accuracy = Callable[[str, int], float]
"""(architecture id, how many trainings of it there were) -> accuracy."""


def close_race(arch_id: str, count: int) -> float:
    """B and C cannot be told apart, A is on the front for sure."""
    own = 0.9 if arch_id in (A.arch_id, REFERENCE.arch_id) else 0.95
    return own + (0.001, -0.001, 0.0005, -0.0005)[count]


def make_engine(path: Path, limits: Sequence[Limit], finalists: Sequence = (A, B, C)) -> Engine:
    def open_ids(trials: Sequence[Trial]) -> set[str]:
        found = judge(finalists, trials, {}, objectives=OBJECTIVES, settings=SETTINGS, seed=0)
        return found.open_ids(SETTINGS)

    most = len(finalists) * limits[-1].seeds
    plan = VerificationPlan(
        finalists,
        seeds={f.arch_id: fresh_seeds(0, limits[-1].seeds) for f in finalists},
        first=SETTINGS.seeds,
        limits=limits,
        epochs=1,
        open_ids=open_ids,
    )
    settings = EngineSettings(
        objectives=OBJECTIVES, constraints={}, trials=most, seed=0, epochs=1, window=most
    )
    return Engine(
        ledger=Ledger(path, {}),
        settings=settings,
        source=plan,
        sampler=NoSampler(),
        observer=Recorder(),
    )


def drive(engine: Engine, accuracy: Accuracy = close_race, stop_after: int | None = None) -> None:
    """One training after the other; with `stop_after` the driver dies in the midst of the next."""
    done = 0
    while (work := engine.next()) is not Signal.DONE:
        assert work is not Signal.WAIT
        if done == stop_after:
            return
        before = [t for t in engine.trials[: work.number] if t.arch_id == work.architecture.id]
        engine.report(work, 1, {"accuracy": accuracy(work.architecture.id, len(before))})
        engine.end(work, Outcome(kind=OutcomeKind.COMPLETE))
        done += 1


def history(engine: Engine) -> list[tuple[str, int]]:
    return [(t.arch_id, t.seed - FRESH) for t in engine.trials]


ROUNDS = [(f.arch_id, k) for k in (0, 1) for f in (A, B, C)]
OPEN = [(f.arch_id, k) for k in (2, 3) for f in (B, C)]


def test_all_get_the_first_seeds_and_the_open_ones_more_up_to_the_most(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "ledger", [Limit(start=0, seeds=4)])
    drive(engine)
    assert history(engine) == ROUNDS + OPEN


def test_where_nothing_is_open_the_first_seeds_are_all(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "ledger", [Limit(start=0, seeds=4)])
    clear = {A.arch_id: 0.9, B.arch_id: 0.95, C.arch_id: 0.7}
    drive(engine, lambda arch_id, count: clear[arch_id] + 0.001 * count)
    assert history(engine) == ROUNDS


def test_references_get_the_first_seeds_only(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "ledger", [Limit(start=0, seeds=4)], (A, B, C, REFERENCE))
    drive(engine)
    assert [s for i, s in history(engine) if i == REFERENCE.arch_id] == [0, 1]


@pytest.mark.parametrize("killed", range(10))
def test_a_killed_verification_goes_on_as_if_nothing_had_been(tmp_path: Path, killed: int) -> None:
    limits = [Limit(start=0, seeds=4)]
    drive(make_engine(tmp_path / "ledger", limits), stop_after=killed)
    again = make_engine(tmp_path / "ledger", limits)
    drive(again)
    assert history(again) == ROUNDS + OPEN


@pytest.mark.parametrize("killed", [1, 7])
def test_more_seeds_count_from_where_they_were_allowed(tmp_path: Path, killed: int) -> None:
    """What was planned under the old limit stays as it was, also where it was cut short."""
    path = tmp_path / "ledger"
    first = make_engine(path, [Limit(start=0, seeds=3)])
    drive(first, stop_after=killed)
    begun = len(first.trials)
    limits = [Limit(start=0, seeds=3), Limit(start=begun, seeds=4)]
    drive(make_engine(path, limits), stop_after=1)
    again = make_engine(path, limits)
    drive(again)
    assert history(again) == ROUNDS + OPEN


def test_a_finalist_that_closed_before_the_old_limit_keeps_its_place_in_the_plan(
    tmp_path: Path,
) -> None:
    """B and D have their three seeds when C, which was out of the race, is in it again: it gets one
    alone. Under a higher limit that round must stay as it was."""
    rival = finalist(4, 0.95, 2.0, "near")
    values = {
        B.arch_id: (0.9500, 0.9501, 0.930, 0.94, 0.94),
        rival.arch_id: (0.9499, 0.9500, 0.930, 0.94, 0.94),
        C.arch_id: (0.9400, 0.9401, 0.940, 0.94, 0.94),
    }
    path, everybody = tmp_path / "ledger", (B, rival, C)
    first = make_engine(path, [Limit(start=0, seeds=3)], everybody)
    drive(first, lambda arch_id, count: values[arch_id][count])
    before = history(first)
    assert before[6:] == [(B.arch_id, 2), (rival.arch_id, 2), (C.arch_id, 2)]
    limits = [Limit(start=0, seeds=3), Limit(start=len(before), seeds=5)]
    again = make_engine(path, limits, everybody)
    drive(again, lambda arch_id, count: values[arch_id][count])
    assert history(again)[: len(before)] == before
    assert len(history(again)) > len(before)


def test_failed_trainings_count_as_seeds(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "ledger", [Limit(start=0, seeds=4)])
    while (work := engine.next()) is not Signal.DONE:
        assert work is not Signal.WAIT
        if work.architecture.id == B.arch_id:
            engine.end(work, Outcome(kind=OutcomeKind.FAILED, error="no luck"))
            continue
        engine.report(work, 1, {"accuracy": 0.9 + 0.001 * work.number})
        engine.end(work, Outcome(kind=OutcomeKind.COMPLETE))
    assert [s for i, s in history(engine) if i == B.arch_id] == [0, 1]
