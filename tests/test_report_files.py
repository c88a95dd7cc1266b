"""The files of a report: which, where, and that none is ever half-written."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.report import draw_report, write_report
from nasctl.trial import State

from . import sample_view as sample

pytestmark = pytest.mark.usefixtures("small_pages")


def test_write_report_makes_four_files_that_agree(tmp_path: Path) -> None:
    view = sample.view()
    drawn = draw_report(view, tmp_path)
    assert not list(tmp_path.iterdir())
    paths = write_report(view, tmp_path)
    assert list(drawn) == paths
    assert [p.name for p in paths] == ["report.html", "report.png", "report.csv", "report.md"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(io.StringIO(paths[2].read_text())))
    assert len(rows) == len(view.trials)
    on_front = {r["arch_id"] for r in rows if r["on_front"] == "1"}
    assert on_front == {m["arch_id"] for m in view.members}
    failed = next(t for t in view.trials if t.state is State.FAILED)
    assert rows[failed.number]["error"] == failed.error
    assert rows[0]["choice.width_multiplier"] == str(view.trials[0].choices["width_multiplier"])
    summary = paths[3].read_text()
    assert all(f"`{m['arch_id']}`" in summary for m in view.members)
    assert view.command in summary
    mask = os.umask(0)
    os.umask(mask)
    assert paths[0].stat().st_mode & 0o777 == 0o666 & ~mask


def test_write_report_to_a_named_file(tmp_path: Path) -> None:
    paths = write_report(sample.view(1), tmp_path / "new" / "mine.html")
    assert [p.name for p in paths] == ["mine.html", "mine.png", "mine.csv", "mine.md"]
    assert all(p.parent == tmp_path / "new" and p.is_file() for p in paths)
    assert write_report(sample.view(1), tmp_path / "M.HTML")[0] == tmp_path / "M.HTML"


@pytest.mark.parametrize("name", sample.VIEWS)
def test_every_kind_of_run_can_be_written(name: str, tmp_path: Path) -> None:
    paths = write_report(sample.VIEWS[name](), tmp_path)
    assert all(p.stat().st_size > 0 for p in paths)
    outside_code = paths[3].read_text().split("```")[0]
    assert "<script" not in outside_code


def test_a_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {p: p.read_bytes() for p in write_report(sample.view(5), tmp_path)}
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblemError, match="No space left on device"):
        write_report(sample.view(9), tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == old


def test_a_report_is_html_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.pdf").mkdir()
    for target in (tmp_path / "file", tmp_path / "x.PDF", Path(os.devnull)):
        with pytest.raises(ConfigError, match=r"expected FILE\.html or a folder$") as caught:
            write_report(sample.view(1), target)
        assert str(caught.value).startswith(f"report: {target}: it is HTML, with PNG, CSV")
    assert not (tmp_path / "x.PDF").exists()
    for target in (tmp_path / "folder.pdf", tmp_path / "out.v2"):
        assert write_report(sample.view(1), target)[0] == target / "report.html"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblemError, match="cannot write"):
        write_report(sample.view(1), tmp_path / "file" / "report.html")
