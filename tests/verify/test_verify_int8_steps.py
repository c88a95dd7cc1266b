"""The steps of `verify.front=int8`, one at a time: what is timed, who gets more seeds, on what."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nasctl import weights
from nasctl.config.verification import verification_diff
from nasctl.errors import NothingFeasibleError
from nasctl.evaluate import EvaluationError
from nasctl.export.parity import ParityError
from nasctl.latency_settings import LatencySettings
from nasctl.latency_table import WholeLatency
from nasctl.verification import int8, measuring
from nasctl.verification.job import Opened, VerificationJob
from nasctl.verification.settings import VerifySettings
from nasctl.verification.training import _open_ids
from tests.verify_plugin import images
from tests.verify_samples import OBJECTIVES, finalist, training

SETTINGS = VerifySettings(front="int8", sessions=3)
ONE, TWO = finalist(1, 0.9, 1.0), finalist(2, 0.8, 2.0, "reference", name="published")


def whole(p50: float) -> WholeLatency:
    near = (0.95 * p50, 1.05 * p50)
    return WholeLatency(
        p50_ms=p50, p90_ms=2 * p50, interval=near, p90_interval=near, n=64, rounds=16
    )


class Steps:
    """A verification of which only measuring is left, and what it did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, without: tuple[str, ...] = ()) -> None:
        self.kept: dict[str, Any] = {}
        self.timed: list[tuple[set[str], int]] = []
        self.quantised = 0
        self.warnings: list[str] = []
        self._without = without
        monkeypatch.setattr(measuring, "untrained_files", self._files)
        monkeypatch.setattr(measuring, "latencies_of", self._latencies)
        monkeypatch.setattr(measuring, "note_measuring", lambda *_: None)

    def _files(self, networks: Any, **_: Any) -> Any:
        self.quantised += 1
        known = {n.id: {"bytes": 500} for n in networks}
        known |= {i: {"error": "it cannot be"} for i in self._without}  # type: ignore[dict-item]
        return {i: Path(i) for i in known if i not in self._without}, known

    def _latencies(self, files: Mapping[str, Path], *_: Any, seed: int, **__: Any) -> Any:
        self.timed.append((set(files), seed))
        return {i: whole(1.0 + 0.1 * seed) for i in files}

    def run(self, files: Mapping[str, Any] | None = None) -> dict[str, Any]:
        place = SimpleNamespace(node=None)
        timing = SimpleNamespace(
            settings=LatencySettings(), place=place, device=None, canary_ms=None
        )
        ongoing = SimpleNamespace(
            settings=SETTINGS,
            files=files or {},
            problem=SimpleNamespace(dataset=images()),
            finalists=[ONE, TWO],
            display=SimpleNamespace(phase=lambda _: None, warning=self.warnings.append),
            build=lambda: None,
            timing=lambda *_: timing,
            ledger=SimpleNamespace(transaction=contextlib.nullcontext),
            keep=self.kept.update,
        )
        measuring.measure_files(ongoing, None)  # type: ignore[arg-type]
        return self.kept


def test_files_are_timed_in_sessions_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    files = steps.run()["files"]
    both = {ONE.arch_id, TWO.arch_id}
    assert steps.timed == [(both, 0), (both, 1), (both, 2)]
    assert files[ONE.arch_id]["sessions_ms"] == pytest.approx([1.0, 1.1, 1.2])
    assert (files[ONE.arch_id]["n"], files[ONE.arch_id]["bytes"]) == (3, 500)


def test_what_was_measured_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    assert steps.run(files={ONE.arch_id: {"bytes": 7}}) == {}
    assert steps.quantised == 0


def test_one_without_a_file_is_noted_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Steps(monkeypatch, without=(TWO.arch_id,))
    files = steps.run()["files"]
    assert files[TWO.arch_id] == {"error": "it cannot be"}
    assert {frozenset(names) for names, _ in steps.timed} == {frozenset({ONE.arch_id})}
    (warning,) = steps.warnings
    assert "has no int8 file, and is not trained: it cannot be" in warning


