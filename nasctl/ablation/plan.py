"""Layer 4: which training comes next in a study: a pure function of the results before it.

Rates first: each variant is trained at every multiple of its rate, on seeds of their own. Then
seed by seed all arms, up to the first look; after each look one more seed of the arms whose
comparisons are open. Batches are planned as `nasctl.planned` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nasctl.ablation.analysis import analyse, chosen_rates
from nasctl.ablation.arms import Arm
from nasctl.ablation.study import SAME_SEEDS, TUNING_SEEDS, Study
from nasctl.candidates import Candidate, Priced
from nasctl.planned import Plan
from nasctl.space import Choices
from nasctl.trial import Trial

Purpose = Literal["learning_rate", "verdict"]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One training of a study."""

    arm: Arm
    purpose: Purpose
    replicate: int
    lr: float
    seed: int
    split: int

    def choices(self, key: str, shared_from: str | None) -> Choices:
        """As the ledger has it."""
        found: Choices = {
            "arm": self.arm.name,
            "purpose": self.purpose,
            "replicate": self.replicate,
            "lr": self.lr,
            "split": self.split,
            "training": key,
        }
        if shared_from is not None:
            found["shared_from"] = shared_from
        return found


class StudyPlan(Plan[Planned]):
    """The plan as a source of candidates for the engine.

    Args:
        study: see `Study`.
        key: of a planned training, see `training_key`.
        shared: where an earlier study has it, or None.
        may_go_on: asked before every look after the first: False ends the study.
    """

    def __init__(
        self,
        study: Study,
        *,
        key: Callable[[Planned], str],
        shared: Callable[[str], str | None],
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__()
        self._study = study
        self._key = key
        self._shared = shared
        self._may_go_on = may_go_on
        self._replicates = 0

    def candidate(self, row: Planned) -> Candidate:
        """See `Plan`."""
        key = self._key(row)
        return Candidate(
            choices=row.choices(key, self._shared(key)),
            architecture=row.arm.architecture,
            priced=Priced(cost=row.arm.cost),
            seed=row.seed,
            epochs=row.arm.epochs,
        )

    # -- the batches --------------------------------------------------------------------------

    def next_round(self, trials: Sequence[Trial]) -> list[Planned]:
        """See `Plan`."""
        study = self._study
        if not self.rows and study.rates.factors:
            return self._rate_trainings()
        rates = chosen_rates(study, trials)
        if self._replicates == 0:
            self._replicates = study.first
            rounds = range(study.first)
            return [self._replicate(a, r, rates) for r in rounds for a in study.arms.values()]
        if self._replicates == study.last or not self._may_go_on():
            return []
        wanted = analyse(study, trials).arms_to_continue()
        replicate, self._replicates = self._replicates, self._replicates + 1
        arms = [a for a in study.arms.values() if a.name in wanted]
        return [self._replicate(a, replicate, rates) for a in arms]

    def _rate_trainings(self) -> list[Planned]:
        study = self._study
        variants: dict[str, Arm] = {}
        for arm in study.arms.values():
            variants.setdefault(arm.variant, arm)
        return [
            Planned(
                arm=arm,
                purpose="learning_rate",
                replicate=i,
                lr=arm.lr * factor,
                seed=(study.seed + TUNING_SEEDS + i) % 2**32,
                split=0,
            )
            for i in range(study.rates.seeds)
            for arm in variants.values()
            for factor in study.rates.factors
        ]

    def _replicate(self, arm: Arm, replicate: int, rates: Mapping[str, float]) -> Planned:
        study = self._study
        apart = SAME_SEEDS if arm.role == "null_control" else 0
        return Planned(
            arm=arm,
            purpose="verdict",
            replicate=replicate,
            lr=rates.get(arm.variant, arm.lr),
            seed=(study.seed + replicate + apart) % 2**32,
            split=replicate if study.splits > 1 else 0,
        )


def deadline(budget_s: float | None, spent_s: float) -> Callable[[], bool]:
    """Whether a budget allows another look.

    Args:
        budget_s: seconds for the whole study, None without limit.
        spent_s: by earlier calls of the same study.
    """
    began = time.monotonic()
    return lambda: budget_s is None or spent_s + time.monotonic() - began < budget_s
