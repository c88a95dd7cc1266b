"""Layer 4: a study as its folder and its report show it: `ablation.json` and `verdicts.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from nasctl.ablation import sentences
from nasctl.ablation.analysis import Analysis, Finding, chosen_rates, diverged, value_of
from nasctl.ablation.arms import Arm
from nasctl.ablation.noise import noise_of
from nasctl.ablation.study import Study
from nasctl.arch import Architecture
from nasctl.effects import power
from nasctl.stats import t_interval
from nasctl.trial import State, Trial

SHOWN_COSTS = ("params", "macs", "activations", "latency_ms")


def verdicts_json(analysis: Analysis) -> list[dict[str, Any]]:
    """One object per comparison, as `verdicts.json` has them; controls come last.

    `effect` is metric(levels[1]) - metric(levels[0]), or for an interaction how much more the
    second factor does where the first one is changed. `level` is the confidence of `interval`.
    """
    return [_verdict(f, analysis) for f in analysis.findings.values()]


def verdicts_of(view: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The list of `verdicts.json`: the comparisons of `ablation.json`."""
    return [dict(c) for c in view["comparisons"]]


def _verdict(finding: Finding, analysis: Analysis) -> dict[str, Any]:
    comparison, evidence = finding.comparison, finding.evidence
    found: dict[str, Any] = {
        "name": comparison.name,
        "kind": comparison.kind,
        "claim": comparison.claim,
        "factor": " x ".join(comparison.factors),
        "levels": list(comparison.levels),
        "metric": analysis.study.metric,
        "n": len(finding.differences),
        "effect": None,
        "sd": None,
        "interval": None,
        "level": None,
        "p_value": None,
        "p_adjusted": None,
        "verdict": "inconclusive",
        "effect_size": None,
        "superiority": None,
        "sign_flip_p": None,
        "sign_flip_smallest": None,
        "equivalence_p": None,
        "bootstrap": None,
        "adjusted_effect": None,
        "differences": list(finding.differences),
        "decided": finding.decided_at is not None,
    }
    if evidence is not None:
        plain = dataclasses.asdict(evidence)
        found |= {k: plain[k] for k in found.keys() & plain.keys()}
        found["verdict"] = evidence.verdict.value
        for key in ("interval", "bootstrap"):
            found[key] = list(found[key]) if found[key] is not None else None
    return found


