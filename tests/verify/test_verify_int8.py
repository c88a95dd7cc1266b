"""`nasctl verify verify.front=int8` in this process: every training is quantised and judged so."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from nasctl.doctor import examine
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.export import int8 as export_int8
from nasctl.export.int8 import quantise
from nasctl.ledger import Ledger
from nasctl.onnx_runtime import with_metadata
from nasctl.trial import State
from nasctl.verification import int8
from tests.verify_bench import PLUGIN, VerifyBench, entries

TWO = ("verify.seeds=2", "verify.max_seeds=2", "verify.front=int8")
NO_FILES = (*TWO, "verify.export=false")


def facts(verified: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on when it was found out, or on test labels."""
    return {
        e["arch_id"]: (
            e["status"], e["probability"], e["seed"], e["metrics"].get("accuracy_int8_val"),
            [(t["seed"], t["accuracy_val"], t["accuracy_int8"]) for t in e["trainings"]],
        )
        for e in entries(verified)
    }  # fmt: skip


def test_the_front_is_that_of_the_files_and_everything_says_so(trained: VerifyBench) -> None:
    said = trained.call("verify", "runs/images", *PLUGIN, *TWO, "--progress", "none")
    assert said.code == 0, said.err
    run = trained.folder / "runs" / "images"
    verified = json.loads((run / "verified.json").read_text())
    assert verified["front"] == "int8"
    lost = []
    for entry in entries(verified):
        metrics, trainings = entry["metrics"], entry["trainings"]
        assert metrics["accuracy_int8_val"] == fmean(t["accuracy_int8"] for t in trainings)
        assert metrics["accuracy_int8"] == fmean(t["test_accuracy_int8"] for t in trainings)
        assert metrics["accuracy"] == fmean(t["test_accuracy"] for t in trainings)
        assert metrics["accuracy_int8_val"] == pytest.approx(metrics["accuracy_val"], abs=0.2)
        assert 0 < metrics["model_bytes_int8"] < 100_000
        lost.append(metrics["accuracy_val"] - metrics["accuracy_int8_val"])
        # What is handed out is that training's file: the same images give the same answers.
        best = max(trainings, key=lambda t: t["accuracy_int8"])
        assert entry["seed"] == best["seed"]
        assert entry["delivered"]["int8_accuracy"] == best["test_accuracy_int8"]
        trained_file = run / "verify" / "exported" / f"{entry['arch_id']}-int8.onnx"
        graph = with_metadata(trained_file.read_bytes(), {})
        assert metrics["model_bytes_int8"] == pytest.approx(len(graph), abs=8), "of any weights"
    assert verified["quantisation"]["val"]["mean"] == pytest.approx(fmean(lost))
    points = [
        (e["arch_id"], e["metrics"]["accuracy_int8_val"], e["metrics"]["params"])
        for e in entries(verified)
    ]
    front = {
        i for i, a, p in points
        if not any((b >= a and q <= p) and (b > a or q < p) for _, b, q in points)
    }  # fmt: skip
    assert {m["arch_id"] for m in verified["members"]} == front
    count = len(trained.verification("images").trials())
    assert verified["test_evaluations"] == 2 * count + 2 * len(points)

    assert "the front is that of int8 files: accuracy decided" in " ".join(said.out.split())
    assert "trained less int8 test accuracy:" in said.out
    head = (run / "promised.csv").read_text().split("\n")[0]
    assert "retrained_accuracy_int8,retrained_accuracy_int8_low" in head
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Test accuracy int8" in page
    section = page[page.index('<section id="verified">') :]
    for entry in entries(verified):
        assert f'<th scope="row"><code>{entry["arch_id"]}</code></th>' in section
    assert "| int8 | int8 test |" in (run / "report.md").read_text(encoding="utf-8")
    for folder in (run, run / "verify"):
        found = examine(folder)
        assert found.sound, [c.to_line() for c in found.checks]

    stored = json.loads((run / "verify" / "verified.json").read_text())
    stored["members"][0]["metrics"]["accuracy_int8_val"] += 0.01
    (run / "verify" / "verified.json").write_text(json.dumps(stored))
    (problem,) = [c for c in examine(run / "verify").checks if c.id == "I5"]
    assert "accuracy_int8_val" in problem.details[0]
    stored["members"][0]["metrics"]["accuracy_int8_val"] -= 0.01
    (run / "verify" / "verified.json").write_text(json.dumps({**stored, "front": "trained"}))
    (problem,) = [c for c in examine(run / "verify").checks if c.id == "I5"]
    assert "says that its front is trained, it was to be int8" in problem.details[0]

    said = trained.call("verify", "runs/images", *PLUGIN, *TWO[:2])
    assert "verify.front: int8 -> trained" in said.err
    assert "--fresh moves that verification aside" in said.err


