"""Layer 3: Ctrl-C, SIGTERM and SIGHUP (a terminal that is gone): the first stops gracefully, a
second Ctrl-C at once, and a second of the others changes nothing."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType


class StopRequest:
    """What signals have asked for so far.

    Args:
        announce: says that the first signal was heard; called within the signal handler.

    Attributes:
        exit_code: 0 while nobody asked, else 130 (SIGINT), 143 (SIGTERM) or 129 (SIGHUP).
    """

    def __init__(self, announce: Callable[[], None] = lambda: None) -> None:
        self.exit_code = 0
        self._announce = announce
        self._graceful: Callable[[], None] | None = None

    def on_stop(self, stop: Callable[[], None] | None) -> None:
        """From now on a signal calls `stop` instead of raising KeyboardInterrupt."""
        self._graceful = stop
        if stop is not None and self.exit_code:
            stop()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is begun within comes to its end, whatever the first signal asks for.

        For what imports a library that cannot be imported again once it was cut short (matplotlib).
        """
        self.on_stop(lambda: None)
        try:
            yield
        finally:
            self.on_stop(None)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        del frame
        again = self.exit_code != 0
        if again and number != signal.SIGINT:
            return  # whoever asks twice is waiting; what is on its way needs a few seconds
        self.exit_code = 128 + number
        if again:
            # Everything that was shown is in the ledger; nothing has to be saved on the way out.
            os._exit(self.exit_code)
        # Within a print there may be no other (RuntimeError), or nobody reads what is said: it
        # stops all the same.
        with contextlib.suppress(RuntimeError, OSError, ValueError):
            self._announce()
        if self._graceful is None:
            raise KeyboardInterrupt
        self._graceful()


@contextlib.contextmanager
def handling_signals(announce: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Installs the handlers, and puts the old ones back. What is ignored (`nohup`) stays ignored.

    Args:
        announce: see `StopRequest`.
    """
    request = StopRequest(announce)
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {n: signal.signal(n, request.handle) for n in numbers}
    try:
        yield request
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
