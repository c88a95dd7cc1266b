"""Layer 4: who runs the trainings of a search, and what they run, as its configuration says."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nasctl import precision, prepare
from nasctl.evaluate import EvaluatorJob
from nasctl.executors import create_executor
from nasctl.executors.base import Executor, Job
from nasctl.executors.inline import InlineExecutor
from nasctl.executors.simulated import CLOCK, SimulatedExecutor
from nasctl.ledger import Ledger
from nasctl.plugins import Registry
from nasctl.prepare import Problem
from nasctl.replay import ReplayJob
from nasctl.resources import Resources, configured_resources
from nasctl.tables import TableJob

if TYPE_CHECKING:
    from nasctl.config.schema import ExecutorConfig, SearchConfig


def make_job(config: SearchConfig, problem: Problem, registry: Registry, directory: Path) -> Job:
    """What the workers of a search run; `directory` is the run's folder."""
    if problem.recording is not None:
        return ReplayJob(recording=problem.recording)
    if config.evaluator == "table":
        return TableJob(options=problem.family_options)
    if problem.dataset is None:
        return EvaluatorJob(evaluator=config.evaluator, plugins=tuple(registry.sources))
    return prepare.training_job(config, problem, registry, directory)


def make_executor(
    config: SearchConfig,
    problem: Problem,
    registry: Registry,
    ledger: Ledger,
    *,
    announce: Callable[[str], None],
    note: Callable[[str], None],
) -> Executor:
    """The executor of the configuration; of a replay a simulated cluster, whose clock goes on from
    what the ledger holds.

    Args:
        config: of the search.
        problem: what is searched.
        registry: with the plugins of the run.
        ledger: of the run.
        announce: told what the executor waits for.
        note: told what the user may want to change.
    """
    if problem.recording is not None:
        clocks = (e.metrics.get(CLOCK, 0.0) for t in ledger.trials() for e in t.evaluations)
        return SimulatedExecutor(
            seconds=ReplayJob(recording=problem.recording).seconds,
            workers=config.replay.workers,
            crash_rate=config.replay.crash_rate,
            seed=config.seed,
            timeout_s=config.executor.timeout_s,
            began=max(clocks, default=0.0),
        )
    window = config.search.window if config.search.order == "deterministic" else None
    return configured_executor(
        config.executor, registry, window=window, announce=announce, note=note
    )


def configured_executor(
    config: ExecutorConfig,
    registry: Registry,
    *,
    window: int | None = None,
    announce: Callable[[str], None],
    note: Callable[[str], None],
) -> Executor:
    """The executor of the section `executor`.

    Args:
        config: the section.
        registry: with the plugins of the run.
        window: see `RayExecutor`.
        announce: told what the executor waits for.
        note: told what the user may want to change.
    """
    options = config.model_dump(exclude={"name", "retries"})
    return create_executor(
        config.name,
        **options,
        window=window,
        plugins=registry.sources,
        announce=announce,
        note=note,
    )


def resources(config: SearchConfig, problem: Problem) -> Resources:
    """What each training is given; in this process, the GPU that is there."""
    given = configured_resources(config.model_dump(include={"executor", "recipe", "evaluator"}))
    return given if problem.dataset is None else with_own_gpu(given, config.executor)


def with_own_gpu(given: Resources, executor: ExecutorConfig) -> Resources:
    """The same for trainings in this process, which take the GPU that is there."""
    if executor.name != "inline":
        return given
    import torch

    return dataclasses.replace(given, gpus=float(torch.cuda.is_available()))


def effective_precision(config: SearchConfig) -> str:
    """What trainings compute in, on the devices that they may use."""
    on_gpu = config.executor.name == "inline" or config.executor.gpus > 0
    return precision.effective(config.recipe.amp, may_use_gpu=on_gpu)


def clock_of(executor: Executor) -> Callable[[], float]:
    """What the durations of trials are measured with, in seconds."""
    if isinstance(executor, SimulatedExecutor):
        return lambda: executor.clock
    return time.monotonic


def are_grouped(executor: Executor) -> bool:
    """Whether trainings may be lookups, of which a commit for each would be most of the time."""
    return isinstance(executor, SimulatedExecutor | InlineExecutor)


def note_simulation(executor: Executor, ledger: Ledger) -> str | None:
    """Keeps how long a simulated search took as `simulation`; the same in words, or None."""
    if not isinstance(executor, SimulatedExecutor):
        return None
    before = ledger.meta("simulation", {"busy_seconds": 0.0})
    busy = before["busy_seconds"] + executor.busy
    total = executor.clock * executor.workers
    utilisation = min(1.0, busy / total) if total else 1.0
    ledger.set_meta(
        simulation={
            "workers": executor.workers,
            "seconds": executor.clock,
            "busy_seconds": busy,
            "utilisation": utilisation,
        }
    )
    return (
        f"simulated: {executor.clock:.0f} s on {executor.workers} workers, "
        f"utilisation {utilisation:.2f}"
    )