def test_a_disk_that_fills_up_while_files_are_judged_loses_nothing(
    trained: VerifyBench, images: VerifyBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command goes on, and comes to what it would have come to; other test labels change
    nothing either."""
    calls = []

    def full(*given: Any, **more: Any) -> Any:
        calls.append(given)
        if len(calls) == 5:  # after two untrained files and those of two trainings
            raise EnvironmentProblemError("/tmp/x: cannot be written: No space left on device")
        return quantise(*given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(int8, "quantise", full)
        error = trained.verify("images", *NO_FILES, code=4)
    assert "No space left on device; nothing finished is lost" in error
    states = [t.state for t in trained.verification("images").trials()]
    assert states == [State.COMPLETE, State.COMPLETE, State.RUNNING]
    files = trained.verification("images").verification["files"]  # type: ignore[index]
    verified = trained.verify("images", *NO_FILES)
    assert trained.verification("images").verification["files"] == files  # type: ignore[index]
    calm = images.to(tmp_path / "calm").verify("images", *NO_FILES, VERIFY_TEST="3")
    assert facts(calm) == facts(verified)
    accuracies = [[e["metrics"]["accuracy_int8"] for e in entries(v)] for v in (calm, verified)]
    assert accuracies[0] != accuracies[1]


def test_who_cannot_be_quantised_is_not_trained_and_on_no_front(
    trained: VerifyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Path] = []

    def picky(path: Path, *given: Any, **more: Any) -> Any:
        if path.parent.name == (refused or [path])[0].parent.name:
            refused.append(path)
            raise EnvironmentProblemError("int8: the operator Frobnicate cannot be quantised")
        return quantise(path, *given, **more)

    command = ("verify", "runs/images", *PLUGIN, *NO_FILES, "--progress", "plain", "--json")
    with monkeypatch.context() as patched:
        patched.setattr(int8, "quantise", picky)
        said = trained.call(*command)
    assert said.code == 0, said.err
    arch_id = refused[0].parent.name
    assert f"{arch_id} has no int8 file, and is not trained: int8: the operator F" in said.err
    found = {e["arch_id"]: e for e in entries(json.loads(said.out))}
    assert (found[arch_id]["status"], found[arch_id]["trainings"]) == ("failed", [])
    assert found[arch_id]["reason"].endswith("the operator Frobnicate cannot be quantised")
    assert json.loads(said.out)["places"]["failed"] == 1
    assert len(trained.verification("images").trials()) == 2 * (len(found) - 1)
    again = trained.call(*command)  # that stays so, and nothing is left to do
    assert facts(json.loads(again.out)) == facts(json.loads(said.out))
    assert examine(trained.folder / "runs" / "images" / "verify").sound


def test_if_nobody_can_be_quantised_nothing_is_trained(
    trained: VerifyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise EnvironmentProblemError("int8: the operator Frobnicate cannot be quantised")

    monkeypatch.setattr(int8, "quantise", broken)
    error = trained.verify("images", *NO_FILES, code=3)
    assert "verify.front: int8: no finalist can be quantised; " in error
    assert "the operator Frobnicate" in error
    assert trained.verification("images").trials() == []


def test_too_few_images_to_calibrate_with_are_refused_before_anything_is_done(
    trained: VerifyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_int8, "LEAST_IMAGES", 81)  # there are 80
    for more in ((), ("--dry-run",)):
        error = trained.verify("images", *TWO, *more, code=2)
        assert error == (
            "Error: verify.front: int8: images has 80 training images: too few to calibrate int8 "
            "with; at least 81; verify.front=trained judges the networks"
        )
    assert not (trained.folder / "runs" / "images" / "verify").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_more_says_nothing_of_a_network(number: int) -> None:
    error = EnvironmentProblemError(f"/tmp/x: cannot be written: {os.strerror(number)}")
    with pytest.raises(EnvironmentProblemError, match="cannot be written"):
        int8.raise_if_full(error)
    int8.raise_if_full(EnvironmentProblemError("int8: the operator F cannot be quantised"))
    int8.raise_if_full(ConfigError("No space left on device"))  # of what was asked for


def test_what_int8_files_have_no_value_of_is_refused(bench: VerifyBench) -> None:
    for more in ((), ("--dry-run",)):
        error = bench.verify("table", *TWO, *more, code=2)
        assert "verify.front: int8: evaluator=noisy trains no network that could be" in error
    assert not (bench.folder / "runs" / "table" / "verify").exists()
    error = bench.verify("table", "verify.front=int", code=2)
    assert "did you mean 'int8'? (known: trained, int8)" in error


@pytest.mark.parametrize(
    ("objectives", "more", "message"),
    [
        ({"accuracy": "max", "latency_ms": "min"}, (), "and measures none, so int8 files have no"),
        ({"accuracy": "max", "latency_ms": "min"}, ("verify.latency=search",),
         "verify.latency=search has no latency of int8 files; use verify.latency=measure"),
        ({"energy": "min", "params": "min"}, (), "objectives.energy: int8 files have no value"),
    ],
)  # fmt: skip
def test_objectives_without_a_value_in_int8_are_refused(
    trained: VerifyBench, objectives: dict[str, str], more: tuple[str, ...], message: str
) -> None:
    ledger = Ledger(trained.folder / "runs" / "images" / "ledger.sqlite", {})
    for trial in ledger.trials():  # as if the family had told them
        told = {"latency_ms": 1.0, "energy": 1.0}
        object.__setattr__(trial, "metrics", {**trial.metrics, **told})
        ledger.put_trial(trial)
    ledger.set_meta(config={**ledger.meta("config"), "objectives": objectives})
    ledger.close()
    error = trained.verify("images", *TWO, *more, code=2)
    assert message in error
    assert not (trained.folder / "runs" / "images" / "verify").exists()


def test_a_dry_run_says_what_the_front_would_be_judged_by(trained: VerifyBench) -> None:
    said = trained.call("verify", "runs/images", *PLUGIN, *TWO, "--dry-run")
    assert "the front will be that of int8 files" in said.out
    assert trained.verify("images", *TWO, "--dry-run")["front"] == "int8"
    assert trained.verify("images", *TWO[:2], "--dry-run")["front"] == "trained"


def test_a_verification_of_before_that_setting_goes_on(bench: VerifyBench) -> None:
    verified = bench.verify("table", *TWO[:2])
    ledger = Ledger(bench.folder / "runs" / "table" / "verify" / "ledger.sqlite", {})
    config = ledger.meta("config")
    assert config["verify"].pop("front") == "trained"
    ledger.set_meta(config=config)
    ledger.close()
    again = bench.verify("table", *TWO[:2])
    assert [e["probability"] for e in entries(again)] == [
        e["probability"] for e in entries(verified)
    ]
