"""Layer 3: what an ablation study spent, by purpose and by arm; see `nasctl.compute`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasctl.compute_sums import Price, Sum, latency_row, lost_attempts, summed
from nasctl.resources import RESOURCES, Events, configured_resources, resources_at
from nasctl.trial import State, Trial

if TYPE_CHECKING:
    from nasctl.records import RunRecords

SHARED = "shared_from"
"""The choice of a training that an earlier study has done; it is told again, in no time."""


def study_compute(records: RunRecords, events: Events) -> dict[str, Any]:
    """`study_compute_json` of the study that a folder holds, with the events of its ledger."""
    return study_compute_json(
        config=records.config,
        study=records.study,
        trials=records.trials(),
        events=events,
        measured=len(records.measurements),
        wall_seconds=float(records.meta("seconds") or 0.0),
    )


def study_compute_json(
    *,
    config: Mapping[str, Any],
    study: Mapping[str, Any],
    trials: Sequence[Trial],
    events: Events,
    measured: int,
    wall_seconds: float,
) -> dict[str, Any]:
    """The compute ledger of a study as plain JSON, in the form of `nasctl.compute.compute_json`,
    and `by_arm`: what each arm took, failed trainings and learning rates included.

    Args:
        config: resolved.
        study: as the ledger has it: its arms and their roles.
        trials, events: of the ledger.
        measured: arms whose latency was measured.
        wall_seconds: of all sessions.
    """
    given = resources_at(events, configured_resources(config))
    roles = {str(arm["name"]): str(arm["role"]) for arm in study.get("arms", ())}
    sums = {name: Sum() for name in ("arms", "controls", "learning_rate", "failures")}
    arms = {name: Sum() for name in roles}
    shared = 0
    for trial in trials:
        if not trial.state.is_final:
            continue
        if SHARED in trial.choices:
            shared += trial.state is State.COMPLETE
            continue
        arm = str(trial.choices.get("arm"))
        at = given(trial.started_at)
        sums[_purpose(trial, roles.get(arm, ""))].add(trial.seconds, at)
        arms.setdefault(arm, Sum()).add(trial.seconds, at)
    lost, _, _ = lost_attempts(trials, events, given)
    rows = [
        *(total.spent(name) for name, total in sums.items()),
        lost,
        latency_row(events, has_table=False, networks=measured),
    ]
    has_gpu = any(total.gpu_hours for total in sums.values())
    price = Price(**(config.get("price") or {}))
    return {
        **summed(rows, price),
        "by_arm": [
            {
                "arm": name,
                "role": roles.get(name, ""),
                "count": total.count,
                "seconds": total.seconds,
                "core_hours": total.core_hours,
                "gpu_hours": total.gpu_hours,
            }
            for name, total in arms.items()
        ],
        "currency": price.currency,
        "wall_seconds": wall_seconds,
        "avoided": (
            [{"reason": SHARED, "count": shared, "seconds": None, "remark": "counted, not timed"}]
            if shared
            else []
        ),
        "unit": "gpu_hour" if has_gpu else "core_hour",
        "smoothed_over": 0,
        "marginal": [],
        "simulated": False,
        "resources_recorded": any(kind == RESOURCES for _, kind, _ in events),
    }


def _purpose(trial: Trial, role: str) -> str:
    if trial.state is State.FAILED:
        return "failures"
    if trial.choices.get("purpose") == "learning_rate":
        return "learning_rate"
    return "controls" if role.endswith("_control") else "arms"
