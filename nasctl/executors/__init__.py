"""Layer 4: where trainings run. Ray is imported by its own module, when a run begins."""

from __future__ import annotations

from collections.abc import Mapping

from nasctl.environment import worker_count
from nasctl.executors.base import Announce, Executor, silent
from nasctl.executors.inline import InlineExecutor
from nasctl.executors.ray import RayExecutor

__all__ = ["Executor", "create_executor", "worker_count"]


def create_executor(
    name: str,
    *,
    workers: int | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    timeout_s: float | None = None,
    address: str | None = None,
    wait_s: float = 60.0,
    window: int | None = None,
    plugins: Mapping[str, str] | None = None,
    announce: Announce = silent,
    note: Announce = silent,
) -> Executor:
    """The executor `ray` or `inline` (which has one worker, this process); see `RayExecutor`.

    Raises:
        ConfigError: numbers that cannot be.
    """
    if name == "inline":
        return InlineExecutor(timeout_s=timeout_s)
    return RayExecutor(
        workers=worker_count(workers, cpus) if address is None else workers,
        cpus=cpus,
        gpus=gpus,
        timeout_s=timeout_s,
        address=address,
        wait_s=wait_s,
        window=window,
        plugins=plugins or {},
        announce=announce,
        note=note,
    )
