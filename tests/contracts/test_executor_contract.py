"""The executors under their contract."""

from __future__ import annotations

import pytest

from nasctl.executors.base import Executor
from nasctl.executors.inline import InlineExecutor
from nasctl.executors.ray import RayExecutor
from tests.contracts.executor_contract import ExecutorContract


class TestInline(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Executor:
        return InlineExecutor()


class TestRay(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Executor:
        return RayExecutor(workers=2, cpus=0.5)
