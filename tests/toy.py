"""A search problem small enough to check by hand: a table of 64 networks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasctl.arch import Architecture, Cost, Opaque
from nasctl.candidates import CandidateSource, Priced
from nasctl.engine import Engine, EngineSettings
from nasctl.halving import Halving
from nasctl.ledger import Ledger
from nasctl.rungs import HalvingSettings
from nasctl.samplers import SamplerContext, create_sampler
from nasctl.space import Choices, Decision, Family, SearchSpace
from nasctl.stopping import MarginalGain
from nasctl.trial import Evaluation, Outcome, OutcomeKind, Trial, Work

OBJECTIVES: dict[str, str] = {"accuracy": "max", "params": "min"}


def decode(choices: Choices) -> Architecture:
    """Depth 0 ignores the width: eight configurations, one network."""
    depth, width = int(choices["depth"]), int(choices["width"])
    block = Opaque("toy", depth=depth, width=width if depth else 0)
    return Architecture(input_shape=(1, 8, 8), blocks=(block,), num_classes=10)


def fields(architecture: Architecture) -> tuple[int, int]:
    values = dict(architecture.blocks[0].values)  # type: ignore[attr-defined]
    return values["depth"], values["width"]


def cost(architecture: Architecture) -> Cost:
    depth, width = fields(architecture)
    return Cost(params=100.0 * depth * (width + 1) + 10)


def accuracy(architecture: Architecture) -> float:
    depth, width = fields(architecture)
    return 0.5 + 0.04 * depth + 0.01 * width


def toy_family() -> Family:
    space = SearchSpace((Decision("depth", tuple(range(8))), Decision("width", tuple(range(8)))))
    return Family(space=space, decode=decode, cost=cost)


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.ended: list[Trial] = []
        self.started: list[Trial] = []
        self.epochs: list[tuple[int, int]] = []
        self.rejections = 0

    def trial_started(self, trial: Trial) -> None:
        self.started.append(trial)

    def epoch(self, trial: Trial, evaluation: Evaluation) -> None:
        self.epochs.append((trial.number, evaluation.epoch))

    def trial_ended(self, trial: Trial) -> None:
        self.ended.append(trial)

    def rejected(self, count: int) -> None:
        self.rejections = count


def make_engine(
    path: Path,
    *,
    sampler: str = "random",
    options: Mapping[str, object] | None = None,
    constraints: Mapping[str, float] | None = None,
    family: Family | None = None,
    observer: Recorder | None = None,
    references: Sequence[Trial] = (),
    seed: int = 0,
    source: Mapping[str, Any] | None = None,
    halving: HalvingSettings | None = None,
    stop: MarginalGain | None = None,
    **settings: object,
) -> Engine:
    """An engine on a ledger at `path`, which is created or continued.

    Args:
        source: more settings of the `CandidateSource`; the rest are those of `EngineSettings`.
    """
    family = family or toy_family()
    clock = settings.pop("clock", time.monotonic)
    checkpoints = settings.pop("checkpoints", None)
    trials = int(settings.pop("trials", 12))  # type: ignore[call-overload]
    price = lambda a: Priced(cost=family.cost(a))  # type: ignore[misc]  # noqa: E731
    return Engine(
        ledger=Ledger(path, {}),
        settings=EngineSettings(
            objectives=OBJECTIVES,  # type: ignore[arg-type]
            constraints=constraints or {},
            trials=trials,
            seed=seed,
            epochs=2,
            **settings,  # type: ignore[arg-type]
        ),
        source=CandidateSource(
            family=family,
            price=price,
            constraints=constraints or {},
            seed=seed,
            **(source or {}),
        ),
        sampler=create_sampler(
            sampler,
            options or {},
            SamplerContext(space=family.space, directions=("max", "min"), seed=seed, trials=trials),
        ),
        observer=observer or Recorder(),
        references=references,
        stop=stop,
        halving=None
        if halving is None
        else Halving(
            halving,
            objectives=OBJECTIVES,  # type: ignore[arg-type]
            reference_point={"accuracy": 0.0, "params": 10_000.0},
            epochs=2,
            seed=seed,
            window=4,
            events=(),
        ),
        checkpoints=checkpoints,  # type: ignore[arg-type]
        clock=clock,  # type: ignore[arg-type]
    )


def finish(engine: Engine, work: Work, kind: OutcomeKind = OutcomeKind.COMPLETE) -> None:
    """Trains `work` as the table says."""
    for epoch in range(1, work.epochs + 1):
        engine.report(work, epoch, {"accuracy": accuracy(work.architecture) * epoch / work.epochs})
    engine.end(work, Outcome(kind=kind))


def run(engine: Engine) -> None:
    """One worker, until the engine is done."""
    while isinstance(work := engine.next(), Work):
        finish(engine, work)


def history(engine: Engine) -> list[tuple[int, str, str, float | None]]:
    """What a history is compared by."""
    return [(t.number, t.arch_id, t.state.value, t.metrics.get("accuracy")) for t in engine.trials]
