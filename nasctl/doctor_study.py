"""Layer 5: what `nasctl doctor` checks of a study: its verdicts are those of its trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from typing import Any

from nasctl.ablation.analysis import value_of
from nasctl.ablation.reading import study_of
from nasctl.ablation.study import Study
from nasctl.doctor_outside import NotCheckedError, Patient
from nasctl.errors import EnvironmentProblemError
from nasctl.kept_files import VERDICTS
from nasctl.records import RunRecords

TOLERANCE = 1e-9


def verdicts(patient: Patient, remark: Callable[[str], None]) -> Iterator[str]:
    """Every effect is recomputed from the trainings, and every verdict from its interval."""
    records = patient.records
    patient.needs_an_end("verdicts.json is written at the end")
    if not records.trials():
        raise NotCheckedError("no training was ever begun")
    stored = {str(v.get("name")): v for v in _stored(patient)}
    study = study_of(records)
    again = f"run the same command again: {records.command}"
    for comparison in study.comparisons:
        found = stored.get(comparison.name)
        if found is None:
            yield f"{comparison.name!r} is not in {VERDICTS}; {again}"
            continue
        mean = _mean(records, study, comparison.weights, int(found.get("n") or 0))
        effect = found.get("effect")
        if effect is not None and (
            mean is None or not math.isclose(effect, mean, abs_tol=TOLERANCE)
        ):
            yield f"{comparison.name!r} has the effect {effect}, its trainings say {mean}"
        if not _follows(found, study.smallest_effect):
            yield f"{comparison.name!r}: {found.get('verdict')} does not follow from its interval"
    for name in stored.keys() - {c.name for c in study.comparisons}:
        yield f"{name!r} is in {VERDICTS} and was never asked"
    remark(f"{len(stored)} comparisons")


def _stored(patient: Patient) -> list[dict[str, Any]]:
    found = patient.stored(VERDICTS)
    if not isinstance(found, list) or not all(isinstance(v, dict) for v in found):
        raise EnvironmentProblemError(f"{VERDICTS} holds no verdicts")
    return found


def _mean(records: RunRecords, study: Study, weights: Mapping[str, float], n: int) -> float | None:
    """The weighted sum of means over the first n seeds that all arms have."""
    by_arm: dict[str, dict[int, float]] = {name: {} for name in weights}
    for trial in records.trials():
        arm = str(trial.choices.get("arm"))
        if arm not in by_arm or trial.choices.get("purpose") != "verdict":
            continue
        if (value := value_of(trial, study)) is not None:
            by_arm[arm][int(trial.choices["replicate"])] = value
    shared = sorted(set.intersection(*(set(v) for v in by_arm.values())))[:n]
    if len(shared) < n or not n:
        return None
    return fmean(sum(w * by_arm[a][r] for a, w in weights.items()) for r in shared)


def _follows(found: dict[str, Any], least: float) -> bool:
    """The rule of `nasctl.effects.verdicts`, once more."""
    interval, said = found.get("interval"), found.get("verdict")
    if interval is None:
        return said == "inconclusive"
    low, high = interval
    if -least < low and high < least:
        return said == "equivalent"
    if low > 0 and high > least:
        return said == "supported"
    if high < 0 and low < -least:
        return said == "refuted"
    return said == "inconclusive"
