from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import DIGITS, TABLE, TOY, Desk


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all: blocks are timed once, so runs of the same space have the same costs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def desk(tmp_path: Path, cache: Path) -> Desk:
    made = Desk(tmp_path, cache)
    made.write("digits.yaml", DIGITS)
    made.write("toy.yaml", TOY)
    made.write("toy_table.py", TABLE)
    return made
