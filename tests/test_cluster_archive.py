"""A run's folder travels as text and arrives as it was; nothing else gets out of an archive."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nasctl import cluster_archive
from nasctl.cluster_archive import BEGIN, END, Receiver, pack, runs_folder, send, unpack
from nasctl.doctor import examine
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.ledger import Ledger
from nasctl.records import RunRecords
from nasctl.runlock import RunLock
from search_spaces.blocks import BLOCKS
from tests.faults.drive import INLINE, SEARCH, TOY, Bench


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A finished run, with what a training leaves beside it."""
    bench = Bench(tmp_path_factory.mktemp("original"), tmp_path_factory.mktemp("cache"))
    bench.write("toy.yaml", TOY)
    said = bench.call(*SEARCH, INLINE, "trials=4")
    assert said.code == 0, said.err
    (bench.run_dir / "weights").mkdir(exist_ok=True)
    (bench.run_dir / "weights" / "abc-0.safetensors").write_bytes(bytes(range(256)) * 700)
    return bench


@pytest.fixture
def run(original: Bench, tmp_path: Path) -> Path:
    return original.copy(tmp_path / "head").run_dir


def sent(run: Path, place: Path) -> str:
    """What the head prints."""
    archive = place / "sent.tar.gz"
    pack(run, archive)
    out = io.StringIO()
    send(archive, run.name, out)
    return out.getvalue()


def received(text: str, place: Path) -> Path:
    """The archive that comes of it."""
    archive = place / "received"
    with open(archive, "wb") as out:
        receiver = Receiver(out)
        for line in text.splitlines():
            receiver.line(line)
    assert receiver.complete
    return archive


def travelled(run: Path, place: Path) -> Path:
    place.mkdir(exist_ok=True)
    return unpack(received(sent(run, place), place), run.name, place / "here")


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith("ledger.sqlite")
    }


def test_a_finished_run_arrives_as_it_was(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "0").write_text("not a result")
    (run / ".front.json.x.tmp").write_text("half a file")
    (run / "of_the_user.txt").write_text("not of the run")
    (run / "report.md").unlink()
    (run / "report.md").symlink_to("/etc/passwd")
    here = travelled(run, tmp_path / "place")
    expected = content(run)
    for name in ("checkpoints/0", ".front.json.x.tmp", "of_the_user.txt", "report.md", ".lock",
                 "ledger.backup.sqlite"):  # fmt: skip
        del expected[name]
    assert content(here) == expected
    there = RunRecords(run)
    assert RunRecords(here).trials() == there.trials()
    assert RunRecords(here).front == there.front
    assert RunRecords(here).status == "FINISHED"


def test_doctor_finds_a_copy_sound(original: Bench, run: Path, tmp_path: Path) -> None:
    found = examine(travelled(run, tmp_path / "place"))
    assert found.sound, [c.to_line() for c in found.checks]


def test_of_a_run_that_goes_on_an_interrupted_one_arrives(run: Path, tmp_path: Path) -> None:
    ledger = Ledger(run / "ledger.sqlite", BLOCKS)
    first = ledger.trials()[0]
    ledger.set_meta(status="RUNNING")
    (run / "front.json").write_text("{}")
    lock = RunLock(run)
    try:
        here = travelled(run, tmp_path / "place")
        assert ledger.meta("status") == "RUNNING"
    finally:
        lock.release()
        ledger.close()
    records = RunRecords(here)
    assert records.status == "INTERRUPTED"
    assert records.trials()[0] == first
    assert json.loads((here / "front.json").read_text()) == records.front
    found = examine(here)
    assert found.sound, [c.to_line() for c in found.checks]


def test_a_run_that_is_just_ending_is_taken_for_one_that_goes_on(run: Path, tmp_path: Path) -> None:
    (run / "front.json").unlink()  # FINISHED is noted before it is written
    lock = RunLock(run)
    try:
        here = travelled(run, tmp_path / "place")
    finally:
        lock.release()
    assert RunRecords(here).status == "INTERRUPTED"
    assert examine(here).sound


def test_too_much_for_a_log_is_refused_with_another_way(run: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblemError, match="tracking=mlflow takes its results out"):
        pack(run, tmp_path / "a.tar.gz", max_bytes=1000)


# -- on the way -----------------------------------------------------------------------------------


def test_other_lines_around_it_do_not_matter(run: Path, tmp_path: Path) -> None:
    text = sent(run, tmp_path)
    received(f"a warning\n\n{text}goodbye\n", tmp_path)


def test_what_the_head_says_instead_is_kept(tmp_path: Path) -> None:
    receiver = Receiver(io.BytesIO())
    for line in ("warning: x", "Error: first", "Error: no run here"):
        receiver.line(line)
    assert (receiver.complete, receiver.error) == (False, "no run here")


