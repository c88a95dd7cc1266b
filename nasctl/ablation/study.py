"""Layer 4: a study as it was fixed before anything trains: arms, comparisons, the decision rule."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nasctl.ablation.arms import Arm
from nasctl.arch import Block
from nasctl.fields import canonical_json

Kind = Literal["effect", "main_effect", "interaction", "positive_control", "null_control"]

TUNING_SEEDS = 1_000_003
"""Added to the seed of the study: rates are chosen on other seeds than verdicts."""
SAME_SEEDS = 500_009
"""Added to the seeds of the baseline under its other name."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One question: a weighted sum of arms, more is what the claim says.

    Attributes:
        name: unique in the study.
        claim: as the user wrote it, None for what the design compares anyway.
        factors: one, or two of an interaction.
        levels: (worse, better) as claimed, or (from, to).
        weights: by arm name; of a difference +1 and -1.
    """

    name: str
    kind: Kind
    claim: str | None
    factors: tuple[str, ...]
    levels: tuple[str, str]
    weights: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The learning-rate policy: what each arm tries, multiples of its own rate.

    Attributes:
        factors: empty where the rates of the configuration are taken as they are.
        seeds: trainings for each of them.
    """

    factors: tuple[float, ...]
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that decides which trainings a study has, and what they mean.

    Attributes:
        arms: by name, the baseline first.
        comparisons: in the order in which they are shown.
        metric: that is compared; more is better.
        smallest_effect: that matters, in units of the metric.
        alpha: error rate of the family.
        first, last: seeds at the first look and at most.
        splits: 1: all seeds see one split of the data; else each has its own.
        seed: of the study.
        chance: value of the metric that a training counts with which diverged, or None.
    """

    arms: Mapping[str, Arm]
    comparisons: tuple[Comparison, ...]
    metric: str
    smallest_effect: float
    alpha: float
    first: int
    last: int
    splits: int
    rates: Rates
    seed: int
    chance: float | None

    @property
    def baseline(self) -> Arm:
        """What everything is compared with."""
        return next(iter(self.arms.values()))

    def to_json(self) -> dict[str, Any]:
        """As the ledger keeps it, written before anything trains."""
        plain = dataclasses.asdict(dataclasses.replace(self, arms={}))
        plain["arms"] = [a.to_json() for a in self.arms.values()]
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any], block_types: Mapping[str, type[Block]]) -> Study:
        """The inverse of `to_json`."""
        arms = [Arm.from_json(a, block_types) for a in data["arms"]]
        comparisons = [
            Comparison(**{**c, "factors": tuple(c["factors"]), "levels": tuple(c["levels"])})
            for c in data["comparisons"]
        ]
        rates = Rates(factors=tuple(data["rates"]["factors"]), seeds=data["rates"]["seeds"])
        return cls(
            **{
                **data,
                "arms": {a.name: a for a in arms},
                "comparisons": tuple(comparisons),
                "rates": rates,
            }
        )

    def rate_trainings(self) -> int:
        """How many choose learning rates: arms that train alike share them."""
        variants = {a.variant for a in self.arms.values()}
        return len(variants) * len(self.rates.factors) * self.rates.seeds

    def trainings(self, seeds: int) -> int:
        """Of all arms on that many seeds, with those that choose learning rates."""
        return len(self.arms) * seeds + self.rate_trainings()

    def families(self) -> list[list[Comparison]]:
        """What is corrected together: the claims, the rest of the design, each control alone."""
        controls = [c for c in self.comparisons if c.kind.endswith("_control")]
        claims = [c for c in self.comparisons if c.claim is not None]
        rest = [c for c in self.comparisons if c not in controls and c not in claims]
        return [family for family in (claims, rest, *([c] for c in controls)) if family]

    def deciding(self) -> list[Comparison]:
        """Those that seeds are added for: the claims, or all of the design if there are none."""
        questions = [c for c in self.comparisons if not c.kind.endswith("_control")]
        return [c for c in questions if c.claim is not None] or questions


def training_key(
    arm: Arm, *, lr: float, seed: int, split: int, data: str, code: Mapping[str, str]
) -> str:
    """What a training is known by, also in other studies.

    Args:
        data: fingerprint of training and validation images.
        code: versions, plugins and precision that its result depends on.
    """
    parts = {
        "variant": arm.variant,
        "lr": lr,
        "seed": seed,
        "split": split,
        "data": data,
        "code": dict(code),
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]
