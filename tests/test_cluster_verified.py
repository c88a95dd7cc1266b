"""A verification on a cluster: it comes with its run, and one that was done here is not lost."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nasctl import cluster as cluster_module
from nasctl.cluster_archive import Receiver, pack, send, unpack
from nasctl.cluster_fetch import Source, fetch
from nasctl.doctor import examine
from nasctl.errors import EnvironmentProblemError
from nasctl.ledger import Ledger
from nasctl.records import RunRecords
from nasctl.runlock import RunLock
from search_spaces.blocks import BLOCKS
from tests.jobs_api import LocalCluster
from tests.test_cli_cluster import running
from tests.verify_bench import PLUGIN, VerifyBench

SMALL = ("verify.seeds=2", "verify.max_seeds=2", "verify.near=0")


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> VerifyBench:
    """A run that was verified twice: the first verification was moved aside."""
    made = VerifyBench(tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("cache"))
    made.searched("table")
    made.verify("table", *SMALL)
    made.verify("table", *SMALL, "--fresh")
    own = made.folder / "runs" / "table" / "verify"
    for name in ("weights/abc-s1.safetensors", "exported/abc.onnx", "models/abc.onnx"):
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_bytes(b"some bytes")
    return made


@pytest.fixture
def run(verified: VerifyBench, tmp_path: Path) -> Path:
    return verified.to(tmp_path / "head").folder / "runs" / "table"


def travelled(run: Path, place: Path) -> Path:
    pack(run, place / "sent.tar.gz")
    out = io.StringIO()
    send(place / "sent.tar.gz", run.name, out)
    with open(place / "received", "wb") as archive:
        receiver = Receiver(archive)
        for line in out.getvalue().splitlines():
            receiver.line(line)
    return unpack(place / "received", run.name, place / "here")


def test_a_verification_comes_with_its_run(run: Path, tmp_path: Path) -> None:
    here = travelled(run, tmp_path)
    for name in ("verified.json", "promised.csv"):
        for folder in ("", "verify"):
            assert (here / folder / name).read_bytes() == (run / folder / name).read_bytes()
    own = here / "verify"
    assert RunRecords(own).trials() == RunRecords(run / "verify").trials()
    files = {p.relative_to(own).as_posix() for p in own.rglob("*") if p.is_file()}
    assert {"weights/abc-s1.safetensors", "exported/abc.onnx", "config.yaml"} <= files
    assert not any(name.startswith(("models", ".lock")) for name in files), "for MLflow alone"
    # How often the test split was opened is known from ledgers that were moved aside, too.
    (aside,) = [p for p in here.glob("verify*") if p != own]
    assert [p.name for p in aside.iterdir()] == ["ledger.sqlite"]
    for folder in (here, own):
        found = examine(folder)
        assert found.sound, [c.to_line() for c in found.checks]


def test_of_a_verification_that_goes_on_what_it_has_found_comes(run: Path, tmp_path: Path) -> None:
    before = json.loads((run / "verified.json").read_text())
    ledger = Ledger(run / "verify" / "ledger.sqlite", BLOCKS)
    ledger.set_meta(status="RUNNING")
    for name in ("verified.json", "promised.csv"):
        (run / name).unlink()
        (run / "verify" / name).unlink()
    locks = [RunLock(run), RunLock(run / "verify")]
    try:
        here = travelled(run, tmp_path)
    finally:
        for lock in locks:
            lock.release()
        ledger.close()
    assert RunRecords(here).status == "FINISHED", "of the search nothing has changed"
    assert RunRecords(here / "verify").status == "INTERRUPTED"
    verified = json.loads((here / "verified.json").read_text())
    assert verified["status"] == "INTERRUPTED"
    assert verified["members"] == before["members"]
    for name in ("verified.json", "promised.csv"):
        assert (here / name).read_bytes() == (here / "verify" / name).read_bytes()
    for folder in (here, here / "verify"):
        found = examine(folder)
        assert found.sound, [c.to_line() for c in found.checks]


def test_a_verification_through_a_symbolic_link_stays(run: Path, tmp_path: Path) -> None:
    (run / "verify").rename(tmp_path / "elsewhere")
    (run / "verify").symlink_to(tmp_path / "elsewhere")
    assert not (travelled(run, tmp_path) / "verify").exists()


@pytest.fixture
def cluster(run: Path, tmp_path: Path) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path, run.parent)
    yield made
    made.close()


def fetched(cluster: LocalCluster, into: Path) -> Path:
    source = Source(run="table", output_dir="")
    return fetch(cluster, source, into, progress=lambda *_: None).directory  # type: ignore[arg-type]


def test_a_verification_that_was_done_here_is_not_lost(
    cluster: LocalCluster, run: Path, tmp_path: Path
) -> None:
    here = fetched(cluster, tmp_path / "runs")
    fetched(cluster, tmp_path / "runs")  # the same again
    # On the head it is moved aside, and another one begun: this one is known there.
    shutil.move(run / "verify", run / "verify-1")
    fetched(cluster, tmp_path / "runs")
    shutil.move(here / "verify-1", here / "verify")
    with closing(sqlite3.connect(run / "verify-1" / "ledger.sqlite")) as db:
        db.execute("DELETE FROM evaluations WHERE number = 0")
        db.execute("DELETE FROM trials WHERE number = 0")
        db.commit()
    for _ in range(2):
        with pytest.raises(EnvironmentProblemError, match="with a verification that the cluster"):
            fetched(cluster, tmp_path / "runs")
        shutil.rmtree(run / "verify-1", ignore_errors=True)  # then: it has none at all
    assert (here / "verify" / "ledger.sqlite").is_file()


# -- submit --verify ------------------------------------------------------------------------------


@pytest.fixture
def bench(
    verified: VerifyBench, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> VerifyBench:
    monkeypatch.setattr(cluster_module, "connect", lambda url, token: cluster)
    made = VerifyBench(tmp_path / "desk", verified.cache)
    made.folder.mkdir()
    return made


def test_it_is_driven_by_one_job(bench: VerifyBench, cluster: LocalCluster) -> None:
    job_id = running(cluster, "table")
    said = bench.call("submit", "table", "--verify", *PLUGIN)
    assert said.code == 4
    assert f"the run table is being driven by the job {job_id}" in said.error
    assert [job.id for job in cluster.jobs()] == [job_id]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ablate"], "--verify: a study of --ablate has no finalists"),
        (["--dry-run"], "nasctl fetch table; nasctl verify runs/table --dry-run"),
    ],
)
def test_what_does_not_go_together(bench: VerifyBench, flags: list[str], said: str) -> None:
    found = bench.call("submit", "table", "--verify", *flags)
    assert found.code == 2
    assert said in found.error


def test_what_is_submitted(bench: VerifyBench, cluster: LocalCluster) -> None:
    said = bench.call("submit", "table", "--verify", *PLUGIN, *SMALL, "--detach")
    assert said.code == 0, said.err
    (job,) = cluster.jobs()
    assert job.id.startswith("nasctl-verify-table-")
    assert (job.run, job.output_dir, job.metadata["nasctl.kind"]) == ("table", "", "verify")
    typed = ["nasctl", "submit", "table", "--verify", *PLUGIN, *SMALL, "--detach"]
    assert job.metadata["nasctl.command"] == " ".join(typed)
    cluster.wait(job.id)
    assert cluster.job(job.id).exit_code == 0, "it was finished: there is nothing to train"
    assert "runs/table/verified.json" in cluster.log(job.id)
