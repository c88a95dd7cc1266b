"""Runs of somebody else, whose files may not be read: a line, never a traceback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nasctl.doctor import examine
from nasctl.errors import EnvironmentProblemError
from nasctl.ledger import Ledger
from nasctl.records import find_run
from tests.doctor_bench import check


def closed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes a folder one that only others may look into; tests may run as root, who sees all."""
    inside = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent == folder:
            raise PermissionError(13, os.strerror(13), str(path))
        return inside(path)

    monkeypatch.setattr(Path, "is_file", is_file)


def test_a_folder_that_nobody_may_look_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed(monkeypatch, tmp_path / "run")
    with pytest.raises(EnvironmentProblemError, match=r"/run: Permission denied$"):
        find_run(tmp_path / "run")


def test_a_name_that_no_system_takes() -> None:
    with pytest.raises(EnvironmentProblemError, match=r"^a{200}: File name too long$"):
        find_run("a" * 5000)


def test_many_runs_are_not_all_listed(tmp_path: Path) -> None:
    place = tmp_path / "xyz"
    for n in range(12):
        (place / f"{n}").mkdir(parents=True)
        (place / f"{n}" / "ledger.sqlite").touch()
    with pytest.raises(EnvironmentProblemError) as caught:
        find_run(place)
    assert str(caught.value).count(str(place)) == 11
    assert str(caught.value).endswith(", ...")


def test_the_doctor_names_a_file_that_it_may_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", {})
    objectives = {"accuracy": "max"}
    config: dict[str, Any] = {"objectives": objectives, "tracking": {"name": "none"}}
    noted = {"weights/a.json": "0"}
    ledger.set_meta(config=config, status="INTERRUPTED", uid="u", artifacts=noted)
    ledger.close()
    (tmp_path / "weights").mkdir()
    closed(monkeypatch, tmp_path / "weights")
    found = check(examine(tmp_path), "I6")
    assert found.state == "violated"
    assert found.details == ("weights/a.json cannot be read: Permission denied",)
