"""What must not grow with the square of a search: counted in calls and bytes, never in seconds."""

from __future__ import annotations

import io
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nasctl import pareto
from nasctl.doctor import non_dominated
from nasctl.front import Entry
from nasctl.progress import PlainProgress
from nasctl.records import RunRecords
from nasctl.tracking import TrackingSettings, sync
from nasctl.tracking.project import _network_of
from nasctl.trial import State, Trial

sys.path.insert(0, str(Path(__file__).parent))
from tracking_records import FakeRecords, make_trial

OBJECTIVES = {"accuracy": "max", "params": "min"}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def plain(trials: list[Trial], *, seconds_each: float = 0.0) -> list[str]:
    clock = Clock()
    console = Console(file=io.StringIO(), width=300, color_system=None)
    with PlainProgress(console, clock) as progress:
        progress.started(len(trials), [])
        for trial in trials:
            clock.now += seconds_each
            progress.trial_started(replace(trial, state=State.RUNNING, metrics={}))
            progress.trial_ended(trial)
    return console.file.getvalue().splitlines()[1:]  # type: ignore[attr-defined]


def test_fast_trials_share_lines_and_the_last_has_one() -> None:
    lines = plain([make_trial(n) for n in range(500)])
    assert [line.split("]")[0].strip("[ ") for line in lines] == [
        *(f"{n}/500" for n in range(1, 21)),
        "500/500",
    ]
    # At ten a second for 48 seconds: one a second beyond the first ones.
    lines = plain([make_trial(n) for n in range(500)], seconds_each=0.1)
    assert 60 <= len(lines) <= 75
    assert lines[-1].startswith("[500/500]")


def test_slow_and_failed_trials_have_a_line_each() -> None:
    assert len(plain([make_trial(n) for n in range(50)], seconds_each=1.0)) == 50
    trials = [make_trial(n) for n in range(60)]
    trials[40] = replace(trials[40], state=State.FAILED, metrics={}, error="the loss is not finite")
    lines = plain(trials)
    assert len(lines) == 20 + 1 + 1
    assert "the loss is not finite" in lines[20]


def test_what_is_held_back_comes_before_what_follows() -> None:
    console = Console(file=io.StringIO(), width=300, color_system=None)
    progress = PlainProgress(console, Clock())
    progress.started(30, [])
    for n in range(30):
        progress.trial_ended(make_trial(n))
    progress.phase("writing the report")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[-2].startswith("[30/30]")
    assert lines[-1] == "writing the report"


class _Records(RunRecords):
    """From trials instead of a ledger."""

    rows: list[Trial]

    def trials(self) -> list[Trial]:
        self.asked["trials"] += 1
        return self.rows

    def references(self) -> list[Trial]:
        return []

    def meta(self, key: str) -> object:
        return {"config": {"objectives": OBJECTIVES}, "reference_point": self.point}.get(key)

    def rejections(self) -> list[object]:  # type: ignore[override]
        return []

    @property
    def measurements(self) -> dict[str, object]:
        return {}


def _all_on_front(directory: Path, count: int) -> _Records:
    """Every network is on the front: the more parameters, the more accurate."""
    found = _Records(directory)
    object.__setattr__(found, "rows", [make_trial(n) for n in range(count)])
    object.__setattr__(found, "asked", Counter())
    object.__setattr__(found, "point", {"accuracy": 0.0, "params": 1e9})
    return found


def test_artifacts_look_at_every_trial_a_fixed_number_of_times(tmp_path: Path) -> None:
    asked = []
    for count in (20, 80):
        found = _all_on_front(tmp_path, count)
        assert len(found.front_ids()) == count
        found.artifacts()
        asked.append(found.asked["trials"])
    assert asked[0] == asked[1], "trials are gone through once for each member"


def test_the_history_of_the_front_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes: Counter[str] = Counter()
    real = pareto.volume
    monkeypatch.setattr(pareto, "volume", lambda *a: (volumes.update(["volume"]), real(*a))[1])
    found = _all_on_front(tmp_path, 30)
    assert len(found.hypervolume_history()) == 30
    assert found.hypervolume_history() is found.hypervolume_history()
    assert volumes["volume"] == 30


def test_the_doctors_brute_force_agrees_with_the_front(tmp_path: Path) -> None:
    found = _all_on_front(tmp_path, 40)
    assert non_dominated(found.entries, OBJECTIVES) == found.entries
    first = found.entries[0]
    worse: Entry = replace(first, decisive={**first.decisive, "accuracy": 0.1})
    assert non_dominated([*found.entries, worse], OBJECTIVES) == found.entries
    assert non_dominated([first, first], OBJECTIVES) == [first, first]
    assert non_dominated([], OBJECTIVES) == []


def test_files_know_their_network_by_name() -> None:
    assert _network_of("0a1b2c3d4e5f.json") == "0a1b2c3d4e5f"
    assert _network_of("0a1b2c3d4e5f-s7.safetensors") == "0a1b2c3d4e5f"


def test_mlflow_is_called_three_times_for_a_finished_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    calls: Counter[str] = Counter()
    for name in (
        *("create_run", "log_batch", "set_terminated", "update_run", "get_run"),
        *("search_runs", "set_tag", "log_param", "log_metric"),
    ):
        real = getattr(mlflow.MlflowClient, name)

        def counted(self, *args, _real=real, _name=name, **keywords):
            calls[_name] += 1
            return _real(self, *args, **keywords)

        monkeypatch.setattr(mlflow.MlflowClient, name, counted)
    settings = TrackingSettings(output_dir=tmp_path)
    trials = [make_trial(n) for n in range(6)]
    result = sync(FakeRecords(rows=trials, status="FINISHED"), settings)
    assert (result.pending, result.problem) == (0, None)
    # The search itself is a run too; two look-ups whatever the number of trials.
    assert calls == {"create_run": 7, "log_batch": 7, "set_terminated": 7, "search_runs": 2}
    calls.clear()
    assert sync(FakeRecords(rows=trials, status="FINISHED"), settings).sent == 0
    assert calls == {"search_runs": 2}
