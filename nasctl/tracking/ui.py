"""Layer 3: looking at a tracking store: the MLflow UI, opened where a search is worth seeing."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from nasctl.tracking.client import ENVIRONMENT, sqlite_path
from nasctl.tracking.project import TrackingSettings
from nasctl.tracking.text import VIEW_KEY


@dataclass(frozen=True, kw_only=True)
class UiCommand:
    """How to look at a store.

    Attributes:
        argv: the server to start; None if the store is a server already.
        env: the server's environment.
        url: where to look.
    """

    argv: tuple[str, ...] | None
    env: dict[str, str]
    url: str


def ui_command(settings: TrackingSettings, *, port: int | None = None) -> UiCommand:
    """The MLflow UI on the right store, on this machine only.

    Args:
        settings: the store.
        port: to listen on; by default 5000, or a free one.
    """
    uri = settings.store_uri
    if urlsplit(uri).scheme in ("http", "https"):
        return UiCommand(argv=None, env={}, url=_without_credentials(uri))
    port = port or _free_port(5000)
    argv = (
        *(sys.executable, "-m", "mlflow", "server"),
        *("--artifacts-destination", str(settings.artifact_root.absolute() / "mlartifacts")),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    )
    # Jobs are for features that a search does not use; they would start eight processes.
    # The address is not in the command, which everybody on this machine can read.
    env = {
        **os.environ,
        **ENVIRONMENT,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    return UiCommand(argv=argv, env=env, url=f"http://127.0.0.1:{port}{_page(settings)}")


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _page(settings: TrackingSettings) -> str:
    """The experiment's runs in the saved view; the front page if it cannot be looked up."""
    path = sqlite_path(settings.store_uri)
    if path is None or not path.is_file():
        return ""
    with contextlib.suppress(sqlite3.Error):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        with contextlib.closing(db):
            row = db.execute(
                "SELECT experiment_id FROM experiments WHERE name=?", (settings.experiment,)
            ).fetchone()
        if row is not None:
            # Without the type of work the UI shows its pages for language models.
            return (
                f"/#/experiments/{row[0]}/runs"
                f"?viewStateShareKey={VIEW_KEY}&workflowType=machine_learning"
            )
    return ""


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise OSError("no free port")


def answers(url: str, *, alive: Callable[[], bool]) -> bool:
    """Waits until something listens where `url` points, as long as `alive()`; whether it does."""
    parts = urlsplit(url)
    while alive():
        with (
            contextlib.suppress(OSError),
            socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80), timeout=1),
        ):
            return True
        time.sleep(0.2)
    return False
