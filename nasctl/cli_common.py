"""Layer 6: what commands share. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

Command = Callable[..., None]


def print_json(value: object) -> None:
    """One JSON value on stdout."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def say(text: str) -> None:
    """A line on stderr."""
    click.echo(text, err=True)


def command_line() -> str:
    """What continues a run: the command as typed; with --fresh it would start over."""
    return shlex.join(["nasctl", *(a for a in sys.argv[1:] if a != "--fresh")])


def run_options(*, dry_run: str, as_json: str) -> Callable[[Command], Command]:
    """The arguments of a command that trains: CONFIG, KEY=VALUE, and the flags.

    Args:
        dry_run, as_json: help of `--dry-run` and `--json`.
    """
    parts = [
        click.argument("config"),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
        click.option(
            "--plugin",
            "plugins",
            multiple=True,
            metavar="MODULE",
            help="Python module with your blocks, families, datasets, evaluators.",
        ),
        click.option("--dry-run", is_flag=True, help=dry_run),
        click.option(
            "--fresh", is_flag=True, help="Move an existing run of that name aside first."
        ),
        click.option(
            "--progress",
            type=click.Choice(["auto", "live", "plain", "none"]),
            default="auto",
            help="How progress is shown on stderr.",
        ),
        click.option("--json", "as_json", is_flag=True, help=as_json),
    ]

    def add(command: Command) -> Command:
        for part in reversed(parts):  # as decorators apply, the last one first
            command = part(command)
        return command

    return add


def say_places(directory: Path, files: Mapping[str, str], tracking: Mapping[str, Any]) -> None:
    """Where the results of a run are; the MLflow UI only if there is a store."""
    for what, name in files.items():
        say(f"{what:<9} {directory / name}")
    has_store = bool(tracking.get("uri")) or (directory.parent / "mlflow.db").exists()
    if tracking.get("name") == "mlflow" and has_store:
        say(f"MLflow    nasctl ui {directory}")
