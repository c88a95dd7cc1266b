"""Layer 6: what commands share. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import click

from nasctl.errors import EnvironmentProblemError, if_heard

Command = Callable[..., None]


def print_json(value: object) -> None:
    """One JSON value on stdout."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def say(text: str) -> None:
    """A line on stderr, unless it takes no more: its disk may be full, and results go elsewhere."""
    with if_heard():
        click.echo(text, err=True)


@contextlib.contextmanager
def shown_if_it_can_be() -> Iterator[None]:
    """For results of a run that an error ends: why it ends stays what is said, and its exit code,
    where there is no run yet, or nobody reads them."""
    try:
        yield
    except EnvironmentProblemError:
        return
    except BrokenPipeError:
        silence_stdout()


def silence_stdout() -> None:
    """What is still to be written to a pipe without a reader goes nowhere, and breaks nothing."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


_SUBMITTED: ContextVar[str | None] = ContextVar("_SUBMITTED", default=None)
"""The command that its user typed, in the job of a submitted run."""


def command_line() -> str:
    """What continues a run: the command as typed; with --fresh it would start over."""
    return _SUBMITTED.get() or shlex.join(["nasctl", *(a for a in sys.argv[1:] if a != "--fresh")])


def is_submitted() -> bool:
    """Whether this is the job of a submitted run, in a folder that is gone after it."""
    return _SUBMITTED.get() is not None


def take_marks() -> None:
    """In the job of a submitted run: lines on stdout are marked, since its log has one stream, and
    the command is that of its user. Processes that it starts are not such jobs."""
    job, command = os.environ.pop("NASCTL_JOB", None), os.environ.pop("NASCTL_COMMAND", None)
    if job is None:
        return
    from nasctl.cluster_follow import RESULT

    _SUBMITTED.set(command)
    marked = _Marked(sys.stdout.buffer, RESULT.encode())
    sys.stdout = io.TextIOWrapper(marked, encoding="utf-8", write_through=True)


class _Marked(io.RawIOBase):
    """Puts a mark before each line."""

    def __init__(self, out: Any, mark: bytes) -> None:
        self._out, self._mark, self._begins = out, mark, True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        text = bytes(data)
        for line in io.BytesIO(text):
            self._out.write((self._mark if self._begins else b"") + line)
            self._begins = line.endswith(b"\n")
        self._out.flush()
        return len(text)


def run_options(*, dry_run: str, as_json: str) -> Callable[[Command], Command]:
    """The arguments of a command that trains: CONFIG, KEY=VALUE, and the flags.

    Args:
        dry_run, as_json: help of `--dry-run` and `--json`.
    """
    flags = run_flags(
        dry_run=dry_run, as_json=as_json, fresh="Move an existing run of that name aside first."
    )
    parts: list[Callable[[Command], Command]] = [
        click.argument("config"),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
        flags,
    ]
    return functools.partial(_decorated, parts)


def run_flags(*, dry_run: str, as_json: str, fresh: str) -> Callable[[Command], Command]:
    """The flags of a command that trains.

    Args:
        dry_run, as_json, fresh: help of `--dry-run`, `--json` and `--fresh`.
    """
    parts: list[Callable[[Command], Command]] = [
        click.option(
            "--plugin",
            "plugins",
            multiple=True,
            metavar="MODULE",
            help="Python module with your blocks, families, datasets, evaluators.",
        ),
        click.option("--dry-run", is_flag=True, help=dry_run),
        click.option("--fresh", is_flag=True, help=fresh),
        click.option(
            "--progress",
            type=click.Choice(["auto", "live", "plain", "none"]),
            default="auto",
            help="How progress is shown on stderr.",
        ),
        click.option("--json", "as_json", is_flag=True, help=as_json),
    ]

    return functools.partial(_decorated, parts)


def _decorated(parts: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for part in reversed(parts):  # as decorators apply, the last one first
        command = part(command)
    return command


def say_places(directory: Path, files: Mapping[str, str], tracking: Mapping[str, Any]) -> None:
    """Where the results of a run are; the MLflow UI only if there is a store."""
    from nasctl.tracking import default_uri

    where = "on the head: " if is_submitted() else ""
    for what, name in files.items():
        say(f"{what:<9} {where}{directory / name}")
    has_store = (
        bool(tracking.get("uri") or default_uri()) or (directory.parent / "mlflow.db").exists()
    )
    if tracking.get("name") == "mlflow" and has_store and not where:
        say(f"MLflow    nasctl ui {directory}")
