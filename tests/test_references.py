"""Reference networks: beside the search, in everything that is shown, and in nothing it decides."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nasctl.arch import Architecture, Cost
from nasctl.candidates import Priced
from nasctl.config import config_diff, load_config, resolved_yaml
from nasctl.data import DATASETS, load_dataset
from nasctl.dryrun import Outlook
from nasctl.engine import Engine, Signal
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.evaluate import TrainingJob
from nasctl.front import collect_entries, front_json
from nasctl.latency import LatencyTable, extend_table
from nasctl.ledger import Ledger
from nasctl.plugins import load_plugins
from nasctl.prepare import load_problem
from nasctl.progress import PlainProgress, front_picture, front_table
from nasctl.recipe import Recipe
from nasctl.references import load_references, reference_trials, references_json
from nasctl.report import RunView, render_html, write_report
from nasctl.report.page import chart_data
from nasctl.report.view import points, reference_points, remark
from nasctl.space import SpaceSize
from nasctl.tracking.view import view_run
from nasctl.trial import Evaluation, Objectives, OutcomeKind, State, Trial, Work
from search_spaces.reference import reference_network
from tests import sample_view as sample
from tests import toy
from tests.test_latency import CALL_MS, SETTINGS, Device, build_block, measure
from tests.test_latency import Work as Timed
from tests.toy import Recorder, finish, history, make_engine, run
from tests.tracking_records import FakeRecords, make_trial

OBJECTIVES: Objectives = {"accuracy": "max", "params": "min"}


def reference(number: int, architecture: Architecture | None = None, **changes: Any) -> Trial:
    """One that has not begun; the first two are networks of the toy space, far over any bound."""
    architecture = architecture or toy.decode({"depth": 7, "width": 7 + number})
    made = Trial(
        number=number,
        state=State.RUNNING,
        choices={"reference": "mobilenet_v2", "width": 0.25 * -number},
        architecture=architecture,
        seed=0,
        epochs=2,
        attempts=0,
        cost=toy.cost(architecture),
    )
    return dataclasses.replace(made, **changes)


REFERENCES = (reference(-1), reference(-2))


class TestEngine:
    @pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
    @pytest.mark.parametrize("order", ["deterministic", "async"])
    def test_candidates_are_the_same_with_and_without(
        self, tmp_path: Path, sampler: str, order: str
    ) -> None:
        settings: dict[str, Any] = {"sampler": sampler, "order": order, "trials": 30}
        without = make_engine(tmp_path / "a.sqlite", constraints={"params": 3000}, **settings)
        run(without)
        recorder = Recorder()
        with_them = make_engine(
            tmp_path / "b.sqlite",
            constraints={"params": 3000},
            references=REFERENCES,
            observer=recorder,
            **settings,
        )
        run(with_them)
        assert history(with_them) == history(without)
        assert [t.choices for t in with_them.trials] == [t.choices for t in without.trials]
        assert (with_them.duplicates, with_them.exhausted) == (
            without.duplicates,
            without.exhausted,
        )
        ended = Ledger(tmp_path / "b.sqlite", {}, readonly=True).references()
        assert [t.number for t in ended] == [-1, -2]
        assert {t.state for t in ended} == {State.COMPLETE}
        assert [t.cost["params"] for t in ended] == [4910.0, 4210.0]  # the bound is 3,000
        assert [t.metrics["accuracy"] for t in ended] == [
            toy.accuracy(t.architecture) for t in ended
        ]
        # All workers are kept busy by candidates and references alike; the first candidate leads.
        assert [t.number for t in recorder.started][:4] == [0, -1, -2, 1]

    @pytest.mark.parametrize("workers", [2, 3, 5])
    def test_timing_changes_nothing(self, tmp_path: Path, workers: int) -> None:
        expected = make_engine(tmp_path / "a.sqlite", sampler="tpe")
        run(expected)
        engine = make_engine(tmp_path / "b.sqlite", sampler="tpe", references=REFERENCES)
        rng = random.Random(workers)
        flying: list[Work] = []
        while True:
            found = engine.next() if len(flying) < workers else Signal.WAIT
            if isinstance(found, Work):
                flying.append(found)
            elif flying:
                finish(engine, flying.pop(rng.randrange(len(flying))))
            else:
                break
        assert history(engine) == history(expected)
        assert len(Ledger(tmp_path / "b.sqlite", {}, readonly=True).references()) == 2

    @pytest.mark.parametrize("crash", range(5))
    def test_resume_continues_the_same_history(self, tmp_path: Path, crash: int) -> None:
        path = tmp_path / "b.sqlite"
        expected = make_engine(tmp_path / "a.sqlite", sampler="tpe")
        run(expected)
        first = make_engine(path, sampler="tpe", references=REFERENCES)
        for _ in range(crash):
            finish(first, taken(first))
        lost = taken(first)  # in flight when the driver dies
        first.report(lost, 1, {"accuracy": 0.1})
        second = make_engine(path, sampler="tpe", references=REFERENCES)
        again = taken(second)
        assert (again.number, again.attempt) == (lost.number, 2)
        finish(second, again)
        run(second)
        assert history(second) == history(expected)
        attempts = {t.number: t.attempts for t in Ledger(path, {}, readonly=True).references()}
        assert attempts == {-1: 1, -2: 1} | ({lost.number: 2} if lost.number < 0 else {})
        third = make_engine(path, sampler="tpe", references=REFERENCES)
        assert not third.has_work()
        assert third.next() is Signal.DONE

    def test_one_that_is_also_a_candidate_is_both(self, tmp_path: Path) -> None:
        plain = make_engine(tmp_path / "a.sqlite", trials=57)
        run(plain)
        same = reference(-1, plain.trials[40].architecture)
        engine = make_engine(tmp_path / "b.sqlite", trials=57, references=[same])
        run(engine)
        assert history(engine) == history(plain)
        (kept,) = Ledger(tmp_path / "b.sqlite", {}, readonly=True).references()
        assert kept.arch_id == engine.trials[40].arch_id
        assert kept.metrics == engine.trials[40].metrics

    def test_its_failures_are_its_own(self, tmp_path: Path) -> None:
        engine = make_engine(
            tmp_path / "l.sqlite", references=REFERENCES, retries=1, max_failures=2, trials=5
        )
        finish(engine, taken(engine), OutcomeKind.FAILED)
        dying = taken(engine)
        finish(engine, dying, OutcomeKind.LOST)
        again = taken(engine)
        assert (again.number, again.attempt) == (dying.number, 2)
        finish(engine, again, OutcomeKind.LOST)
        diverging = taken(engine)
        assert not engine.report(diverging, 1, {"accuracy": float("nan")})
        finish(engine, diverging, OutcomeKind.STOPPED)
        assert engine.fatal is None  # of candidates one has failed
        run(engine)
        assert [t.state for t in engine.trials].count(State.COMPLETE) == 4
        errors = [t.error for t in Ledger(tmp_path / "l.sqlite", {}, readonly=True).references()]
        assert errors == ["its worker died 2 times", "epoch 1: accuracy is nan"]

    def test_where_nothing_is_feasible_none_is_trained(self, tmp_path: Path) -> None:
        engine = make_engine(
            tmp_path / "l.sqlite", constraints={"params": 5}, references=REFERENCES
        )
        assert engine.next() is Signal.DONE
        assert engine.fatal is not None


def taken(engine: Engine) -> Work:
    found = engine.next()
    assert isinstance(found, Work)
    return found


class TestLedger:
    def test_they_are_kept_apart_and_come_back_equal(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "l.sqlite", {})
        done = dataclasses.replace(
            reference(-2),
            state=State.COMPLETE,
            metrics={"accuracy": 0.5},
            evaluations=(Evaluation(epoch=1, metrics={"accuracy": 0.5}),),
        )
        candidate = dataclasses.replace(reference(-1), number=0, choices={"depth": 1})
        with ledger.transaction():
            for trial in (reference(-1), done, candidate):
                ledger.put_trial(trial)
        ledger.put_evaluation(-2, done.evaluations[0])
        ledger.put_evaluation(-1, done.evaluations[0])
        ledger.clear_evaluations(-1)
        assert ledger.references() == [reference(-1), done]
        assert ledger.trials() == [candidate]  # the same network as the first reference

    def test_a_ledger_of_version_1_is_read_and_continued(self, tmp_path: Path) -> None:
        path = tmp_path / "l.sqlite"
        engine = make_engine(path, trials=3)
        run(engine)
        with sqlite3.connect(path) as db:
            db.execute("DROP TABLE reference_evaluations")
            db.execute("DROP TABLE reference_trials")
            db.execute("PRAGMA user_version=1")
        db.close()
        old = Ledger(path, {}, readonly=True)
        assert (len(old.trials()), old.references()) == (3, [])
        old.close()
        longer = make_engine(path, trials=4, references=REFERENCES)
        run(longer)
        assert history(longer)[:3] == history(engine)
        assert len(Ledger(path, {}, readonly=True).references()) == 2


def config(tmp_path: Path, text: str = "", *overrides: str) -> Any:
    path = tmp_path / "my.yaml"
    path.write_text(f"defaults: [search, _self_]\n{text}", encoding="utf-8")
    return load_config(str(path), overrides)


def wanted(tmp_path: Path, *overrides: str) -> list[tuple[str, list[float]]]:
    return [(r.name, r.width) for r in config(tmp_path, "", *overrides).config.reference]


class TestConfig:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("[mobilenet_v1]", [("mobilenet_v1", [1.0])]),
            ("[mobilenet_v1,resnet20_cifar]", [("mobilenet_v1", [1]), ("resnet20_cifar", [1])]),
            ("[{name: mobilenet_v2, width: [0.25,0.5]}]", [("mobilenet_v2", [0.25, 0.5])]),
            ("[{name: mobilenet_v2, width: 2}]", [("mobilenet_v2", [2.0])]),
            ("[]", []),
        ],
    )
    def test_names_and_widths_in_a_file_and_on_the_command_line(
        self, tmp_path: Path, text: str, expected: list[tuple[str, list[float]]]
    ) -> None:
        assert wanted(tmp_path, f"reference={text}") == expected
        loaded = config(tmp_path, f"reference: {text}\n")
        assert [(r.name, r.width) for r in loaded.config.reference] == expected
        again = tmp_path / "resolved.yaml"
        again.write_text(resolved_yaml(loaded.config), encoding="utf-8")
        assert load_config(str(again)).resolved == loaded.resolved

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[mobilnet_v2]", "reference.0: unknown network 'mobilnet_v2'; did you mean 'mobile"),
            ("[lenet5, {name: vgg17}]", "reference.1.name: unknown network 'vgg17'; did you mea"),
            ("[3]", "reference.0: expected the name of a network or {name: ..., width: ...}, got"),
            ("mobilenet_v1", "reference: expected a list, got 'mobilenet_v1'"),
            ("[{name: mobilenet_v1, widht: 1}]", "reference.0.widht: unknown key; did you mean"),
            ("[{width: 1}]", "reference.0.name: missing"),
            ("[{name: mobilenet_v1, width: 0}]", "reference.0.width.0: must be more than 0, got"),
            ("[{name: mobilenet_v1, width: []}]", "reference.0.width: at least one is needed"),
            ("[{name: mobilenet_v1, width: [a]}]", "reference.0.width.0: expected a number, got"),
            ("[{name: lenet5, width: 0.5}]", "reference.0.width: lenet5 has no width multiplier"),
            ("[lenet5, lenet5]", "reference.1: lenet5 is there twice"),
            (
                "[{name: mobilenet_v2, width: [0.5, 1, 0.5]}]",
                "reference.0.width: mobilenet_v2 x0.5 is there twice",
            ),
        ],
    )
    def test_mistakes_are_found_when_the_file_is_read(
        self, tmp_path: Path, text: str, problem: str
    ) -> None:
        with pytest.raises(ConfigError, match=re.escape(f"my.yaml:2: {problem}")):
            config(tmp_path, f"reference: {text}\n")

    def test_another_list_is_another_run(self, tmp_path: Path) -> None:
        old = config(tmp_path, "", "reference=[mobilenet_v1]").resolved
        same = config(tmp_path, "", "reference=[{name: mobilenet_v1, width: 1}]").resolved
        more = config(tmp_path, "", "reference=[mobilenet_v1,lenet5]").resolved
        assert config_diff(old, same) == []
        (line,) = config_diff(old, more)
        assert line.startswith("reference: [{'name': 'mobilenet_v1', 'width': [1.0]}] -> [")

    def test_without_data_there_is_nothing_to_train_them_on(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="reference: a published network is trained on data"):
            config(tmp_path, "", "reference=[lenet5]", "evaluator=formula")

    def test_a_family_with_costs_of_its_own_has_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "own_costs.py").write_text(
            "from tests.toy import toy_family\nFAMILIES = {'toy': toy_family}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        loaded = config(
            tmp_path, "space: {family: toy}\n", "reference=[lenet5]", "data=digits"
        ).config
        with pytest.raises(ConfigError, match=r"reference: the networks of space\.family=toy have"):
            load_problem(loaded, load_plugins(["own_costs"]))

    def test_impossible_networks_are_all_named_with_their_numbers(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load_references(
                [("lenet5", [1.0]), ("vgg16", [1.0]), ("mobilenet_v1", [0.5])],
                input_shape=(1, 8, 8),
                num_classes=10,
            )
        first, *_, last = caught.value.problems
        assert first.startswith("reference.0: lenet5 on 1x8x8 input: ")
        assert last.startswith("reference.2: width 0.5: mobilenet_v1 on 1x8x8 input: block")
        assert "reference.1: vgg16 on 1x8x8 input: " in str(caught.value)

    def test_two_widths_that_build_one_network_are_refused(self) -> None:
        with pytest.raises(ConfigError) as caught:  # channels are rounded to multiples of 8
            load_references(
                [("mobilenet_v2", [0.5, 0.5001])], input_shape=(1, 28, 28), num_classes=10
            )
        assert caught.value.problems == (
            "reference.0: mobilenet_v2 x0.5001 is the same network as mobilenet_v2 x0.5 here",
        )

    def test_trainings_follow_the_configuration(self) -> None:
        found = load_references(
            [("mobilenet_v2", [0.5, 0.25]), ("lenet5", [1.0])],
            input_shape=(1, 28, 28),
            num_classes=7,
        )
        priced = Priced(cost=Cost(params=3.0), intervals={"latency_ms": (1.0, 2.0)})
        trials = reference_trials(found, lambda _: priced, seed=5, epochs=9)
        assert [(t.number, t.label) for t in trials] == [
            (-1, "mobilenet_v2 x0.5"),
            (-2, "mobilenet_v2 x0.25"),
            (-3, "lenet5"),
        ]
        assert {(t.seed, t.epochs, t.attempts) for t in trials} == {(5, 9, 0)}
        assert all((t.cost, t.cost_intervals) == (priced.cost, priced.intervals) for t in trials)
        expected = reference_network("lenet5", input_shape=(1, 28, 28), num_classes=7)
        assert trials[2].arch_id == expected.id


def complete(number: int, params: float, accuracy: float, **changes: Any) -> Trial:
    made = dataclasses.replace(
        reference(-1, toy.decode({"depth": 1, "width": abs(number) % 8})),
        number=number,
        state=State.COMPLETE,
        cost=Cost(params=params, latency_ms=params / 100),
        cost_intervals={"latency_ms": (params / 110, params / 90)},
        metrics={"accuracy": accuracy, "params": params, "latency_ms": params / 100},
    )
    return dataclasses.replace(made, **changes)


def judged(*references: Trial, measured: Any = None, constraints: Any = None) -> list[Any]:
    trials = [complete(0, 100.0, 0.7), complete(1, 200.0, 0.9)]
    entries = collect_entries(trials, measured={}, validation_images=1000)
    return references_json(
        references,
        entries,
        objectives={"accuracy": "max", "latency_ms": "min"},
        constraints=constraints or {},
        measured=measured or {},
        validation_images=1000,
        calibration_networks=10,
    )


class TestFrontJson:
    def test_has_the_keys_of_a_member_and_its_own(self) -> None:
        (found,) = judged(complete(-2, 150.0, 0.8, choices={"reference": "nin", "width": 1.0}))
        assert list(found) == [
            *("name", "width", "arch_id", "architecture", "metrics", "uncertainty"),
            *("state", "error", "violations", "on_front"),
        ]
        assert (found["name"], found["width"], found["state"]) == ("nin", 1.0, "COMPLETE")
        assert found["uncertainty"]["accuracy"]["n"] == 1
        assert found["uncertainty"]["latency_ms"]["source"] == "predicted"
        assert json.loads(json.dumps(found)) == found

    @pytest.mark.parametrize(
        ("params", "accuracy", "expected"),
        [
            (150.0, 0.8, True),  # between the two members
            (50.0, 0.1, True),  # cheaper than all
            (200.0, 0.9, True),  # as good as a member
            (150.0, 0.7, False),  # the first member is as accurate, and cheaper
            (201.0, 0.9, False),
        ],
    )
    def test_on_front_is_whether_it_would_be_a_member(
        self, params: float, accuracy: float, expected: bool
    ) -> None:
        (found,) = judged(complete(-2, params, accuracy))
        assert found["on_front"] is expected

    def test_the_measured_latency_decides(self) -> None:
        published = complete(-2, 150.0, 0.8)
        whole = {"p50_ms": 2.5, "interval": [2.4, 2.6], "n": 40}
        (found,) = judged(published, measured={published.arch_id: whole})
        assert not found["on_front"]
        assert found["metrics"]["latency_ms_measured"] == 2.5
        assert found["metrics"]["latency_ms"] == 1.5

    def test_over_a_constraint_it_would_never_have_been_trained(self) -> None:
        # The upper end of its interval, 150 / 90 ms, is over the bound, its latency is not.
        (found,) = judged(complete(-2, 150.0, 0.8), constraints={"latency_ms": 1.6})
        assert found["violations"] == {"latency_ms": pytest.approx((150 / 90 - 1.6) / 1.6)}
        assert not found["on_front"]
        assert remark(found) == "over constraints.latency_ms"

    def test_unfinished_and_failed_ones_have_their_costs(self) -> None:
        begun = complete(-2, 50.0, 0.0, state=State.RUNNING, metrics={})
        failed = dataclasses.replace(begun, number=-3, state=State.FAILED, error="out of\nmemory")
        found = judged(begun, failed)
        assert [r["state"] for r in found] == ["RUNNING", "FAILED"]
        assert [r["on_front"] for r in found] == [False, False]
        assert found[0]["metrics"] == {"params": 50.0, "latency_ms": 0.5}
        assert [remark(r) for r in found] == ["not finished", "failed: out of memory"]

    def test_members_and_hypervolume_are_those_of_the_search(self) -> None:
        trials = [complete(0, 100.0, 0.7), complete(1, 200.0, 0.9)]
        entries = collect_entries(trials, measured={}, validation_images=1000)
        plain = {
            "objectives": {"accuracy": "max", "latency_ms": "min"},
            "reference_point": {"accuracy": 0.0, "latency_ms": 10.0},
            "counts": {"COMPLETE": 2},
        }
        without = front_json(entries, **plain)  # type: ignore[arg-type]
        beaten = judged(complete(-2, 1.0, 1.0))
        with_one = front_json(entries, references=beaten, **plain)  # type: ignore[arg-type]
        assert beaten[0]["on_front"]
        assert with_one == {**without, "references": beaten}


class TestLatency:
    def test_more_blocks_are_on_the_scale_of_the_table(self, tmp_path: Path) -> None:
        path = tmp_path / "latency.json"
        table = measure(Device(), path)
        more = [(Timed(us=1000 + n), (1, 28, 28)) for n in (1, 2)]
        # Another session, in which the machine is three times as slow throughout.
        slow = Device(drift=iter(lambda: 3.0, None))
        found = extend_table(
            table,
            more,
            SETTINGS,
            build_block=build_block,
            cache_path=path,
            runtime=slow,
        )
        assert [found.block_ms(*p) for p in more] == pytest.approx(
            [CALL_MS + 1.001, CALL_MS + 1.002], rel=1e-6
        )
        # What candidates are judged by is as it was.
        assert found.blocks.items() >= table.blocks.items()
        unchanged = ("canary_ms", "correction", "drift", "device")
        assert all(getattr(found, k) == getattr(table, k) for k in unchanged)
        assert LatencyTable.from_json(found.to_json()) == found
        again = Device()
        arguments: Any = {"build_block": build_block, "cache_path": path, "runtime": again}
        assert extend_table(table, more, SETTINGS, **arguments) == found
        assert again.prepared == 0  # from the cache
        assert extend_table(table, [], SETTINGS, **arguments) is table


# -- what is shown --------------------------------------------------------------------------------


def shown_references(view: RunView) -> list[dict[str, Any]]:
    """The second is better than everything, the third failed."""
    member = view.members[0]
    made = []
    for name, width, accuracy, factor in (
        ("mobilenet_v1", 0.25, 0.5, 1.1),
        ("mobilenet_v2", 0.5, 0.999, 0.5),
        ("lenet5", 1.0, None, 3.0),
    ):
        metrics = {k: v * factor for k, v in member["metrics"].items() if k != "accuracy"}
        if accuracy is not None:
            metrics["accuracy"] = accuracy
        made.append(
            {
                "name": name,
                "width": width,
                "arch_id": member["arch_id"],
                "architecture": member["architecture"],
                "metrics": metrics,
                "uncertainty": {},
                "state": "COMPLETE" if accuracy is not None else "FAILED",
                "error": None if accuracy is not None else "out of <b>memory</b>",
                "violations": {},
                "on_front": accuracy == 0.999,
            }
        )
    return made


@pytest.fixture(scope="module")
def view() -> RunView:
    plain = sample.view()
    return sample.view(front={**plain.front, "references": shown_references(plain)})


class TestShown:
    def test_the_points_of_the_search_are_what_they_were(self, view: RunView) -> None:
        assert points(view) == points(sample.view())
        found = reference_points(view)
        assert [p.name for p in found] == ["mobilenet_v1 x0.25", "mobilenet_v2 x0.5", "lenet5"]
        assert "accuracy" not in found[2].values

    @pytest.mark.parametrize("width", [60, 80, 120])
    def test_the_table_has_them_below_the_members(self, view: RunView, width: int) -> None:
        lines = front_table(view.front, width=width).splitlines()
        assert max(map(len, lines)) <= width
        at = {p.arch_id: i for i, line in enumerate(lines) for p in points(view)
              if line.startswith(p.arch_id)}  # fmt: skip
        rows = [i for i, line in enumerate(lines) if line.startswith("○ mobilenet_v1 x0.25")]
        assert rows == [max(at.values()) + 1]
        assert len(at) == len(view.members)
        remarked = (
            "○ mobilenet_v2 x0.5 would be on the front: no network of the search dominates it"
        )
        assert lines[-2] == remarked[:width]
        assert lines[-1] == "○ lenet5 failed: out of <b>memory</b>"
        assert lines[0].startswith(f"{len(view.members)} networks on the front of 33 trials")

    def test_the_picture_draws_hollow_circles(self, view: RunView) -> None:
        picture = front_picture(view.front, view.trials)
        *drawing, key = picture.splitlines()
        assert sum(line.count("○") for line in drawing) == 2  # the failed one has no accuracy
        assert key.endswith("○ reference")
        best = next(line for line in drawing if "○" in line or "●" in line)
        assert "○" in best  # 0.999 is above every member
        assert "○" not in front_picture(sample.view().front, view.trials)

    def test_the_page_draws_and_lists_them(self, view: RunView) -> None:
        data = chart_data(view, points(view))
        assert [(r["id"], r["role"]) for r in data["references"]] == [
            ("mobilenet_v1 x0.25", "reference"),
            ("mobilenet_v2 x0.5", "reference"),
            ("lenet5", "reference"),
        ]
        assert data["references"][1]["v"]["accuracy"] == 0.999
        html = render_html(view)
        assert '<i class="m-reference">' in html
        table = html[html.index('<section id="references">') :].split("</section>")[0]
        assert table.count('<th scope="row">') == 3
        assert "would be on the front" in table
        assert "out of &lt;b&gt;memory" in table
        plain = render_html(sample.view())
        assert 'id="references"' not in plain
        assert '<i class="m-reference">' not in plain

    def test_the_files_beside_the_page_have_them(self, view: RunView, tmp_path: Path) -> None:
        _, png, table, markdown = write_report(view, tmp_path)
        assert png.stat().st_size > 5000
        lines = markdown.read_text(encoding="utf-8").splitlines()
        assert sum(line.startswith("| mobilenet_v2 x0.5 (reference) | 0.9990 |") for line in lines)
        assert "- Reference network lenet5: failed: out of &lt;b>memory&lt;/b>" in lines
        assert "mobilenet" not in table.read_text(encoding="utf-8")  # trials only

    def test_lines_of_progress_do_not_count_them(self) -> None:
        console = Console(file=io.StringIO(), width=200, color_system=None)
        progress = PlainProgress(console)
        trials = [complete(0, 100.0, 0.7), complete(-1, 50.0, 0.6), complete(1, 200.0, 0.9)]
        progress.started(2, [])
        progress.front(0, 0.0)
        for trial in trials:
            progress.trial_started(dataclasses.replace(trial, state=State.RUNNING))
            if not trial.is_reference:
                progress.front(1, 0.5)
            progress.trial_ended(trial)
        assert isinstance(console.file, io.StringIO)
        _, first, second, third = console.file.getvalue().splitlines()
        assert first.startswith("[1/2] COMPLETE  #0 ")
        assert second.startswith(f"[reference] COMPLETE  mobilenet_v2 x0.25 {trials[1].arch_id}")
        assert "front" not in second
        assert third.startswith("[2/2] COMPLETE  #1 ")


def test_a_dry_run_counts_their_time_and_prices_them() -> None:
    (network,) = load_references([("lenet5", [1.0])], input_shape=(1, 28, 28), num_classes=10)
    outlook = Outlook(
        size=SpaceSize(configurations=4, networks=4, networks_exact=True, networks_error=None),
        cost_range={},
        sampled=4,
        feasible=4,
        trials=6,
        workers=2,
        trial_seconds=10.0,
        references=[(network, Cost(params=60_000.0))],
        reference_seconds=30.0,
    )
    assert outlook.total_seconds == (6 * 10 + 30) / 2
    (listed,) = outlook.to_json()["references"]
    assert listed == {
        "name": "lenet5",
        "width": 1.0,
        "arch_id": network.architecture.id,
        "cost": {"params": 60_000.0},
    }
    assert "  lenet5                   params 60,000" in outlook.to_text()
    assert "30 s of references" in outlook.to_text()


def test_workers_do_not_build_them_as_a_family_builds_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_build.py").write_text(
        "from nasctl.api import Architecture, Decision, Family, Opaque, SearchSpace\n"
        "def family():\n"
        "    def build(architecture):\n"
        "        raise ValueError('not a network of this family')\n"
        "    def decode(choices):\n"
        "        raise NotImplementedError\n"
        "    space = SearchSpace((Decision('d', (1, 2)),))\n"
        "    return Family(space=space, decode=decode, build=build)\n"
        "FAMILIES = {'own': family}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = load_dataset("digits", {}, DATASETS)
    small = dataclasses.replace(
        data.without_test(),
        train_images=data.train_images[:64],
        train_labels=data.train_labels[:64],
    )
    job = TrainingJob(
        recipe=Recipe(epochs=1, batch_size=32),
        plugins=("own_build",),
        family=("own", {}),
        dataset=small,
    )
    network = reference_network("plain20_cifar", input_shape=(1, 8, 8), num_classes=10)
    work = Work(number=-1, attempt=1, architecture=network, seed=0, epochs=1)
    (metrics,) = job(work)
    assert 0 <= metrics["accuracy"] <= 1
    with pytest.raises(ValueError, match="not a network of this family"):
        list(job(dataclasses.replace(work, number=0)))


class TestTracking:
    def test_their_runs_are_tagged_and_named(self) -> None:
        trials = [make_trial(0), make_trial(1)]
        published = dataclasses.replace(
            make_trial(0), number=-1, choices={"reference": "mobilenet_v2", "width": 0.5}
        )
        records = FakeRecords(
            trials, status="FINISHED", front={trials[0].arch_id}, published=[published]
        )
        parent, *children = view_run(records)
        assert [c.name.split()[0] for c in children] == ["000", "001", "reference"]
        run = children[2]
        assert (run.name, run.key) == ("reference mobilenet_v2 x0.5", "run-1:-1")
        assert run.tags["reference"] == "mobilenet_v2"
        assert run.params["reference"] == "mobilenet_v2"
        assert run.params["width"] == "0.5"
        assert "trial" not in run.params
        # The same network as a member, but no member: its trial is.
        assert [c.tags["pareto"] for c in children] == ["true", "false", "false"]
        assert all("reference" not in c.tags for c in children[:2])
        assert parent.latest["trials_complete"] == 2
        assert "| mobilenet_v2 x0.5 | complete | " in parent.tags["mlflow.note.content"]
        alone = view_run(FakeRecords(trials, status="FINISHED", front={trials[0].arch_id}))
        assert "Reference" not in alone[0].tags["mlflow.note.content"]
        assert alone[1:] == children[:2]


def test_a_newer_ledger_is_still_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    Ledger(path, {}).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=4")
    db.close()
    with pytest.raises(EnvironmentProblemError, match="ledger version 4, this nasctl reads versi"):
        Ledger(path, {}, readonly=True)
