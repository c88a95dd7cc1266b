"""Layer 6: `nasctl submit`, `jobs`, `logs`, `stop`, `fetch`: runs on a cluster, from outside."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from nasctl.cli_common import Command, command_line, print_json, say
from nasctl.errors import ConfigError, EnvironmentProblemError, InterruptedSearchError

if TYPE_CHECKING:
    from nasctl.cluster import Cluster, ClusterJob

SEND_WAIT_S = 900
"""Seconds that a copy of a run waits on the head to be fetched."""


def connection_options(command: Command) -> Command:
    """Where the cluster is, and how to get in."""
    command = click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="With the cluster's token; else RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH.",
    )(command)
    return click.option(
        "--address",
        metavar="URL",
        help="Of the cluster's dashboard; else NASCTL_ADDRESS, or http://127.0.0.1:8265.",
    )(command)


def _connect(address: str | None, token_file: Path | None) -> Cluster:
    from nasctl.cluster import connect, read_address, read_token

    return connect(read_address(address, os.environ), read_token(token_file, os.environ))


@click.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE",
              help="Python module with your blocks, families, ...; is sent along.")  # fmt: skip
@click.option("--ablate", "is_ablation", is_flag=True, help="CONFIG is for `nasctl ablate`.")
@click.option("--verify", "is_verification", is_flag=True,
              help="CONFIG is a run on the cluster, to be verified there.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="As `nasctl search --dry-run`, on this machine.")
@click.option("--fresh", is_flag=True, help="Move an existing run of that name aside first.")
@click.option("--detach", is_flag=True, help="Print the job's id and leave.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@connection_options
def submit(  # noqa: PLR0917 - click passes one argument per option
    config: str,
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
    is_ablation: bool,
    is_verification: bool,
    dry_run: bool,
    fresh: bool,
    detach: bool,
    as_json: bool,
    address: str | None,
    token_file: Path | None,
) -> None:
    """Run a search (or, with --ablate, a study) as a job on a Ray cluster.

    CONFIG and KEY=VALUE as for `nasctl search`; files that it names by a relative path go along.
    Progress is shown until the job ends; the exit status is the job's. Leaving (Ctrl-C) leaves the
    job at work. The same command continues a run that was stopped. The run's folder is on the
    cluster: `nasctl fetch NAME` brings it.
    """
    _check_flags(config, dry_run, is_ablation=is_ablation, is_verification=is_verification)
    if dry_run:
        _dry_run(config, overrides, plugins, is_ablation=is_ablation, as_json=as_json)
        return
    from nasctl.cluster import read_address, read_token
    from nasctl.cluster_fetch import find_source
    from nasctl.cluster_submission import prepare, prepare_verification

    read_address(address, os.environ)  # what is wrong with it is said before anything is loaded
    read_token(token_file, os.environ)
    options: dict[str, Any] = {"fresh": fresh, "as_json": as_json, "root": Path.cwd()}
    cluster = None
    if is_verification:
        cluster = _connect(address, token_file)
        found = find_source(cluster, config)
        place = (found.run, found.output_dir)
        submission = prepare_verification(*place, overrides, plugins, **options)
    else:
        submission = prepare(config, overrides, plugins, ablate=is_ablation, **options)
    for note in submission.notes:
        say(note)
    cluster = cluster or _connect(address, token_file)
    _check_free(cluster, submission.run, submission.output_dir)
    from nasctl.cluster import COMMAND, CONFIG, KIND, OUTPUT_DIR, RUN
    from nasctl.cluster_submission import new_job_id

    job_id = new_job_id("verify" if is_verification else "", submission.run)
    command = command_line()
    with tempfile.TemporaryDirectory(prefix="nasctl-submit-") as folder:
        try:
            submission.write(Path(folder))
        except OSError as error:
            raise EnvironmentProblemError(f"{folder}: cannot be written: {error}") from error
        cluster.submit(
            job_id,
            submission.entrypoint(job_id, command),
            metadata={
                KIND: submission.kind,
                RUN: submission.run,
                OUTPUT_DIR: submission.output_dir,
                CONFIG: submission.config,
                COMMAND: command,
            },
            folder=Path(folder) if submission.files else None,
        )
    if detach:
        if as_json:
            print_json({"job": job_id, "run": submission.run})
        else:
            click.echo(job_id)
        return
    say(f"job {job_id} at {cluster.url}")
    _show_until_the_end(cluster, cluster.job(job_id), _where(address, token_file))


def _check_flags(config: str, dry_run: bool, *, is_ablation: bool, is_verification: bool) -> None:
    if is_verification and is_ablation:
        raise ConfigError("--verify: a study of --ablate has no finalists to verify")
    if is_verification and dry_run:
        raise ConfigError(
            f"--dry-run: of a verification on a copy of its run: nasctl fetch {config}; nasctl "
            f"verify runs/{Path(config).name} --dry-run"
        )


def _dry_run(
    config: str,
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
    *,
    is_ablation: bool,
    as_json: bool,
) -> None:
    from nasctl.cli import search
    from nasctl.cli_ablate import ablate

    command = ablate if is_ablation else search
    assert command.callback is not None
    command.callback(
        config=config,
        overrides=overrides,
        plugins=plugins,
        dry_run=True,
        fresh=False,
        progress="auto",
        as_json=as_json,
    )


def _check_free(cluster: Cluster, run: str, output_dir: str) -> None:
    """One driver per run."""
    for job in cluster.jobs():
        if not job.is_over and (job.run, job.output_dir) == (run, output_dir):
            raise EnvironmentProblemError(
                f"the run {run} is being driven by the job {job.id}; nasctl logs {job.id} follows "
                f"it, nasctl stop {job.id} ends it, name=... starts another"
            )


def _show_until_the_end(cluster: Cluster, job: ClusterJob, where: str) -> NoReturn:
    """Results of the job to stdout, everything else to stderr; ends with its exit status."""
    from nasctl.cluster import LostContactError
    from nasctl.cluster_follow import RESULT, SIGNALS, Lines, exit_code, follow, reason

    said_why = False

    def show(line: str) -> None:
        nonlocal said_why
        said_why = said_why or line.startswith("Error: ")
        if line.startswith(RESULT):
            click.echo(line.removeprefix(RESULT))
        else:
            say(line)

    lines = Lines(job, show)
    later = f"nasctl logs {job.id}{where} follows it, nasctl stop {job.id}{where} ends it"
    try:
        end = follow(cluster, job.id, lines.feed)
    except KeyboardInterrupt:
        raise InterruptedSearchError(f"the job goes on: {later}") from None
    except LostContactError as error:
        raise LostContactError(f"{error}; the job goes on, as far as is known: {later}") from None
    lines.close()
    code = exit_code(end)
    if code and not said_why:
        what = "was stopped" if code in SIGNALS.values() else f"failed: {reason(end)}"
        say(f"Error: the job {job.id} {what}; the same command continues the run")
    if not code and job.run is not None:
        say(f"folder    nasctl fetch {job.run}{where}")
    raise SystemExit(code)


def _where(address: str | None, token_file: Path | None) -> str:
    """The options that the next command needs too."""
    given = [] if address is None else ["--address", address]
    given += [] if token_file is None else ["--token-file", str(token_file)]
    return f" {shlex.join(given)}" if given else ""


@click.command()
@connection_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def jobs(address: str | None, token_file: Path | None, as_json: bool) -> None:
    """List what was submitted to the cluster since its head started, the newest last."""
    from nasctl.cluster import FETCH, KIND

    cluster = _connect(address, token_file)
    found = [job for job in cluster.jobs() if job.metadata.get(KIND) != FETCH]
    now = time.time()
    if as_json:
        print_json([_job_json(job, now) for job in found])
        return
    rows = [("JOB", "RUN", "STATUS", "SINCE", "DURATION")]
    rows += [
        (
            job.id,
            job.run or "-",
            job.status,
            "-" if job.started is None else time.strftime(
                "%Y-%m-%d %H:%M:%S", time.localtime(job.started)
            ),
            "-" if (seconds := _seconds(job, now)) is None else _clock(seconds),
        )
        for job in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _job_json(job: ClusterJob, now: float) -> dict[str, object]:
    from nasctl.cluster import COMMAND, CONFIG

    return {
        "job": job.id,
        "run": job.run,
        "status": job.status,
        "started": job.started,
        "ended": job.ended,
        "seconds": _seconds(job, now),
        "exit_code": job.exit_code,
        "config": job.metadata.get(CONFIG),
        "output_dir": job.output_dir or None,
        "command": job.metadata.get(COMMAND),
    }


def _seconds(job: ClusterJob, now: float) -> float | None:
    return None if job.started is None else max(0.0, (job.ended or now) - job.started)


def _clock(seconds: float) -> str:
    """h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


