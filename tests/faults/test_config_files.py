"""Configurations that nobody meant: F21, F24; bombs (F22) by name are in tests/test_guard.py."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from nasctl.config import guard, load_config
from nasctl.errors import ConfigError
from tests.faults.drive import INLINE, PLUGIN, TOY, Bench

CONF = Path(__file__).parent.parent.parent / "conf"
CASES = 10_000
SAMPLE = 300
WHOLE = 5
"""One case in so many goes all the way; the others through the reader that everything must pass."""
ODD = (
    "null", "~", "[]", "{}", "''", "-1", "0", "1e309", ".nan", "-.inf", "true", "0x1f", "1_000",
    "9" * 30, "9" * 60, "[1, [2, [3]]]", "{a: {b: c}}", "*x", "&x 1", "!!python/name:os.system",
    "${seed}", "${oc.env:HOME}", "${", "../..", "/etc/passwd", "a: b", "- a", "\u202e", "\x85",
    "'\x00'", "2024-01-01", "12:30:45", "é" * 200, "|", ">", "?", "@a", "`a`", "%a", "# a",
)  # fmt: skip
KEYS = (
    "_target_", "hydra", "defaults", "<<", "name", "trials", "space", "stages", "objectives",
    "recipe", "é", "a.b", "1", "on", "", "x" * 300,
)  # fmt: skip


def mutated(text: str, random_: random.Random) -> str:
    """A file that somebody edited in a hurry, or with bad intent."""
    lines = text.splitlines(keepends=True)
    for _ in range(random_.randint(1, 4)):
        n = random_.randrange(len(lines)) if lines else 0
        line = lines[n] if lines else ""
        kind = random_.randrange(8)
        if kind == 0:
            lines[n : n + 1] = []
        elif kind == 1:
            lines.insert(n, line)
        elif kind == 2:
            lines[n : n + 1] = [" " * random_.randint(0, 5) + line.lstrip()]
        elif kind == 3:
            key, colon, _ = line.partition(":")
            lines[n : n + 1] = [f"{key}{colon} {random_.choice(ODD)}\n"]
        elif kind == 4:
            indent = line[: len(line) - len(line.lstrip())]
            lines.insert(n, f"{indent}{random_.choice(KEYS)}: {random_.choice(ODD)}\n")
        elif kind == 5:
            at = random_.randint(0, len(line))
            lines[n : n + 1] = [line[:at] + random_.choice("[]{}:,&*!|>'\"%@`#-\t\n ") + line[at:]]
        elif kind == 6:
            lines = [*lines[:n], line[: random_.randint(0, len(line))]]
        else:
            other = random_.randrange(len(lines)) if lines else 0
            lines[n : n + 1], lines[other : other + 1] = lines[other : other + 1], lines[n : n + 1]
    return "".join(lines)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize(
    "count", [SAMPLE, pytest.param(CASES, marks=pytest.mark.slow)], ids=["sample", "all"]
)
def test_f21_fuzz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Each ends as a configuration or as one-line problems that name the file, in a second."""
    monkeypatch.chdir(tmp_path)
    originals = [path.read_text() for path in sorted(CONF.glob("*_space.yaml"))] + [TOY]
    path = tmp_path / "my.yaml"
    load_config(str(CONF / "mbv2_space.yaml"))  # what is imported once is no part of it
    before = resident_mb()
    good = 0  # of those that went all the way
    for n in range(count):
        random_ = random.Random(f"yaml {n}")
        text = mutated(random_.choice(originals), random_)
        path.write_text(text, encoding="utf-8")
        began = time.process_time()
        problems: tuple[str, ...] = ()
        try:
            if n % WHOLE:
                guard.load(Path("my.yaml"))
            else:
                load_config("my.yaml")
        except ConfigError as error:
            problems = error.problems
        except Exception as error:
            raise AssertionError(f"case {n}: {type(error).__name__}: {error}\n{text}") from error
        else:
            good += n % WHOLE == 0
        for problem in problems:
            assert "\n" not in problem, (n, problem)
            assert len(problem) < 800, (n, problem)
        assert time.process_time() - began < 1.0, (n, text)
    assert 0 < good < count
    assert resident_mb() - before < 200
    assert [p.name for p in tmp_path.iterdir()] == ["my.yaml"]


NAMES = (
    "../up", "..", ".", "a/b", "/tmp/nasctl_canary", "a\\b", "-rf", "--help", "~root", "$(id)",
    "a b", " ", "", "x" * 300, "a\nb", "rυn", "ｆｕｌｌ", "con", "NUL", "lpt1.txt", ".hidden",
    "a\u202eb", "a\0b", "a..b", "end.",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("where", ["file", "command line"])
def test_f24_names_that_are_no_names(bench: Bench, name: str, where: str) -> None:
    quoted = "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"
    override: tuple[str, ...] = (f"name={quoted}",)
    if where == "file":
        override = ()
        text = name.encode("unicode_escape").decode().replace('"', '\\"')
        bench.write("toy.yaml", TOY.replace("name: toy", f'name: "{text}"'))

    def tree() -> list[str]:
        places = (bench.folder, bench.folder.parent)
        return sorted(str(p) for place in places for p in place.glob("*")) + sorted(
            str(p) for p in Path("/tmp").glob("*canary*")
        )

    before = tree()
    said = bench.call("search", "toy.yaml", *PLUGIN, INLINE, *override)
    assert said.code == 2, said
    assert "name" in said.error
    assert "\n" not in said.error
    assert tree() == before
