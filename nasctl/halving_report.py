"""Layer 3: what early stopping did in a run, for `front.json`, the report and the commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nasctl import stats
from nasctl.fidelity import HalvingSettings
from nasctl.halving import Events, Scale, active_rungs, recorded, weight_of
from nasctl.rungs import correlation
from nasctl.trial import Objectives, State, Trial


def halving_json(
    settings: HalvingSettings,
    *,
    objectives: Objectives,
    reference_point: Mapping[str, float],
    epochs: int,
    trials: Sequence[Trial],
    events: Events,
    front_ids: Iterable[str],
) -> dict[str, Any]:
    """What early stopping did, as `front.json` has it under `halving`.

    `wrongly_stopped` is estimated from the controls: of those that the rule would have stopped,
    the part that is on the front now, with Wilson's 95 % interval. Saved epochs are net of the
    cool-downs.

    Args:
        front_ids: networks on the front now.
    """
    decisions, raised = recorded(events)
    scale = Scale(objectives, reference_point)
    ladder = settings.rungs(epochs)
    past = [
        p
        for t in trials
        if (p := scale.past(t, active_rungs(ladder, raised, t), weight_of(t, decisions, settings)))
    ]
    found = []
    for rung in ladder:
        here = [d for d in decisions.values() if d.rung == rung]
        measured = asdict(correlation(past, rung))
        found.append(
            {
                "epochs": rung,
                "decided": len(here),
                "stopped": sum(d.stops for d in here),
                "correlation": measured["value"],
                "pairs": measured["pairs"],
                "effective_pairs": measured["effective"],
                "raised_before": raised.get(rung),
            }
        )
    spared = {d.number for d in decisions.values() if d.wanted and d.exempt == "control"}
    ended = [t for t in trials if t.number in spared and t.state is State.COMPLETE]
    members = set(front_ids)
    wrong = sum(t.arch_id in members for t in ended)
    pruned = [t for t in trials if t.state is State.PRUNED]
    cooled = sum("cooldown_seconds" in e.metrics for t in trials for e in t.evaluations)
    cooldowns = settings.cooldown * sum(
        e.epoch for t in trials for e in t.evaluations if "cooldown_seconds" in e.metrics
    )
    return {
        "settings": asdict(settings),
        "rungs": found,
        "stopped": len(pruned),
        "epochs": sum(t.evaluations[-1].epoch for t in trials if t.evaluations) + cooldowns,
        "epochs_saved": sum(epochs - t.evaluations[-1].epoch for t in pruned) - cooldowns,
        "cooldowns": cooled,
        "controls": {
            "would_be_stopped": len(ended),
            "on_front": wrong,
            "wrongly_stopped": wrong / len(ended) if ended else None,
            "interval": list(stats.wilson_interval(wrong, len(ended))) if ended else None,
        },
    }


SILENT = "no trial has reported a value there"


def is_silent(rung: Mapping[str, Any]) -> bool:
    """Whether nothing is known of a rung in `halving_json`: so it is with evaluators that report
    the end alone, where nothing can be stopped."""
    return not rung["decided"] and not rung["pairs"]


def halving_lines(found: Mapping[str, Any] | None) -> list[str]:
    """What `halving_json` found, in sentences, the most important first; None: nothing."""
    if not found:
        return []
    trained, saved = found["epochs"], found["epochs_saved"]
    part = saved / max(trained + saved, 1e-9)
    gain = f", {part:.0%} of the epochs saved"
    if saved < 0:  # of few stops
        gain = f"; with their cool-downs, trainings took {-part:.0%} more epochs than without"
    n = found["stopped"]
    lines = [f"{n} {'trial' if n == 1 else 'trials'} stopped early{gain}"]
    for rung in found["rungs"]:
        if is_silent(rung):
            lines.append(f"rung {rung['epochs']}: {SILENT}")
            continue
        rho = rung["correlation"]
        said = f"rank correlation with the end {rho:.2f}" if rho is not None else "nothing to rank"
        raised = rung["raised_before"]
        gone = f", decides nothing from trial {raised} on" if raised is not None else ""
        lines.append(
            f"rung {rung['epochs']}: {rung['stopped']} of {rung['decided']} stopped; {said} "
            f"(n = {rung['pairs']}){gone}"
        )
    controls = found["controls"]
    if controls["would_be_stopped"]:
        low, high = controls["interval"]
        lines.append(
            f"wrongly stopped: {controls['on_front']} of {controls['would_be_stopped']} controls "
            f"({low:.0%} to {high:.0%})"
        )
    return lines
