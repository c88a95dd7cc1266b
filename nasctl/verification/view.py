"""Layer 4: a verification as its folder and the report show it: the object of `verified.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

import numpy as np

from nasctl import pareto, stats
from nasctl.front import count_states
from nasctl.kept_files import INT8, TEST, TEST_INT8
from nasctl.stats import PooledSpread
from nasctl.trial import Objectives, State, Trial
from nasctl.verification.delivered import Images, Split, delivered
from nasctl.verification.finalists import Finalist, judged_metric
from nasctl.verification.fronts import Front, deciding, shown
from nasctl.verification.judging import (
    Judged,
    Judgement,
    difference,
    judge,
    reported_name,
    shrinkage,
)
from nasctl.verification.openings import Opening
from nasctl.verification.reasons import why_off
from nasctl.verification.settings import VerifySettings

Status = Literal["kept", "fell", "joined", "near", "failed", "unfinished", "reference"]

SURFACE_DRAWS = 200
"""Draws of the posterior whose fronts the attainment surfaces are of."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a verification rests on.

    Attributes:
        trials: of the verification.
        measured: latencies of the verification by architecture id.
        seed: of the run.
        same_recipe: whether trainings were like those of the search.
        delivered: of finalists as files, by architecture id (`nasctl.verification.exports`).
        files: of finalists in int8 (`nasctl.verification.int8`), where the front is judged by that.
        weights: where those of each training are, by (architecture id, seed), as they are kept.
    """

    finalists: Sequence[Finalist]
    trials: Sequence[Trial]
    measured: Mapping[str, Mapping[str, Any]]
    objectives: Objectives
    reference_point: Mapping[str, float]
    settings: VerifySettings
    images: Images
    seed: int
    same_recipe: bool
    openings: Sequence[Opening]
    weights: Mapping[tuple[str, int], str]
    delivered: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def split(self) -> Split:
        """On which the accuracies of the result are."""
        return "test" if self.images.test is not None else "val"


def judgement_of(evidence: Evidence) -> Judgement:
    """Who is on the front, from the evidence."""
    return judge(
        evidence.finalists,
        evidence.trials,
        evidence.measured,
        objectives=evidence.objectives,
        settings=evidence.settings,
        seed=evidence.seed,
        files=evidence.files,
    )


def verified_json(evidence: Evidence, about: Mapping[str, Any]) -> dict[str, Any]:
    """The object of `verified.json`.

    Args:
        evidence: see `Evidence`.
        about: what else is said at the top: name, command, status, recipe, environment.
    """
    found = judgement_of(evidence)
    spreads = _spreads(found)
    entries = {j.arch_id: _entry(j, found, evidence, spreads) for j in found.finalists}
    members = [e for e in entries.values() if e["on_front"]]
    first, goal = next(iter(evidence.objectives.items()))
    front = evidence.settings.front
    # Not by test values: the first would be the luckiest one.
    members.sort(
        key=lambda e: e["metrics"].get(deciding(first, front), e["metrics"].get(first)),
        reverse=goal == "max",
    )
    sure, ids = found.sure, [j.arch_id for j in found.ranked]
    reference = evidence.reference_point
    volume = {
        split: pareto.hypervolume(
            [_ranking(e, evidence.objectives, front, split) for e in members],
            evidence.objectives,
            reference,
        )
        for split in ("shown", "val")
        if all(m in reference for m in evidence.objectives)
    }
    return {
        **about,
        "objectives": dict(evidence.objectives),
        "reference_point": dict(reference),
        "hypervolume": volume.get("shown"),
        "hypervolume_val": volume.get("val"),
        "trials": count_states(evidence.trials, 0),
        "split": evidence.split,
        "images": {"val": evidence.images.val, "test": evidence.images.test},
        "confidence": evidence.settings.confidence,
        "front": front,
        "members": members,
        "candidates": [
            e for e in entries.values() if not e["on_front"] and e["role"] != "reference"
        ],
        "references": [e for e in entries.values() if e["role"] == "reference"],
        "optimistic": [ids[i] for i in sure.optimistic] if sure else None,
        "pessimistic": [ids[i] for i in sure.pessimistic] if sure else None,
        "places": _places(list(entries.values())),
        "shrinkage": _shrinkage(found, evidence),
        **({"quantisation": _quantisation(found, evidence)} if front == "int8" else {}),
        "test_openings": [o.to_json() for o in evidence.openings],
        "test_evaluations": sum(o.evaluations for o in evidence.openings),
        "attainment": _attainment(found, evidence),
    }


def _ranking(
    entry: Mapping[str, Any], objectives: Objectives, front: Front, split: str
) -> dict[str, float]:
    metrics = entry["metrics"]
    name = deciding if split == "val" else shown
    return {m: metrics.get(name(m, front), metrics.get(m)) for m in objectives}


def _spreads(found: Judgement) -> dict[str, PooledSpread | None]:
    """Between seeds, by metric, pooled over all finalists."""
    names = {n for j in found.finalists for n in j.values}
    return {
        n: stats.pooled_spread([j.values[n] for j in found.finalists if n in j.values])
        for n in names
    }


# -- one finalist ---------------------------------------------------------------------------------


def _entry(
    judged: Judged,
    found: Judgement,
    evidence: Evidence,
    spreads: Mapping[str, PooledSpread | None],
) -> dict[str, Any]:
    finalist = judged.finalist
    known = delivered(
        judged,
        evidence.measured.get(judged.arch_id),
        file=evidence.files.get(judged.arch_id),
        objectives=evidence.objectives,
        images=evidence.images,
        spreads=spreads,
        confidence=evidence.settings.confidence,
    )
    on_front = judged.arch_id in found.front
    status = _status(judged, evidence, on_front=on_front)
    by, reason = None, ""
    if status in ("fell", "near"):
        others = {j.arch_id: j.decisive or {} for j in found.ranked if j.arch_id in found.front}
        by, reason = why_off(judged.decisive or {}, others, evidence.objectives)
    elif status == "failed":
        reason = _why_failed(judged, evidence)
    chosen = chosen_training(judged, evidence.settings.front)
    files = evidence.delivered.get(judged.arch_id)
    return {
        "arch_id": judged.arch_id,
        **({"name": finalist.name} if finalist.name else {}),
        "architecture": finalist.architecture.to_json(),
        "choices": dict(finalist.choices),
        "metrics": {name: k.value for name, k in known.items()},
        "uncertainty": {name: k.uncertainty() for name, k in known.items()},
        "probability": found.probability.get(judged.arch_id),
        "on_front": on_front,
        "role": finalist.role,
        "status": status,
        "reason": reason,
        "dominated_by": by,
        "searched": {
            "metrics": dict(finalist.searched),
            "uncertainty": {k: dict(v) for k, v in finalist.searched_uncertainty.items()},
        },
        "trainings": [
            {
                "trial": t.number,
                "seed": t.seed,
                "state": t.state.value,
                "accuracy_val": t.metrics.get("accuracy"),
                TEST: t.metrics.get(TEST),
                **{name: t.metrics[name] for name in (INT8, TEST_INT8) if name in t.metrics},
                "seconds": t.seconds,
                "error": t.error,
                "weights": evidence.weights.get((t.arch_id, t.seed)),
            }
            for t in evidence.trials
            if t.arch_id == judged.arch_id
        ],
        "seed": chosen.seed if chosen else None,
        # Of other weights, before more seeds were trained, they would say nothing.
        "delivered": dict(files) if files and chosen and files["seed"] == chosen.seed else None,
        "weights": evidence.weights.get((judged.arch_id, chosen.seed)) if chosen else None,
    }


def chosen_training(judged: Judged, front: Front = "trained") -> Trial | None:
    """The training whose weights are handed out: the best by validation (in int8, if the front is
    judged by that), of equal ones the first; never by test."""
    if not judged.trials:
        return None
    name = reported_name("accuracy", front)
    return max(judged.trials, key=lambda t: t.metrics.get(name, 0.0))


def _status(judged: Judged, evidence: Evidence, *, on_front: bool) -> Status:
    own = [t for t in evidence.trials if t.arch_id == judged.arch_id]
    if judged.decisive is None:
        over = own and all(t.state is State.FAILED for t in own)
        if over or "error" in evidence.files.get(judged.arch_id, {}):
            return "failed"
        if judged.finalist.role == "reference" and judged.trials:
            return "reference"
        # Trained and not judged in int8: it will not be any more.
        return "failed" if judged.trials and evidence.settings.front == "int8" else "unfinished"
    if judged.finalist.role == "reference":
        return "reference"
    if judged.finalist.role == "member":
        return "kept" if on_front else "fell"
    return "joined" if on_front else "near"


def _why_failed(judged: Judged, evidence: Evidence) -> str:
    if error := evidence.files.get(judged.arch_id, {}).get("error"):
        return f"not in int8, so not trained: {error}"
    if judged.trials:
        return "not judged in int8: its trainer ended before the last epoch"
    failed = [t for t in evidence.trials if t.arch_id == judged.arch_id]
    return f"all {len(failed)} trainings failed: {failed[-1].error}"


# -- all of them ----------------------------------------------------------------------------------


def _places(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many members of the searched front there were, and what became of them."""
    counts = {
        s: sum(e["status"] == s for e in entries)
        for s in ("kept", "fell", "joined", "failed", "unfinished")
    }
    return {"members": sum(e["role"] == "member" for e in entries), **counts}


