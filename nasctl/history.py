"""Layer 3: the history of a search as one hash, to compare runs by.

Under `search.order=deterministic` it is a function of the configuration, the seed, the costs in the
ledger and the window: the same on every executor, with any timing, and after any crash.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from nasctl.fields import canonical_json
from nasctl.halving import Decision, Events, recorded
from nasctl.trial import State, Trial

TIMING_METRICS = frozenset(
    {"seconds", "images_per_second", "cooldown_seconds", "simulated_seconds"}
)
"""What trainings report about the machine."""


def history_hash(trials: Iterable[Trial], events: Events = ()) -> str:
    """The sha256 (hex) of what was tried, in order of number, of what came out, and of what was
    decided at rungs.

    Left out is what depends on timing or on crashes: attempts, start and wall times, throughput,
    the texts of errors, epochs, and the order in which decisions were made.

    Args:
        trials: of a run; reference networks are no part of its history.
        events: of its ledger.
    """
    decisions, raised = recorded(events)
    history = {
        "trials": [_trial(t) for t in sorted(trials, key=lambda t: t.number)],
        "decisions": [_decision(d) for _, d in sorted(decisions.items())],
        "raised": sorted(raised.items()),
    }
    return hashlib.sha256(canonical_json(history).encode()).hexdigest()


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "choices": dict(trial.choices),
        "arch_id": trial.arch_id,
        "seed": trial.seed,
        "epochs": trial.epochs,
        "state": trial.state.value,
        "metrics": _untimed(trial.metrics),
        # What a trial was stopped by: without it, two runs could stop it at different rungs.
        "stopped": [[e.epoch, _untimed(e.metrics)] for e in trial.evaluations]
        if trial.state is State.PRUNED
        else None,
    }


def _untimed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if k not in TIMING_METRICS}


def _decision(decision: Decision) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(decision).items() if k != "seconds"}
