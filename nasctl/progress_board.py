"""Layer 5: what is known of a running search: updated by events, read by the displays."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nasctl.report import text
from nasctl.trial import Evaluation, State, Trial

_MOST_RECENT = 30


@dataclass(kw_only=True)
class Running:
    trial: Trial
    epoch: int = 0
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ended:
    trial: Trial
    joined_front: bool


class Board:
    """What is known of the search: kept up to date by events, read by the displays."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.began = clock()
        self.training_since: float | None = None
        self.phase = ""
        self.total = 0
        self.counts: Counter[State] = Counter()
        self.rejected = 0
        self.running: dict[int, Running] = {}
        self.recent: deque[Ended] = deque(maxlen=_MOST_RECENT)
        self.best: float | None = None
        self.front: tuple[int, float] | None = None
        self._ended_here = 0
        self._front_grew = False

    @property
    def ended(self) -> int:
        return sum(self.counts[s] for s in (State.COMPLETE, State.PRUNED, State.FAILED))

    def started(self, total: int, trials: Iterable[Trial]) -> None:
        self.total = total
        self.training_since = self.clock()
        for trial in trials:
            if trial.state is not State.RUNNING:
                self._count(trial)

    def trial_started(self, trial: Trial) -> None:
        self.phase = ""
        self.running[trial.number] = Running(trial=trial)

    def epoch(self, trial: Trial, evaluation: Evaluation) -> None:
        now = self.running.setdefault(trial.number, Running(trial=trial))
        now.epoch = evaluation.epoch
        now.accuracy = evaluation.metrics.get("accuracy")

    def trial_ended(self, trial: Trial) -> Ended | None:
        """None for a trial that was handed back unfinished."""
        self.running.pop(trial.number, None)
        if trial.state is State.RUNNING:
            return None
        self._ended_here += 1
        if trial.is_reference:  # work that was done, but no trial
            self.recent.appendleft(Ended(trial=trial, joined_front=False))
            return self.recent[0]
        self._count(trial)
        ended = Ended(trial=trial, joined_front=self._front_grew)
        self._front_grew = False
        self.recent.appendleft(ended)
        return ended

    def _count(self, trial: Trial) -> None:
        self.counts[trial.state] += 1
        accuracy = trial.metrics.get("accuracy")
        if trial.state is State.COMPLETE and accuracy is not None:
            self.best = accuracy if self.best is None else max(self.best, accuracy)

    def set_front(self, size: int, hypervolume: float) -> None:
        if self.front is not None or self._ended_here:
            self._front_grew = hypervolume > (self.front[1] if self.front else 0.0)
        elif size:
            self._front_grew = not self.counts[State.COMPLETE]
        self.front = (size, hypervolume)

    def seconds_left(self) -> float | None:
        """From the work done in this session, epochs of running trials included."""
        if self.training_since is None:
            return None
        done: float = self._ended_here
        done += sum(r.epoch / r.trial.epochs for r in self.running.values() if r.trial.epochs)
        spent = self.clock() - self.training_since
        if done < 0.5 or spent <= 0:
            return None
        under_way = sum(
            1 - r.epoch / r.trial.epochs for r in self.running.values() if r.trial.epochs
        )
        started = sum(not r.trial.is_reference for r in self.running.values())
        waiting = max(0, self.total - self.ended - started)
        return (waiting + under_way) * spent / done


def result_text(trial: Trial, prefix: str = "accuracy ") -> str:
    """What came out of a trial, on one line: `accuracy 0.8921  0.612 ms  48.1 k params`."""
    if trial.state is State.FAILED:
        return " ".join((trial.error or "no reason recorded").split())
    known = {**trial.cost, **trial.metrics}
    parts = []
    if "accuracy" in trial.metrics:
        parts.append(f"{prefix}{text.number('accuracy', trial.metrics['accuracy'])}")
    elif trial.evaluations:
        last = trial.evaluations[-1]
        accuracy = text.number("accuracy", last.metrics.get("accuracy"))
        parts.append(f"{prefix}{accuracy} after {text.plural(last.epoch, 'epoch')}")
    if "latency_ms" in known:
        parts.append(text.quantity("latency_ms", known["latency_ms"]))
    if "params" in known:
        parts.append(f"{text.number('params', known['params'])} params")
    rest = [n for n in trial.cost if n not in {"latency_ms", "params"}]
    if "params" not in known:
        parts += [f"{text.label(n)} {text.quantity(n, known[n])}" for n in rest[:2]]
    return "  ".join(parts)
