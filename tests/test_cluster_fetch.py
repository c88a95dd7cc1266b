"""`nasctl fetch`, against jobs that are processes here: whole or not at all, nothing lost."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nasctl import cluster_fetch
from nasctl.cluster import JobGoneError
from nasctl.cluster_fetch import Source, fetch, find_source
from nasctl.errors import EnvironmentProblemError
from nasctl.ledger import Ledger
from nasctl.records import RunRecords
from nasctl.runlock import RunLock
from tests.faults.drive import INLINE, SEARCH, TOY, Bench
from tests.jobs_api import LocalCluster


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("original"), tmp_path_factory.mktemp("cache"))
    bench.write("toy.yaml", TOY)
    said = bench.call(*SEARCH, INLINE, "trials=3")
    assert said.code == 0, said.err
    return bench


@pytest.fixture
def head(original: Bench, tmp_path: Path) -> Path:
    """The head's folder for runs, with `toy` in it."""
    return original.copy(tmp_path / "head").run_dir.parent


@pytest.fixture
def cluster(head: Path, tmp_path: Path) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path, head)
    yield made
    made.close()


def fetched(cluster: LocalCluster, run: str, into: Path, output_dir: str = "") -> Path:
    source = Source(run=run, output_dir=output_dir)
    return fetch(cluster, source, into, progress=lambda _done, _all: None).directory  # type: ignore[arg-type]


def test_a_run_comes_and_nothing_of_its_journey_stays(
    cluster: LocalCluster, head: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    into = tmp_path / "here" / "runs"
    came = fetch(
        cluster,  # type: ignore[arg-type]
        Source(run="toy", output_dir=""),
        into,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (came.directory, came.replaced) == (into / "toy", False)
    assert RunRecords(into / "toy").front == RunRecords(head / "toy").front
    assert [p.name for p in into.iterdir()] == ["toy"]
    assert seen[-1][0] == seen[-1][1] > 0
    (job,) = cluster.jobs()
    assert job.id.startswith("nasctl-fetch-toy-")
    cluster.wait(job.id)
    assert cluster.log(job.id) == "", "the head's disk gets its room back"


def test_earlier_fetches_are_forgotten_once_ray_is_done_with_them(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    for name, kind, times in (
        ("old", "fetch", (-200.0, -100.0)),
        ("just", "fetch", (-100.0, -59.0)),
        ("search", "search", (-200.0, -100.0)),
    ):
        cluster.submit(name, "exit 0", metadata={"nasctl.kind": kind})
        cluster.times[name] = times
        cluster.wait(name)
    cluster.submit("going", "sleep 100", metadata={"nasctl.kind": "fetch"})
    cluster.times["going"] = (-200.0, -100.0)
    fetched(cluster, "toy", tmp_path / "here")
    assert cluster.deleted == ["old"]


def test_an_older_copy_is_replaced_and_another_run_is_not(
    cluster: LocalCluster, head: Path, tmp_path: Path
) -> None:
    into = tmp_path / "here"
    shutil.copytree(head / "toy", into / "toy")
    (into / "toy" / "front.json").write_text("old")
    came = fetch(cluster, Source(run="toy", output_dir=str(head)), into, progress=lambda *_: None)  # type: ignore[arg-type]
    assert came.replaced
    assert (into / "toy" / "front.json").read_text() != "old"

    ledger = Ledger(into / "toy" / "ledger.sqlite", {})
    ledger.set_meta(uid="another")
    ledger.close()
    with pytest.raises(EnvironmentProblemError, match="another run of that name is there"):
        fetched(cluster, "toy", into)
    assert RunRecords(into / "toy").uid == "another"
    assert [p.name for p in into.iterdir()] == ["toy"]


def test_what_was_done_here_is_not_lost(cluster: LocalCluster, head: Path, tmp_path: Path) -> None:
    into = tmp_path / "here"
    shutil.copytree(head / "toy", into / "toy")
    lock = RunLock(into / "toy")
    try:
        with pytest.raises(EnvironmentProblemError, match="driven here by process"):
            fetched(cluster, "toy", into)
    finally:
        lock.release()
    with closing(sqlite3.connect(head / "toy" / "ledger.sqlite")) as db:
        db.execute("DELETE FROM evaluations WHERE number = 2")
        db.execute("DELETE FROM trials WHERE number = 2")
        db.commit()
    with pytest.raises(EnvironmentProblemError, match="with trials that the cluster does not have"):
        fetched(cluster, "toy", into)
    assert len(RunRecords(into / "toy").trials()) == 3


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_run_is_left_alone_and_nothing_is_asked(
    cluster: LocalCluster, tmp_path: Path, kind: str
) -> None:
    into = tmp_path / "here"
    into.mkdir()
    if kind == "file":
        (into / "toy").write_text("mine")
    elif kind == "folder":
        (into / "toy").mkdir()
    else:
        (into / "toy").symlink_to(tmp_path)
    with pytest.raises(EnvironmentProblemError, match="no run is there; nothing was changed"):
        fetched(cluster, "toy", into)
    assert cluster.jobs() == []


def test_a_place_that_cannot_be_written_is_refused_at_once(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentProblemError, match=r"^-o .*is not a folder"):
        fetched(cluster, "toy", tmp_path / "file" / "runs")
    assert cluster.jobs() == []


def test_a_disk_that_is_full_here_is_one_line_and_leaves_nothing(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cluster_fetch, "_receive", full)
    with pytest.raises(EnvironmentProblemError, match=r"^-o .*: No space left on device$"):
        fetched(cluster, "toy", tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_no_such_run_names_the_nearest(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblemError) as error:
        fetched(cluster, "tay", tmp_path / "here")
    assert str(error.value).startswith("on the head: ")
    assert "did you mean" in str(error.value)
    assert list((tmp_path / "here").iterdir()) == []


def test_a_swap_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target, old = tmp_path / "toy", tmp_path / "old"
    target.mkdir()
    (target / "a").write_text("old")
    with pytest.raises(EnvironmentProblemError, match="cannot be written"):
        cluster_fetch._swap(tmp_path / "none", target, old)
    assert (target / "a").read_text() == "old"


def test_a_name_means_a_job_a_run_or_a_folder_of_the_head(cluster: LocalCluster) -> None:
    cluster.submit(
        "nasctl-toy-000001",
        "exit 0",
        metadata={"nasctl.run": "toy", "nasctl.output_dir": "/data", "nasctl.kind": "search"},
    )
    cluster.submit("nasctl-fetch-x-1", "exit 0", metadata={"nasctl.kind": "fetch"})
    cluster.submit("raysubmit_1", "exit 0", metadata={})

    def found(name: str) -> tuple[str, str]:
        source = find_source(cluster, name)  # type: ignore[arg-type]
        return source.run, source.output_dir

    assert found("nasctl-toy-000001") == found("toy") == ("toy", "/data")
    assert found("older") == ("older", "")
    assert found("/runs/older") == ("older", "/runs")
    assert found("/runs/older/") == ("older", "/runs")
    assert found("/older") == ("older", "/")
    with pytest.raises(EnvironmentProblemError, match="has no run"):
        found("raysubmit_1")
    for name in ("runs/toy", "../toy", "a b", "", "/"):
        with pytest.raises(JobGoneError):
            found(name)
