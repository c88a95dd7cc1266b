"""Layer 5: what a search shows without a terminal: lines, or nothing but warnings."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nasctl.errors import if_heard
from nasctl.progress_board import Board, Ended, result_text
from nasctl.report import text
from nasctl.trial import Evaluation, State, Trial

if TYPE_CHECKING:
    from rich.console import Console

FRACTION = re.compile(r"(\d+)\s*/\s*(\d+)")
_MOST_AT_ONCE = 20  # lines of trials; after that one a second


class NoProgress:
    """Shows nothing but warnings, which go to standard error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def phase(self, text: str) -> None: ...
    def started(self, total: int, trials: Iterable[Trial], *, at_most: bool = False) -> None: ...
    def trial_started(self, trial: Trial) -> None: ...
    def epoch(self, trial: Trial, evaluation: Evaluation) -> None: ...
    def trial_ended(self, trial: Trial) -> None: ...
    def rejected(self, count: int) -> None: ...
    def front(self, size: int, hypervolume: float) -> None: ...
    def finished(self, summary: str) -> None: ...

    def warning(self, text: str) -> None:
        with if_heard():  # see `Shown._line`
            print(f"warning: {text}", file=sys.stderr, flush=True)


class Shown(NoProgress):
    """What both displays share: a console and the board."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._board = Board(clock)

    def epoch(self, trial: Trial, evaluation: Evaluation) -> None:
        self._board.epoch(trial, evaluation)

    def trial_started(self, trial: Trial) -> None:
        self._board.trial_started(trial)

    def trial_ended(self, trial: Trial) -> None:
        self._board.trial_ended(trial)

    def rejected(self, count: int) -> None:
        self._board.rejected = count

    def front(self, size: int, hypervolume: float) -> None:
        self._board.set_front(size, hypervolume)

    def _line(self, line: str, style: str = "") -> None:
        """One line, as it is: no markup, no wrapping, no shortening.

        None where standard error takes no more (its disk is full): no reason to lose the results.
        """
        with if_heard():
            self._console.print(line, style=style, markup=False, soft_wrap=True)

    def warning(self, text: str) -> None:
        self._line(f"warning: {text}", "yellow")


class PlainProgress(Shown):
    """One line per phase and per finished trial, without any control codes.

    Where more than 20 trials follow each other faster than once a second, one a second has a line,
    and the last, and those that failed: rich takes longer for a line than a lookup for a training.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._last_phase = ""
        self._allowed = float(_MOST_AT_ONCE)
        self._allowed_at = self._board.clock()
        self._held: Ended | None = None  # the newest, if it has no line yet

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._show_held()

    def _line(self, line: str, style: str = "") -> None:
        self._show_held()
        super()._line(line, style)

    def phase(self, text: str) -> None:
        what = FRACTION.sub("", text).strip()
        if what != self._last_phase:
            self._last_phase = what
            self._line(text)

    def started(self, total: int, trials: Iterable[Trial], *, at_most: bool = False) -> None:
        self._board.started(total, trials)
        there = f", {self._board.ended} of them finished before" if self._board.ended else ""
        doing = "at most " if at_most else "searching: "
        what = text.plural(total, "training" if at_most else "trial")
        self._line(f"{doing}{what}{there}")

    def trial_ended(self, trial: Trial) -> None:
        self._held = self._board.trial_ended(trial) or self._held
        now = self._board.clock()
        self._allowed = min(_MOST_AT_ONCE, self._allowed + now - self._allowed_at)
        self._allowed_at = now
        if self._allowed >= 1:
            self._allowed -= 1
            self._show_held()
        elif trial.state is State.FAILED or trial.is_reference:
            self._show_held()

    def _show_held(self) -> None:
        ended, self._held = self._held, None
        if ended is None:
            return
        board, trial = self._board, ended.trial
        width = len(str(board.total))
        count = f"{board.ended:>{width}}/{board.total}"
        parts = [
            f"[{'reference' if trial.is_reference else count}] {trial.state.value:<8}",
            trial.title,
            result_text(trial),
        ]
        if trial.seconds:
            parts.append(f"in {text.duration(trial.seconds)}")
        if board.front is not None and not trial.is_reference:
            size, hypervolume = board.front
            parts.append(f"front {size}{'+' if ended.joined_front else ''}")
            parts.append(f"hypervolume {text.significant(hypervolume, 4)}")
        left = board.seconds_left()
        if left is not None and left >= 1:
            parts.append(f"{text.duration(left)} left")
        self._line("  ".join(parts))

    def finished(self, summary: str) -> None:
        self._line(summary)