def ablation_json(
    analysis: Analysis,
    trials: Sequence[Trial],
    *,
    about: Mapping[str, Any],
    setting: Mapping[str, Any],
    measured: Mapping[str, Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Everything that a report shows.

    Args:
        about: name, command, status, created, seconds, version, question.
        setting: what verdicts hold in: data, recipe, decision rule, environment.
        measured: latency of whole networks by architecture id.
        seconds: spent in trainings.
    """
    study = analysis.study
    arms = {a.name: _arm(a, study, trials, measured) for a in study.arms.values()}
    verdicts = verdicts_json(analysis)
    for verdict, finding in zip(verdicts, analysis.findings.values(), strict=True):
        verdict["cost_difference"] = _cost_difference(finding.comparison.weights, arms)
        verdict["sentence"] = sentences.verdict(verdict, setting)
    done = [t for t in trials if t.state is State.COMPLETE]
    failed = [line for arm in arms.values() for line in sentences.failures(arm, study.chance)]
    return {
        **about,
        "setting": dict(setting),
        "baseline": next(iter(study.arms)),
        "baseline_blocks": _blocks(study.baseline.architecture),
        "failures": failed,
        "arms": list(arms.values()),
        "comparisons": verdicts,
        "controls": _controls(verdicts),
        "interactions": _interactions(study, arms),
        "power": _power(study, trials),
        "looks": [dataclasses.asdict(look) for look in analysis.looks],
        "trainings": {
            "verdict": sum(t.choices.get("purpose") == "verdict" for t in done),
            "learning_rate": sum(t.choices.get("purpose") == "learning_rate" for t in done),
            "shared": sum("shared_from" in t.choices for t in done),
            "failed": sum(t.state is State.FAILED for t in trials),
            "seconds": seconds,
        },
    }


def _arm(
    arm: Arm, study: Study, trials: Sequence[Trial], measured: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    own = [t for t in trials if t.choices.get("arm") == arm.name]
    verdict = [t for t in own if t.choices.get("purpose") == "verdict"]
    counted = [v for t in verdict if (v := value_of(t, study)) is not None]

    def counts(trial: Trial) -> bool:
        """Whether it diverged and counts as chance; nobody knows the chance of an evaluator."""
        return study.chance is not None and diverged(trial)

    cost = {k: arm.cost[k] for k in SHOWN_COSTS if k in arm.cost}
    latency = measured.get(arm.architecture.id)
    if latency is not None:
        cost["latency_ms"] = latency["p50_ms"]
    return {
        "name": arm.name,
        "label": _label(arm),
        "role": arm.role,
        "levels": dict(arm.levels),
        "arch_id": arm.architecture.id,
        "cost": cost,
        "width_factor": arm.width_factor,
        "lr": chosen_rates(study, trials).get(arm.variant, arm.lr),
        "lr_search": _rates(arm, study, trials),
        "n": len(counted),
        "mean": fmean(counted) if counted else None,
        "sd": stdev(counted) if len(counted) > 1 else None,
        "interval": list(t_interval(counted)) if len(counted) > 1 else None,
        "values": [_value(t, study) for t in verdict],
        "curve": _curve(verdict, study.metric),
        "failed": sum(t.state is State.FAILED for t in verdict),
        "diverged": sum(map(counts, verdict)),
        "first_error": next(
            (t.error for t in verdict if t.state is State.FAILED and not counts(t)), None
        ),
    }


def _blocks(architecture: Architecture) -> list[str]:
    """`conv(kernel_size=3, out=8, stride=2)`: a block a line, with what is not its default."""
    found = []
    for block in architecture.blocks:
        fields = [f"{k}={v}" for k, v in sorted(block.to_json().items()) if k != "op"]
        found.append(f"{block.op}({', '.join(fields)})" if fields else block.op)
    return found


def _label(arm: Arm) -> str:
    """The name, and of the baseline what it has where other arms have something else."""
    if arm.role != "baseline" or not arm.levels:
        return arm.name
    return f"{arm.name} ({', '.join(f'{f}={level}' for f, level in arm.levels.items())})"


def _rates(arm: Arm, study: Study, trials: Sequence[Trial]) -> list[dict[str, float]]:
    found: dict[float, list[float]] = {}
    for trial in trials:
        if trial.choices.get("purpose") != "learning_rate":
            continue
        value = value_of(trial, study)
        if study.arms[str(trial.choices["arm"])].variant == arm.variant and value is not None:
            found.setdefault(float(trial.choices["lr"]), []).append(value)
    return [{"lr": lr, study.metric: fmean(values)} for lr, values in sorted(found.items())]


def _value(trial: Trial, study: Study) -> dict[str, Any]:
    return {
        "replicate": trial.choices["replicate"],
        "seed": trial.seed,
        "split": trial.choices["split"],
        study.metric: value_of(trial, study),
        "lr": trial.choices["lr"],
        "trial": trial.number,
        "state": trial.state.value,
        "error": trial.error,
        "shared_from": trial.choices.get("shared_from"),
        "seconds": trial.seconds,
    }


def _curve(trials: Sequence[Trial], metric: str) -> dict[str, list[float]] | None:
    """Mean and t interval of each epoch over finished trainings."""
    by_epoch: dict[int, list[float]] = {}
    for trial in trials:
        if trial.state is State.COMPLETE:
            for evaluation in trial.evaluations:
                if metric in evaluation.metrics:
                    by_epoch.setdefault(evaluation.epoch, []).append(evaluation.metrics[metric])
    if len(by_epoch) < 2:
        return None
    epochs = sorted(by_epoch)
    bands = [
        t_interval(by_epoch[e]) if len(by_epoch[e]) > 1 else (by_epoch[e][0], by_epoch[e][0])
        for e in epochs
    ]
    return {
        "epochs": [float(e) for e in epochs],
        "mean": [fmean(by_epoch[e]) for e in epochs],
        "low": [low for low, _ in bands],
        "high": [high for _, high in bands],
    }


def _cost_difference(
    weights: Mapping[str, float], arms: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """What the better side costs more than the worse, for each cost that all arms have."""
    names = [k for k in SHOWN_COSTS if all(k in arms[a]["cost"] for a in weights)]
    worse = {a: -w for a, w in weights.items() if w < 0}
    found = {}
    for name in names:
        difference = sum(w * arms[a]["cost"][name] for a, w in weights.items())
        base = sum(w * arms[a]["cost"][name] for a, w in worse.items()) / sum(worse.values())
        found[name] = {"absolute": difference, "relative": difference / base if base else 0.0}
    return found


def _controls(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"positive": None, "null": None}
    for verdict in verdicts:
        if verdict["kind"] == "positive_control":
            is_found = verdict["verdict"] == "supported" if verdict["interval"] else None
            found["positive"] = {
                "found": is_found,
                "sentence": sentences.positive_control(verdict, is_found),
            }
        elif verdict["kind"] == "null_control":
            ends = verdict["interval"]
            clear = ends[0] <= 0 <= ends[1] if ends else None
            found["null"] = {"clear": clear, "sentence": sentences.null_control(verdict, clear)}
    return found


def _interactions(study: Study, arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means of every pair of factors that an interaction was asked of."""
    found = []
    pairs = dict.fromkeys(c.factors for c in study.comparisons if c.kind == "interaction")
    for first, second in pairs:
        rows, columns = (
            list(dict.fromkeys(a.levels[f] for a in study.arms.values() if f in a.levels))
            for f in (first, second)
        )
        cells = [
            [
                [
                    value[study.metric]
                    for arm in study.arms.values()
                    if arm.levels.get(first) == row and arm.levels.get(second) == column
                    for value in arms[arm.name]["values"]
                    if value[study.metric] is not None
                ]
                for column in columns
            ]
            for row in rows
        ]
        if any(len(cell) < 2 for row in cells for cell in row):
            continue
        bands = [[t_interval(cell) for cell in row] for row in cells]
        found.append(
            {
                "factors": [first, second],
                "levels": [rows, columns],
                "means": [[fmean(cell) for cell in row] for row in cells],
                "low": [[low for low, _ in row] for row in bands],
                "high": [[high for _, high in row] for row in bands],
            }
        )
    return found


def _power(study: Study, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """What this study could have seen, from its own noise."""
    noise = noise_of(study, trials)
    if noise is None or noise.sd_difference is None:
        return None
    return {
        "sd": noise.sd,
        "correlation": noise.correlation,
        "detectable": power.detectable_effect(n=noise.n, sd=noise.sd_difference, alpha=study.alpha),
        "units": noise.n,
        "source": f"the {noise.n} seeds of this study that all arms have",
    }
