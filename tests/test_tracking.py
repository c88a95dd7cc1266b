"""Projection of a run into a real SQLite store: idempotent, complete, clean."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tracking_records import START, FakeRecords, make_trial, open_fake

from nasctl.tracking import (
    ProjectionState,
    Tracker,
    TrackingSettings,
    project,
    sync,
)
from nasctl.trial import Evaluation, State
from tests.tracking_store import contents, latest, latest_after, rows, tags_of

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: creating its tables takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def settings(output_dir: Path, request: pytest.FixtureRequest) -> TrackingSettings:
    """An experiment of its own for each test."""
    return TrackingSettings(output_dir=output_dir, experiment=request.node.name)


class TestProjection:
    def test_again_from_nothing_writes_nothing(self, settings: TrackingSettings) -> None:
        records = FakeRecords([make_trial(n) for n in range(4)], status="FINISHED")
        first = sync(records, settings)
        assert (first.pending, first.problem) == (0, None)
        before = contents(settings)
        assert sync(records, settings).sent == 0
        assert contents(settings) == before
        assert [r[0] for r in before["runs"]] == [
            "000 " + records.rows[0].arch_id,
            "001 " + records.rows[1].arch_id,
            "002 " + records.rows[2].arch_id,
            "003 " + records.rows[3].arch_id,
            "mbv2_space",
        ]
        assert len(before["metrics"]) == 4 * (3 * 4 + 3) + 4 + 6  # epochs, costs; curve, progress

    def test_piecewise_and_whole_end_the_same(
        self, settings: TrackingSettings, output_dir: Path
    ) -> None:
        # Trial by trial, epoch by epoch, with a process lost on the way, or everything at once.
        state = ProjectionState()
        done = [make_trial(0)]
        for number in (1, 2):
            for epochs in (1, 2, 3):
                running = make_trial(number, epochs=epochs, state=State.RUNNING)
                assert project(FakeRecords([*done, running]), settings, state).problem is None
            done.append(make_trial(number))
            state = ProjectionState()
        final = FakeRecords(done, status="FINISHED")
        assert project(final, settings, state).pending == 0

        whole = dataclasses.replace(settings, experiment="whole")
        assert sync(final, whole).pending == 0
        piecewise, at_once = contents(settings), contents(whole)
        for table in ("runs", "params"):
            assert piecewise[table] == at_once[table]
        history = [row for row in at_once["metrics"] if not row[1].startswith(("trials_", "best_"))]
        assert {row[:4] for row in history} <= {row[:4] for row in piecewise["metrics"]}
        for name in [row[0] for row in at_once["runs"]]:
            assert latest(settings, name) == latest(whole, name)
        state_of = functools.partial(tags_of, key="state")
        assert state_of(settings) == state_of(whole)

    def test_epochs_are_there_once_each(self, settings: TrackingSettings) -> None:
        state = ProjectionState()
        for epochs in (1, 2, 3):
            row = make_trial(0, epochs=epochs, state=State.RUNNING)
            project(FakeRecords([row]), settings, state)
            project(FakeRecords([row]), settings, ProjectionState())
        steps = rows(
            settings,
            "SELECT step, value FROM metrics JOIN mine USING (run_uuid) "
            "WHERE key='accuracy' ORDER BY 1",
        )
        assert [s for s, _ in steps] == [1, 2, 3]
        assert [v for _, v in steps] == pytest.approx([0.72, 0.74, 0.76])

    def test_a_retried_trial_shows_only_its_last_attempt(self, settings: TrackingSettings) -> None:
        lost = make_trial(0, epochs=2, state=State.RUNNING)
        sync(FakeRecords([lost]), settings)
        again = make_trial(0, epochs=1, state=State.RUNNING, attempts=2, started_at=START + 99)
        sync(FakeRecords([again]), settings)
        assert len(tags_of(settings, "nasctl.trial_uid")) == 1
        assert latest(settings, f"000 {again.arch_id}")["loss"] == 1.0
        assert rows(settings, "SELECT count(*) FROM metrics JOIN mine USING (run_uuid) "
                    "WHERE key='loss'") == [(1,)]  # fmt: skip

    def test_nothing_that_is_not_finite_is_sent(self, settings: TrackingSettings) -> None:
        bad = make_trial(0, epochs=0, state=State.FAILED, error="the loss became NaN in epoch 2")
        bad = dataclasses.replace(
            bad,
            evaluations=(Evaluation(epoch=1, metrics={"loss": math.nan, "val_loss": math.inf}),),
            metrics={"accuracy": -math.inf},
        )
        records = FakeRecords([bad])
        assert sync(records, settings).problem is None
        values = rows(settings, "SELECT key, value, is_nan FROM metrics JOIN mine USING (run_uuid)")
        assert values
        assert all(abs(v) < 1e300 and not nan for _, v, nan in values)
        assert {k for k, _, _ in values}.isdisjoint({"loss", "val_loss", "accuracy"})
        name = f"000 {bad.arch_id}"
        assert tags_of(settings, "failure") == {name: "the loss became NaN in epoch 2"}
        assert rows(settings, f"SELECT status FROM mine WHERE name='{name}'") == [("FAILED",)]

    def test_pareto_tags_follow_the_front(self, settings: TrackingSettings) -> None:
        trials = [make_trial(0), make_trial(1), make_trial(2, state=State.PRUNED)]
        names = [f"{t.number:03d} {t.arch_id}" for t in trials]
        records = FakeRecords(trials, front={trials[0].arch_id, trials[2].arch_id})
        state = ProjectionState()
        project(records, settings, state)
        flags = ("true", "false", "false")
        assert tags_of(settings, "pareto") == dict(zip(names, flags, strict=True))
        records.front = {trials[1].arch_id}
        assert project(records, settings, state).sent == 3  # both trials and the note
        flags = ("false", "true", "false")
        assert tags_of(settings, "pareto") == dict(zip(names, flags, strict=True))

    @pytest.mark.parametrize(
        ("status", "shown", "state"),
        [
            ("RUNNING", "RUNNING", "RUNNING"),
            ("INTERRUPTED", "KILLED", "INTERRUPTED"),
            ("FAILED", "KILLED", "INTERRUPTED"),
        ],
    )
    def test_unfinished_trials_of_a_dead_search_do_not_run_for_ever(
        self, settings: TrackingSettings, status: str, shown: str, state: str
    ) -> None:
        trial = make_trial(0, epochs=1, state=State.RUNNING)
        sync(FakeRecords([trial]), settings)
        sync(FakeRecords([trial], status=status), settings)
        name = f"000 {trial.arch_id}"
        assert rows(settings, f"SELECT status FROM mine WHERE name='{name}'") == [(shown,)]
        assert tags_of(settings, "state")[name] == state

    def test_a_continued_search_runs_again(self, settings: TrackingSettings) -> None:
        records = FakeRecords([make_trial(0)], status="INTERRUPTED")
        sync(records, settings)
        sync(dataclasses.replace(records, status="RUNNING"), settings)
        assert rows(settings, "SELECT status FROM mine WHERE name='mbv2_space'") == [("RUNNING",)]

    def test_a_raised_number_of_trials_is_no_conflict(self, settings: TrackingSettings) -> None:
        records = FakeRecords([make_trial(0)])
        sync(records, settings)
        records.config = {**records.config, "trials": 48, "seed": 7}
        assert sync(records, settings).problem is None
        assert tags_of(settings, "config.trials") == {"mbv2_space": "48"}
        assert tags_of(settings, "config.seed") == {"mbv2_space": "7"}  # not allowed, but shown

    def test_hypervolume_over_trials(self, settings: TrackingSettings) -> None:
        # Trial 1 is still open, so what comes after it may change and is held back.
        trials = [make_trial(n) for n in range(4)]
        trials[1] = make_trial(1, epochs=1, state=State.RUNNING)
        state = ProjectionState()
        project(FakeRecords(trials), settings, state)
        query = (
            "SELECT step, value FROM metrics JOIN mine USING (run_uuid) WHERE key='hypervolume' "
            "ORDER BY 1"
        )
        assert rows(settings, query) == [(0, 0.1)]
        trials[1] = make_trial(1)
        project(FakeRecords(trials), settings, state)
        assert [s for s, _ in rows(settings, query)] == [0, 1, 2, 3]
        assert latest(settings, "mbv2_space")["hypervolume"] == pytest.approx(0.4)

    def test_measured_latency_arrives_later(self, settings: TrackingSettings) -> None:
        trial = make_trial(0)
        records = FakeRecords([trial], status="FINISHED")
        sync(records, settings)
        for p50 in (0.9, 0.6):  # measured again: the newest counts, not the largest
            records.measurements = {trial.arch_id: {"p50_ms": p50}}
            sync(records, settings)
            assert latest(settings, f"000 {trial.arch_id}")["latency_ms_measured"] == p50

    def test_a_final_accuracy_of_its_own_is_the_latest(self, settings: TrackingSettings) -> None:
        trial = make_trial(0)
        trial = dataclasses.replace(trial, metrics={**trial.metrics, "accuracy": 0.71})
        assert latest_after(trial, settings)["accuracy"] == 0.71
        assert latest_after(trial, settings)["accuracy"] == 0.71

    def test_children_know_their_parent(self, settings: TrackingSettings) -> None:
        sync(FakeRecords([make_trial(0), make_trial(1)]), settings)
        ((parent,),) = rows(settings, "SELECT run_uuid FROM mine WHERE name='mbv2_space'")
        assert set(tags_of(settings, "mlflow.parentRunId").values()) == {parent}

    def test_runs_deleted_by_hand_come_back_once(self, settings: TrackingSettings) -> None:
        records = FakeRecords([make_trial(n) for n in range(3)])
        state = ProjectionState()
        project(records, settings, state)
        client = state.store.client
        client.delete_run(state.runs["run-1"].run_id)
        client.delete_run(state.runs["run-1:1"].run_id)
        records.rows = [*records.rows, make_trial(3)]
        records.front = {records.rows[1].arch_id}
        result = project(records, settings, state)
        assert (result.pending, result.problem) == (0, None)
        ((parent,),) = rows(settings, "SELECT run_uuid FROM mine WHERE name='mbv2_space'")
        assert len(tags_of(settings, "nasctl.trial_uid")) == 4
        assert set(tags_of(settings, "mlflow.parentRunId").values()) == {parent}

    def test_copies_and_orphans_are_cleared_up(self, settings: TrackingSettings) -> None:
        # Two processes that create at once, and a trial that the ledger does not have.
        records = FakeRecords([make_trial(0)], status="FINISHED")
        state = ProjectionState()
        project(records, settings, state)
        for number in (0, 77):
            state.store.client.create_run(
                state.store.experiment_id,
                tags={"nasctl.trial_uid": f"run-1:{number}"},
                run_name=f"stray {number}",
            )
        sync(records, settings)
        assert rows(settings, "SELECT name, status FROM mine ORDER BY 1") == [
            (f"000 {records.rows[0].arch_id}", "FINISHED"),
            ("mbv2_space", "FINISHED"),
            ("stray 77", "KILLED"),
        ]

    def test_artifacts_go_where_they_belong(
        self, settings: TrackingSettings, tmp_path: Path
    ) -> None:
        trial = make_trial(0)
        report = tmp_path / "report.html"
        report.write_text("<p>1</p>")
        weights = tmp_path / f"{trial.arch_id}-s0.safetensors"
        weights.write_bytes(b"0" * (2 << 20))
        records = FakeRecords([trial], files=[(report, ""), (weights, "models")])
        state = ProjectionState()
        project(records, settings, state)
        root = settings.output_dir / "mlartifacts"
        stored = functools.partial(lambda p: sorted(x.name for x in p.rglob("*") if x.is_file()))
        own, parent = (state.runs[k].run_id for k in ("run-1:0", "run-1"))
        assert stored(root / parent) == ["report.html"]
        assert not (root / own).exists()  # large: not while the search is training
        records.status = "FINISHED"
        report.write_text("<p>2</p>")
        assert project(records, settings, state).sent == 3
        assert stored(root / own / "artifacts" / "models") == [weights.name]
        assert (root / parent / "artifacts" / "report.html").read_text() == "<p>2</p>"
        assert sync(records, settings).sent == 0
        without = dataclasses.replace(settings, artifacts=False, experiment="bare")
        assert sync(records, without).pending == 0
        assert rows(without, "SELECT value FROM tags JOIN mine USING (run_uuid) "
                    "WHERE key='nasctl.artifacts'") == []  # fmt: skip

    def test_stops_between_calls(self, settings: TrackingSettings) -> None:
        records = FakeRecords([make_trial(n) for n in range(5)])
        calls = iter([False, False, False, False, True])
        result = project(records, settings, ProjectionState(), interrupted=lambda: next(calls))
        assert (result.sent, result.pending, result.problem) == (3, 3, None)
        late = project(records, settings, ProjectionState(), deadline=0.0)
        assert (late.sent, late.problem) == (0, None)

    def test_a_deleted_experiment_is_named(self, settings: TrackingSettings) -> None:
        state = ProjectionState()
        project(FakeRecords([make_trial(0)]), settings, state)
        state.store.client.delete_experiment(state.store.experiment_id)
        result = sync(FakeRecords([make_trial(0)]), settings)
        assert result.pending == 2
        assert settings.experiment in result.problem
        assert "deleted" in result.problem


class TestTracker:
    @pytest.fixture
    def problems(self) -> list[str]:
        return []

    @pytest.fixture
    def ledger(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A file that stands for the ledger of a running search with three trials."""
        monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        path = tmp_path / "ledger.json"
        path.write_text(json.dumps({"trials": 3, "status": "RUNNING"}))
        return path

    def tracker(self, ledger: Path, settings: TrackingSettings, problems: list[str]) -> Tracker:
        return Tracker(functools.partial(open_fake, ledger), settings, problems.append)

    def test_follows_a_search_and_leaves_nothing_behind(
        self, ledger: Path, settings: TrackingSettings, problems: list[str]
    ) -> None:
        tracker = self.tracker(ledger, settings, problems)
        tracker.start()
        for _ in range(100):
            tracker.poke()
        process = tracker._process
        ledger.write_text(json.dumps({"trials": 5, "status": "FINISHED"}))
        assert tracker.close(300)
        assert process.poll() is not None
        assert problems == []
        assert set(tags_of(settings, "state").values()) == {"COMPLETE", "FINISHED"}
        assert len(tags_of(settings, "nasctl.trial_uid")) == 5

    def test_nothing_starts_before_something_happened(
        self, ledger: Path, settings: TrackingSettings, problems: list[str]
    ) -> None:
        tracker = self.tracker(ledger, settings, problems)
        tracker.poke()
        assert tracker._process is None
        off = dataclasses.replace(settings, kind="none")
        tracker = self.tracker(ledger, off, problems)
        tracker.start()
        tracker.poke()
        assert tracker.close(1)
        assert tracker._process is None

    def test_closing_gives_up_in_time(
        self, ledger: Path, settings: TrackingSettings, problems: list[str]
    ) -> None:
        ledger.write_text(json.dumps({"trials": 3, "status": "RUNNING", "sleep": 100}))
        tracker = self.tracker(ledger, settings, problems)
        tracker.start()
        tracker.poke()
        process = tracker._process
        assert not tracker.close(0.2)
        assert process.poll() is not None
        assert problems == []  # the caller is answered, and says what to do: one line, not two

    def test_a_process_that_dies_is_one_warning(
        self, ledger: Path, settings: TrackingSettings, problems: list[str]
    ) -> None:
        ledger.write_text(json.dumps({"exit": True}))
        told = threading.Event()

        def hear(problem: str) -> None:
            problems.append(problem)
            told.set()

        tracker = Tracker(functools.partial(open_fake, ledger), settings, hear, run="runs/toy")
        tracker.start()
        tracker.poke()
        assert told.wait(60)
        assert not tracker.close(1)
        assert problems == [
            "MLflow is behind: its process ended (status 3); nasctl sync runs/toy, or the same "
            "command, completes it"
        ]

    def test_the_driver_killed_takes_the_outbox_with_it(
        self, ledger: Path, settings: TrackingSettings
    ) -> None:
        job = {
            "open": "tracking_records:open_fake",
            "arguments": [str(ledger)],
            "output_dir": str(settings.output_dir),
            "settings": {"experiment": settings.experiment},
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nasctl.tracking.outbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.close()  # what the kernel does when the driver dies
        assert process.wait(60) == 0
        process.stdout.close()

    def test_stands_still_while_something_is_measured(
        self, ledger: Path, settings: TrackingSettings, problems: list[str]
    ) -> None:
        tracker = self.tracker(ledger, settings, problems)
        tracker.start()
        with tracker.paused():
            tracker.poke()
        with tracker.paused():
            assert tracker._process is not None
        assert tracker.close(300)
        assert len(tags_of(settings, "nasctl.trial_uid")) == 3

    def test_only_what_another_process_can_import(self, settings: TrackingSettings) -> None:
        with pytest.raises(ValueError, match="cannot be imported"):
            Tracker(lambda: FakeRecords([]), settings, print)
