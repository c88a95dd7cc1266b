"""Layer 4: whether another machine has the same code: nasctl itself, and the user's plugins.

Versions of Ray and Python are Ray's business, which refuses nodes that have others.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import search_spaces
from nasctl.errors import EnvironmentProblemError
from nasctl.plugins import load_plugins

SHOWN = 8
"""Hexadecimal digits of a hash in a message."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """What a training is done with.

    Attributes:
        version: of nasctl; see `installed`.
        plugins: module to the sha256 of its source; see `nasctl.plugins.Registry.sources`.
    """

    version: str
    plugins: Mapping[str, str]


@functools.cache
def installed() -> str:
    """The version of nasctl in this process and a hash of its sources: `0.1.0 (3f09ab12)`.

    A version alone would not tell two checkouts from each other.
    """
    digest = hashlib.sha256()
    for root in (Path(__file__).parents[1], Path(search_spaces.__file__).parent):
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{root.name}/{path.relative_to(root).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{metadata.version('nasctl')} ({digest.hexdigest()[:SHOWN]})"


def check_same(code: Code) -> None:
    """Called on another machine, with the code of the one that drives the run.

    Raises:
        EnvironmentProblemError: they differ; one line with both.
        ConfigError: a plugin cannot be imported.
    """
    check_version(code.version)
    check_plugins(code.plugins)


def check_version(theirs: str) -> None:
    """The part of `check_same` about nasctl."""
    if (own := installed()) != theirs:
        raise EnvironmentProblemError(
            f"nasctl {own} is installed there, {theirs} here; both have to be the same"
        )


def check_plugins(theirs: Mapping[str, str]) -> None:
    """The part of `check_same` about plugins, which are imported."""
    own = load_plugins(theirs).sources
    for name, source in theirs.items():
        if own[name] != source:
            raise EnvironmentProblemError(
                f"--plugin {name}: another module there ({own[name][:SHOWN]}) than here "
                f"({source[:SHOWN]}); copy it to that node"
            )
