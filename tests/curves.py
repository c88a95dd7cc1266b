"""A table of learning curves: a plugin, and an engine that trains by it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nasctl.api import Architecture, Cost, Decision, Family, Opaque, SearchSpace
from nasctl.candidates import CandidateSource, Priced
from nasctl.engine import Engine, EngineSettings, Signal
from nasctl.fidelity import HalvingSettings
from nasctl.halving import continued
from nasctl.ledger import Ledger
from nasctl.samplers import SamplerContext, create_sampler
from nasctl.trial import Outcome, OutcomeKind, Work
from tests.toy import Recorder

EPOCHS = 9
RULE = HalvingSettings(min_pairs=4)


def curve_family() -> Family:
    """3,125 networks; only the sum of their decisions says much about them."""
    space = SearchSpace(tuple(Decision(f"d{i}", (0, 1, 2, 3, 4)) for i in range(5)))

    def decode(choices: dict[str, Any]) -> Architecture:
        block = Opaque("net", **choices)
        return Architecture(input_shape=(1, 8, 8), blocks=(block,), num_classes=10)

    def cost(architecture: Architecture) -> Cost:
        return Cost(params=100.0 + 40.0 * size(architecture))

    return Family(space=space, decode=decode, cost=cost)  # type: ignore[arg-type]


def size(architecture: Architecture) -> int:
    return sum(v for _, v in architecture.blocks[0].values)  # type: ignore[attr-defined]


def accuracy(architecture: Architecture, epoch: int, seed: int) -> float:
    """Large networks end higher and begin slower; quality is drawn for each network."""
    quality = random.Random(architecture.id).gauss(0, 0.25) + 0.03 * size(architecture)
    noise = random.Random(f"{architecture.id}/{seed}/{epoch}").gauss(0, 0.004)
    speed = 0.6 + 0.05 * size(architecture)
    return 1 - math.exp(-(0.8 + quality) * (1 - math.exp(-epoch / speed))) + noise


def curve(architecture: Architecture, *, budget: int, seed: int) -> Iterator[dict[str, float]]:
    for epoch in range(1, budget + 1):
        yield {"accuracy": accuracy(architecture, epoch, seed)}


FAMILIES: dict[str, Callable[[], Family]] = {"curvenets": curve_family}
EVALUATORS = {"curves": curve, "last_only": lambda a, *, budget, seed: {
    "accuracy": accuracy(a, budget, seed)}}  # fmt: skip


def make_engine(
    path: Path,
    *,
    rule: HalvingSettings | None = RULE,
    checkpoints: Path | None = None,
    warn: Callable[[str], None] = lambda _: None,
    sampler: str = "random",
    trials: int = 40,
    observer: Recorder | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    **settings: Any,
) -> Engine:
    """An engine on the curves, whose ledger at `path` is created or continued."""
    family = curve_family()
    ledger = Ledger(path, {})
    if ledger.meta("reference_point") is None:
        ledger.set_meta(reference_point={"accuracy": 0.0, "params": 1000.0})
    search = EngineSettings(
        objectives={"accuracy": "max", "params": "min"},
        constraints={},
        trials=trials,
        seed=0,
        epochs=EPOCHS,
        **settings,
    )
    context = SamplerContext(
        space=family.space, directions=("max", "min"), seed=0, trials=trials
    )  # fmt: skip
    return Engine(
        ledger=ledger,
        settings=search,
        source=CandidateSource(
            family=family,
            price=lambda a: Priced(cost=family.cost(a)),  # type: ignore[misc]
            constraints={},
            seed=0,
        ),
        sampler=create_sampler(sampler, {}, context),
        observer=observer or Recorder(),
        halving=continued(rule, ledger, search),
        checkpoints=checkpoints,
        warn=warn,
        clock=clock,
    )


def train(engine: Engine, work: Work, *, first: int = 1, until: int = EPOCHS) -> bool:
    """Reports epochs `first` to `until` as the table says; True: it is not over."""
    for epoch in range(first, until + 1):
        value = accuracy(work.architecture, epoch, work.seed)
        if not engine.report(work, epoch, {"accuracy": value}):
            engine.end(work, Outcome(kind=OutcomeKind.STOPPED))
            return False
    if until == work.epochs:
        engine.end(work, Outcome(kind=OutcomeKind.COMPLETE))
        return False
    return True


def run(engine: Engine, *, workers: int = 1, seed: int = 0) -> None:
    """Until the engine is done, epochs of the workers in an order drawn by `seed`."""
    rng = random.Random(seed)
    flying: list[tuple[Work, int]] = []
    while True:
        found = engine.next() if len(flying) < workers else Signal.WAIT
        if isinstance(found, Work):
            flying.append((found, 1))
        elif flying:
            work, epoch = flying.pop(rng.randrange(len(flying)))
            if train(engine, work, first=epoch, until=epoch):
                flying.append((work, epoch + 1))
        else:
            return
