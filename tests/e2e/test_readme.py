"""Every command of the README, in order, in one folder: they work, and on smaller settings fast.

`make test` is run by CI itself; of `make search`, which takes minutes, the command behind it is run
here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.command import Desk

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALLER = ("data=digits", "recipe=quick", "trials=2", "recipe.epochs=1")
HERE = ("executor=inline", "tracking=none")
"""For all searches but the first, which has the defaults: Ray and MLflow."""
SMALL_STUDY = ("data=digits", "seeds=2", "recipe.epochs=1", "learning_rate.policy=shared",
               "executor=inline", "tracking=none")  # fmt: skip
SMALL_VERIFICATION = ("verify.seeds=2", "verify.max_seeds=2", "verify.sessions=2",
                      "executor=inline")  # fmt: skip
SET_UP = {"make search", "make test", ". .venv/bin/activate"}


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_readme_shows_the_two_set_up_commands_first() -> None:
    assert commands()[:2] == ["make search", "make test"]
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"search", "test"} <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_command_of_the_readme_works(desk: Desk) -> None:
    shutil.copytree(ROOT / "conf", desk.folder / "conf")
    desk.run("search", "conf/mbv2_space.yaml", *SMALLER)  # what `make search` does
    for command in commands():
        if command in SET_UP:
            continue
        name, *arguments = shlex.split(command)
        assert name == "nasctl", command
        if arguments[0] == "ui":
            check_ui(desk, arguments)
            continue
        smaller = {"search": (*SMALLER, *HERE), "ablate": SMALL_STUDY, "verify": SMALL_VERIFICATION}
        extra = smaller.get(arguments[0], ())
        out, _ = desk.run(*arguments, *extra)
        assert out.strip(), command
    assert (desk.folder / "report" / "report.html").exists()
    assert len(desk.trials("mine")) == len(desk.trials("small")) == 2


def check_ui(desk: Desk, arguments: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nasctl", *arguments],
        cwd=desk.folder,
        env=desk.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        assert "MLflow" in fetch(url)
        process.send_signal(signal.SIGTERM)  # to us alone: the server has to go with us
        assert process.wait(timeout=60) == 143
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(url, timeout=5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def fetch(url: str) -> str:
    end = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *[
    p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "docs").rglob("*.md"))
]])  # fmt: skip
def test_files_that_the_docs_name_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:nasctl|docs|conf|tests|benchmarks|scripts|search_spaces)/[\w./*-]+)`", text
    )
    missing = [n for n in named if not list(ROOT.glob(n))]
    assert not missing
