"""The files of an ablation report: HTML, PNG, CSV and Markdown that agree."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from nasctl.errors import EnvironmentProblemError
from nasctl.report.ablation import write_ablation_report

from . import ablation_view as sample
from .ablation_view import rows, section

pytestmark = pytest.mark.usefixtures("small_pages")


def test_four_files_that_agree(tmp_path: Path) -> None:
    view = sample.study()
    paths = write_ablation_report(view, tmp_path)
    assert [p.name for p in paths] == ["report.html", "report.png", "report.csv", "report.md"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    png = paths[1].read_bytes()
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 2400  # width
    found = list(csv.DictReader(io.StringIO(paths[2].read_text())))
    given = [(arm, v) for arm in view["arms"] for v in arm["values"]]
    assert len(found) == len(given) == 30
    for row, (arm, value) in zip(found, given, strict=True):
        assert (row["arm"], row["role"], row["arch_id"]) == (
            arm["name"], arm["role"], arm["arch_id"]
        )  # fmt: skip
        assert row["accuracy"] == ("" if value["accuracy"] is None else str(value["accuracy"]))
        assert (row["seed"], row["split"]) == (str(value["seed"]), "0")
        assert row["level.kernel_size"] == arm["levels"]["kernel_size"]
        assert row["macs"] == str(arm["cost"]["macs"])
        assert row["latency_ms"] == str(arm["cost"].get("latency_ms", ""))
        assert float(row["lr"]) == arm["lr"]
    failed = [r for r in found if r["state"] == "FAILED"]
    assert [r["error"] for r in failed] == ["the loss is not finite"]
    assert [r["arm"] for r in found if r["shared_from"]] == ["baseline, other names"]
    raw = rows(section(paths[0].read_text(), "trainings"))
    assert len(raw) == 30
    assert raw[0][:6] == ["baseline", "0", "0", "0", "0.4", found[0]["accuracy"].ljust(6, "0")]
    summary = paths[3].read_text()
    assert "![Effects and learning curves](<report.png>)" in summary
    for comparison in view["comparisons"]:
        assert comparison["name"] in summary
    first = view["comparisons"][0]
    assert f"- **supported**: {first['sentence'].replace('<', '&lt;')}" in summary
    assert f"| relu6 against linear | supported | {100 * first['effect']:+.2f} |" in summary
    assert view["command"] in summary
    mask = os.umask(0)
    os.umask(mask)
    assert paths[0].stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_learning_rate_of_a_training_is_its_own(tmp_path: Path) -> None:
    view = sample.study()
    view["arms"][0]["values"][1]["lr"] = 0.05
    paths = write_ablation_report(view, tmp_path / "mine.html")
    assert [p.name for p in paths] == ["mine.html", "mine.png", "mine.csv", "mine.md"]
    found = list(csv.DictReader(io.StringIO(paths[2].read_text())))
    assert [r["lr"] for r in found[:3]] == ["0.4", "0.05", "0.4"]


@pytest.mark.parametrize("name", ["interrupted", "many", "other metric", "metric that is bad TeX"])
def test_every_kind_of_study_can_be_written(name: str, tmp_path: Path) -> None:
    view = sample.VIEWS[name]()
    before = json.dumps(view)
    assert all(p.stat().st_size > 0 for p in write_ablation_report(view, tmp_path))
    assert json.dumps(view) == before  # only read


def test_a_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {p: p.read_bytes() for p in write_ablation_report(sample.study(), tmp_path)}
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblemError, match="No space left on device"):
        write_ablation_report(sample.blind(), tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == old
