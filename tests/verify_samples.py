"""Finalists and fresh trainings from plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nasctl.arch import Architecture, Cost, Opaque
from nasctl.trial import Evaluation, State, Trial
from nasctl.verification.delivered import Images
from nasctl.verification.finalists import Finalist, Role
from nasctl.verification.openings import Opening
from nasctl.verification.settings import VerifySettings
from nasctl.verification.view import Evidence, verified_json

OBJECTIVES = {"accuracy": "max", "latency_ms": "min"}


def network(number: int) -> Architecture:
    return Architecture(
        input_shape=(1, 8, 8), blocks=(Opaque("cell", number=number),), num_classes=10
    )


def finalist(
    number: int, accuracy: float, latency_ms: float, role: Role = "member", **more: Any
) -> Finalist:
    """One whose latency is exact, as a table has it."""
    cost = {"latency_ms": latency_ms}
    values: dict[str, Any] = {
        "architecture": network(number),
        "role": role,
        "choices": {"number": number},
        "cost": cost,
        "cost_intervals": {},
        "searched": {"accuracy": accuracy, **cost},
        "searched_uncertainty": {},
        "used_seeds": (0,),
    }
    return Finalist(**{**values, **more})


def training(
    number: int,
    of: Finalist,
    accuracy: float,
    test: float | None = None,
    *,
    seed: int = 0,
    state: State = State.COMPLETE,
    int8: tuple[float, float] | None = None,
) -> Trial:
    """`int8`: validation and test accuracy through the int8 file."""
    told = {"accuracy": accuracy, **({} if test is None else {"test_accuracy": test})}
    if int8 is not None:
        told |= {"accuracy_int8": int8[0], "test_accuracy_int8": int8[1]}
    done = state is State.COMPLETE
    return Trial(
        number=number,
        state=state,
        choices=of.choices,
        architecture=of.architecture,
        seed=2**31 + seed,
        epochs=1,
        cost=Cost(**of.cost),
        evaluations=(Evaluation(epoch=1, metrics=told),) if done else (),
        metrics={**told, **of.cost} if done else {},
        error=None if done else "no luck",
        seconds=2.0,
    )


def trainings(values: Mapping[Finalist, Sequence[Any]] | Sequence[Any]) -> list[Trial]:
    """From (finalist, [(validation, test), ...]) pairs."""
    found: list[Trial] = []
    for of, pairs in values:  # type: ignore[misc]
        for seed, (val, test) in enumerate(pairs):
            found.append(training(len(found), of, val, test, seed=seed))
    return found


def verified(
    finalists: Sequence[Finalist],
    trials: Sequence[Trial],
    *,
    measured: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
    objectives: Mapping[str, Any] = OBJECTIVES,
    settings: VerifySettings | None = None,
    images: Images | None = None,
    openings: Sequence[Opening] = (),
    same_recipe: bool = True,
) -> dict[str, Any]:
    """The object of verified.json."""
    evidence = Evidence(
        finalists=finalists,
        trials=trials,
        measured=measured or {},
        files=files or {},
        objectives=objectives,
        reference_point={"accuracy": 0.0, "latency_ms": 10.0},
        settings=settings or VerifySettings(),
        images=images or Images(val=None, test=None),
        seed=0,
        same_recipe=same_recipe,
        openings=openings,
        weights={(t.arch_id, t.seed): f"verify/weights/{t.arch_id}-{t.seed}" for t in trials},
    )
    return verified_json(evidence, {"run": "toy", "status": "FINISHED"})