DAMAGES: dict[str, Callable[[list[str]], list[str]]] = {
    "a part is missing": lambda lines: [lines[0], *lines[2:]],
    "parts are swapped": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "a part comes twice": lambda lines: [*lines[:2], *lines[1:]],
    "a part is cut": lambda lines: [lines[0], lines[1][:-3], *lines[2:]],
    "a part has changed": lambda lines: [lines[0], lines[1][:-2] + "AA", *lines[2:]],
    "a line of something else": lambda lines: [*lines[:2], "a warning", *lines[2:]],
    "another checksum": lambda lines: [*lines[:-1], END + "0" * 64],
    "more than announced": lambda lines: [BEGIN + '{"run": "a", "bytes": 5, "version": 1}',
                                          *lines[1:]],
    "not what it begins with": lambda lines: [BEGIN + "[]", *lines[1:]],
    "no JSON": lambda lines: [BEGIN + "{", *lines[1:]],
    "of a later nasctl": lambda lines: [lines[0].replace('"version": 1', '"version": 2')],
    "huge": lambda lines: [BEGIN + '{"run": "a", "bytes": 99999999999, "version": 1}'],
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_on_the_way_is_noticed(run: Path, tmp_path: Path, damage: str) -> None:
    lines = sent(run, tmp_path).splitlines()
    assert len(lines) > 4, "several parts"
    with pytest.raises(EnvironmentProblemError, match=r"no copy of a run: .*; try again"):
        received("\n".join(DAMAGES[damage](lines)), tmp_path)


def test_a_part_that_is_missing_is_noticed_at_once(run: Path, tmp_path: Path) -> None:
    first, _, *rest = sent(run, tmp_path).splitlines()
    receiver = Receiver(io.BytesIO())
    receiver.line(first)
    with pytest.raises(EnvironmentProblemError, match="part 0 is missing"):
        receiver.line(rest[0])


# -- out of an archive ----------------------------------------------------------------------------


def member(name: str, **values: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(made, key, value)
    return made


def archive_of(place: Path, *members: tarfile.TarInfo) -> Path:
    path = place / "hostile.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for one in members:
            tar.addfile(one, io.BytesIO(b"x" * one.size))
    return path


HOSTILE = {
    "above": member("a/../../canary"),
    "absolute": member("/tmp/canary"),
    "another folder": member("b/ledger.sqlite"),
    "the folder itself": member("a"),
    "outside": member("canary"),
    "a deeper folder": member("a/x/canary"),
    "too deep": member("a/weights/x/canary"),
    "hidden": member("a/.lock"),
    "hidden weights": member("a/weights/.x.tmp"),
    "a symbolic link": member("a/front.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a link": member("a/front.json", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "a folder": member("a/weights", type=tarfile.DIRTYPE),
    "a device": member("a/front.json", type=tarfile.CHRTYPE),
    "a pipe": member("a/front.json", type=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_only_files_of_a_run_are_unpacked(tmp_path: Path, kind: str) -> None:
    path = archive_of(tmp_path, member("a/ledger.sqlite", size=5), HOSTILE[kind])
    before = {str(p) for p in tmp_path.rglob("*")}
    with pytest.raises(EnvironmentProblemError, match="which is no file of a run"):
        unpack(path, "a", tmp_path / "here")
    after = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if str(p) not in before}
    assert after <= {"here", "here/a", "here/a/ledger.sqlite", "here/a/weights"}


def test_no_file_comes_twice(tmp_path: Path) -> None:
    path = archive_of(tmp_path, member("a/front.json", size=3), member("a/front.json", size=4))
    with pytest.raises(EnvironmentProblemError, match="no copy of a run"):
        unpack(path, "a", tmp_path / "here")
    assert (tmp_path / "here/a/front.json").read_bytes() == b"xxx"


@pytest.mark.parametrize("name", ["..", "a/b", "", ".", "/a"])
def test_only_names_of_runs_are_taken(tmp_path: Path, name: str) -> None:
    path = archive_of(tmp_path, member("a/ledger.sqlite"))
    with pytest.raises(EnvironmentProblemError, match="is no name of a run"):
        unpack(path, name, tmp_path / "here")


def test_what_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive_of(tmp_path, member("a/ledger.sqlite", size=10), member("a/x", size=1000))
    monkeypatch.setattr(cluster_archive, "MAX_UNPACKED_BYTES", 500)
    with pytest.raises(EnvironmentProblemError, match="unreasonably large"):
        unpack(path, "a", tmp_path / "here")
    monkeypatch.setattr(cluster_archive, "MAX_UNPACKED_BYTES", 5000)
    monkeypatch.setattr(cluster_archive, "MAX_FILES", 1)
    with pytest.raises(EnvironmentProblemError, match="unreasonably large"):
        unpack(path, "a", tmp_path / "there")


def good(place: Path) -> bytes:
    return archive_of(place, member("a/ledger.sqlite", size=5000)).read_bytes()


BROKEN: dict[str, Callable[[Path], bytes]] = {
    "nothing": lambda _: b"",
    "no gzip": lambda _: b"x" * 100,
    "no tar": lambda _: gzip.compress(b"x" * 5000),
    "cut": lambda place: good(place)[: len(good(place)) // 2],
    "no ledger": lambda place: archive_of(place, member("a/front.json")).read_bytes(),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_archive_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "broken.tar.gz"
    path.write_bytes(BROKEN[kind](tmp_path))
    with pytest.raises(EnvironmentProblemError, match="no copy of a run"):
        unpack(path, "a", tmp_path / "here")


def test_where_runs_are_on_the_head() -> None:
    assert runs_folder("/data", {"NASCTL_RUNS": "/runs"}) == Path("/data")
    assert runs_folder("", {"NASCTL_RUNS": "/runs", "HOME": "/h"}) == Path("/runs")
    assert runs_folder("", {"NASCTL_RUNS": "", "HOME": "/h"}) == Path("/h/nasctl-runs")
    with pytest.raises(ConfigError, match="expected an absolute path"):
        runs_folder("data", {})


def test_a_log_carries_every_byte(tmp_path: Path) -> None:
    archive = tmp_path / "any"
    data = bytes(range(256)) * 1000
    archive.write_bytes(data)
    out = io.StringIO()
    send(archive, "a", out)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) < 70_000, "a message of the log's stream has 4 MiB at most"
    assert b"".join(base64.b64decode(line.split()[1]) for line in lines[1:-1]) == data
    assert lines[-1] == END + hashlib.sha256(data).hexdigest()
    assert received(out.getvalue(), tmp_path).read_bytes() == data
