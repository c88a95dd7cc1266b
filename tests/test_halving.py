"""Successive halving in the engine: decisions, their record, resume, what samplers hear."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from nasctl.engine import Engine
from nasctl.fidelity import HalvingSettings
from nasctl.front import collect_entries
from nasctl.halving import DECISION, RAISED, objective_problems
from nasctl.halving_report import halving_json, halving_lines
from nasctl.history import history_hash
from nasctl.rungs import is_control
from nasctl.samplers.base import Observation
from nasctl.trial import Outcome, OutcomeKind, State, Work
from tests import curves
from tests.curves import EPOCHS, RULE, make_engine, run, train
from tests.halving_samples import decisions, rule_of, work


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    engine = make_engine(tmp_path_factory.mktemp("run") / "l.sqlite", trials=60)
    run(engine)
    return engine


def test_some_trials_stop_at_rungs_and_are_pruned(finished: Engine) -> None:
    pruned = [t for t in finished.trials if t.state is State.PRUNED]
    assert 10 < len(pruned) < 50
    assert {t.evaluations[-1].epoch for t in pruned} <= {1, 3}
    for trial in pruned:
        assert trial.metrics == {}
        assert trial.error is None
    complete = [t for t in finished.trials if t.state is State.COMPLETE]
    assert len(complete) + len(pruned) == 60
    assert all(t.evaluations[-1].epoch == EPOCHS for t in complete)


def test_stopped_trials_never_enter_a_front(finished: Engine) -> None:
    pruned = {t.arch_id for t in finished.trials if t.state is State.PRUNED}
    entries = collect_entries(finished.trials, measured={}, validation_images=None)
    assert not pruned & {e.arch_id for e in entries}


def test_every_rung_of_every_trial_has_one_decision(finished: Engine) -> None:
    found = decisions(finished)
    reached = {
        (t.number, e.epoch) for t in finished.trials for e in t.evaluations if e.epoch in (1, 3)
    }
    assert set(found) == reached
    for trial in finished.trials:
        last = found.get((trial.number, trial.evaluations[-1].epoch))
        assert (trial.state is State.PRUNED) == (last is not None and last.stops)
    events = [kind for _, kind, _ in finished._ledger.events()]
    assert events.count(DECISION) == len(found)


def test_the_first_trials_are_trained_whole(finished: Engine) -> None:
    """Window 4 and four pairs: the ninth trial is the first that may stop."""
    found = decisions(finished)
    assert all(d.probability is None for d in found.values() if d.number < 8)
    assert all(d.probability is not None for d in found.values() if d.number == 8)


def test_controls_are_never_stopped(finished: Engine) -> None:
    controls = [t for t in finished.trials if is_control(0, t.number, 10)]
    assert len(controls) == 6
    assert all(t.state is State.COMPLETE for t in controls)
    spared = [d for d in decisions(finished).values() if d.exempt == "control" and d.wanted]
    assert spared, "the rule would have stopped one of them"


def test_a_repeat_of_a_known_network_is_never_stopped(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=60)
    run(engine)
    stopped = [d for d in decisions(engine).values() if d.stops][-1]
    victim = engine.trials[stopped.number]
    halving = engine._halving
    assert halving is not None
    trials = dict(engine._trials)
    again = dataclasses.replace(victim, number=60, seed=1, state=State.RUNNING)
    trials[60] = again
    decision, _ = halving.judge(again, victim.evaluations[0], trials, 0.0)
    assert decision is not None
    assert decision.exempt in {"repeat", "control"}
    assert not decision.stops


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_timing_changes_nothing(tmp_path: Path, sampler: str, workers: int) -> None:
    expected = make_engine(tmp_path / "a.sqlite", sampler=sampler)
    run(expected)
    engine = make_engine(tmp_path / "b.sqlite", sampler=sampler)
    run(engine, workers=workers, seed=workers)
    assert rule_of(engine) == rule_of(expected)
    assert history_hash(engine.trials) == history_hash(expected.trials)


def test_a_decision_looks_at_no_trial_of_its_window(finished: Engine) -> None:
    for d in decisions(finished).values():
        past = max(0, d.number - 4)
        assert d.cohort <= past + 1
        assert d.pairs == sum(
            t.state is State.COMPLETE and d.rung in {e.epoch for e in t.evaluations}
            for t in finished.trials[:past]
        )


@pytest.mark.parametrize("seed", range(6))
def test_a_driver_that_dies_anywhere_resumes_the_same_history(tmp_path: Path, seed: int) -> None:
    expected = make_engine(tmp_path / "a.sqlite", trials=30)
    run(expected)
    rng = random.Random(seed)
    reports = rng.sample(range(20, 120), 3)
    for stop_at in sorted(reports):
        engine = make_engine(tmp_path / "b.sqlite", trials=30)
        _run_reports(engine, stop_at - rng.randrange(20))
    engine = make_engine(tmp_path / "b.sqlite", trials=30)
    run(engine)
    assert rule_of(engine) == rule_of(expected)
    assert history_hash(engine.trials) == history_hash(expected.trials)


def _run_reports(engine: Engine, reports: int) -> None:
    """Trains until so many epochs were reported, and leaves everything as it is."""
    while isinstance(current := engine.next(), Work):
        for epoch in range(1, EPOCHS + 1):
            if (reports := reports - 1) < 0:
                return
            value = curves.accuracy(current.architecture, epoch, current.seed)
            if not engine.report(current, epoch, {"accuracy": value}):
                if reports % 3 == 0:
                    return  # between the decision and the end
                engine.end(current, Outcome(kind=OutcomeKind.STOPPED))
                break
        else:
            engine.end(current, Outcome(kind=OutcomeKind.COMPLETE))


def _until_stopped(engine: Engine) -> Work:
    """Trains until the engine stops a trial, which is not ended."""
    while True:
        current = work(engine)
        for epoch in range(1, EPOCHS + 1):
            value = curves.accuracy(current.architecture, epoch, current.seed)
            if not engine.report(current, epoch, {"accuracy": value}):
                return current
        engine.end(current, Outcome(kind=OutcomeKind.COMPLETE))


def test_a_stop_that_was_decided_is_carried_out_after_a_crash(tmp_path: Path) -> None:
    stopped = _until_stopped(make_engine(tmp_path / "l.sqlite", clock=iter(range(9999)).__next__))
    engine = make_engine(tmp_path / "l.sqlite")
    trial = engine.trials[stopped.number]
    assert trial.state is State.PRUNED
    assert trial.seconds > 0
    assert work(engine).number == stopped.number + 1
    reread = engine._ledger.trials()[stopped.number]
    assert reread.state is State.PRUNED


@pytest.mark.parametrize("kind", [OutcomeKind.LOST, OutcomeKind.RELEASED, OutcomeKind.FAILED])
def test_a_stopped_trial_is_pruned_however_its_worker_ends(
    tmp_path: Path, kind: OutcomeKind
) -> None:
    engine = make_engine(tmp_path / "l.sqlite")
    stopped = _until_stopped(engine)
    engine.end(stopped, Outcome(kind=kind, error="late"))
    assert engine.trials[stopped.number].state is State.PRUNED


def test_a_rung_that_comes_again_is_answered_as_before(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", order="async", retries=5)
    first = work(engine)
    assert engine.report(first, 1, {"accuracy": 0.01})
    for _ in range(12):
        train(engine, work(engine))
    engine.end(first, Outcome(kind=OutcomeKind.LOST))
    again = work(engine)
    assert again.number == first.number
    assert engine.report(again, 1, {"accuracy": 0.01}), "decided when nothing was known"
    assert not engine.report(again, 3, {"accuracy": 0.01})
    kinds = [d for _, k, d in engine._ledger.events() if k == DECISION and d["number"] == 0]
    assert [d["rung"] for d in kinds] == [1, 3]


def test_async_decisions_use_everything_there_is(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", order="async", trials=30)
    slow = work(engine)
    for _ in range(10):
        train(engine, work(engine))
    assert engine.report(slow, 1, {"accuracy": 0.9})
    decision = decisions(engine)[slow.number, 1]
    assert decision.cohort == 11
    assert decision.pairs >= 4


def test_a_value_that_is_not_finite_still_fails(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite")
    bad = work(engine)
    assert not engine.report(bad, 1, {"accuracy": float("nan")})
    engine.end(bad, Outcome(kind=OutcomeKind.STOPPED))
    assert engine.trials[0].state is State.FAILED
    assert decisions(engine) == {}


def test_failed_trials_are_no_rivals(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", window=1)
    failing = work(engine)
    engine.report(failing, 1, {"accuracy": 0.99})
    engine.end(failing, Outcome(kind=OutcomeKind.FAILED, error="no memory"))
    for _ in range(3):
        train(engine, work(engine))
    assert decisions(engine)[3, 1].cohort == 2, "trial 1 and itself, not trial 0"
    assert engine._observation(engine.trials[0]).rungs == {}


def test_samplers_hear_rungs_and_that_a_trial_was_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=40)
    heard: list[Observation] = []
    monkeypatch.setattr(engine._sampler, "tell", heard.append)
    run(engine)
    by_number = {o.number: o for o in heard}
    assert len(by_number) == 35
    assert {o.pruned for o in heard} == {True, False}
    for number, observation in by_number.items():
        trial = engine.trials[number]
        assert observation.pruned == (trial.state is State.PRUNED)
        assert (observation.values is None) == observation.pruned
        values = {e.epoch: e.metrics["accuracy"] for e in trial.evaluations if e.epoch in (1, 3)}
        assert observation.rungs == values


def test_without_halving_nothing_of_it_is_there(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", rule=None, trials=12)
    run(engine)
    assert {t.state for t in engine.trials} == {State.COMPLETE}
    assert engine._ledger.events() == []
    assert engine._observation(engine.trials[0]).rungs == {}


# A rung that ranks too badly


def _noise(engine: Engine, trials: int) -> None:
    """The first rung says nothing, the second everything."""
    for _ in range(trials):
        current = work(engine)
        rng = random.Random(current.number)
        noise, value = rng.random(), rng.random()
        for epoch in range(1, EPOCHS + 1):
            reported = noise if epoch < 3 else value * epoch / EPOCHS
            if not engine.report(current, epoch, {"accuracy": reported}):
                engine.end(current, Outcome(kind=OutcomeKind.STOPPED))
                break
        else:
            engine.end(current, Outcome(kind=OutcomeKind.COMPLETE))


def test_a_first_rung_that_ranks_badly_is_raised_for_good(tmp_path: Path) -> None:
    rule = HalvingSettings(min_pairs=6)
    engine = make_engine(tmp_path / "a.sqlite", rule=rule, trials=60)
    _noise(engine, 60)
    (raised,) = [data for _, kind, data in engine._ledger.events() if kind == RAISED]
    assert raised["rung"] == 1
    assert raised["value"] < 0.5
    before = raised["before"]
    assert 8 < before < 60
    assert {r for n, r in decisions(engine) if n >= before} == {3}
    assert {r for n, r in decisions(engine) if n < before} == {1, 3}
    again = make_engine(tmp_path / "a.sqlite", rule=rule, trials=61)
    assert work(again).rungs == (3,)


def test_raising_survives_a_crash_at_the_same_place(tmp_path: Path) -> None:
    expected = make_engine(tmp_path / "a.sqlite", trials=50)
    _noise(expected, 50)
    for part in (13, 9, 11):
        engine = make_engine(tmp_path / "b.sqlite", trials=50)
        _noise(engine, part)
    engine = make_engine(tmp_path / "b.sqlite", trials=50)
    _noise(engine, 50 - 33)
    assert rule_of(engine) == rule_of(expected)


def test_a_good_rung_is_not_raised(finished: Engine) -> None:
    assert not [kind for _, kind, _ in finished._ledger.events() if kind == RAISED]


# What is said about it


def _summary(engine: Engine) -> dict[str, Any]:
    return halving_json(
        RULE,
        objectives={"accuracy": "max", "params": "min"},
        reference_point={"accuracy": 0.0, "params": 1000.0},
        epochs=EPOCHS,
        trials=engine.trials,
        events=engine._ledger.events(),
        front_ids={t.arch_id for t in engine.trials if t.state is State.COMPLETE},
    )


def test_summary(finished: Engine) -> None:
    found = _summary(finished)
    pruned = [t for t in finished.trials if t.state is State.PRUNED]
    assert found["stopped"] == len(pruned)
    trained = sum(len(t.evaluations) for t in finished.trials)
    assert (found["epochs"], found["epochs_saved"]) == (trained, 60 * EPOCHS - trained)
    assert [r["epochs"] for r in found["rungs"]] == [1, 3]
    assert sum(r["stopped"] for r in found["rungs"]) == len(pruned)
    assert 0 < found["rungs"][0]["correlation"] <= found["rungs"][1]["correlation"] <= 1
    controls = found["controls"]
    assert controls["on_front"] == controls["would_be_stopped"] > 0, "all COMPLETE are in ids"
    assert controls["wrongly_stopped"] == 1.0
    lines = halving_lines(found)
    assert lines[0].startswith(f"{len(pruned)} trials stopped early, ")
    assert lines[-1].startswith("wrongly stopped: ")


def test_cool_downs_are_counted(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite", trials=1)
    only = work(engine)
    for epoch in range(1, EPOCHS + 1):
        branch = {"cooldown_seconds": 1.0} if epoch in (1, 3) else {}
        engine.report(only, epoch, {"accuracy": 0.5, **branch})
    engine.end(only, Outcome(kind=OutcomeKind.COMPLETE))
    found = _summary(engine)
    assert found["epochs"] == pytest.approx(9 + 0.3 * 4)
    assert found["epochs_saved"] == pytest.approx(-0.3 * 4)
    assert found["controls"]["wrongly_stopped"] is None
    assert halving_lines(found)[0] == (
        "0 trials stopped early; with their cool-downs, trainings took 13% more epochs than without"
    )


def test_the_cooled_down_value_decides_where_there_is_one(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "l.sqlite")
    engine.report(work(engine), 1, {"accuracy": 0.2, "rung_accuracy": 0.7})
    assert decisions(engine)[0, 1].value == 0.7
    assert engine._observation(engine.trials[0]).rungs == {1: 0.7}


def test_exactly_one_objective_may_be_learned() -> None:
    objectives = {"accuracy": "max", "latency_ms": "min", "params": "min"}
    assert objective_problems(objectives, ["params", "latency_ms"]) == []  # type: ignore[arg-type]
    (problem,) = objective_problems(objectives, ["params"])  # type: ignore[arg-type]
    assert "training decides accuracy, latency_ms;" in problem
    (problem,) = objective_problems({"params": "min"}, ["params"])
    assert "training decides none of them;" in problem


def test_the_report_has_a_section_and_the_summary_a_line(finished: Engine) -> None:
    from nasctl.report.files import markdown
    from nasctl.report.halving import halving_section
    from tests.sample_view import view as sample_view

    view = sample_view()
    assert halving_section(view) == ""
    found = _summary(finished)
    with_halving = dataclasses.replace(
        view, front={**view.front, "halving": found}, trials=tuple(finished.trials)
    )
    html = halving_section(with_halving)
    assert html.count("<tr>") == 3
    assert html.count("<polyline") == 60
    assert html.count("stroke-dasharray") == 2
    assert f"{found['stopped']} trials stopped early" in html
    assert f"- {halving_lines(found)[0]}" in markdown(with_halving, "picture.png")


def test_a_raised_rung_is_said_everywhere() -> None:
    rung = {"epochs": 1, "decided": 9, "stopped": 2, "correlation": None, "pairs": 3}
    controls = {"would_be_stopped": 0, "on_front": 0, "wrongly_stopped": None, "interval": None}
    found = {
        "stopped": 2, "epochs": 10.0, "epochs_saved": 4.0, "controls": controls,
        "rungs": [{**rung, "raised_before": 30}],
    }  # fmt: skip
    assert halving_lines(found) == [
        "2 trials stopped early, 29% of the epochs saved",
        "rung 1: 2 of 9 stopped; nothing to rank (n = 3), decides nothing from trial 30 on",
    ]
    assert halving_lines({**found, "stopped": 1})[0].startswith("1 trial stopped early, 29% of")
    silent = {**rung, "decided": 0, "stopped": 0, "pairs": 0, "raised_before": None}
    assert halving_lines({**found, "rungs": [silent]})[1:] == [
        "rung 1: no trial has reported a value there"
    ]
    assert halving_lines(None) == []
