"""Every command in the pages of docs/ works, with the files that the page shows."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.e2e.command import Desk

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md"))
SMALLER = ("data=digits", "recipe=quick", "trials=2", "recipe.epochs=1", "executor=inline")


def fenced(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    lines = [line for block in fenced(page, "sh") for line in block.splitlines() if line]
    return [shlex.split(line) for line in lines]


def extras(arguments: list[str]) -> list[str]:
    """What makes a command of the docs fast, without changing what it shows."""
    if arguments[0] not in ("search", "ablate"):
        return []
    small = [s for s in SMALLER if s.split("=")[0] not in {a.split("=")[0] for a in arguments}]
    if any("imagenet" in a for a in arguments):  # its size is the point; timing 500 blocks is not
        small = ["latency=none", "~objectives.latency_ms"]
    return small


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_every_command_of_a_page_works(page: str, desk: Desk) -> None:
    shutil.copytree(ROOT / "conf", desk.folder / "conf")
    for language in ("python", "yaml"):
        for content in fenced(page, language):
            if named := re.match(r"# ([\w./]+\.(?:py|yaml))\n", content):
                (desk.folder / named[1]).write_text(content, encoding="utf-8")
    for name, *arguments in commands(page):
        assert name == "nasctl"
        out, _ = desk.run(*arguments, *extras(arguments))
        assert out.strip()
