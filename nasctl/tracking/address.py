"""Layer 3: addresses of tracking stores: which can be used, and where they may come from.

A configuration is kept with its run, shown in its report and sent to MLflow, so its `tracking.uri`
holds no password; the environment's address may, and is written nowhere.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from nasctl.errors import ConfigError, nearest
from nasctl.tracking.text import has_password, redact

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
KEY = "tracking.uri"
VARIABLE = "NASCTL_TRACKING_URI"
"""Environment variable with the address that is used where `tracking.uri` is null."""


def default_uri() -> str | None:
    """The address that this machine (a cluster's head, say) has for runs that name none.

    Raises:
        ConfigError: MLflow cannot write to it.
    """
    uri = os.environ.get(VARIABLE, "").strip() or None
    if uri is not None:
        check_uri(uri, name=VARIABLE)
    return uri


def check_uri(uri: str, *, name: str = KEY) -> None:
    """Refuses what MLflow cannot write to.

    Args:
        name: where the address comes from, for the message.

    Raises:
        ConfigError: see `uri_problem`.
    """
    if (problem := uri_problem(uri)) is not None:
        raise ConfigError(f"{name}: {redact(uri)!r}: {problem}")


def uri_problem(uri: str) -> str | None:
    """Why MLflow cannot write to an address: no scheme, an unknown one, the file store (which
    MLflow 3 has given up), or no host."""
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:  # whose text may hold a piece of a password
        return "its host and port cannot be read; in a password write @ as %40 and / as %2F"
    scheme = parts.scheme.split("+")[0]
    if scheme in ("", "file"):
        place = redact(uri).removeprefix("file://")
        return (
            f"MLflow has given up plain folders; use sqlite:///{place}/mlflow.db or "
            "http://HOST:PORT"
        )
    if scheme not in SCHEMES:
        guess = nearest(scheme, SCHEMES)
        hint = f"; did you mean {guess}://?" if guess else ""
        return f"unknown scheme{hint} ({', '.join(SCHEMES)})"
    if scheme in ("http", "https") and not host:
        return f"no host; write {scheme}://HOST:PORT"
    return None


def password_problem(uri: str) -> str | None:
    """Why an address may not stand in a configuration: it has a password; and what to do."""
    if not has_password(uri):
        return None
    scheme = uri.partition(":")[0]
    instead = (
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        if scheme in ("http", "https")
        else "~/.pgpass"
        if scheme.startswith("postgresql")
        else VARIABLE
    )
    more = "" if instead == VARIABLE else f", or the whole address to {VARIABLE}"
    return (
        "a password would be kept with the run and shown in its report; leave it out and give it "
        f"to {instead}{more}"
    )
