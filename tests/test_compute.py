"""The compute ledger: hours by purpose, what was not recorded, and what people see of it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nasctl.compute import marginal
from nasctl.ledger import Ledger
from nasctl.outputs import report_view
from nasctl.records import RunRecords
from nasctl.report import render_html, write_report
from nasctl.report.files import markdown
from nasctl.resources import MEASURED, RESOURCES, Resources, note_resources, resources_at
from nasctl.tracking.view import search_view
from nasctl.trial import Outcome, OutcomeKind, State, Trial, Work
from tests import toy
from tests.toy import finish, make_engine

CONFIG: dict[str, Any] = {
    "name": "n",
    "objectives": toy.OBJECTIVES,
    "executor": {"name": "ray", "cpus": 2.0, "gpus": 0.0},
    "recipe": {"epochs": 4},
}


def trial(number: int, depth: int, state: State = State.COMPLETE, **changes: Any) -> Trial:
    architecture = toy.decode({"depth": depth, "width": 0})
    cost = toy.cost(architecture)
    values: dict[str, Any] = {
        "number": number,
        "state": state,
        "choices": {"depth": depth, "width": 0},
        "architecture": architecture,
        "seed": number,
        "epochs": 4,
        "cost": cost,
        "metrics": {"accuracy": 0.5 + 0.04 * depth, **cost} if state is State.COMPLETE else {},
        "started_at": 100.0 * (number + 1),
        "seconds": 36.0,
    }
    return Trial(**(values | changes))


TRIALS = [
    trial(0, 1),
    trial(1, 2, seconds=72.0),
    trial(2, 1),  # the same network again
    trial(3, 3, State.FAILED, seconds=10.0, attempts=2),
    trial(4, 4, State.PRUNED, seconds=9.0),
]
REFERENCE = trial(-1, 6, seconds=18.0, choices={"reference": "lenet5", "width": 1.0})


def records(
    folder: Path,
    *,
    events: list[tuple[str, dict[str, Any]]] = [],  # noqa: B006 - never changed
    config: Mapping[str, Any] | None = None,
    **meta: Any,
) -> RunRecords:
    folder.mkdir(parents=True)
    ledger = Ledger(folder / "ledger.sqlite", {})
    ledger.set_meta(
        uid="u",
        status="FINISHED",
        seconds=200.0,
        config={**CONFIG, **(config or {})},
        reference_point={"accuracy": 0.0, "params": 1000.0},
        **meta,
    )
    for t in (*TRIALS, REFERENCE):
        ledger.put_trial(t)
    for kind, data in events:
        ledger.add_event(kind, **data)
    ledger.close()
    return RunRecords(folder)


EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("lost", {"number": 3, "attempt": 1, "seconds": 5.0}),
    (MEASURED, {"what": "table", "n": 40, "seconds": 30.0, "cores": 1, "gpus": 0}),
    (MEASURED, {"what": "networks", "n": 6, "seconds": 6.0, "cores": 1, "gpus": 0}),
]


def rows(found: RunRecords) -> dict[str, dict[str, Any]]:
    assert found.compute is not None
    return {r["purpose"]: r for r in found.compute["rows"]}


def test_every_second_is_counted_once_under_its_purpose(tmp_path: Path) -> None:
    found = records(tmp_path / "run", events=EVENTS, duplicates=7)
    seconds = {name: (r["count"], r["seconds"]) for name, r in rows(found).items()}
    assert seconds == {
        "search": (2, 108.0),
        "repeats": (1, 36.0),
        "failures": (1, 10.0),
        "halving": (1, 9.0),
        "lost": (1, 5.0),
        "references": (1, 18.0),
        "latency": (46, 36.0),
    }
    compute = found.compute
    assert compute is not None
    assert compute["total"]["seconds"] == 222.0
    # Two cores per training, one for a measurement.
    assert compute["total"]["core_hours"] == pytest.approx((2 * 186 + 36) / 3600)
    assert compute["total"]["gpu_hours"] == 0
    assert compute["total"]["money"] is None
    assert compute["total"]["complete"] is True
    assert compute["wall_seconds"] == 200.0
    (avoided,) = compute["avoided"]
    assert (avoided["reason"], avoided["count"], avoided["seconds"]) == ("duplicates", 7, 252.0)


def test_an_older_ledger_says_not_recorded_and_never_0(tmp_path: Path) -> None:
    found = records(tmp_path / "run", latency_table={"blocks": {}})
    assert rows(found)["latency"]["seconds"] is None
    assert rows(found)["latency"]["remark"] == "not recorded"
    assert (rows(found)["lost"]["count"], rows(found)["lost"]["seconds"]) == (1, None)
    assert found.compute is not None
    assert found.compute["total"]["complete"] is False
    assert not found.compute["resources_recorded"]
    shown = markdown(dataclasses.replace(report_view(found), latency=None), "x.png")
    assert "| attempts that were lost | 1 | not recorded | – | not recorded |" in shown
    assert "of what was recorded" in shown


def test_the_last_loss_of_a_failed_training_is_its_own_time(tmp_path: Path) -> None:
    lost = ("lost", {"number": 3, "attempt": 2, "seconds": 10.0})
    found = rows(records(tmp_path / "run", events=[*EVENTS, lost]))
    assert found["lost"]["seconds"] == 5.0
    assert found["failures"]["seconds"] == 10.0


def test_cores_are_those_that_a_training_had_when_it_began() -> None:
    events = [
        (10.0, RESOURCES, {"cores": 1.0, "gpus": 0.0}),
        (20.0, RESOURCES, {"cores": 4.0, "gpus": 0.5}),
    ]
    given = resources_at(events, Resources(cores=9))
    assert given(15.0) == Resources(cores=1)
    assert given(25.0) == Resources(cores=4, gpus=0.5)
    assert given(5.0) == Resources(cores=1)  # a clock that was set back
    assert resources_at([], Resources(cores=9))(5.0) == Resources(cores=9)


def test_resources_are_noted_where_they_change(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", {})
    for cores in (1.0, 1.0, 2.0):
        note_resources(ledger, Resources(cores=cores))
    assert [data["cores"] for _, _, data in ledger.events()] == [1.0, 2.0]


def test_prices_make_hours_money(tmp_path: Path) -> None:
    config = {
        "executor": {"name": "ray", "cpus": 1.0, "gpus": 1.0},
        "price": {"core_hour": 0.5, "gpu_hour": 2.0, "currency": "CHF"},
    }
    found = records(tmp_path / "run", events=EVENTS, config=config)
    assert rows(found)["search"]["money"] == pytest.approx(108 / 3600 * 2.5)
    assert rows(found)["latency"]["money"] == pytest.approx(36 / 3600 * 0.5)
    assert found.compute is not None
    assert found.compute["unit"] == "gpu_hour"
    page = re.sub(r"<[^>]+>", " ", render_html(report_view(found)))
    assert "0.075 CHF" in page
    assert "GPU-hours" in page


def test_a_verification_is_counted_from_its_own_ledger(tmp_path: Path) -> None:
    found = records(tmp_path / "run", events=EVENTS)
    records(tmp_path / "run" / "verify", events=EVENTS[1:])
    row = rows(RunRecords(found.directory))["verification"]
    assert (row["count"], row["seconds"]) == (5, 36.0 + 72 + 36 + 10 + 9 + 36)


def test_a_verification_that_cannot_be_read_is_said_and_stops_nothing(tmp_path: Path) -> None:
    found = records(tmp_path / "run", events=EVENTS)
    (found.directory / "verify").mkdir()
    (found.directory / "verify" / "ledger.sqlite").write_bytes(b"no database, but long enough")
    row = rows(RunRecords(found.directory))["verification"]
    assert (row["seconds"], row["remark"]) == (None, "its ledger cannot be read")


def test_rejected_candidates_are_counted_and_given_no_hours(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "ledger.sqlite", constraints={"params": 900.0}, trials=8)
    toy.run(engine)
    ledger = Ledger(tmp_path / "ledger.sqlite", {})
    assert ledger.count_rejections() > 0
    ledger.set_meta(config=CONFIG, reference_point={"accuracy": 0.0, "params": 1000.0})
    ledger.close()
    compute = RunRecords(tmp_path).compute
    assert compute is not None
    (avoided,) = [a for a in compute["avoided"] if a["reason"] == "constraints"]
    assert avoided["count"] > 0
    assert avoided["seconds"] is None


def test_marginal_hypervolume_by_hand() -> None:
    trials = [trial(n, n + 1) for n in range(4)] + [trial(4, 5, State.RUNNING), trial(5, 6)]
    history = [(0, 1.0), (2, 3.0), (3, 4.0), (5, 9.0)]
    hours = {0: 0.5, 1: 0.5, 2: 1.0, 3: 0.0}
    found = marginal(trials, history, hours, smoothed=2)
    assert [r["trial"] for r in found] == [0, 1, 2, 3]  # 4 is not over yet
    assert [r["hours"] for r in found] == [0.5, 1.0, 2.0, 2.0]
    assert [r["hypervolume"] for r in found] == [1.0, 1.0, 3.0, 4.0]
    assert [r["per_hour"] for r in found] == [2.0, 1.0, 2.0 / 1.5, 3.0]
    assert marginal(trials[:1], history, {})[0]["per_hour"] is None  # no time passed


def test_the_report_has_the_table_the_chart_and_a_file(tmp_path: Path) -> None:
    view = report_view(records(tmp_path / "run", events=EVENTS))
    page = render_html(view)
    assert '<section id="compute">' in page
    assert 'id="marginal"' in page
    assert page.count("<td>search trainings</td>") == 1
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [n for n, _ in data["marginal"]] == [0, 1, 2, 3, 4]
    paths = write_report(view, tmp_path)
    assert json.loads(paths[-1].read_text()) == json.loads(json.dumps(view.compute))
    assert paths[-1].name == "report.compute.json"
    assert 'id="compute"' not in render_html(dataclasses.replace(view, compute=None))


def test_the_tracking_store_has_metrics_of_the_parent_run(tmp_path: Path) -> None:
    found = records(tmp_path / "run", events=EVENTS)
    view = search_view(found, found.trials(), frozenset())
    assert view.latest["core_hours_search"] == pytest.approx(2 * 108 / 3600)
    assert view.latest["core_hours"] == pytest.approx((2 * 186 + 36) / 3600)
    assert "core_hours_verification" not in view.latest
    assert "cost" not in view.latest
    points = [p for p in view.points if p.key == "hypervolume_per_core_hour"]
    assert [p.step for p in points] == [0, 1, 2, 3, 4]
    older = records(tmp_path / "old", latency_table={"blocks": {}})
    assert "core_hours_latency" not in search_view(older, older.trials(), frozenset()).latest


class TestRecording:
    """What the engine writes down of attempts that came to nothing."""

    def test_lost_and_released_attempts_have_their_seconds(self, tmp_path: Path) -> None:
        now = [0.0]
        engine = make_engine(tmp_path / "l.sqlite", clock=lambda: now[0], retries=2)
        for kind, took in ((OutcomeKind.LOST, 3.0), (OutcomeKind.RELEASED, 4.0)):
            work = engine.next()
            assert isinstance(work, Work)
            now[0] += took
            engine.end(work, Outcome(kind=kind))
        work = engine.next()
        assert isinstance(work, Work)
        assert (work.number, work.attempt) == (0, 3)
        now[0] += 5.0
        finish(engine, work)
        assert engine.trials[0].seconds == 5.0
        ledger = Ledger(tmp_path / "l.sqlite", {}, readonly=True)
        told = [(k, d["attempt"], d["seconds"]) for _, k, d in ledger.events()]
        assert told == [("lost", 1, 3.0), ("released", 2, 4.0)]

    def test_a_full_disk_does_not_hide_what_stopped_the_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from nasctl.errors import EnvironmentProblemError

        engine = make_engine(tmp_path / "l.sqlite")
        work = engine.next()
        assert isinstance(work, Work)

        def full(*_: Any, **__: Any) -> None:
            raise EnvironmentProblemError("disk full")

        monkeypatch.setattr(Ledger, "add_event", full)
        engine.end(work, Outcome(kind=OutcomeKind.RELEASED))
        assert engine.trials[0].state is State.RUNNING
