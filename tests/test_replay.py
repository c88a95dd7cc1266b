"""An earlier run's results on a simulated cluster."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nasctl.arch import Cost
from nasctl.errors import ConfigError
from nasctl.executors.simulated import CLOCK, SimulatedExecutor
from nasctl.history import history_hash
from nasctl.ledger import Ledger
from nasctl.replay import Recording, ReplayJob, load_recording, replayed_family
from nasctl.rungs import HalvingSettings
from nasctl.trial import Evaluation, OutcomeKind, State, Trial, Work
from tests import toy
from tests.e2e.command import TABLE, TOY, Desk
from tests.executor_jobs import RecordingEngine, ScriptedJob
from tests.toy import make_engine

CONFIG: dict[str, Any] = {
    "space": {"family": "toy", "options": {}},
    "data": {"name": "digits"},
    "recipe": {"epochs": 2, "lr": 0.1},
    "objectives": {"accuracy": "max", "params": "min"},
}


def trained(
    number: int, depth: int, width: int, *, seed: int = 0, state: State = State.COMPLETE,
    seconds: float = 10.0, own: tuple[float, ...] = (), cooldown: float = 0.0,
) -> Trial:  # fmt: skip
    """A training of the toy table whose accuracy depends on the seed as well."""
    choices = {"depth": depth, "width": width}
    architecture = toy.decode(choices)
    final = toy.accuracy(architecture) + 0.001 * seed
    epochs = tuple(
        Evaluation(
            epoch=e,
            metrics={
                "accuracy": final * e / 2,
                **({"seconds": own[e - 1]} if own else {}),
                **({"cooldown_seconds": cooldown} if cooldown and e == 1 else {}),
            },
        )
        for e in (1, 2)
    )
    cost = Cost(params=toy.cost(architecture)["params"] + 0.5)  # as recorded, not as computed
    return Trial(
        number=number,
        state=state,
        choices=choices,
        architecture=architecture,
        seed=seed,
        epochs=2,
        cost=cost,
        evaluations=epochs,
        metrics={**epochs[-1].metrics, **cost} if state is State.COMPLETE else {},
        error=None if state is State.COMPLETE else "no",
        seconds=seconds,
    )


def record(path: Path, trials: list[Trial], config: Mapping[str, Any] = CONFIG) -> Path:
    """A run's folder that holds these trials."""
    path.mkdir(parents=True)
    ledger = Ledger(path / "ledger.sqlite", {})
    ledger.set_meta(config=config, validation_images=360)
    for trial in trials:
        ledger.put_trial(trial)
        for evaluation in trial.evaluations:
            ledger.put_evaluation(trial.number, evaluation)
    ledger.close()
    return path


def work(depth: int, width: int, *, seed: int = 0, rungs: tuple[int, ...] = ()) -> Work:
    architecture = toy.decode({"depth": depth, "width": width})
    return Work(
        number=0, attempt=1, architecture=architecture, seed=seed, epochs=2, rungs=rungs
    )  # fmt: skip


