"""Layer 4: a study read back from its ledger: its findings at any time, without its data."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from nasctl.ablation.analysis import Analysis, analyse
from nasctl.ablation.study import Study
from nasctl.ablation.view import ablation_json
from nasctl.errors import EnvironmentProblemError
from nasctl.records import LEDGER, RunRecords
from search_spaces.blocks import BLOCKS


def study_of(records: RunRecords) -> Study:
    """The study that a ledger says.

    Raises:
        EnvironmentProblemError: the run is a search, has blocks of a plugin, or is damaged.
    """
    if not records.study:
        raise EnvironmentProblemError(f"{records.directory}: a search, not an ablation study")
    try:
        return Study.from_json(records.study, BLOCKS)
    except (KeyError, TypeError, ValueError) as error:
        raise EnvironmentProblemError(
            f"{records.directory / LEDGER}: its study cannot be read: {error}"
        ) from None


def analysis_of(records: RunRecords) -> Analysis:
    """All its looks, from the trainings in the ledger."""
    return analyse(study_of(records), records.trials())


def view_of(records: RunRecords) -> dict[str, Any]:
    """The object of `ablation.json`, computed from the ledger."""
    config = records.config
    view = ablation_json(
        analysis_of(records),
        records.trials(),
        about={
            "name": records.name,
            "command": records.command,
            "status": records.status,
            "created": min((t.started_at for t in records.trials()), default=0.0),
            "seconds": float(records.meta("seconds") or 0.0),
            "version": version("nasctl"),
            "question": config.get("question"),
        },
        setting=_setting(records, config),
        measured=records.measurements,
        seconds=sum(t.seconds for t in records.trials()),
    )
    return {**view, "compute": records.compute}


def _setting(records: RunRecords, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the verdicts hold in."""
    seeds = config["seeds"]
    return {
        "data": config["data"]["name"],
        "split": "val",
        "validation_images": records.meta("validation_images"),
        "splits": config["splits"],
        "recipe": dict(config["recipe"]),
        "evaluator": config["evaluator"],
        "plugins": dict(records.meta("plugins") or {}),
        "environment": records.environment,
        **({"latency_device": records.latency_device} if records.latency_device else {}),
        "learning_rate": (
            config["learning_rate"]["policy"] if config["evaluator"] == "train" else "shared"
        ),
        "match": config["match"],
        "smallest_effect": config["decision"]["smallest_effect"],
        "metric": config["decision"]["metric"],
        "alpha": config["decision"]["alpha"],
        "seeds": dict(seeds),
        "design": config["design"],
        "seeds_raised": list(records.meta("seeds_raised") or []),
        "boundary": "Wang-Tsiatis, Delta 0.25" if seeds["max"] > seeds["min"] else None,
    }
