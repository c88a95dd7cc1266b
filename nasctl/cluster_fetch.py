"""Layer 5: a run's folder from the head to this machine: there whole, or not at all."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nasctl.cluster import (
    FETCH,
    KIND,
    Cluster,
    ClusterJob,
    JobGoneError,
    LostContactError,
    find_job,
)
from nasctl.cluster_archive import Receiver, unpack
from nasctl.cluster_follow import Lines, follow, reason
from nasctl.cluster_submission import new_job_id
from nasctl.errors import EnvironmentProblemError
from nasctl.files import cannot_be_written
from nasctl.kept_files import VERIFIED
from nasctl.records import LEDGER, RunRecords
from nasctl.runlock import driver

FORGET_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a run is: its name, and the head's folder that it is in (empty: the usual one)."""

    run: str
    output_dir: str


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What came. `replaced`: an older copy of the same run was there."""

    directory: Path
    replaced: bool


def find_source(cluster: Cluster, name: str) -> Source:
    """The run that a name means: of a job, of a run that a job drove, or of a folder on the head
    that outlived them."""
    from nasctl.config.schema import name_problem

    jobs = [job for job in cluster.jobs() if job.metadata.get(KIND) != FETCH]
    try:
        job = find_job(jobs, name, cluster.url)
    except JobGoneError:
        folder, slash, run = name.rstrip("/").rpartition("/")
        if name_problem(run) is not None or (folder and not folder.startswith("/")):
            raise
        return Source(run=run, output_dir=folder or slash)  # that of /toy is /
    if job.run is None:
        raise EnvironmentProblemError(f"{job.id}: a job that nasctl did not submit has no run")
    return Source(run=job.run, output_dir=job.output_dir)


def fetch(
    cluster: Cluster, source: Source, into: Path, *, progress: Callable[[int, int], None]
) -> Fetched:
    """Brings a run into `into/NAME`; what is there already stays unless it is an older copy.

    Args:
        progress: called with (bytes so far, bytes of the archive).

    Raises:
        EnvironmentProblemError: no such run, or another one is in its place here.
    """
    if (problem := cannot_be_written(into)) is not None:
        raise EnvironmentProblemError(f"-o {into}: {problem}")
    target = into / source.run
    if target.is_symlink() or (target.exists() and not (target / LEDGER).is_file()):
        raise _in_the_way(target, "something that is no run")
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{source.run}.", dir=into) as place:
            archive = Path(place, "archive")
            _receive(cluster, source, archive, progress)
            fresh = unpack(archive, source.run, Path(place))
            is_copy = _check_replaceable(target, fresh)
            _swap(fresh, target, Path(place, "old"))
    except OSError as error:  # of this disk: what the cluster does has been explained
        raise EnvironmentProblemError(f"-o {into}: cannot be written: {error.strerror}") from error
    return Fetched(directory=target, replaced=is_copy)


def _receive(
    cluster: Cluster, source: Source, archive: Path, progress: Callable[[int, int], None]
) -> None:
    with (
        open(archive, "wb") as out,
        _sending(cluster, source) as job,
    ):
        receiver = Receiver(out, progress=progress)
        lines = Lines(None, receiver.line)

        def take(text: str) -> bool:
            lines.feed(text)
            return receiver.complete

        end = follow(cluster, job.id, take)
        lines.close()
        if not receiver.complete:
            raise EnvironmentProblemError(f"on the head: {receiver.error or reason(end)}")


@contextlib.contextmanager
def _sending(cluster: Cluster, source: Source) -> Iterator[ClusterJob]:
    """A job that prints the archive into its log; nothing of it is left on the head afterwards."""
    job_id = new_job_id(FETCH, source.run)
    command = ["nasctl", "send-run", source.run, "--wait"]
    command += [f"--output-dir={source.output_dir}"] if source.output_dir else []
    cluster.submit(
        job_id,
        f"exec {shlex.join(command)}",
        metadata={KIND: FETCH},
    )
    try:
        job = cluster.job(job_id)
        _forget_older(cluster, job)
        yield job
    finally:
        # It waits for this, to empty its log. What fails here costs the head a file, no more.
        with contextlib.suppress(LostContactError, JobGoneError):
            cluster.stop(job_id)


def _forget_older(cluster: Cluster, job: ClusterJob) -> None:
    """Deletes what earlier fetches left in the list of jobs, by the clock of the head.

    Not at once: Ray looks at a job that has ended once more, and lists it again if it has gone.
    """
    for other in cluster.jobs():
        is_ours = other.metadata.get(KIND) == FETCH and other.id != job.id
        if is_ours and other.is_over and (job.started or 0) - (other.ended or 0) > FORGET_S:
            with contextlib.suppress(JobGoneError):  # somebody else was faster
                cluster.delete(other.id)


def _check_replaceable(target: Path, fresh: Path) -> bool:
    """Whether an older copy is there. One that has something of its own is not replaced."""
    if not target.exists():
        return False
    if RunRecords(target).uid != RunRecords(fresh).uid:
        raise _in_the_way(target, "another run of that name")
    if (pid := driver(target)) is not None:
        raise _in_the_way(target, f"this run, driven here by process {pid}")
    if not _has_all_of(fresh, target):
        raise _in_the_way(target, "this run, with trials that the cluster does not have")
    for place in target.glob(f"{VERIFIED}*/{LEDGER}"):
        sent = fresh.glob(f"{VERIFIED}*")  # by another name, if it was moved aside there
        if not any(_has_all_of(there, place.parent) for there in sent):
            what = "this run, with a verification that the cluster does not have"
            raise _in_the_way(target, what)
    return True


def _has_all_of(fresh: Path, here: Path) -> bool:
    """Whether every training that has ended here has ended there, too."""
    if not (fresh / LEDGER).is_file():
        return False
    own, sent = RunRecords(here), RunRecords(fresh)
    ended = {trial.number for trial in own.trials() if trial.state.is_final}
    return own.uid == sent.uid and ended <= {t.number for t in sent.trials() if t.state.is_final}


def _in_the_way(target: Path, what: str) -> EnvironmentProblemError:
    return EnvironmentProblemError(f"{target}: {what} is there; nothing was changed: use -o DIR")


def _swap(fresh: Path, target: Path, old: Path) -> None:
    """Puts a folder in the place of another, which stays if that fails."""
    is_there = target.exists()
    try:
        if is_there:
            target.rename(old)
        fresh.rename(target)
    except OSError as error:
        if is_there and not target.exists():
            shutil.move(old, target)
        raise EnvironmentProblemError(f"{target}: cannot be written: {error.strerror}") from error
