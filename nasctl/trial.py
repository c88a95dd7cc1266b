"""Layer 1: the records of a search: what was tried, what it cost, what came out, how surely."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nasctl.arch import Architecture, Cost, Scalar
from nasctl.space import Choices

EXACT_METRICS = ("params", "macs", "activations", "model_bytes")
COST_METRICS = (*EXACT_METRICS, "latency_ms")
BUILTIN_METRICS = ("accuracy", "latency_ms", *EXACT_METRICS)

Direction = Literal["max", "min"]
Objectives = Mapping[str, Direction]
"""Metric name to direction, in the order in which they are shown."""


class State(enum.StrEnum):
    """Of a candidate; REJECTED ones were never started and have no trial number."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"

    @property
    def is_final(self) -> bool:
        return self is not State.RUNNING


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one epoch of one training reported."""

    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """How sure a metric is.

    Attributes:
        interval: lower and upper end (95 %); equal for exact values.
        n: independent measurements behind it: seeds for accuracy, runs for latency.
        split: the data it was seen on, None for costs.
        source: computed exactly, measured, or predicted from a calibrated table.
    """

    interval: tuple[float, float]
    n: int
    split: Literal["val", "test"] | None
    source: Literal["exact", "measured", "predicted"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One training to do: all that a worker needs besides the job that it was started with.

    Attributes:
        rungs: epochs after which the engine decides whether it goes on.
        known_epochs: epochs of an earlier attempt that the ledger holds: a checkpoint of at most so
            many may be continued.
        choices: of the trial: jobs whose recipe or data differ between trials look here.
    """

    number: int
    attempt: int
    architecture: Architecture
    seed: int
    epochs: int
    rungs: tuple[int, ...] = ()
    known_epochs: int = 0
    choices: Mapping[str, Scalar] = field(default_factory=dict)


class EpochMetrics(dict[str, float]):
    """The metrics of an epoch that says which one it is: of a training that did not begin at the
    beginning, or that reports its last epoch alone."""

    def __init__(self, metrics: Mapping[str, float], epoch: int) -> None:
        super().__init__(metrics)
        self.epoch = epoch


class OutcomeKind(enum.Enum):
    """How a piece of work ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"  # the engine asked for it
    FAILED = "failed"  # its own fault: NaN, out of memory, exception, timeout
    BROKEN = "broken"  # the machine's fault (no space left): the search stops, and it is done again
    LOST = "lost"  # the worker died; may be tried again
    NODE_LOST = "node_lost"  # and its machine with it, which is no fault of the training
    RELEASED = "released"  # handed back unfinished because the search is stopping


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a piece of work, as the executor saw it."""

    kind: OutcomeKind
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row of the ledger: a started evaluation of one architecture.

    Attributes:
        number: 0, 1, 2, ... in the order of proposal, without gaps; -1, -2, ... for reference
            networks, which were not proposed and count for nothing.
        choices: of a reference network `reference`, its name, and `width`.
        cost: everything known before training; `latency_ms` as predicted for the search.
        cost_intervals: 95 % intervals of the predicted costs.
        evaluations: one per finished epoch of the last attempt.
        metrics: accuracy, cost and whatever the evaluator reported, once COMPLETE.
        sampler_state: what the sampler cannot rebuild from the history.
        seconds: wall time of the last attempt.
    """

    number: int
    state: State
    choices: Choices
    architecture: Architecture
    seed: int
    epochs: int
    attempts: int = 1
    cost: Cost = field(default_factory=Cost)
    cost_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    sampler_state: Mapping[str, Any] = field(default_factory=dict)
    started_at: float = 0.0
    seconds: float = 0.0

    @property
    def arch_id(self) -> str:
        return self.architecture.id

    @property
    def is_reference(self) -> bool:
        return self.number < 0

    @property
    def label(self) -> str:
        """How people call it: `#12`; a reference network `mobilenet_v2 x0.5`."""
        if self.is_reference:
            return reference_label(str(self.choices["reference"]), float(self.choices["width"]))
        return f"#{self.number}"

    @property
    def title(self) -> str:
        """The label with what is trained: the network's id, or the arm of a study."""
        return _arm_title(self) if "arm" in self.choices else f"{self.label} {self.arch_id}"


def _arm_title(trial: Trial) -> str:
    rate = f" at lr {trial.choices['lr']:g}" if trial.choices["purpose"] != "verdict" else ""
    return f"#{trial.number} {trial.choices['arm']}{rate}, seed {trial.seed}"


def reference_label(name: str, width: float) -> str:
    """The name of a reference network with its width, where that is not 1."""
    return name if width == 1 else f"{name} x{width:g}"


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A candidate that was never trained: over a constraint, or impossible to build.

    `before` is the number of the trial that was being proposed at the time, `attempt` counts the
    sampler's proposals for it; None: drawn at random after them, unknown to the sampler.
    """

    before: int
    choices: Choices
    architecture: Architecture | None
    cost: Cost
    violations: Mapping[str, float]
    reason: str
    attempt: int | None = None
    sampler_state: Mapping[str, Any] = field(default_factory=dict)
