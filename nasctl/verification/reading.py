"""Layer 4: a verification read back from its ledger, at any time, without its data."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from nasctl.arch import Block
from nasctl.errors import EnvironmentProblemError
from nasctl.evaluate import weights_name
from nasctl.kept_files import VERIFIED
from nasctl.records import LEDGER, RunRecords
from nasctl.verification.delivered import Images
from nasctl.verification.finalists import finalists_of
from nasctl.verification.openings import openings
from nasctl.verification.settings import VerifySettings
from nasctl.verification.view import Evidence, verified_json
from search_spaces.blocks import BLOCKS


def evidence_of(records: RunRecords, block_types: Mapping[str, type[Block]] = BLOCKS) -> Evidence:
    """What a verification has found so far.

    Args:
        records: of the folder `verify` of a run.
        block_types: with those of plugins, if modules are needed.

    Raises:
        EnvironmentProblemError: it is no verification, or damaged.
    """
    stored = records.verification
    where = str(records.directory / LEDGER)
    if stored is None:
        raise EnvironmentProblemError(f"{records.directory}: not a verification")
    finalists = finalists_of(stored.get("finalists"), block_types, where=where)
    try:
        settings = VerifySettings.of(records.config["verify"])
        images = Images(val=stored["images"]["val"], test=stored["images"]["test"])
        same_recipe = bool(stored["same_recipe"])
        seed = int(records.config["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise EnvironmentProblemError(f"{where}: damaged: {error!r}") from None
    trials = records.trials()
    kept = {}
    for t in trials:
        name = weights_name(t.arch_id, t.seed)
        if (records.directory / "weights" / name).is_file():
            kept[t.arch_id, t.seed] = f"{records.directory.name}/weights/{name}"
    return Evidence(
        finalists=finalists,
        trials=trials,
        measured=records.measurements,
        objectives=records.objectives,
        reference_point=records.reference_point,
        settings=settings,
        images=images,
        seed=seed,
        same_recipe=same_recipe,
        openings=openings(records.directory.parent) if images.test is not None else (),
        weights=kept,
        delivered=stored.get("delivered") or {},
        files=stored.get("files") or {},
    )


def verified_of(records: RunRecords) -> dict[str, Any]:
    """The object of `verified.json`, computed from the ledger; see `evidence_of`."""
    evidence = evidence_of(records)
    config = records.config
    trained = config["evaluator"] == "train"
    return verified_json(
        evidence,
        {
            "run": config["name"],
            "run_uid": (records.verification or {}).get("run_uid"),
            "uid": records.uid,
            "command": records.command,
            "status": records.status,
            "seconds": float(records.meta("seconds") or 0.0),
            "version": version("nasctl"),
            "evaluator": config["evaluator"],
            "data": config["data"]["name"] if trained else None,
            "recipe": dict(config["recipe"]) if trained else None,
            "settings": dict(config["verify"]),
            "latency_device": dict((records.verification or {}).get("latency_device") or {}),
        },
    )


def verification_in(run: RunRecords) -> RunRecords | None:
    """The verification of a run, if one was begun."""
    folder = run.directory / VERIFIED
    return RunRecords(folder) if (folder / LEDGER).is_file() else None
