"""Layer 5: what `nasctl doctor` checks of a verification: its result is that of its trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from typing import Any

import numpy as np

from nasctl.doctor_outside import NotCheckedError, Patient
from nasctl.errors import EnvironmentProblemError
from nasctl.kept_files import INT8, TEST, TEST_INT8, VERIFIED_JSON
from nasctl.trial import State
from nasctl.verification.fronts import IN_INT8, deciding, front_of

TOLERANCE = 1e-9
_MEANS = {
    "accuracy_val": "accuracy",
    "accuracy": TEST,
    "accuracy_int8_val": INT8,
    "accuracy_int8": TEST_INT8,
}
"""Of a network in `verified.json`, and the metric of trainings that it is the mean of."""


def result(patient: Patient, remark: Callable[[str], None]) -> Iterator[str]:
    """Every mean is recomputed from the trainings; the front by comparing every pair, on
    validation."""
    records = patient.records
    patient.needs_an_end("verified.json is written at the end")
    done = [t for t in records.trials() if t.state is State.COMPLETE]
    if not done:
        raise NotCheckedError("no training has finished")
    stored = _stored(patient)
    again = f"run the same command again: {records.command}"
    contenders: dict[str, dict[str, Any]] = {}
    front = front_of(stored)
    asked = (records.config.get("verify") or {}).get("front", "trained")
    if front != asked:
        yield f"{VERIFIED_JSON} says that its front is {front}, it was to be {asked}; {again}"
    for entry in (*stored["members"], *stored["candidates"], *stored["references"]):
        arch_id = str(entry.get("arch_id"))
        own = [t.metrics for t in done if t.arch_id == arch_id]
        metrics = entry.get("metrics") or {}
        for name, of in _MEANS.items():
            values = [m[of] for m in own if of in m]
            if values and not _same(metrics.get(name), fmean(values)):
                yield f"{arch_id} has {name} {metrics.get(name)}, its trainings say {fmean(values)}"
        if entry.get("role") != "reference" and own:
            val = metrics.get("accuracy_val", metrics.get("accuracy"))
            of_network = {**metrics, "accuracy": val}
            if front == "int8":
                of_network |= {m: metrics.get(deciding(m, front)) for m in IN_INT8}
            contenders[arch_id] = {m: v for m, v in of_network.items() if v is not None}
    expected = _undominated(contenders, records.objectives)
    members = {str(m.get("arch_id")) for m in stored["members"]}
    for arch_id in sorted(expected - members):
        yield f"{arch_id} belongs to the verified front and is not in {VERIFIED_JSON}; {again}"
    for arch_id in sorted(members - expected):
        yield f"{arch_id} is in {VERIFIED_JSON} and does not belong to the front; {again}"
    remark(f"{len(members)} of {len(contenders)} finalists")


def _stored(patient: Patient) -> dict[str, Any]:
    found = patient.stored(VERIFIED_JSON)
    parts = ("members", "candidates", "references")
    if not isinstance(found, dict) or not all(isinstance(found.get(p), list) for p in parts):
        raise EnvironmentProblemError(f"{VERIFIED_JSON} holds no verified front")
    return found


def _same(value: Any, expected: float) -> bool:
    return isinstance(value, int | float) and math.isclose(value, expected, abs_tol=TOLERANCE)


def _undominated(
    points: Mapping[str, Mapping[str, Any]], objectives: Mapping[str, str]
) -> set[str]:
    known = {i: p for i, p in points.items() if all(m in p for m in objectives)}
    costs = np.array(
        [[-p[m] if d == "max" else p[m] for m, d in objectives.items()] for p in known.values()],
        dtype=np.float64,
    ).reshape(len(known), len(objectives))
    return {
        i
        for i, own in zip(known, costs, strict=True)
        if not ((costs <= own).all(axis=1) & (costs < own).any(axis=1)).any()
    }