def _shrinkage(found: Judgement, evidence: Evidence) -> dict[str, Any]:
    """Of the judged metric, over all contenders and over the members of the searched front."""
    metric = judged_metric(evidence.objectives)
    members = [j for j in found.ranked if j.finalist.role == "member"]
    groups = {"finalists": found.ranked, "members": members}
    confidence = evidence.settings.confidence
    result: dict[str, Any] = {
        "metric": metric,
        "unit": "network",
        "confidence": confidence,
        "same_recipe": evidence.same_recipe,
    }
    for split, fresh in (("val", metric), ("test", TEST)):
        if fresh == TEST and metric != "accuracy":
            continue
        if any(fresh in j.values for j in found.ranked):
            result[split] = {
                name: shrinkage(group, metric, fresh, confidence) for name, group in groups.items()
            }
    return result


def _quantisation(found: Judgement, evidence: Evidence) -> dict[str, Any]:
    """What int8 costs: accuracy of the trained networks less that of their int8 files, over
    networks; positive is lost."""
    confidence = evidence.settings.confidence
    pairs = {"val": ("accuracy", INT8), "test": (TEST, TEST_INT8)}
    return {
        "unit": "network",
        "confidence": confidence,
        **{
            split: difference(
                {
                    j.arch_id: fmean(j.values[before]) - fmean(j.values[after])
                    for j in found.ranked
                    if j.values.get(before) and j.values.get(after)
                },
                confidence,
            )
            for split, (before, after) in pairs.items()
            if any(after in j.values for j in found.ranked)
        },
    }


