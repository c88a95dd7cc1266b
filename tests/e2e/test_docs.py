"""Every command in the pages of docs/ works, with the files that the page shows."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.e2e.command import Desk

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md"))

SMALLER = ["data=npz", "data.path=small.npz", "recipe=quick", "trials=2", "recipe.epochs=1",
           "executor=inline", "tracking=none"]  # fmt: skip
SMALL_STUDY = ["data=digits", "recipe.epochs=1", "learning_rate.policy=shared", "executor=inline",
               "tracking=none", "match_tolerance=0.5"]  # fmt: skip
NO_LATENCY = ["latency=none", "~objectives.latency_ms"]
"""The ready spaces have hundreds of blocks to time; that they can be is shown elsewhere."""
UNTIMED = ("docs/tables.md", "docs/compute.md", "docs/new_device.md")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    lines = [line for block in fenced(page, "sh") for line in block.splitlines() if line]
    return [shlex.split(line, comments=True) for line in lines]


def small_images(path: Path) -> None:
    """Digits at the size that the packaged spaces are made for: 28 x 28."""
    digits = load_digits()
    images = np.repeat(np.repeat(digits.images[:240], 4, axis=1), 4, axis=2)[:, 2:30, 2:30]
    np.savez(path, train_images=(images * 15).astype(np.uint8), train_labels=digits.target[:240])


def arguments_for_a_test(page: str, arguments: list[str], folder: Path) -> list[str]:
    """The command of the docs on little data, and with the name of a network that exists."""
    if arguments[0] == "search":
        if any("imagenet" in a for a in arguments):  # its size is the point
            return [*arguments, *NO_LATENCY]
        rungs = ["recipe.epochs=2"] if "fidelity=halving" in arguments else []  # need an epoch more
        untimed = "spaces/" in page or (page in UNTIMED and "mbv2_space" in arguments)
        return [*arguments, *SMALLER, *rungs, *(NO_LATENCY if untimed else [])]
    if arguments[0] == "ablate":
        if "relu_information_loss" in arguments:
            return [*arguments, "trained=false", "draws=5"]
        most = "3" if any(a.startswith("seeds.max=") for a in arguments) else "2"
        kept = [a for a in arguments if not a.startswith("seeds.max=")]
        return [*kept, *SMALL_STUDY, "seeds.min=2", f"seeds.max={most}"]
    run, colon, _ = arguments[1].partition(":")
    if colon and run.startswith("runs/"):
        front = json.loads((folder / run / "front.json").read_text(encoding="utf-8"))
        return [arguments[0], f"{run}:{front['members'][0]['arch_id'][:6]}", *arguments[2:]]
    return arguments


SLOW = [
    "docs/profile.md",
    *(f"docs/spaces/{name}_space.md" for name in ("mbv3", "macro_skip", "resnet", "mbv2_imagenet")),
]
"""Pages whose commands are those of another, for another space, or those of test_profile.py."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
        for page in PAGES
        if commands(page)
    ],
)
def test_every_command_of_a_page_works(page: str, desk: Desk) -> None:
    shutil.copytree(ROOT / "conf", desk.folder / "conf")
    small_images(desk.folder / "small.npz")
    for language in ("python", "yaml"):
        for content in fenced(page, language):
            if named := re.match(r"# ([\w./]+\.(?:py|yaml))\n", content):
                (desk.folder / named[1]).write_text(content, encoding="utf-8")
    for name, content in re.findall(r"^```csv (\S+)\n(.*?)^```", text_of(page), re.DOTALL | re.M):
        (desk.folder / name).write_text(content, encoding="utf-8")
    listed = commands(page)
    if any("runs/mbv2_space:" in " ".join(command) for command in listed):
        desk.run("search", "mbv2_space", *SMALLER, *NO_LATENCY)
    for name, *arguments in listed:
        assert name == "nasctl"
        out, _ = desk.run(*arguments_for_a_test(page, arguments, desk.folder))
        assert out.strip()
