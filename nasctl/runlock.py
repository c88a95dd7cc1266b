"""Layer 3: one driver per run: a lock that the kernel releases whatever happens to its holder."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from nasctl.errors import EnvironmentProblemError

LOCK = ".lock"
PATIENCE_S = 0.5
"""A look at who holds the lock (`driver`) takes it for microseconds; a driver holds it for long."""


class RunLock:
    """Held from construction to `release()`, or to the end of the process.

    Raises:
        EnvironmentProblemError: another process holds it; the message names its pid. Or its file
            cannot be written, or is a symbolic link, which is not followed.
    """

    def __init__(self, directory: Path) -> None:
        self._file: IO[str] | None = None
        path = directory / LOCK
        try:
            file = _open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise EnvironmentProblemError(f"{path}: cannot lock the run: {error}") from None
        if not _acquire(file):
            holder = file.read().strip() or "unknown"
            file.close()
            raise EnvironmentProblemError(
                f"{directory}: this run is being driven by another process (pid {holder}); wait "
                "for it, stop it, or choose another name=..."
            )
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        except OSError as error:
            file.close()
            raise EnvironmentProblemError(f"{path}: cannot lock the run: {error}") from None
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def driver(directory: Path) -> str | None:
    """The pid of the process that drives the run now, as text; None if there is none.

    Changes nothing; a driver that starts at this very moment waits for it.
    """
    try:
        file = _open(directory / LOCK, os.O_RDONLY)
    except OSError:
        return None  # nobody has ever driven it, or it came here as a copy
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return file.read().strip() or "unknown"
    return None


def _open(path: Path, flags: int) -> IO[str]:
    mode = "r" if flags == os.O_RDONLY else "r+"
    return open(os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), mode, encoding="utf-8")


def _acquire(file: IO[str]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > until:
                return False
            time.sleep(PATIENCE_S / 20)
        else:
            return True
