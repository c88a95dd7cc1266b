"""Reference networks: beside the search, in everything that is shown, and in nothing it decides."""

from __future__ import annotations

import dataclasses
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from nasctl.arch import Cost
from nasctl.candidates import Priced
from nasctl.config import config_diff, load_config, resolved_yaml
from nasctl.data import DATASETS, load_dataset
from nasctl.engine import Engine, Signal
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.evaluate import TrainingJob
from nasctl.ledger import Ledger
from nasctl.plugins import load_plugins
from nasctl.prepare import load_problem
from nasctl.recipe import Recipe
from nasctl.records import RunRecords
from nasctl.references import load_references, reference_trials
from nasctl.trial import Evaluation, OutcomeKind, State, Work
from search_spaces.reference import reference_network
from tests import toy
from tests.reference_samples import REFERENCES, reference
from tests.toy import Recorder, finish, history, make_engine, run


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

    def test_their_weights_are_found(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "ledger.sqlite", {})
        with ledger.transaction():
            ledger.put_trial(dataclasses.replace(reference(-1), state=State.COMPLETE, seed=3))
        ledger.close()
        records, arch_id = RunRecords(tmp_path), reference(-1).arch_id
        assert records.weights(arch_id) is None
        kept = tmp_path / "weights" / f"{arch_id}-s3.safetensors"
        kept.parent.mkdir()
        kept.write_bytes(b"")
        assert records.weights(arch_id) == kept

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


def test_a_newer_ledger_is_still_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    Ledger(path, {}).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=4")
    db.close()
    with pytest.raises(EnvironmentProblemError, match="ledger version 4, this nasctl reads versi"):
        Ledger(path, {}, readonly=True)
