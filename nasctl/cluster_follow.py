"""Layer 5: the log of a job as it grows, across connections that break, and what its end means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from nasctl.cluster import ClusterJob, LostContactError

RESULT = "stdout| "
"""What a submitted job puts before each line that it prints on stdout: a log has one stream."""
PATIENCE_S = 60.0
"""Without any answer, after which following is given up; the job goes on."""
PAUSE_S = 2.0
LOOK_S = 15.0
"""Of silence, after which the cluster is asked whether the job still runs: a connection to a
machine that is gone says nothing either."""
LAST_TRIES = 3
EXIT_CODES = (0, 1, 2, 3, 4, 129, 130, 143)
SIGNALS = {1: 129, 2: 130, 15: 143}


class Followed(Protocol):
    """What is needed of a `Cluster`."""

    def job(self, job_id: str) -> ClusterJob: ...
    def tail(self, job_id: str) -> AsyncGenerator[str, None]: ...


def follow(
    cluster: Followed,
    job_id: str,
    take: Callable[[str], bool | None],
    *,
    patience_s: float = PATIENCE_S,
    pause_s: float = PAUSE_S,
    look_s: float = LOOK_S,
) -> ClusterJob:
    """Gives `take` every character of a job's log once, in order, until the job is over.

    Args:
        take: called with pieces of any length; True ends it before the job does.
        patience_s: how long the cluster may be out of reach at a time.
        pause_s: between two tries.
        look_s: see `LOOK_S`.

    Returns:
        The job as it is then.

    Raises:
        LostContactError: the cluster was out of reach for too long.
        JobGoneError: it no longer knows the job.
    """
    return asyncio.run(_follow(cluster, job_id, take, (patience_s, pause_s, look_s)))


async def _follow(
    cluster: Followed,
    job_id: str,
    take: Callable[[str], bool | None],
    times: tuple[float, float, float],
) -> ClusterJob:
    patience_s, pause_s, look_s = times
    seen = tries = 0
    heard = time.monotonic()
    while True:
        skip, broken = seen, False
        try:
            async with aclosing(_watched(cluster, job_id, look_s)) as pieces:
                async for piece in pieces:
                    heard = time.monotonic()
                    new, skip = piece[skip:], max(0, skip - len(piece))
                    seen += len(new)
                    if new and take(new):
                        return await asyncio.to_thread(cluster.job, job_id)
        except LostContactError:
            broken = True
        try:
            job = await asyncio.to_thread(cluster.job, job_id)
            heard = time.monotonic()
            tries = tries + 1 if job.is_over else 0
            if job.is_over and (not broken or tries == LAST_TRIES):
                return job
        except LostContactError:
            if time.monotonic() - heard > patience_s:
                raise
        await asyncio.sleep(pause_s)


async def _watched(cluster: Followed, job_id: str, look_s: float) -> AsyncGenerator[str, None]:
    """The log, which ends too once the job has been over for a while and nothing more comes."""
    async with aclosing(cluster.tail(job_id)) as tail:
        pieces = aiter(tail)
        while True:
            piece = asyncio.ensure_future(anext(pieces, None))
            try:
                over = 0
                while not (await asyncio.wait({piece}, timeout=look_s))[0]:
                    over += (await asyncio.to_thread(cluster.job, job_id)).is_over
                    if over == LAST_TRIES:
                        return
                text = piece.result()
            finally:
                if not piece.done():
                    piece.cancel()
                    await asyncio.wait({piece})
            if text is None:
                return
            yield text


class Lines:
    """Cuts pieces into lines; what stands before the job's own output is left out.

    Args:
        job: whose log it is; None: nothing is left out.
        take: called with whole lines, without their ends.
    """

    def __init__(self, job: ClusterJob | None, take: Callable[[str], object]) -> None:
        self._take = take
        self._rest = ""
        # Ray begins with lines of its own; the last one repeats the command.
        self._start = f"Running entrypoint for job {job.id}: {job.entrypoint}\n" if job else None

    def feed(self, text: str) -> None:
        self._rest += text
        if self._start is not None:
            _, start, after = self._rest.partition(self._start)
            if not start:
                return
            self._rest, self._start = after, None
        *lines, self._rest = self._rest.split("\n")
        for line in lines:
            self._take(line)

    def close(self) -> None:
        """What is left: a line without an end, or all of a job that never came to its command."""
        rest, self._rest = self._rest, ""
        for line in rest.splitlines():
            self._take(line)


def exit_code(job: ClusterJob) -> int:
    """What a client that waited for the job exits with: the job's own, where it has one."""
    if job.status == "STOPPED":
        return 143
    code = job.exit_code
    if job.status == "SUCCEEDED":
        return 0
    if code is not None and code < 0:
        return SIGNALS.get(-code, 4)
    return code if code in EXIT_CODES and code != 0 else 4


def reason(job: ClusterJob) -> str:
    """Why a job failed that said nothing itself, in one line."""
    code = job.exit_code
    if code in (126, 127):
        return "the head has no `nasctl` on its PATH: Ray was started in another environment"
    if code is not None and code < 0:
        return f"ended by signal {-code} (9: out of memory, or killed)"
    if code is not None:
        return f"exit status {code}"
    lines = [line.strip() for line in job.message.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"status {job.status}"
