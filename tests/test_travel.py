"""Files that workers on other machines write, on their way to the run's folder and back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from nasctl.errors import EnvironmentProblemError
from nasctl.executors import travel
from nasctl.executors.travel import Inbox, Outbox, RefusedFileError


def data(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("checkpoints", "weights"):
        (tmp_path / "run" / name).mkdir(parents=True)
    return tmp_path / "run"


@pytest.fixture
def inbox(run: Path) -> Inbox:
    return Inbox({name: str(run / name) for name in ("checkpoints", "weights")})


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "scratch", ["checkpoints", "weights"])


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_text() for p in files}


def write(outbox: Outbox, name: str, text: str) -> None:
    folder, _, rest = name.partition("/")
    path = Path(outbox.folders[folder], rest)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_what_is_written_arrives_once_and_is_forgotten_where_it_was_written(
    outbox: Outbox, inbox: Inbox, run: Path, tmp_path: Path
) -> None:
    write(outbox, "checkpoints/3/1.ckpt", "one")
    write(outbox, "checkpoints/3/.2.ckpt.tmp", "half of it")
    inbox.store(3, outbox.collect())
    assert outbox.collect() == {}
    write(outbox, "weights/abc-s0.safetensors", "weights")
    inbox.store(3, outbox.collect())
    assert contents(run) == {"checkpoints/3/1.ckpt": "one", "weights/abc-s0.safetensors": "weights"}
    assert list(contents(tmp_path / "scratch")) == ["checkpoints/3/.2.ckpt.tmp"]
    outbox.clear()
    assert contents(tmp_path / "scratch") == {}


def test_the_last_two_checkpoints_stay(inbox: Inbox, run: Path) -> None:
    for epoch in (8, 9, 10, 11):
        inbox.store(3, {f"checkpoints/3/{epoch}.ckpt": data(str(epoch))})
    assert sorted(contents(run)) == ["checkpoints/3/10.ckpt", "checkpoints/3/11.ckpt"]


def test_a_checkpoint_travels_to_the_next_worker_and_not_back(
    outbox: Outbox, inbox: Inbox, tmp_path: Path
) -> None:
    inbox.store(3, {"checkpoints/3/1.ckpt": data("one"), "checkpoints/3/2.ckpt": data("two")})
    inbox.store(4, {"checkpoints/4/1.ckpt": data("of another")})
    packed = inbox.pack(3)
    assert sorted(packed) == ["checkpoints/3/1.ckpt", "checkpoints/3/2.ckpt"]
    outbox.unpack(packed)
    there = Path(outbox.folders["checkpoints"], "3")
    assert contents(there) == {"1.ckpt": "one", "2.ckpt": "two"}
    (there / "2.ckpt").unlink()
    write(outbox, "checkpoints/3/2.ckpt", "two again")
    assert {n: bytes(d) for n, d in outbox.collect().items()} == {
        "checkpoints/3/2.ckpt": b"two again"
    }
    assert contents(tmp_path / "scratch") == {}


@pytest.mark.parametrize(
    "name",
    [
        "ledger.sqlite",
        "/etc/passwd",
        "../ledger.sqlite",
        "weights/../ledger.sqlite",
        "checkpoints/4/1.ckpt",  # of another trial
        "checkpoints/7",  # in the way of another trial's folder
        "checkpoints/3/../4/1.ckpt",
        "checkpoints/3/deep/1.ckpt",
        "checkpoints//1.ckpt",
        "checkpoints/3/.hidden",
        "checkpoints/3/1\0.ckpt",
        "weights/..\\x",
        "elsewhere/x",
        "weights",
        "",
    ],
)
def test_names_that_are_not_of_the_training_are_refused_and_nothing_is_written(
    inbox: Inbox, run: Path, name: str
) -> None:
    with pytest.raises(RefusedFileError, match="refused"):
        inbox.store(3, {"weights/fine": data("fine"), name: data("bad")})
    assert contents(run) == {}


def test_nothing_is_written_or_read_through_a_link(inbox: Inbox, run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1.ckpt").write_text("of somebody")
    (run / "checkpoints" / "3").symlink_to(outside)
    inbox.store(3, {"checkpoints/3/2.ckpt": data("two")})
    assert inbox.pack(3) == {}
    assert contents(outside) == {"1.ckpt": "of somebody"}


def test_a_link_in_the_scratch_folder_does_not_travel(outbox: Outbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    Path(outbox.folders["weights"], "x").symlink_to(tmp_path / "secret")
    assert outbox.collect() == {}


def test_a_full_disk_is_a_problem_of_the_environment_and_leaves_what_was_there(
    inbox: Inbox, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.store(3, {"weights/x": data("before")})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(EnvironmentProblemError, match="No space left on device"):
        inbox.store(3, {"weights/x": data("after")})
    assert contents(run) == {"weights/x": "before"}


def test_files_of_a_job_that_writes_none(tmp_path: Path) -> None:
    assert travel.Inbox({}).pack(0) == {}
    with pytest.raises(RefusedFileError):
        travel.Inbox({}).store(0, {"weights/x": data("x")})
