"""Layer 5: what a search shows while it runs, on standard error: a live table, lines, or nothing.

All events come from one thread and after the ledger. The live table is drawn once a second by a
thread of rich, whatever the number of events, so that it costs the trainings nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from nasctl.errors import ConfigError, unknown
from nasctl.progress_board import Ended, Running, result_text
from nasctl.progress_plain import FRACTION, NoProgress, PlainProgress, Shown
from nasctl.report import text
from nasctl.terminal import front_picture, front_table, print_front
from nasctl.trial import Evaluation, State, Trial

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.table import Table

__all__ = [
    "MODES",
    "LiveProgress",
    "NoProgress",
    "PlainProgress",
    "Progress",
    "front_picture",
    "front_table",
    "make_progress",
    "print_front",
]

Mode = Literal["auto", "live", "plain", "none"]
MODES: tuple[Mode, ...] = ("auto", "live", "plain", "none")

_REFRESH_PER_SECOND = 1


class Progress(Protocol):
    """Where a search tells its user what happens; a context manager around the whole search."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def phase(self, text: str) -> None:
        """Something other than training goes on. `40/143` in the text is drawn as a bar."""

    def started(self, total: int, trials: Iterable[Trial], *, at_most: bool = False) -> None:
        """Training begins: how many trials are asked for, and those there are already.

        Args:
            total: trials; `at_most` so many where results decide how many there are.
            trials: of earlier calls.
            at_most: see `total`.
        """

    def trial_started(self, trial: Trial) -> None: ...

    def epoch(self, trial: Trial, evaluation: Evaluation) -> None: ...

    def trial_ended(self, trial: Trial) -> None: ...

    def rejected(self, count: int) -> None:
        """`count` candidates in all were rejected by their costs."""

    def front(self, size: int, hypervolume: float) -> None:
        """The front as it is now; called before `trial_ended` of the trial that changed it."""

    def finished(self, summary: str) -> None:
        """The last word: one line."""

    def warning(self, text: str) -> None: ...


def make_progress(mode: str = "auto", console: Console | None = None) -> Progress:
    """The display for `--progress`: `auto` is live on a terminal, plain lines elsewhere.

    Args:
        mode: one of `MODES`.
        console: by default a rich console on standard error.

    Raises:
        ConfigError: an unknown mode.
    """
    if mode not in MODES:
        raise ConfigError(unknown("--progress", mode, MODES))
    if mode == "none":
        return NoProgress()
    if console is None:
        from nasctl.progress_console import standard_error

        console = standard_error()
    if mode == "live" or (mode == "auto" and console.is_terminal and not console.is_dumb_terminal):
        return LiveProgress(console)
    return PlainProgress(console)


