"""Finished searches to verify, each copied for the test that uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.verify_bench import VerifyBench


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> VerifyBench:
    """A finished search of six networks, of which two pairs cannot be told apart."""
    made = VerifyBench(tmp_path_factory.mktemp("table"), tmp_path_factory.mktemp("cache"))
    return made.searched("table")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> VerifyBench:
    """A finished search of three networks that were really trained."""
    made = VerifyBench(tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("cache"))
    return made.searched("images")


@pytest.fixture
def bench(table: VerifyBench, tmp_path: Path) -> VerifyBench:
    return table.to(tmp_path / "copy")


@pytest.fixture
def trained(images: VerifyBench, tmp_path: Path) -> VerifyBench:
    return images.to(tmp_path / "copy")
