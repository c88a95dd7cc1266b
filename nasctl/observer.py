"""Layer 3: who is told what happens to trainings, and when."""

from __future__ import annotations

from typing import Protocol

from nasctl.ledger import Ledger
from nasctl.trial import Evaluation, Trial


class Observer(Protocol):
    """Is told after the ledger, also of reference networks: progress display and tracking."""

    def trial_started(self, trial: Trial) -> None: ...
    def epoch(self, trial: Trial, evaluation: Evaluation) -> None: ...
    def trial_ended(self, trial: Trial) -> None: ...
    def rejected(self, count: int) -> None: ...


class AfterCommit:
    """Tells an observer what is durable, and only then: in a group of calls, at its end."""

    def __init__(self, ledger: Ledger, observer: Observer) -> None:
        self._ledger = ledger
        self._observer = observer

    def trial_started(self, trial: Trial) -> None:
        self._ledger.after_commit(lambda: self._observer.trial_started(trial))

    def epoch(self, trial: Trial, evaluation: Evaluation) -> None:
        self._ledger.after_commit(lambda: self._observer.epoch(trial, evaluation))

    def trial_ended(self, trial: Trial) -> None:
        self._ledger.after_commit(lambda: self._observer.trial_ended(trial))

    def rejected(self, count: int) -> None:
        self._ledger.after_commit(lambda: self._observer.rejected(count))
