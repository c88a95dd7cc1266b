"""What other tests skip without, so that CI notices if it is not there."""

from __future__ import annotations

import importlib.util
import os
import shutil
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
    assert script.index("NASCTL_CI") < script.index("\nmake test")