@click.command()
@click.argument("job")
@connection_options
@click.option("--no-follow", is_flag=True, help="Print what is there now, and leave.")
def logs(job: str, address: str | None, token_file: Path | None, no_follow: bool) -> None:
    """Print what JOB has printed, and follow it while it runs; Ctrl-C leaves it running.

    JOB is an id, or the name of a run: its newest job.
    """
    from nasctl.cluster import find_job
    from nasctl.cluster_follow import RESULT, Lines, follow

    cluster = _connect(address, token_file)
    found = find_job(cluster.jobs(), job, cluster.url)
    lines = Lines(None, lambda line: click.echo(line.removeprefix(RESULT)))
    if no_follow or found.is_over:
        lines.feed(cluster.log(found.id))
    else:
        try:
            follow(cluster, found.id, lines.feed)
        except KeyboardInterrupt:
            raise InterruptedSearchError(f"{found.id} goes on") from None
    lines.close()


@click.command()
@click.argument("job")
@connection_options
def stop(job: str, address: str | None, token_file: Path | None) -> None:
    """End JOB gracefully: everything finished is kept, and the same submit command continues.

    JOB is an id, or the name of a run: its newest job.
    """
    from nasctl.cluster import COMMAND, STOP_WAIT_S, find_job

    cluster = _connect(address, token_file)
    found = find_job(cluster.jobs(), job, cluster.url)
    if found.is_over:
        say(f"{found.id} is over already: {found.status}")
        return
    say(f"stopping {found.id}: it stores what it has, which may take a minute ...")
    cluster.stop(found.id)
    until = time.monotonic() + STOP_WAIT_S + 15
    while not (found := cluster.job(found.id)).is_over:
        if time.monotonic() > until:
            raise EnvironmentProblemError(f"{found.id}: still {found.status}; nasctl jobs shows it")
        time.sleep(0.5)
    say(f"{found.id}: {found.status}")
    if command := found.metadata.get(COMMAND):
        say(f"to continue: {command}")


