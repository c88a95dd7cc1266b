"""Layer 4: trainings that other studies in the same folder have done already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nasctl.ablation.job import Epochs, epochs_of
from nasctl.errors import EnvironmentProblemError
from nasctl.ledger import Ledger
from nasctl.records import LEDGER, RunRecords
from nasctl.trial import State


@dataclass(frozen=True, kw_only=True)
class Shared:
    """By the key of a training: what it reported, and where it was done."""

    epochs: Mapping[str, Epochs]
    places: Mapping[str, str]


def read_shared(output_dir: Path, own: Path) -> Shared:
    """Finished trainings of the studies beside `own`; studies that cannot be read are left out."""
    epochs: dict[str, Epochs] = {}
    places: dict[str, str] = {}
    for ledger in sorted(output_dir.glob(f"*/{LEDGER}")):
        if ledger.parent == own:
            continue
        try:
            trials = RunRecords(ledger.parent).trials() if _is_study(ledger) else []
        except EnvironmentProblemError:
            continue  # damaged or of another version: `nasctl doctor` tells
        for trial in trials:
            key = trial.choices.get("training")
            is_own = "shared_from" not in trial.choices
            if isinstance(key, str) and trial.state is State.COMPLETE and is_own:
                epochs.setdefault(key, epochs_of(trial.evaluations))
                places.setdefault(key, f"{ledger.parent.name} {trial.label}")
    return Shared(epochs=epochs, places=places)


def _is_study(path: Path) -> bool:
    """By one value: a search beside it may have ten thousand trials."""
    ledger = Ledger(path, {}, readonly=True)
    try:
        return ledger.meta("study") is not None
    finally:
        ledger.close()
