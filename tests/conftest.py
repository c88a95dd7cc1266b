from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nasctl.dataset import Dataset


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """Training and timing flush subnormals to zero, for the whole process; other tests (of
    hypothesis, which refuses to run so) need them back."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """scikit-learn's digits as a search sees them: without the test split."""
    from nasctl.data import load_dataset

    return load_dataset("digits", {}).without_test()


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of plotly.js on each page of a report would only slow tests down."""
    from nasctl.report import write

    original = write._asset
    monkeypatch.setattr(
        write, "_asset", lambda n: "/* plotly */" if n.startswith("plotly") else original(n)
    )
