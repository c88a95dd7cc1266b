"""What `nasctl verify` refuses, each in one line and with the right exit code."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from nasctl.kept_files import VERIFIED_JSON
from nasctl.ledger import Ledger
from nasctl.records import RunRecords
from nasctl.runlock import RunLock
from nasctl.trial import State
from tests.verify_bench import PLUGIN, VerifyBench


def test_data_that_has_changed_is_refused(trained: VerifyBench) -> None:
    ledger = Ledger(trained.folder / "runs" / "images" / "ledger.sqlite", {})
    ledger.set_meta(data="0123456789abcdef")
    ledger.close()
    error = trained.verify("images", code=4)
    assert "dealt has changed since the search" in error or "images has changed" in error
    assert not (trained.folder / "runs" / "images" / "verify").exists()


def test_a_test_split_that_has_changed_is_refused(trained: VerifyBench) -> None:
    settings = ("verify.seeds=2", "verify.max_seeds=2", "verify.export=false")
    trained.verify("images", *settings)
    error = trained.verify("images", *settings, code=4, VERIFY_TEST="3")
    assert "the data of the test split has changed since the verification began" in error


def test_a_run_of_before_the_note_is_known_by_its_weights(trained: VerifyBench) -> None:
    ledger = Ledger(trained.folder / "runs" / "images" / "ledger.sqlite", {})
    ledger.set_meta(data=None)
    ledger.close()
    records = RunRecords(trained.folder / "runs" / "images")
    for path in (records.directory / "weights").glob("*.safetensors"):
        content = path.read_bytes()
        at = content.index(b'"data":"') + len(b'"data":"')
        path.write_bytes(content[:at] + b"f" * 16 + content[at + 16 :])
    assert "has changed since the search (ffffffffffffffff" in trained.verify("images", code=4)


def test_a_missing_plugin_is_named(bench: VerifyBench) -> None:
    said = bench.call("verify", "runs/table")
    assert said.code == 2
    assert "unknown evaluator 'noisy'" in said.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("verify.sedes=4", "did you mean 'verify.seeds'?"),
        ("verify.seeds=1", "verify.seeds: must be at least 2, got 1"),
        ("verify.open=[0.9,0.1]", "verify.open: the first number must not be above"),
        ("verify.max_seeds=2", "verify.max_seeds: must be at least verify.seeds=3, got 2"),
        ("space.family=x", "space.family: is as the search had it"),
        ("objectives.macs=min", "objectives.macs: is as the search had it"),
        ("latency.runtime=torch", "a verification measures what the search did"),
        ("recipe.epoch=4", "did you mean 'recipe.epochs'?"),
        ("trails=3", "unknown key 'trails'"),
    ],
)
def test_what_may_not_change_is_said(bench: VerifyBench, override: str, message: str) -> None:
    error = bench.verify("table", override, code=2)
    assert message in error
    assert not (bench.folder / "runs" / "table" / "verify").exists()


def test_a_budget_of_an_unknown_metric_names_the_nearest(bench: VerifyBench) -> None:
    assert "did you mean 'params'" in bench.verify("table", "--at", "param=3", code=2)
    assert "expected METRIC=VALUE" in bench.verify("table", "--at", "params", code=2)
    assert "expected METRIC=VALUE" in bench.verify("table", "--at", "params=nan", code=2)
    assert "no member of the front is within it" in bench.verify(
        "table", "--at", "params=1", code=3
    )


def test_a_run_that_is_being_driven_is_refused(bench: VerifyBench) -> None:
    lock = RunLock(bench.folder / "runs" / "table")
    try:
        assert "being searched or verified by another process" in bench.verify("table", code=4)
    finally:
        lock.release()


def test_a_run_without_a_front_is_refused(bench: VerifyBench) -> None:
    ledger = Ledger(bench.folder / "runs" / "table" / "ledger.sqlite", {})
    for trial in ledger.trials():
        ledger.put_trial(dataclasses.replace(trial, state=State.FAILED, error="x", metrics={}))
    ledger.close()
    assert "there is no front to verify" in bench.verify("table", code=3)


def test_no_run_and_its_own_folder_are_refused(bench: VerifyBench) -> None:
    assert "no run here" in bench.verify("tabel", code=4)
    bench.verify("table", "verify.seeds=2", "verify.max_seeds=2")
    assert "is a verification itself" in bench.verify("table/verify", code=2)


def test_a_run_that_has_gone_on_has_other_finalists(bench: VerifyBench) -> None:
    settings = ("verify.seeds=2", "verify.max_seeds=2", "verify.near=1")
    bench.verify("table", *settings)
    path = bench.folder / "runs" / "table" / "verify" / "ledger.sqlite"
    ledger = Ledger(path, {})
    stored = ledger.meta("verification")
    ledger.set_meta(verification={**stored, "finalists": stored["finalists"][1:]})
    ledger.close()
    assert "has other finalists (1 new, 0 gone); --fresh" in bench.verify(
        "table", *settings, code=2
    )


@pytest.mark.parametrize("damage", [{"limits": 3}, {"finalists": [{}]}])
def test_a_damaged_ledger_is_said(bench: VerifyBench, damage: dict[str, Any]) -> None:
    settings = ("verify.seeds=2", "verify.max_seeds=2")
    bench.verify("table", *settings)
    ledger = Ledger(bench.folder / "runs" / "table" / "verify" / "ledger.sqlite", {})
    ledger.set_meta(verification={**ledger.meta("verification"), **damage})
    ledger.close()
    assert "damaged" in bench.verify("table", *settings, code=4)


def test_trainings_that_all_fail_are_an_end(bench: VerifyBench) -> None:
    error = bench.verify("table", code=3, VERIFY_FAILS="1")
    assert "no training today" in error
    assert not (bench.folder / "runs" / "table" / VERIFIED_JSON).exists()


def test_other_code_of_a_plugin_is_said_and_is_no_winners_curse(bench: VerifyBench) -> None:
    ledger = Ledger(bench.folder / "runs" / "table" / "ledger.sqlite", {})
    ledger.set_meta(plugins=dict.fromkeys(ledger.meta("plugins"), "0" * 64))
    ledger.close()
    said = bench.call(
        "verify", "runs/table", *PLUGIN, "verify.seeds=2", "verify.max_seeds=2", "--progress",
        "plain", "--json",
    )  # fmt: skip
    assert "--plugin tests.verify_plugin: its code has changed since the search" in said.err
    assert json.loads(said.out)["shrinkage"]["same_recipe"] is False