def test_what_is_read_of_a_run(tmp_path: Path) -> None:
    failed = trained(1, 3, 3, state=State.FAILED)
    run = record(tmp_path / "run", [trained(0, 1, 1), failed, trained(2, 1, 1, seed=1)])
    recording = load_recording(str(run), {}, CONFIG)
    assert [t.number for t in recording.trials] == [0, 2]
    assert recording.validation_images == 360
    assert recording.cost(toy.decode({"depth": 1, "width": 1})) == {"params": 210.5}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"space": {"family": "toy", "options": {"size": 9}}}, "space: not that of .*/run; replay"),
        ({"recipe": {"epochs": 3, "lr": 0.1}}, "recipe.epochs: not that of .*/run: 2, here 3"),
        ({"data": {"name": "npz"}}, "data: not that of"),
        ({"objectives": {"acuracy": "max"}}, "objectives: .*'acuracy'; did you mean 'accuracy'"),
    ],
)
def test_another_problem_than_the_recorded_one_is_refused(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    run = record(tmp_path / "run", [trained(0, 1, 1)])
    with pytest.raises(ConfigError, match=problem):
        load_recording(str(run), {}, {**CONFIG, **change})
    # The recipe beside its epochs was the earlier run's: nothing is trained.
    load_recording(str(run), {}, {**CONFIG, "recipe": {"epochs": 2, "lr": 0.2}})


def test_one_file_may_be_named_in_two_ways(tmp_path: Path) -> None:
    whole = {"name": "npz", "path": str(Path.cwd() / "x.npz")}
    run = record(tmp_path / "run", [trained(0, 1, 1)], {**CONFIG, "data": whole})
    load_recording(str(run), {}, {**CONFIG, "data": {"name": "npz", "path": "x.npz"}})
    with pytest.raises(ConfigError, match="data: not that of"):
        load_recording(str(run), {}, {**CONFIG, "data": {"name": "npz", "path": "y.npz"}})


def test_no_run_and_nothing_in_it_are_one_line(tmp_path: Path) -> None:
    run = record(tmp_path / "recorded", [trained(0, 1, 1, state=State.FAILED)])
    with pytest.raises(ConfigError, match=r"replay\.run: .*no finished training in it"):
        load_recording(str(run), {}, CONFIG)
    with pytest.raises(
        ConfigError, match=r"replay\.run: .*no run here.*did you mean .*recorded"
    ) as e:
        load_recording(str(tmp_path / "recordde"), {}, CONFIG)
    assert e.value.exit_code == 2
    assert "\n" not in str(e.value)


def test_every_choice_leads_to_a_network_that_was_trained() -> None:
    recording = Recording(
        trials=(trained(0, 1, 1), trained(1, 6, 6), trained(2, 0, 3)), validation_images=None
    )
    family = replayed_family(toy.toy_family(), recording)
    networks = {t.arch_id for t in recording.trials}
    for choices in family.space.enumerate():
        assert family.decode(choices).id in networks
    at = lambda depth, width: family.decode({"depth": depth, "width": width})  # noqa: E731
    assert toy.fields(at(5, 7)) == (6, 6)
    assert toy.fields(at(1, 2)) == (1, 1)
    # Another spelling of a network that was trained is that network, however near others are.
    assert at(0, 0).id == recording.trials[2].arch_id
    assert family.cost is not None
    assert family.cost(at(6, 6)) == recording.trials[1].cost


def test_seeds_are_those_of_the_run_and_then_go_in_circles() -> None:
    recording = Recording(
        trials=(trained(0, 1, 1, seed=3), trained(1, 1, 1, seed=4)), validation_images=None
    )
    job = ReplayJob(recording=recording)
    last = [list(job(work(1, 1, seed=s)))[-1] for s in (3, 4, 5, 6, 0)]
    base = toy.accuracy(toy.decode({"depth": 1, "width": 1}))
    found = [round((m["accuracy"] - base) * 1000) for m in last]
    assert found == [3, 4, 4, 3, 3]
    assert [m.epoch for m in job(work(1, 1))] == [1, 2]


@pytest.mark.parametrize(
    ("trial", "rungs", "expected"),
    [
        (trained(0, 1, 1, seconds=10), (), {1: 5, 2: 5}),
        (trained(0, 1, 1, seconds=10, own=(1, 3)), (), {1: 2.5, 2: 7.5}),
        (trained(0, 1, 1, seconds=12, own=(2, 2), cooldown=2), (1,), {1: 8, 2: 4}),
        (trained(0, 1, 1, seconds=12, own=(2, 2), cooldown=2), (), {1: 4, 2: 4}),
        # The last attempt went on from a checkpoint: its time is not that of the training.
        (trained(0, 1, 1, seconds=3, own=(2, 2)), (), {1: 2, 2: 2}),
    ],
)
def test_epochs_take_the_time_that_they_took(
    trial: Trial, rungs: tuple[int, ...], expected: dict[int, float]
) -> None:
    job = ReplayJob(recording=Recording(trials=(trial,), validation_images=None))
    assert job.seconds(work(1, 1, rungs=rungs)) == pytest.approx(expected)


def test_a_cool_down_is_told_at_the_rungs_of_the_replay_alone() -> None:
    """Its epochs would be counted as spent, and its value is not that of this rung."""
    trial = trained(0, 1, 1, seconds=12, own=(2, 2), cooldown=2)
    first = dataclasses.replace(
        trial.evaluations[0], metrics={**trial.evaluations[0].metrics, "rung_accuracy": 0.4}
    )
    trial = dataclasses.replace(trial, evaluations=(first, *trial.evaluations[1:]))
    job = ReplayJob(recording=Recording(trials=(trial,), validation_images=None))
    with_rung, without = (next(iter(job(work(1, 1, rungs=r)))) for r in ((1,), ()))
    assert with_rung == first.metrics
    assert with_rung.keys() - without.keys() == {"cooldown_seconds", "rung_accuracy"}


def test_an_evaluator_that_reports_once_took_its_time_for_that() -> None:
    trial = trained(0, 1, 1)
    trial = dataclasses.replace(trial, evaluations=trial.evaluations[1:])
    job = ReplayJob(recording=Recording(trials=(trial,), validation_images=None))
    assert job.seconds(work(1, 1)) == {2: 10.0}


def recorded_everything() -> Recording:
    rng = random.Random(5)
    spots = [(d, w) for d in range(8) for w in range(8) if d or not w]
    trials = [trained(n, d, w, seconds=rng.expovariate(0.1)) for n, (d, w) in enumerate(spots)]
    return Recording(trials=tuple(trials), validation_images=None)


def replay(
    path: Path, *, workers: int, crash_rate: float = 0.0, sampler: str = "random", **settings: Any
) -> tuple[str, SimulatedExecutor, list[Trial]]:
    """The hash of the history of a replay, and its executor."""
    recording = recorded_everything()
    family = replayed_family(toy.toy_family(), recording)
    job = ReplayJob(recording=recording)
    executor = SimulatedExecutor(
        workers=workers, seconds=job.seconds, crash_rate=crash_rate, seed=7
    )
    engine = make_engine(
        path, family=family, sampler=sampler, trials=40, clock=lambda: executor.clock, **settings
    )
    executor.run(engine, job)
    return history_hash(engine.trials), executor, engine.trials


@pytest.mark.parametrize("crash_rate", [0.0, 0.3])
@pytest.mark.parametrize("sampler", ["nsga2", "random"])
def test_the_history_is_the_same_for_any_number_of_workers(
    tmp_path: Path, crash_rate: float, sampler: str
) -> None:
    found = {
        w: replay(tmp_path / f"{w}.sqlite", workers=w, crash_rate=crash_rate, sampler=sampler)
        for w in (1, 2, 8)
    }
    hashes = {h for h, _, _ in found.values()}
    assert len(hashes) == 1
    one, two, eight = (found[w][1] for w in (1, 2, 8))
    assert one.clock > two.clock > eight.clock
    assert one.busy == pytest.approx(two.busy) == pytest.approx(eight.busy)
    assert one.busy == pytest.approx(one.clock)  # a single worker is never idle
    states = {t.state for t in found[1][2]}
    assert states == ({State.COMPLETE, State.FAILED} if crash_rate else {State.COMPLETE})
    assert any(t.attempts > 1 for t in found[8][2]) == bool(crash_rate)
    # Another seed crashes other trainings; without crashes all of them come to their end.
    plain = replay(tmp_path / "plain.sqlite", workers=2, sampler=sampler)
    assert (plain[0] in hashes) == (crash_rate == 0)


@pytest.mark.parametrize("crash_rate", [0.0, 0.3])
def test_early_stopping_is_the_same_for_any_number_of_workers_and_takes_less_time(
    tmp_path: Path, crash_rate: float
) -> None:
    rule = HalvingSettings(first=1, eta=2, p_stop=0.5, min_pairs=3)
    found = {
        w: replay(tmp_path / f"{w}.sqlite", workers=w, crash_rate=crash_rate, halving=rule)
        for w in (1, 2, 8)
    }
    assert len({h for h, _, _ in found.values()}) == 1
    pruned = [t for t in found[1][2] if t.state is State.PRUNED]
    assert pruned
    assert all([e.epoch for e in t.evaluations] == [1] for t in pruned)
    whole = replay(tmp_path / "whole.sqlite", workers=1, crash_rate=crash_rate)
    assert found[1][1].busy < whole[1].busy


def test_results_come_in_the_order_of_the_simulated_clock(tmp_path: Path) -> None:
    _, executor, trials = replay(tmp_path / "l.sqlite", workers=4, order="async")
    recorded = {t.arch_id: t for t in recorded_everything().trials}
    for trial in trials:
        clocks = [e.metrics[CLOCK] for e in trial.evaluations]
        assert trial.seconds == pytest.approx(recorded[trial.arch_id].seconds)
        assert clocks[1] - clocks[0] == pytest.approx(trial.seconds / 2)
    ends = [t.metrics[CLOCK] for t in trials]
    assert max(ends) == executor.clock
    starts = sorted(e - t.seconds for e, t in zip(ends, trials, strict=True))
    assert starts[:4] == pytest.approx([0, 0, 0, 0], abs=1e-9)
    assert sum(executor.clock > s for s in starts) == 40


def simulated(engine: RecordingEngine, **settings: Any) -> SimulatedExecutor:
    """Epochs of one second, four in parallel."""
    executor = SimulatedExecutor(
        workers=4, seconds=lambda w: dict.fromkeys(range(1, w.epochs + 1), 1.0), **settings
    )
    executor.run(engine, ScriptedJob())
    assert not engine.flying
    return executor


def test_a_stopped_training_takes_only_the_epochs_that_it_ran() -> None:
    engine = RecordingEngine(["fine"] * 4, epochs=10, stop_at=2)
    executor = simulated(engine)
    assert engine.outcomes[2, 1].kind is OutcomeKind.STOPPED
    assert executor.clock == 10
    assert executor.busy == 31


def test_a_crash_is_a_loss_and_takes_the_time_until_it() -> None:
    engine = RecordingEngine(["fine"] * 40, epochs=10)
    executor = simulated(engine, crash_rate=0.5)
    lost = {number for (number, a), o in engine.outcomes.items() if o.kind is OutcomeKind.LOST}
    assert 10 < len(lost) < 40
    first = [n for (n, a), o in engine.outcomes.items() if o.kind is OutcomeKind.LOST and a == 1]
    reached = [len(engine.reports.get((n, 1), ())) for n in first]
    assert min(reached) < 3
    assert max(reached) > 6
    assert all(r < 10 for r in reached)
    complete = sum(o.kind is OutcomeKind.COMPLETE for o in engine.outcomes.values())
    assert 10 * complete < executor.busy < 10 * len(engine.outcomes)


def test_a_training_that_takes_too_long_times_out() -> None:
    engine = RecordingEngine(["fine"] * 2, epochs=10)
    executor = simulated(engine, timeout_s=2.5)
    assert {o.error for o in engine.outcomes.values()} == {"timed out after 2.5 simulated s"}
    assert [e for e, _ in engine.reports[0, 1]] == [1, 2]
    assert executor.clock == 2.5


REPLAY = ("evaluator=replay", "replay.run=runs/toy", "sampler=random")


def test_a_replay_on_the_command_line_and_its_continuation(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tmp_path / "cache")
    desk.write("toy.yaml", TOY)
    desk.write("toy_table.py", TABLE)
    desk.run("search", "toy.yaml", "executor=inline", "--plugin", "toy_table")
    again = ("search", "toy.yaml", *REPLAY, "--plugin", "toy_table", "trials=8")
    _, err = desk.run(*again, "name=two", "replay.workers=2", "--progress", "plain")
    assert "simulated: " in err
    assert "on 2 workers, utilisation" in err
    desk.run(*again, "name=eight", "replay.workers=8")
    two, eight = desk.trials("two"), desk.trials("eight")
    assert history_hash(two) == history_hash(eight)
    recorded = {t.arch_id: t for t in desk.trials("toy")}
    assert {t.arch_id for t in two} <= set(recorded)
    for trial in two:
        assert trial.cost == recorded[trial.arch_id].cost
        assert trial.metrics["accuracy"] == recorded[trial.arch_id].metrics["accuracy"]
    # Continued with more trials, the clock goes on.
    desk.run(*again[:-1], "trials=12", "name=two", "replay.workers=2")
    longer = desk.trials("two")
    before = max(t.metrics[CLOCK] for t in two)
    assert len(longer) == 12
    assert min(t.metrics[CLOCK] for t in longer[8:]) > before
    ledger = Ledger(desk.folder / "runs/two/ledger.sqlite", {}, readonly=True)
    simulation = ledger.meta("simulation")
    ledger.close()
    assert simulation["workers"] == 2
    assert simulation["seconds"] == max(t.metrics[CLOCK] for t in longer)
    assert simulation["busy_seconds"] == pytest.approx(sum(t.seconds for t in longer))
    front = json.loads(desk.run("front", "runs/two", "--json")[0])
    assert front["trials"]["COMPLETE"] == 12
    _, err = desk.run(*again, "name=none", "replay.run=runs/toyy", code=2)
    assert "replay.run: runs/toyy: no run here" in err
    assert "did you mean runs/toy?" in err
