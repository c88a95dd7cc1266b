"""What other tests skip without, so that CI notices if it is not there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.servers import has_postgres
from tests.faults.test_disk import may_mount
from tests.test_compose import compose

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif("NASCTL_CI" not in os.environ, reason="only CI promises all of it")
def test_nothing_is_skipped_for_want_of_a_package() -> None:
    assert Path("/usr/bin/chromium").exists()
    assert shutil.which("tmux")
    assert importlib.util.find_spec("playwright")
    assert has_postgres()
    assert compose() is not None, "nobody reads docker-compose.yml"
    assert Path("/usr/share/datasets/fashion-mnist").is_dir()
    assert may_mount(), "the full disks of tests/faults/test_disk.py need a namespace of our own"


def test_ci_says_that_it_is_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "export NASCTL_CI=1" in script
    assert script.index("NASCTL_CI") < script.index("\nmake test\n")


def test_ci_starts_the_real_containers_too() -> None:
    """After the tests, where an engine can be started; `tests/test_compose.py` tries what the
    script says where none can."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.index("\nmake test\n") < script.index("\nmake test-compose SHORT=1\n")
    packages = script[: script.index("\nmake test-compose")]
    assert all(name in packages for name in ("docker.io", "debootstrap", "docker-compose"))
    made = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "test-compose", "SHORT=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert made.rstrip().endswith("tests/e2e/compose.sh")


def test_ci_waits_for_what_it_installs_beside_other_things() -> None:
    """A failed installation ends it: `wait` gives its exit code, with `set -e`."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in script
    begin, wait = script.index("make .venv/.installed-dev"), script.index('\nwait "$installing"\n')
    assert begin < wait < script.index("\nmake test\n")
