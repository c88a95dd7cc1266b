"""Layer 4: a folder for files that only matter while the run lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nasctl.environment import RUN_MARK
from nasctl.errors import EnvironmentProblemError

PREFIX = "nasctl-"
LONGEST = 107 - len("/session_2025-01-01_00-00-00_000000_0000000/sockets/plasma_store.12")
"""Ray puts sockets in it, and the path of a socket has at most 107 bytes."""

_LOCK = "lock"


@contextlib.contextmanager
def scratch_dir(places: Sequence[str] | None = None) -> Iterator[str]:
    """A new private folder with a short path, removed at the end.

    Folders of runs that were killed are removed too: their lock is free.

    Args:
        places: where to look for room; by default the temporary directory, and if that has too
            long a path or cannot be written, the usual ones.

    Raises:
        EnvironmentProblemError: none of the places can be used.
    """
    tried = list(places or _places())
    for place in tried:
        if len(os.fsencode(place)) + 1 + len(PREFIX) + 8 > LONGEST:
            continue
        try:
            folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        except OSError:
            continue
        break
    else:
        raise EnvironmentProblemError(
            f"no temporary folder: none of {', '.join(tried)} can be written and has a path "
            f"of at most {LONGEST - 1 - len(PREFIX) - 8} bytes"
        )
    with open(Path(folder, _LOCK), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(os.environ.get(RUN_MARK) or "-")  # from now on: free means dead
        lock.flush()
        _remove_dead(Path(place))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # a dying process may still write there


def _remove_dead(place: Path) -> None:
    for folder in place.glob(PREFIX + "*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            with open(folder / _LOCK, "r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock.read() or time.time() - folder.stat().st_mtime > 60:
                    shutil.rmtree(folder, ignore_errors=True)
                # else so young that its lock may not be held yet
        except OSError:
            continue  # in use, or not ours after all


def left_behind(uid: str) -> list[Path]:
    """Scratch folders on this machine of a run that was killed; changes nothing."""
    found = []
    for place in dict.fromkeys(_places()):
        for folder in sorted(Path(place).glob(PREFIX + "*")):
            with contextlib.suppress(OSError), open(folder / _LOCK) as lock:
                if lock.read() == uid:
                    found.append(folder)
    return found


def _places() -> tuple[str, ...]:
    return (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")
