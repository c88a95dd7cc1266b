"""Studies without training: accuracies from a formula, as a plugin and as ledger rows."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Any

from nasctl.ablation.arms import BASELINE, Arm
from nasctl.ablation.plan import Planned, StudyPlan
from nasctl.ablation.study import Comparison, Rates, Study
from nasctl.arch import Architecture, Cost, Opaque
from nasctl.trial import State, Trial

NOISE = 0.004


def formula(architecture: Architecture, seed: int) -> float:
    """Accuracy: large kernels help by 2 points, ReLU6 bottlenecks harm by 1, width by its root."""
    shared = random.Random(seed).gauss(0, NOISE / 2)  # what a seed does to all arms
    own = random.Random(f"{architecture.id}:{seed}").gauss(0, NOISE)
    accuracy = 0.7
    for block in architecture.blocks:
        fields = block.fields()
        accuracy += 0.01 * (fields.get("kernel_size") == 5)
        accuracy -= 0.005 * (fields.get("bottleneck_activation") == "relu6")
        accuracy += 0.002 * fields.get("out", 0) ** 0.5
    return accuracy + shared + own


def noisy(architecture: Architecture, *, budget: int, seed: int) -> dict[str, float]:
    """The formula as an evaluator."""
    del budget
    return {"accuracy": formula(architecture, seed)}


EVALUATORS = {"noisy": noisy}


# -- rows of a ledger, for the analysis ------------------------------------------------------------


def arm(name: str, role: str = "arm", *, lr: float = 0.1, **levels: str) -> Arm:
    architecture = Architecture(
        input_shape=(1, 1, 1),
        blocks=(Opaque("cell", name=name if role != "null_control" else BASELINE),),
        num_classes=1,
    )
    return Arm(
        name=name,
        role=role,  # type: ignore[arg-type]
        levels=levels,
        architecture=architecture,
        settings={"recipe": {"lr": lr, "epochs": 2}, "data": {"name": "none"}},
        cost=Cost(params=1000, macs=5000),
    )


def difference(better: str, worse: str, *, claim: str | None = None, kind: str = "effect") -> Any:
    return Comparison(
        name=claim or f"{better} against {worse}",
        kind=kind,  # type: ignore[arg-type]
        claim=claim,
        factors=("f",),
        levels=(worse, better),
        weights={better: 1.0, worse: -1.0},
    )


def make_study(*comparisons: Comparison, arms: tuple[Arm, ...], **changes: Any) -> Study:
    study = Study(
        arms={a.name: a for a in arms},
        comparisons=comparisons,
        metric="accuracy",
        smallest_effect=0.005,
        alpha=0.05,
        first=3,
        last=10,
        splits=1,
        rates=Rates(factors=(), seeds=0),
        seed=0,
        chance=0.1,
    )
    return dataclasses.replace(study, **changes)


Outcome = float | str | None
"""An accuracy, the reason of a failure, or None: still running."""


def play(
    study: Study,
    outcome: Callable[[Planned], Outcome],
    *,
    may_go_on: Callable[[], bool] = lambda: True,
    known: Mapping[int, Trial] | None = None,
) -> list[Trial]:
    """Every training that the plan asks for, with its outcome."""
    plan = StudyPlan(study, key=lambda row: "k", shared=lambda key: None, may_go_on=may_go_on)
    trials: dict[int, Trial] = dict(known or {})
    while True:
        number = len(trials)
        if not plan.is_ready(number, trials):
            raise AssertionError("the plan waits for what is over")
        found, _, _ = plan.find(
            number,
            None,  # type: ignore[arg-type]
            pending=(),
            known=(),
            trainings=lambda _: 0,
            begun=(),
        )
        if found is None:
            return list(trials.values())
        row = plan.rows[number]
        value = outcome(row)
        assert value is not None
        is_number = isinstance(value, float)
        trials[number] = Trial(
            number=number,
            state=State.COMPLETE if is_number else State.FAILED,
            choices=found.choices,
            architecture=found.architecture,
            seed=found.seed or 0,
            epochs=2,
            metrics={"accuracy": value} if isinstance(value, float) else {},
            error=None if is_number else str(value),
        )