def _attainment(found: Judgement, evidence: Evidence) -> dict[str, Any] | None:
    """Surfaces of the judged metric against the first other objective: what of that plane the true
    front attains at best, in the middle, at worst, `confidence` of the posterior between the ends.
    """
    y = judged_metric(evidence.objectives)
    x = next((m for m in evidence.objectives if m != y), None)
    if found.sure is None or x is None or not found.ranked:
        return None
    signs = {m: -1.0 if evidence.objectives[m] == "max" else 1.0 for m in (x, y)}
    draws = found.sure.draws
    picked = np.linspace(0, len(draws[y]) - 1, SURFACE_DRAWS).astype(int)
    costs = np.stack([signs[m] * np.asarray(draws[m])[picked] for m in (x, y)], axis=2)
    tail = 50 * (1 - evidence.settings.confidence)
    shares = {"best": tail, "median": 50.0, "worst": 100 - tail}
    surfaces = pareto.attainment(costs, list(shares.values()))
    return {
        "x": x,
        "y": y,
        "split": "val",
        "surfaces": {
            name: {
                "attained_by": share / 100,
                "points": [
                    [_short(signs[x] * a), _short(signs[y] * b)] for a, b in corners.tolist()
                ],
            }
            for (name, share), corners in zip(shares.items(), surfaces, strict=True)
        },
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")
