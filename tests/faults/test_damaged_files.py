"""Files that are not what was written: F18, F19, F25."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from nasctl.errors import EnvironmentProblemError
from nasctl.history import history_hash
from nasctl.records import LEDGER
from nasctl.weights import load_weights, save_weights
from tests.faults.drive import INLINE, SEARCH, Bench

# -- the ledger -----------------------------------------------------------------------------------


def ledger_files(bench: Bench) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in bench.run_dir.glob("ledger.sqlite")}


def flip_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 8] = os.urandom(4096 * 5)
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30_000])


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 5000)


@pytest.mark.parametrize("damage", [flip_pages, truncate, garbage, newer])
def test_f19_a_damaged_ledger_is_refused_untouched_and_its_copy_continues(
    bench: Bench, damage: object
) -> None:
    arguments = (*SEARCH, INLINE, "sampler=tpe", "sampler.startup_trials=4")
    assert bench.call(*arguments, "name=calm").code == 0
    assert bench.call(*arguments, "trials=6").code == 0
    ledger = bench.run_dir / "ledger.sqlite"
    assert callable(damage)
    damage(ledger)
    before = ledger_files(bench)
    said = bench.call(*arguments)
    assert said.code == 4
    assert ledger_files(bench) == before
    if damage is newer:
        assert "ledger version 99, this nasctl reads version" in said.error
        assert "use the nasctl that wrote it" in said.error
    else:
        assert "the file was left untouched, restore a copy, or begin anew with --fresh" in said.err
        assert said.error.endswith(": runs/toy/ledger.backup.sqlite)")
    found = bench.diagnosis()
    assert [c.id for c in found.checks if c.state == "violated"] == ["I0"]
    # As the message says: the copy is whole, and the search goes on from it.
    for side in ("", "-wal", "-shm"):
        Path(f"{ledger}{side}").unlink(missing_ok=True)
    shutil.copy(bench.run_dir / "ledger.backup.sqlite", ledger)
    assert bench.call(*arguments).code == 0
    assert history_hash(bench.toy.trials()) == history_hash(bench.trials("calm"))
    bench.assert_sound()


# -- weights --------------------------------------------------------------------------------------


class Canary:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> object:
        return Path.touch, (self._path,)


def test_f25_weights_are_never_unpickled(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    model = torch.nn.Linear(3, 2)
    for content in (pickle.dumps(Canary(canary)), b"", b"\x08" * 7):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(content)
        with pytest.raises(EnvironmentProblemError, match="cannot read the weights"):
            load_weights(path, model)
    torch.save({"weight": Canary(canary)}, tmp_path / "zip.safetensors")
    with pytest.raises(EnvironmentProblemError, match="cannot read the weights"):
        load_weights(tmp_path / "zip.safetensors", model)
    assert not canary.exists()


@pytest.mark.parametrize("keep", [0, 1, 60, -1])
def test_f18_truncated_weights_are_refused_whole(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "weights.safetensors"
    model = torch.nn.Linear(3, 2)
    save_weights(path, model, {})
    path.write_bytes(path.read_bytes()[:keep])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(EnvironmentProblemError, match="cannot read the weights"):
        load_weights(path, model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_f18_a_flipped_bit_in_the_weights_is_seen_by_the_doctor(bench: Bench) -> None:
    """safetensors has no checksum: such a file loads."""
    assert bench.call(*SEARCH, INLINE, "trials=4").code == 0
    best = bench.toy.front["members"][0]["arch_id"]
    path = bench.run_dir / "weights" / f"{best}-s0.safetensors"
    model = torch.nn.Linear(3, 2)
    save_weights(path, model, {})  # as a training leaves it
    assert bench.call(*SEARCH, INLINE, "trials=4").code == 0
    bench.assert_sound()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    load_weights(path, model)
    (found,) = [c for c in bench.diagnosis().checks if c.state == "violated"]
    assert found.details == (
        f"weights/{path.name} is not what was written; only a copy of it helps",
    )


@pytest.mark.parametrize("left", ["empty", "missing"])
def test_f19_a_lost_ledger_is_not_begun_anew_over_its_copy(bench: Bench, left: str) -> None:
    assert bench.call(*SEARCH, INLINE).code == 0
    before = history_hash(bench.toy.trials())
    ledger, copy = bench.run_dir / LEDGER, bench.run_dir / "ledger.backup.sqlite"
    for path in bench.run_dir.glob(f"{LEDGER}*"):
        path.unlink()
    if left == "empty":
        ledger.touch()
    kept = copy.read_bytes()
    said = bench.call(*SEARCH, INLINE)
    assert said.code == 4
    assert f"(there is one of {time.strftime('%Y-')}" in said.error
    assert "put the copy in its place, or begin anew with --fresh" in said.error
    assert copy.read_bytes() == kept
    shutil.copy(copy, ledger)
    assert bench.call(*SEARCH, INLINE).code == 0
    assert history_hash(bench.toy.trials()) == before
    ledger.unlink()
    assert bench.call(*SEARCH, INLINE, "--fresh").code == 0
    assert (bench.run_dir.with_name("toy.old1") / copy.name).exists()
