"""The executors under their contract."""

from __future__ import annotations

import pytest

from nasctl.executors.base import Executor
from nasctl.executors.inline import InlineExecutor
from nasctl.executors.ray import RayExecutor
from nasctl.executors.simulated import SimulatedExecutor
from tests.contracts.executor_contract import ExecutorContract


class TestInline(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Executor:
        return InlineExecutor()


class TestSimulated(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Executor:
        return SimulatedExecutor(workers=2, seconds=lambda work: {1: 2.0, 2: 1.0 + work.number})


class TestRay(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Executor:
        return RayExecutor(workers=2, cpus=0.5)
