"""docs/faults.md names a test for every fault, and each of them exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from nasctl.doctor import examine
from tests.faults.drive import Bench

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| F(\d+) \|.*$", PAGE, flags=re.MULTILINE)
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
    return frozenset(f.name for f in functions if f.name.startswith("test_"))


def test_every_fault_has_a_row_with_a_test() -> None:
    promised = {*range(1, 4), *range(6, 13), *range(14, 23), *range(24, 31), 32}
    assert promised <= {int(n) for n in ROWS}
    assert len(ROWS) == len(set(ROWS))
    for line in PAGE.splitlines():
        if re.match(r"\| F\d", line):
            assert "`tests/" in line, line


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_tests_that_it_names_exist(file: str, name: str) -> None:
    assert name in names_in(file)


def test_no_fault_test_is_left_out() -> None:
    files = [p.relative_to(ROOT).as_posix() for p in (ROOT / "tests/faults").glob("test_*.py")]
    written = {(f, n) for f in files for n in names_in(f) if re.match(r"test_f\d", n)}
    assert written <= set(NAMED)


def test_the_invariants_are_those_of_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "runs" / "toy").mkdir(parents=True)
    (tmp_path / "runs" / "toy" / "ledger.sqlite").touch()
    found = [c.id for c in examine(Bench(tmp_path, tmp_path).run_dir).checks]
    assert re.findall(r"^\| (I\d) \|", PAGE, flags=re.MULTILINE) == found
