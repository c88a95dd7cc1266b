"""Layer 4: finalists as files for a device, once for the weights that each hands out."""

from __future__ import annotations

import time
from collections.abc import Container
from typing import Any

from nasctl.dataset import Dataset
from nasctl.executors.base import Executor
from nasctl.pricing import latency_settings
from nasctl.records import RunRecords
from nasctl.resources import note_measuring
from nasctl.verification.exports import FOLDER, delivered, evaluations, keep_models
from nasctl.verification.ongoing import Ongoing
from nasctl.verification.reading import evidence_of, verified_of
from nasctl.verification.view import chosen_training, judgement_of


def hand_out(ongoing: Ongoing, dataset: Dataset, executor: Executor) -> None:
    """Exports and quantises what is handed out, judges and times the files, and shows members as
    models.

    Args:
        ongoing: of which `verified.json` says which weights are handed out.
        dataset: that it was trained on.
        executor: where files are timed.

    Raises:
        EnvironmentProblemError: the disk is full.
    """
    stored = ongoing.kept()
    before: dict[str, Any] = stored.get("delivered") or {}
    evidence = evidence_of(RunRecords(ongoing.directory), ongoing.registry.blocks)
    front = ongoing.settings.front
    chosen = {j.arch_id: chosen_training(j, front) for j in judgement_of(evidence).finalists}
    todo = {
        f.arch_id: (f.architecture, trial.seed)
        for f in ongoing.finalists
        if (trial := chosen[f.arch_id]) is not None
        and before.get(f.arch_id, {}).get("seed") != trial.seed
    }
    if not todo:
        _show_models(ongoing, dataset)
        return
    ongoing.test.open()
    asked, began = stored.get("exported_evaluations", 0), time.monotonic()
    # Beforehand: a call that is killed has asked the test split as well.
    ongoing.keep(exported_evaluations=asked + 2 * len(todo))
    new = delivered(
        RunRecords(ongoing.directory.parent),
        todo,
        build=ongoing.build(),
        dataset=dataset,
        folder=ongoing.directory / FOLDER,
        timing=ongoing.timing(executor, [a for a, _ in todo.values()]),
        say=ongoing.display.phase,
    )
    settings, seconds = latency_settings(ongoing.config), time.monotonic() - began
    note_measuring(ongoing.ledger, settings, "files", 2 * len(new), seconds)
    for arch_id, values in new.items():
        if text := values.get("error") or values.get("problem"):
            what = "was not exported: " if "error" in values else ""
            ongoing.display.warning(f"{arch_id} {what}{text}")
    ongoing.keep(delivered={**before, **new}, exported_evaluations=asked + evaluations(new))
    _show_models(ongoing, dataset, changed=frozenset(todo))


def _show_models(ongoing: Ongoing, dataset: Dataset, changed: Container[str] = ()) -> None:
    """Members as models in the tracking store."""
    members = {m["arch_id"] for m in verified_of(RunRecords(ongoing.directory))["members"]}
    networks = [f.architecture for f in ongoing.finalists if f.arch_id in members]
    keep_models(ongoing.directory, networks, dataset, changed=changed)
