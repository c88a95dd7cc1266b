"""Layer 4: from the trainings of a study to its findings, look by look. Pure.

Every look that the study has had is repeated here from the first: a comparison that was decided
at one keeps the evidence of that look.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nasctl.ablation.study import Comparison, Study
from nasctl.effects.sequential import Looks
from nasctl.effects.verdicts import Evidence, Verdict, judge
from nasctl.trial import State, Trial

Units = Mapping[str, Mapping[int, float]]
"""By arm and replicate: the metric at the end of a training."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is known of one comparison.

    Attributes:
        differences: one per unit that counts, in the order of the units.
        evidence: None before the first look, and where all differences happen to be equal.
        decided_at: units at the look that decided it, None while it is open.
    """

    comparison: Comparison
    differences: tuple[float, ...]
    evidence: Evidence | None
    decided_at: int | None


@dataclass(frozen=True, kw_only=True)
class Look:
    """After so many seeds."""

    n: int
    decided: int
    open: int


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All findings of a study, and who needs more seeds."""

    study: Study
    findings: Mapping[str, Finding]
    looks: tuple[Look, ...]

    def arms_to_continue(self) -> set[str]:
        """Arms of the comparisons that are open; the null control goes with the baseline."""
        wanted: set[str] = set()
        deciding = self.study.deciding()
        controls = [c for c in self.study.comparisons if c.kind == "positive_control"]
        for comparison in (*deciding, *controls):
            if self.findings[comparison.name].decided_at is None:
                wanted |= set(comparison.weights)
        if wanted:
            nulls = [c for c in self.study.comparisons if c.kind == "null_control"]
            wanted |= {arm for c in nulls for arm in c.weights}
        return wanted


_DIVERGED = re.compile(
    r"the loss (is not finite|exploded): "  # `nasctl.train.DivergedError`
    r"|epoch \d+: (\w+ is (nan|-?inf)(, )?)+$"  # what the engine refuses
)


def diverged(trial: Trial) -> bool:
    """Whether a training ended because its loss exploded or was no number: that is a result.

    The whole reason has to say so: the exception of a crash may have any words in it.
    """
    return trial.state is State.FAILED and _DIVERGED.match(trial.error or "") is not None


def value_of(trial: Trial, study: Study) -> float | None:
    """What a training counts with; None: it is not over, or failed for another reason."""
    if trial.state is State.COMPLETE:
        return float(trial.metrics[study.metric])
    return study.chance if diverged(trial) else None


def chosen_rates(study: Study, trials: Sequence[Trial]) -> dict[str, float]:
    """By variant, the learning rate with the best mean over its trainings; the smaller one of
    equals. Nothing where no rates were tried, or none gave a result."""
    found: dict[str, dict[float, list[float]]] = {}
    for trial in trials:
        value = value_of(trial, study)
        if trial.choices.get("purpose") == "learning_rate" and value is not None:
            variant = study.arms[str(trial.choices["arm"])].variant
            rate = float(trial.choices["lr"])
            found.setdefault(variant, {}).setdefault(rate, []).append(value)
    return {
        variant: min(rates, key=lambda rate: (-fmean(rates[rate]), rate))
        for variant, rates in found.items()
    }


def units_of(study: Study, trials: Sequence[Trial]) -> Units:
    """The results that verdicts are made of."""
    found: dict[str, dict[int, float]] = {name: {} for name in study.arms}
    for trial in trials:
        value = value_of(trial, study)
        if trial.choices.get("purpose") == "verdict" and value is not None:
            found[str(trial.choices["arm"])][int(trial.choices["replicate"])] = value
    return found


def differences_of(comparison: Comparison, units: Units, before: int) -> tuple[float, ...]:
    """One for each replicate below `before` that all its arms have."""
    arms = [units[name] for name in comparison.weights]
    shared = sorted(set.intersection(*(set(a) for a in arms)))
    return tuple(
        sum(w * units[name][r] for name, w in comparison.weights.items())
        for r in shared
        if r < before
    )


def analyse(study: Study, trials: Sequence[Trial]) -> Analysis:
    """Every look so far. Before the first one is complete, nothing is decided."""
    units = units_of(study, trials)
    seeds = 1 + max((r for arm in units.values() for r in arm), default=-1)
    looks = Looks(schedule=tuple(range(study.first, study.last + 1)))
    findings = {
        c.name: Finding(
            comparison=c,
            differences=differences_of(c, units, seeds),
            evidence=None,
            decided_at=None,
        )
        for c in study.comparisons
    }
    history: list[Look] = []
    for n in range(study.first, seeds + 1):
        for family in study.families():
            findings |= _look(family, findings, study=study, units=units, n=n, looks=looks)
        decided = [findings[c.name].decided_at is not None for c in study.deciding()]
        history.append(Look(n=n, decided=sum(decided), open=len(decided) - sum(decided)))
    return Analysis(study=study, findings=findings, looks=tuple(history))


def _look(
    family: Sequence[Comparison],
    findings: Mapping[str, Finding],
    *,
    study: Study,
    units: Units,
    n: int,
    looks: Looks,
) -> dict[str, Finding]:
    """One look at a family: the findings that change. What is decided already keeps its units."""
    differences = {
        c.name: (
            findings[c.name].differences
            if findings[c.name].decided_at is not None
            else differences_of(c, units, n)
        )
        for c in family
    }
    judged = judge(
        differences,
        alpha=study.alpha,
        smallest_effect=study.smallest_effect,
        looks=looks,
    )
    changed = {}
    for comparison in family:
        if findings[comparison.name].decided_at is not None:
            continue
        evidence: Evidence | None = judged[comparison.name]
        if _is_too_coarse(evidence, study):
            evidence = None
        values = differences[comparison.name]
        changed[comparison.name] = Finding(
            comparison=comparison,
            differences=values,
            evidence=evidence,
            decided_at=len(values) if evidence and _decides(comparison, evidence) else None,
        )
    return changed


def _is_too_coarse(evidence: Evidence | None, study: Study) -> bool:
    """Whether equal differences of trainings are a coincidence of a rounded metric: an interval
    without width would be sure of anything. A table may really be so sure."""
    return study.chance is not None and evidence is not None and evidence.sd == 0


def _decides(comparison: Comparison, evidence: Evidence) -> bool:
    if comparison.kind == "null_control":
        return False  # it is there to the end
    if comparison.kind == "positive_control":
        return evidence.verdict in (Verdict.SUPPORTED, Verdict.REFUTED)
    return evidence.verdict is not Verdict.INCONCLUSIVE
