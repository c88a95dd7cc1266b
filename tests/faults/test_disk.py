"""Disks that are full, read-only, or lead elsewhere: F9, F26, F27, F32.

The disks are real: small tmpfs mounts in a mount namespace of their own.
"""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nasctl.environment import cache_directory
from nasctl.errors import EnvironmentProblemError
from tests.e2e.command import DIGITS
from tests.faults.drive import INLINE, ROOT, SEARCH, Bench

FULL = "free some space and run the same command again, nothing finished is lost"


@functools.cache
def may_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def on_small_disks(bench: Bench, scenario: str, *arguments: str) -> Any:
    """What `tests.faults.disk_driver` found."""
    if not may_mount():
        pytest.skip("this system does not let us mount in a namespace of our own")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    module = [sys.executable, "-m", "tests.faults.disk_driver", scenario, str(bench.folder)]
    done = subprocess.run(
        ["unshare", "-rm", *module, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_full_disk_behind_stderr_costs_no_result(bench: Bench) -> None:
    command = [sys.executable, "-m", "nasctl", *SEARCH, INLINE, "--json"]
    for extra in ([], ["--fresh", "--progress", "none"]):  # the second one warns: a run was moved
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run(
                [*command, *extra], cwd=bench.folder, env=bench.environment,
                stdout=subprocess.PIPE, stderr=full, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 0
        assert json.loads(done.stdout) == bench.toy.front
        assert bench.toy.status == "FINISHED"


def check_full(found: dict[str, Any], smallest: int) -> None:
    assert found["calm"]["code"] == 0
    acknowledged = []
    for one in found["results"]:
        full = one["full"]
        assert full["code"] in (0, 4), one
        assert full["code"] == 4 or one["before"] == 12, one
        assert not full["traceback"]
        if full["code"] == 4:
            (line,) = full["errors"]
            assert FULL in line or "No space left on device" in line, line
        acknowledged.append(one["before"])
        assert one["again"]["code"] == 0, one
        assert one["kept"], one
        assert one["same"], one
        assert one["violated"] == [], one
    assert len(set(acknowledged)) >= smallest, acknowledged


def test_f9_full_in_the_midst_of_a_search(bench: Bench) -> None:
    """Before the ledger is there, between trials, and at the front: nothing acknowledged is lost,
    and with more room the history is that of an undisturbed run."""
    check_full(on_small_disks(bench, "full_while_searching", "60k", "240k", "500k"), smallest=3)


@pytest.mark.slow
def test_f9_full_at_any_write(bench: Bench) -> None:
    random_ = random.Random(9)
    sizes = [f"{round(2 ** random_.uniform(4, 11.2)) * 1}k" for _ in range(30)]
    check_full(on_small_disks(bench, "full_while_searching", *sizes), smallest=4)


def test_f9_no_room_for_what_a_worker_writes_is_no_fault_of_its_trial(bench: Bench) -> None:
    found = on_small_disks(bench, "full_in_a_worker")
    assert found["code"] == 4
    assert "No space left on device; nothing finished is lost" in found["error"]
    assert set(found["states"]) == {"COMPLETE", "RUNNING"}
    assert found["states"].count("RUNNING") == 1
    assert found["sound"]
    assert found["again"] == 0
    assert found["after"] == ["COMPLETE"] * 6
    assert found["violated"] == []


def test_f32_full_at_the_report_leaves_the_old_one(bench: Bench) -> None:
    found = on_small_disks(bench, "full_at_the_report")
    assert found["first"]["code"] == 0
    for full in found["full"]:
        assert full["code"] == 4
        assert "report: cannot write runs/toy/report.html: No space left" in full["errors"][0]
    assert found["same"]
    assert found["left"] == []
    assert found["done"] == 8  # the search itself was not held up
    assert found["again"]["code"] == 0
    assert found["new"]
    assert found["violated"] == []


def test_f27_read_only(bench: Bench) -> None:
    found = on_small_disks(bench, "read_only")
    refused = {name: found[name] for name in ("more", "other", "dry", "report")}
    assert {name: one["code"] for name, one in refused.items()} == dict.fromkeys(refused, 4)
    for name in ("more", "other", "dry"):
        (line,) = refused[name]["errors"]
        assert line.endswith("cannot be written to; choose another output_dir=..."), line
    assert found["first"]["code"] == found["front"]["code"] == found["doctor"]["code"] == 0
    assert not any(one["traceback"] for one in found.values())


def test_f27_an_unwritable_home_is_named_before_anything_is_trained(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("digits.yaml", DIGITS)
    # Below a file nothing can be written, even by root.
    nowhere = str(bench.write("file", "") / "x")
    for more in ((), ("--dry-run",)):
        said = bench.call(
            "search", "digits.yaml", "tracking=none", INLINE, *more, NASCTL_CACHE=nowhere
        )
        assert said.code == 4
        assert said.error.startswith(f"Error: the cache of costs: {bench.folder}/file is not a fo")
        assert said.error.endswith("; set NASCTL_CACHE to a folder that can be written to")
    assert bench.trials("digits") == []
    monkeypatch.delenv("NASCTL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", nowhere)
    with pytest.raises(EnvironmentProblemError, match="set NASCTL_CACHE"):
        cache_directory()


@pytest.mark.parametrize("name", [".lock", "ledger.sqlite", "ledger.sqlite-wal", "weights"])
@pytest.mark.parametrize("dangling", [False, True])
def test_f26_links_out_of_the_folder_are_not_followed(
    bench: Bench, tmp_path: Path, name: str, dangling: bool
) -> None:
    outside = tmp_path / "outside"
    if not dangling:
        outside.mkdir() if name == "weights" else outside.write_text("precious")
    bench.run_dir.mkdir(parents=True)
    (bench.run_dir / name).symlink_to(outside)
    said = bench.call(*SEARCH, INLINE)
    assert said.code == 4
    assert f"runs/toy/{name}: a symbolic link (to {outside}); a run writes only" in said.error
    assert not list(bench.run_dir.glob("ledger.sqlite")) or name == "ledger.sqlite"
    if dangling:
        assert not outside.exists()
    elif name == "weights":
        assert list(outside.iterdir()) == []
    else:
        assert outside.read_text() == "precious"


def test_f26_links_in_place_of_files_are_replaced(bench: Bench, tmp_path: Path) -> None:
    names = ("config.yaml", "front.json", "report.html", "report.csv", "ledger.backup.sqlite")
    bench.run_dir.mkdir(parents=True)
    for name in names:
        (tmp_path / f"outside {name}").write_text("precious")
        (bench.run_dir / name).symlink_to(tmp_path / f"outside {name}")
    assert bench.call(*SEARCH, INLINE, "trials=2").code == 0
    for name in names:
        assert (tmp_path / f"outside {name}").read_text() == "precious"
        assert not (bench.run_dir / name).is_symlink()
    bench.assert_sound()


def test_a_run_folder_that_is_itself_a_link_is_welcome(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    (bench.folder / "runs").symlink_to(tmp_path / "large disk")
    assert bench.call(*SEARCH, INLINE, "trials=2").code == 0
    bench.assert_sound()
