"""What goes wrong around a verification: data that is gone, disks that are full, other seeds."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasctl import files
from nasctl.doctor import examine
from nasctl.kept_files import PROMISED_CSV, VERIFIED_JSON
from nasctl.records import RunRecords
from nasctl.trial import State
from tests.verify_bench import IMAGES, PLUGIN, VerifyBench, entries

TWO = ("verify.seeds=2", "verify.max_seeds=2", "verify.export=false")


@pytest.fixture
def on_disk(tmp_path: Path) -> VerifyBench:
    """A finished search on images in a file."""
    made = VerifyBench(tmp_path, tmp_path / "cache")
    rng = np.random.default_rng(0)
    labels = np.tile(np.array([0, 1]), 60)
    pixels = (rng.integers(0, 200, (120, 1, 8, 8)) + 40 * labels[:, None, None, None]).astype(
        np.uint8
    )
    np.savez(
        tmp_path / "images.npz",
        train_images=pixels[:60], train_labels=labels[:60],
        val_images=pixels[60:90], val_labels=labels[60:90],
        test_images=pixels[90:], test_labels=labels[90:],
    )  # fmt: skip
    text = IMAGES.replace("override data: digits", "override data: npz")
    made.write("images.yaml", text.replace("data: {name: dealt}", "data: {path: images.npz}"))
    said = made.call("search", "images.yaml", *PLUGIN, "--progress", "none")
    assert said.code == 0, said.err
    return made


def test_data_that_is_gone_is_said_and_the_verification_goes_on_later(on_disk: VerifyBench) -> None:
    run = on_disk.folder / "runs" / "images"
    data, away = on_disk.folder / "images.npz", on_disk.folder / "away.npz"
    data.rename(away)
    for more in ((), ("--dry-run",)):
        error = on_disk.verify("images", *TWO, *more, code=2)
        assert "images.npz" in error
        assert "data.path: " in error
    assert not (run / "verify").exists()
    shutil.copy(away, data)
    verified = on_disk.verify("images", *TWO)
    data.unlink()
    error = on_disk.verify("images", "verify.seeds=2", "verify.max_seeds=3", code=2)
    assert "images.npz" in error
    assert json.loads((run / VERIFIED_JSON).read_text()) == verified  # as it was
    away.rename(data)
    assert len(on_disk.verification("images").trials()) == sum(
        len(e["trainings"]) for e in entries(verified)
    )


@pytest.mark.parametrize("name", [VERIFIED_JSON, PROMISED_CSV])
@pytest.mark.parametrize("place", ["table", "verify"])
def test_a_disk_that_is_full_at_the_results_keeps_the_trainings(
    bench: VerifyBench, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    """Without room for one of the four files: one line, no torn file, and the same command ends
    without training anything again."""
    run = bench.folder / "runs" / "table"
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if (target.name, target.parent.name) == (name, place):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "replace", full)
        error = bench.verify("table", *TWO, code=4)
    target = f"runs/{place}/{name}" if place == "table" else f"runs/table/verify/{name}"
    assert error == f"Error: {target}: cannot be written: No space left on device"
    assert list(run.rglob(".*.tmp")) == []
    assert not (run / name if place == "table" else run / "verify" / name).exists()
    before = bench.verification("table").trials()
    assert before
    assert {t.state for t in before} == {State.COMPLETE}
    assert bench.verification("table").status == "FAILED"
    verified = bench.verify("table", *TWO)
    assert verified["status"] == "FINISHED"
    assert [t.started_at for t in bench.verification("table").trials()] == [
        t.started_at for t in before
    ]
    for folder in (run, run / "verify"):
        assert json.loads((folder / VERIFIED_JSON).read_text()) == verified
        assert examine(folder).sound


def test_fewer_seeds_than_were_trained_are_refused_and_nothing_is_lost(bench: VerifyBench) -> None:
    verified = bench.verify("table", "verify.seeds=2", "verify.max_seeds=4")
    assert max(len(e["trainings"]) for e in entries(verified)) == 4
    said = bench.call("verify", "runs/table", *PLUGIN, "verify.seeds=2", "verify.max_seeds=2")
    assert said.code == 2
    assert "verify.max_seeds: 4 -> 2 (may be raised, not lowered)" in said.err
    stored = json.loads((bench.folder / "runs" / "table" / VERIFIED_JSON).read_text())
    assert stored == verified
    assert bench.verification("table").status == "FINISHED"


def test_the_result_is_read_once_for_each_snapshot(
    bench: VerifyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.verify("table", *TWO)
    read: list[Path] = []
    original = Path.read_text

    def counted(path: Path, *given: Any, **more: Any) -> str:
        read.append(path)
        return original(path, *given, **more)

    monkeypatch.setattr(Path, "read_text", counted)
    records = RunRecords(bench.folder / "runs" / "table" / "verify")
    artifacts, sealed = records.artifacts(), records.sealed()
    assert {p for p in sealed} <= {p for p, _ in artifacts}
    assert [p.name for p in read].count(VERIFIED_JSON) == 1
    # A later snapshot sees a later file.
    (records.directory / VERIFIED_JSON).write_text("{}")
    assert records.verified != {}
    assert RunRecords(records.directory).verified == {}