def test_files_of_reference_networks_alone_make_no_front(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, without=(ONE.arch_id,))
    with pytest.raises(NothingFeasibleError, match=r"no finalist can be quantised; .*it cannot be"):
        steps.run()
    assert (steps.kept, steps.timed) == ({}, [])


def test_more_seeds_are_for_those_that_are_open_in_int8() -> None:
    a, b = finalist(1, 0.9, 1.0), finalist(2, 0.9, 1.0)
    trials = [
        training(2 * i + seed, of, 0.9 - 0.3 * i, seed=seed, int8=(0.9 + off, 0.5))
        for i, of in enumerate((a, b))
        for seed, off in enumerate((-0.01, 0.01))
    ]
    known = {"p50_ms": 1.0, "interval": [0.99, 1.01], "sessions_ms": [0.99, 1.01]}

    def open_ids(front: Any) -> set[str]:
        ongoing = SimpleNamespace(
            finalists=[a, b],
            ledger=SimpleNamespace(measurements=dict),
            config=SimpleNamespace(objectives=OBJECTIVES, seed=0),
            settings=VerifySettings(front=front),
            files={a.arch_id: known, b.arch_id: known},
        )
        return _open_ids(ongoing, trials)  # type: ignore[arg-type]

    assert open_ids("int8") == {a.arch_id, b.arch_id}
    assert open_ids("trained") == set()  # one is far better


@pytest.mark.parametrize("has_test", [True, False])
def test_a_training_is_judged_in_int8_with_and_without_a_test_split(
    monkeypatch: pytest.MonkeyPatch, has_test: bool
) -> None:
    data = images()
    labels = data.test_labels if has_test else None
    opened = Opened(
        seen=data.without_test(), starts={}, test_images=data.test_images, test_labels=labels
    )
    asked = []

    def judged(*given: Any) -> dict[str, float]:
        asked.append(given)
        return {"accuracy_int8": 0.5}

    monkeypatch.setattr(weights, "load_weights", lambda *_: None)
    monkeypatch.setattr(int8, "int8_accuracies", judged)
    monkeypatch.setattr(VerificationJob, "_on_test", lambda *_: 0.25)
    inner: Any = SimpleNamespace(weights="weights", built=lambda _: "module")
    work: Any = SimpleNamespace(architecture=ONE.architecture, seed=1)
    for is_int8 in (True, False):
        job = VerificationJob(inner=inner, data=opened, int8=is_int8)
        expected = {"test_accuracy": 0.25} if has_test else {}
        expected |= {"accuracy_int8": 0.5} if is_int8 else {}
        assert job._judged(inner, work, opened) == expected
    ((module, architecture, seen, _, given),) = asked
    assert (module, architecture, given is labels) == ("module", ONE.architecture, True)
    assert seen.test_labels is None, "ranges are not taken from test images"


def test_an_exported_file_that_says_something_else_is_a_failed_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def differs(*_: Any, **__: Any) -> None:
        raise ParityError("outputs differ by 0.5")

    monkeypatch.setattr(int8, "WRITERS", {"onnx": lambda *_: None})
    monkeypatch.setattr(int8, "flatten", lambda module: module)
    monkeypatch.setattr(int8, "quantise", lambda *_, **__: None)
    monkeypatch.setattr(int8, "compare", differs)
    module: Any = SimpleNamespace(cpu=lambda: SimpleNamespace(eval=lambda: None))
    with pytest.raises(EvaluationError, match=r"^not in int8: outputs differ by 0\.5$"):
        int8.int8_accuracies(module, ONE.architecture, images(), None, None)


def test_a_verification_of_before_that_setting_does_not_become_one_of_int8() -> None:
    old, new = {"verify": {"seeds": 3}}, {"verify": {"seeds": 3, "front": "int8"}}
    assert any("verify.front: trained -> int8" in line for line in verification_diff(old, new))
    assert verification_diff(old, {"verify": {"seeds": 3, "front": "trained"}}) == []
