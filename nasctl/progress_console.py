"""Layer 5: the console of rich on standard error."""

from __future__ import annotations

from rich.console import Console


class _Unread(Console):
    """Goes on in silence where rich ends the process: its reader has gone, the results stay."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def standard_error() -> Console:
    """For everything but results."""
    return _Unread(stderr=True, highlight=False)
