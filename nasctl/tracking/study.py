"""Layer 3: an ablation study in the tracking store: names, effects, its description."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasctl.tracking.text import TAG_LENGTH, cut, redact
from nasctl.trial import State, Trial

if TYPE_CHECKING:
    from nasctl.tracking.view import RunRecords


def training_name(trial: Trial) -> str:
    """`012 kernel_size=5, seed 3`; trainings that choose a learning rate say so."""
    purpose = "" if trial.choices.get("purpose") == "verdict" else f"lr {trial.choices['lr']:g}, "
    return f"{trial.number:03d} {trial.choices['arm']}, {purpose}seed {trial.seed}"


def arm_recipes(study: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By arm, the recipe without the learning rate, which each training has among its choices."""
    return {
        a["name"]: {k: v for k, v in a["settings"]["recipe"].items() if k != "lr"}
        for a in study.get("arms", ())
    }


def effects(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of the parent run: the effect of each comparison with the ends of its interval."""
    found: dict[str, float] = {}
    for verdict in verdicts:
        if verdict["effect"] is not None and verdict["interval"] is not None:
            low, high = verdict["interval"]
            name = f"effect/{verdict['name']}"
            found |= {name: verdict["effect"], f"{name}/low": low, f"{name}/high": high}
    return found


def study_note(records: RunRecords, trials: Sequence[Trial]) -> str:
    """Markdown: what was asked, the verdicts, how to get them again."""
    return cut("\n".join(_lines(records, trials)), TAG_LENGTH)


def _lines(records: RunRecords, trials: Sequence[Trial]) -> Iterator[str]:
    done = sum(t.state is State.COMPLETE for t in trials)
    failed = sum(t.state is State.FAILED for t in trials)
    more = f", {failed} failed" if failed else ""
    yield (
        f"**Ablation study `{records.name}`**: {records.status.lower()}; {done} trainings{more}, "
        "one child run for each arm and seed."
    )
    yield ""
    if question := records.config.get("question"):
        yield str(question)
        yield ""
    if not records.verdicts:
        yield "No verdicts yet."
    for verdict in records.verdicts:
        yield f"- {verdict['sentence']}"
    yield ""
    yield "Again, or further:"
    yield ""
    yield "```"
    yield redact(records.command)
    yield "```"
