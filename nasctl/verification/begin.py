"""Layer 4: what is fixed when a verification begins, and may not differ when it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.kept_files import OF_VERIFICATION, VERIFIED
from nasctl.ledger import Ledger
from nasctl.prepare import Problem
from nasctl.records import LEDGER, RunRecords
from nasctl.verification.finalists import Finalist
from nasctl.verification.settings import VerifySettings


def described(
    source: RunRecords,
    problem: Problem,
    finalists: Sequence[Finalist],
    settings: VerifySettings,
    *,
    same_recipe: bool,
) -> dict[str, Any]:
    """What the ledger of a verification keeps as `verification`."""
    dataset = problem.dataset
    labels = dataset.test_labels if dataset is not None else None
    return {
        "run_uid": source.uid,
        "run": source.name,
        "finalists": [f.to_json() for f in finalists],
        "images": {
            "val": problem.validation_images,
            "test": len(labels) if labels is not None else None,
        },
        "data": dataset.fingerprint if dataset is not None else None,
        "test_data": dataset.test_fingerprint if dataset is not None else None,
        "same_recipe": same_recipe,
        "limits": [[0, settings.max_seeds]],
    }


def settle(
    ledger: Ledger, new: Mapping[str, Any], settings: VerifySettings, source: RunRecords
) -> None:
    """A verification goes on with its own finalists and data, and perhaps with more seeds.

    Results of an older one, moved aside by now, go from the run's folder when a new one begins:
    weights would have the names of its own.

    Args:
        new: as it would begin now.

    Raises:
        ConfigError: the run has another front by now.
        EnvironmentProblemError: the data has changed.
    """
    stored = ledger.meta("verification")
    place = source.directory / VERIFIED
    if not isinstance(stored, dict):
        raise EnvironmentProblemError(f"{place}: a run, and no verification; move it away")
    for key, split in (("data", ""), ("test_data", " of the test split")):
        if stored.get(key) != new[key]:
            raise EnvironmentProblemError(
                f"{place}: the data{split} has changed since the verification began; --fresh "
                "moves it aside and begins anew"
            )
    try:
        was, now = ([(f["arch_id"], f["role"]) for f in v["finalists"]] for v in (stored, new))
        limits = [(int(start), int(seeds)) for start, seeds in stored["limits"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EnvironmentProblemError(
            f"{place / LEDGER}: damaged: {error!r}; --fresh moves it aside and begins anew"
        ) from None
    if was != now:
        come, gone = len(set(now) - set(was)), len(set(was) - set(now))
        raise ConfigError(
            f"{place}: the run has gone on since the verification began, and has other finalists "
            f"({come} new, {gone} gone); --fresh moves it aside and begins anew"
        )
    if not ledger.trials():
        for name in OF_VERIFICATION:
            (source.directory / name).unlink(missing_ok=True)
    if settings.max_seeds > limits[-1][1]:
        limits.append((len(ledger.trials()), settings.max_seeds))
        ledger.set_meta(verification={**stored, "limits": limits})
