"""Layer 4: ends processes that would outlive this one, however this one dies."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def reaper(pids: Sequence[int]) -> Iterator[Callable[[], None]]:
    """If this process dies inside the block, even by SIGKILL, the given ones are killed.

    A shell waits for the end of a pipe that only this process holds open. It has a session of
    its own, so that what hits our terminal's process group does not hit it.

    Yields:
        What kills them at once.
    """
    if not pids:
        yield lambda: None
        return
    script = 'read -r line || kill -9 "$@"'
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, "nasctl-reaper", *map(str, pids)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )

    def reap() -> None:
        process.communicate("")  # closes the pipe

    try:
        yield reap
    finally:
        if process.returncode is None:
            process.communicate("done\n")


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`; none where there is no /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            state_and_parent = stat.read_text().rpartition(")")[2].split()
            if int(state_and_parent[1]) == pid:
                found.append(int(stat.parent.name))
    return found
