"""Layer 4: `nasctl verify --dry-run`: who would be verified, and how long it would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nasctl.environment import worker_count
from nasctl.records import RunRecords
from nasctl.trial import State, Trial
from nasctl.verification.finalists import Finalist, judged_metric
from nasctl.verification.fronts import Front
from nasctl.verification.settings import VerifySettings


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a verification would do.

    Attributes:
        least, most: trainings.
        seconds: of them all on `workers` workers, at least and at most, from the times of the run;
            None where those are not known.
        front: what it would be judged by.
    """

    run: str
    metric: str
    finalists: tuple[Finalist, ...]
    least: int
    most: int
    epochs: int
    workers: int
    seconds: tuple[float, float] | None
    has_test: bool
    front: Front = "trained"

    def to_json(self) -> dict[str, Any]:
        """The object that `--dry-run --json` prints."""
        return {
            "run": self.run,
            "finalists": [
                {
                    "arch_id": f.arch_id,
                    "role": f.role,
                    **({"name": f.name} if f.name else {}),
                    "metrics": dict(f.searched),
                }
                for f in self.finalists
            ],
            "trainings": {"min": self.least, "max": self.most},
            "epochs": self.epochs,
            "workers": self.workers,
            "seconds": {"min": self.seconds[0], "max": self.seconds[1]} if self.seconds else None,
            "split": "test" if self.has_test else "val",
            "front": self.front,
        }


def look_ahead(
    source: RunRecords,
    finalists: Sequence[Finalist],
    settings: VerifySettings,
    *,
    epochs: int,
    workers: int | None,
    cpus: float,
    has_test: bool,
) -> Outlook:
    """The outlook of a verification; trains nothing.

    Args:
        source: the search.
        epochs: of each training.
        workers, cpus: of the executor.
        has_test: whether the data has a test split.
    """
    contenders = [f for f in finalists if f.is_contender]
    references = len(finalists) - len(contenders)
    count = worker_count(workers, cpus)
    least = len(finalists) * settings.seeds
    most = len(contenders) * settings.max_seeds + references * settings.seeds
    each = [_seconds(f, source, epochs) for f in finalists]
    seconds = None
    if each and None not in each:
        known = [s for s in each if s is not None]
        first = settings.seeds * sum(known)
        rest = settings.max_seeds - settings.seeds
        more = rest * sum(s for s, f in zip(known, finalists, strict=True) if f.is_contender)
        seconds = (first / count, (first + more) / count)
    return Outlook(
        run=str(source.directory),
        metric=judged_metric(source.objectives),
        finalists=tuple(finalists),
        least=least,
        most=most,
        epochs=epochs,
        workers=count,
        seconds=seconds,
        has_test=has_test,
        front=settings.front,
    )


def _seconds(finalist: Finalist, source: RunRecords, epochs: int) -> float | None:
    """Of one training, from those of the network in the search, epoch by epoch."""
    trials: list[Trial] = [*source.trials(), *source.references()]
    own = [
        t.seconds * epochs / t.epochs
        for t in trials
        if t.arch_id == finalist.arch_id and t.state is State.COMPLETE
    ]
    return fmean(own) if own else None