class LiveProgress(Shown):
    """One table at the foot of the terminal; it leaves a single line behind."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(
            console=self._console,
            get_renderable=self.render,
            refresh_per_second=_REFRESH_PER_SECOND,
            transient=True,
            # What is piped elsewhere does not disturb the table, and must not be swallowed by it.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._board.total:
            self._line(self._farewell())

    def phase(self, text: str) -> None:
        self._board.phase = text

    def started(self, total: int, trials: Iterable[Trial], *, at_most: bool = False) -> None:
        del at_most  # the bar shows how far it is
        self._board.started(total, trials)

    def finished(self, summary: str) -> None:
        self._line(summary)

    def _farewell(self) -> str:
        board = self._board
        counts = ", ".join(f"{n} {s.value.lower()}" for s, n in board.counts.items() if n)
        spent = text.duration(board.clock() - board.began)
        return f"{board.ended} of {board.total} trials ({counts or 'none finished'}) in {spent}"

    def render(self) -> RenderableType:
        """The table as it is now, never higher than the terminal."""
        from rich.console import Group
        from rich.padding import Padding

        board = self._board
        parts: list[RenderableType] = [self._heading()]
        if board.total:
            parts += [self._bar(board.ended, board.total, self._time_left()), "", self._figures()]
        if board.phase:
            found = FRACTION.search(board.phase)
            if found and int(found[2]) > 0:
                parts += ["", f"[cyan]{_escaped(board.phase)}[/]"]
                parts.append(self._bar(min(int(found[1]), int(found[2])), int(found[2]), ""))
            else:
                parts += ["", f"[cyan]{_escaped(board.phase)} ...[/]"]
        # Of the terminal's height: margins, heading, bar, figures, phase and the two section heads.
        room = max(3, self._console.size.height - (14 if board.phase else 11))
        running = list(board.running.values())[: max(1, room // 2)]
        more = len(board.running) - len(running)
        if running:
            parts += ["", self._running(running, more)]
            room -= len(running) + (more > 0)
        recent = list(board.recent)[: max(1, min(10, room))]
        if recent:
            parts += ["", self._recent(recent)]
        return Padding(Group(*parts), (1, 1, 0, 1))

    def _heading(self) -> Table:
        board = self._board
        grid = _grid("left", "right")
        elapsed = text.duration(board.clock() - board.began)
        grid.add_row("[bold]nasctl search[/]", f"[dim]{elapsed}[/]")
        return grid

    def _time_left(self) -> str:
        left = self._board.seconds_left()
        return f"about {text.duration(left)} left" if left else ""

    def _bar(self, done: int, total: int, note: str) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(total=total, completed=done, complete_style="cyan", finished_style="cyan")
        grid.add_row(bar, f"{done} of {total}{'  ' if note else ''}[dim]{note}[/]")
        return grid

    def _figures(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        board = self._board
        grid = _grid("left", "left", "left")
        size, hypervolume = board.front or (None, None)
        grid.add_row(
            f"[dim]best accuracy[/] [bold]{text.number('accuracy', board.best)}[/]",
            f"[dim]front[/] [bold]{text.plural(size, 'network')}[/]" if size is not None else "",
            f"[dim]hypervolume[/] [bold]{text.significant(hypervolume, 4)}[/]"
            if hypervolume is not None
            else "",
        )
        failed = board.counts[State.FAILED]
        parts = [
            f"[green]{board.counts[State.COMPLETE]} complete[/]",
            f"{len(board.running)} running",
            f"[dim]{board.counts[State.PRUNED]} pruned[/]" if board.counts[State.PRUNED] else "",
            f"[red]{failed} failed[/]" if failed else "[dim]0 failed[/]",
            f"[dim]{board.rejected} rejected by cost[/]",
        ]
        states = Text.from_markup("[dim], [/]".join(p for p in parts if p), overflow="ellipsis")
        states.no_wrap = True
        return Group(grid, states)

    def _running(self, running: list[Running], more: int) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("running", no_wrap=True, justify="right")
        table.add_column("network", no_wrap=True, width=12)
        table.add_column("choices", no_wrap=True, overflow="ellipsis", ratio=1, style="dim")
        table.add_column("epoch", no_wrap=True, width=12)
        table.add_column("", no_wrap=True, justify="right")
        table.add_column("accuracy", no_wrap=True, justify="right")
        for now in running:
            table.add_row(
                _place(now.trial),
                now.trial.arch_id,
                _escaped(text.choices_summary(now.trial.choices)),
                ProgressBar(total=max(1, now.trial.epochs), completed=now.epoch, width=12),
                f"{now.epoch}/{now.trial.epochs}",
                text.number("accuracy", now.accuracy),
            )
        if more > 0:
            table.add_row("", f"[dim]and {more} more[/]", "", "", "", "")
        return table

    def _recent(self, recent: list[Ended]) -> Table:
        from rich.table import Table

        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("finished", no_wrap=True, justify="right")
        table.add_column("network", no_wrap=True, width=12)
        table.add_column("accuracy and costs", no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column("time", no_wrap=True, justify="right")
        table.add_column("", no_wrap=True, width=7)
        for ended in recent:
            trial = ended.trial
            style = {State.FAILED: "red", State.PRUNED: "dim"}.get(trial.state, "")
            outcome = "" if trial.state is State.COMPLETE else f"{trial.state.value.lower()}: "
            name = f"{trial.label}: " if trial.is_reference else ""
            if "arm" in trial.choices:
                name = f"{trial.choices['arm']}: "
            table.add_row(
                _place(trial),
                trial.arch_id,
                _escaped(name + outcome + result_text(trial, "")),
                text.duration(trial.seconds),
                "[cyan]● front[/]" if ended.joined_front else "",
                style=style,
            )
        return table


def _place(trial: Trial) -> str:
    """What stands for a trial where there is little room."""
    return "ref" if trial.is_reference else f"#{trial.number}"


def _grid(*justify: Literal["left", "right"]) -> Table:
    from rich.table import Table

    grid = Table.grid(expand=True)
    for side in justify:
        grid.add_column(justify=side, no_wrap=True, ratio=1)
    return grid


def _escaped(value: str) -> str:
    from rich.markup import escape

    return escape(value)