@click.command()
@click.argument("run", metavar="RUN|JOB")
@connection_options
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs"),
              metavar="DIR", help="The run comes into DIR/NAME; by default runs/NAME.")  # fmt: skip
def fetch(run: str, address: str | None, token_file: Path | None, output: Path) -> None:
    """Bring the folder of RUN from the cluster, also while it runs: ledger, reports, weights.

    RUN is the name of a run, a job's id, or an absolute path on the head.
    """
    from nasctl import cluster_fetch

    cluster = _connect(address, token_file)
    source = cluster_fetch.find_source(cluster, run)
    fetched = cluster_fetch.fetch(cluster, source, output, progress=_bytes_shown())
    if fetched.replaced:
        say(f"{fetched.directory}: an older copy of this run was there; replaced")
    click.echo(str(fetched.directory))


def _bytes_shown() -> Command:
    """A line now and then for an archive that takes a while."""
    due = time.monotonic() + 5.0

    def show(done: int, total: int) -> None:
        nonlocal due
        if time.monotonic() > due and done < total:
            due = time.monotonic() + 5.0
            say(f"{done / 2**20:.1f} of {total / 2**20:.1f} MiB ...")

    return show


@click.command(hidden=True)
@click.argument("run")
@click.option("--output-dir", default="", help="Absolute; by default NASCTL_RUNS or ~/nasctl-runs.")
@click.option("--wait", is_flag=True, help="For SIGTERM; then stdout, a file, is emptied.")
def send_run(run: str, output_dir: str, wait: bool) -> None:
    """Print a run as an archive, for `nasctl fetch`: what its job on the head does."""
    waiting = (signal.SIGTERM,)
    # Before any import: NumPy starts threads, and one that does not block it would end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    from nasctl.cluster_archive import pack, runs_folder, send
    from nasctl.records import find_run

    directory = find_run(runs_folder(output_dir, os.environ) / run)
    try:
        with tempfile.TemporaryDirectory(prefix="nasctl-send-") as place:
            archive = Path(place, "run.tar.gz")
            pack(directory, archive)
            send(archive, directory.name, sys.stdout)
    except OSError as error:
        raise EnvironmentProblemError(f"{directory}: cannot be packed: {error}") from error
    if wait and stat.S_ISREG(os.fstat(1).st_mode):
        signal.sigtimedwait(waiting, SEND_WAIT_S)  # fetched: the log has done its duty
        with contextlib.suppress(OSError):
            os.ftruncate(1, 0)
