"""Layer 4: what a verification is asked for, besides the configuration of the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nasctl.verification.fronts import Front


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """The section `verify`; `conf/verify.yaml` explains every key.

    Attributes:
        seeds: fresh trainings of each finalist.
        max_seeds: of a finalist whose place stays open.
        near: candidates off the front that are finalists too, at most.
        references: whether the reference networks of the run are trained again as well.
        open: a membership probability from the first to the second is open.
        confidence: of every interval.
        latency: `measure` again, or keep that of the `search`.
        sessions: independent measurements of every latency.
        export: whether finalists are exported and quantised, and judged as files.
        front: whether the front is judged by the trained networks or by their int8 files.
        at: METRIC=VALUE: only the best member within that budget; None: all finalists.
    """

    seeds: int = 3
    max_seeds: int = 6
    near: int = 6
    references: bool = True
    open: tuple[float, float] = (0.1, 0.9)
    confidence: float = 0.9
    latency: Literal["measure", "search"] = "measure"
    sessions: int = 3
    export: bool = True
    front: Front = "trained"
    at: str | None = None

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> VerifySettings:
        """From the section `verify` of a resolved configuration."""
        low, high = section["open"]
        return cls(**{**section, "open": (float(low), float(high))})

    def is_open(self, probability: float) -> bool:
        """Whether more seeds could decide."""
        return self.open[0] <= probability <= self.open[1]
