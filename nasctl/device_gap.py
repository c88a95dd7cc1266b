"""Layer 4: what a new search might add to a front among trained networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nasctl.candidates import CandidateSource
from nasctl.pricing import Pricer
from nasctl.samplers.base import Observation, SamplerContext
from nasctl.space import Family
from nasctl.trial import Objectives, State, Trial

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig


def gap_json(
    family: Family,
    config: SearchConfig,
    price: Pricer,
    trials: Iterable[Trial],
    *,
    objectives: Objectives,
    constraints: Mapping[str, float],
    reference_point: Mapping[str, float],
    proposals: int,
) -> dict[str, Any]:
    """`expected_gain`, a share of the hypervolume, and what it rests on; see
    `samplers.known_cost.outlook`. Where it cannot be told it is None, with a `reason`.

    Args:
        family: of the networks.
        config: of the run.
        price: what networks cost now.
        trials: of the run.
        objectives, constraints, reference_point: that count now.
        proposals: trainings to look ahead.
    """
    from nasctl.samplers.known_cost.outlook import expected_gap

    source = CandidateSource(family=family, price=price, constraints=constraints, seed=config.seed)
    context = SamplerContext(
        space=family.space,
        directions=tuple(objectives.values()),
        seed=config.seed,
        trials=config.trials,
        objectives=tuple(objectives),
        reference_point=reference_point,
        price=source.known,
    )
    told = []
    for trial in trials:
        if trial.state is State.COMPLETE:
            metrics = {**trial.metrics, **price(trial.architecture).cost}
            values = tuple(metrics[m] for m in objectives)
            told.append(Observation(number=trial.number, choices=trial.choices, values=values))
    found = expected_gap(context, told, proposals=proposals)
    if isinstance(found, str):
        return {"expected_gain": None, "reason": found}
    return {
        "expected_gain": found.gain,
        "proposals": found.proposals,
        "candidates": found.candidates,
        "best": dict(found.best),
    }
