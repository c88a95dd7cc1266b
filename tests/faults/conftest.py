from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drive import TOY, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "cache").mkdir()
    made = Bench(tmp_path, tmp_path / "cache")
    made.write("toy.yaml", TOY)
    return made
