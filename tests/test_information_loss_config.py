"""The flat file of the study without arms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nasctl.ablation.information_loss import InformationLossSettings
from nasctl.config.information_loss import STUDY, load_information_loss
from nasctl.errors import ConfigError
from tests.e2e.command import Desk


def test_the_packaged_file_says_the_defaults() -> None:
    found = load_information_loss(STUDY)
    assert found is not None
    assert found.settings == InformationLossSettings()
    assert found.directory == Path("runs") / STUDY


def test_other_studies_are_none_of_it() -> None:
    assert load_information_loss("linear_bottleneck") is None


def test_values_change_on_the_command_line() -> None:
    found = load_information_loss(
        STUDY, ["draws=7", "dimensions=[2, 4]", "trained=false", "name=x"]
    )
    assert found is not None
    assert (found.settings.draws, found.settings.dimensions) == (7, (2, 4))
    assert not found.settings.trained
    assert found.resolved["draws"] == 7
    assert found.directory == Path("runs/x")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("draw=7", "command line: unknown key 'draw'; did you mean 'draws'?"),
        ("draws", "command line: unknown key 'draws'"),
        ("draws=x", "draws: expected int, got 'x'"),
        ("draws=[", "command line: draws: cannot be read: '['"),
        ("draws=1", "draws: expected at least 2, got 1"),
        ("dimensions=[]", "dimensions: expected numbers from 1"),
        ("trained=3", "trained: expected bool, got 3"),
        ("name=../x", "name: use letters"),
        ("output_dir=3", "output_dir: expected text, got 3"),
    ],
)
def test_a_wrong_value_is_one_line(override: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load_information_loss(STUDY, [override])


def test_an_unknown_study_is_named(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("study: relu_information_los\n")
    with pytest.raises(ConfigError, match="unknown study 'relu_information_los'; did you mean"):
        load_information_loss(str(path))


def test_it_does_not_write_into_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "ledger.sqlite").write_bytes(b"precious")
    (folder / "report.html").write_text("of a search")
    desk = Desk(tmp_path, tmp_path / "cache")
    _, err = desk.run("ablate", STUDY, "trained=false", "draws=5", "name=mine", code=2)
    assert err == "Error: name: runs/mine is a run with trainings; choose another name\n"
    assert (folder / "report.html").read_text() == "of a search"


def test_problems_of_other_files_name_their_path_and_their_command(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    desk = Desk(tmp_path, tmp_path / "cache")
    desk.write("deep/broken.yaml", "a: [1\n")
    desk.write("deep/empty.yaml", "")
    _, err = desk.run("ablate", "deep/broken.yaml", code=2)
    assert err.startswith("Error: deep/broken.yaml:")
    _, err = desk.run("ablate", "deep/empty.yaml", code=2)
    assert "defaults: [ablate, _self_]" in err


def test_the_command_measures_and_writes(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tmp_path / "cache")
    small = ("trained=false", "draws=5", "dimensions=[2,3]")
    out, err = desk.run("ablate", STUDY, *small)
    assert "| 3 | 50 % " in out
    assert f"report    runs/{STUDY}/report.html" in err
    names = {p.name for p in (tmp_path / "runs" / STUDY).iterdir()}
    assert names == {"information_loss.json", "report.html", "report.md", "report.png"}
    found = desk.json("ablate", STUDY, *small)
    assert [row["n"] for row in found["spiral"]] == [2, 3]
    out, _ = desk.run("ablate", STUDY, "--dry-run", "name=other")
    assert "draws: 500" in out
    assert not (tmp_path / "runs" / "other").exists()
