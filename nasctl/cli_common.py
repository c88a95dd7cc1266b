"""Layer 6: what all commands print with. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import shlex
import sys

import click


def print_json(value: object) -> None:
    """One JSON value on stdout."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def say(text: str) -> None:
    """A line on stderr."""
    click.echo(text, err=True)


def command_line() -> str:
    """What continues a run: the command as typed; with --fresh it would start over."""
    return shlex.join(["nasctl", *(a for a in sys.argv[1:] if a != "--fresh")])
