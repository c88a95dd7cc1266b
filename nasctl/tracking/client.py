"""Layer 3: MLflow imported and opened: what it is told first, its client, and the tables of its
database.

MLflow is imported on first use (seconds of CPU): quiet, without telemetry, quick to give up.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "GIT_PYTHON_REFRESH": "quiet",
    # One failing call costs seconds; by default it blocks for four minutes. We retry ourselves.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}
"""What MLflow needs to be told before it is imported; the user's own settings win."""

_LOCK_KEY = 0x6E617363746C
"""Of whoever creates tables in PostgreSQL: any number that nobody else takes."""
_LOCK_S = 60
"""Seconds that it is waited for; tables take a few."""


def import_mlflow(timeout_s: int) -> Any:
    """MLflow, quiet, without telemetry, and quick to give up on a server.

    Args:
        timeout_s: of one HTTP request.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(timeout_s))
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(timeout_s))  # else that of TCP, two minutes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside its dependencies are not ours
        import mlflow
    for noisy in ("mlflow", "alembic", "urllib3"):
        # What it logs as an error it raises, too; `explain` has one line for it, this a traceback.
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    return mlflow


def open_client(uri: str, timeout_s: int) -> MlflowClient:
    """MLflow's client of a store.

    Args:
        uri: of the store.
        timeout_s: of one HTTP request, and of connecting to PostgreSQL.
    """
    mlflow = import_mlflow(timeout_s)
    if urlsplit(uri).scheme not in ("http", "https"):
        # A database that is not there would be asked ten times, for 100 s. We retry ourselves.
        database: Any = importlib.import_module("mlflow.store.db.utils")
        database.MAX_RETRY_COUNT = 1
    client: MlflowClient = mlflow.MlflowClient(tracking_uri=uri)
    return client


@contextlib.contextmanager
def creating_tables(uri: str) -> Iterator[None]:
    """Only one process may create the tables of a database: of two at once SQLite breaks, and
    PostgreSQL refuses one."""
    path = sqlite_path(uri)
    if path is None:
        with _postgres_lock(uri) if uri.startswith("postgresql") else contextlib.nullcontext():
            yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not path.exists() or not path.stat().st_size:
            _create_database(path)
        yield


def _create_database(path: Path) -> None:
    """A database with MLflow's tables, whole or not at all.

    They take seconds and are no transaction: of a process that is killed meanwhile a half would be
    left, which MLflow can neither read nor complete.
    """
    database: Any = importlib.import_module("mlflow.store.db.utils")
    new = path.with_name(f".{path.name}.new")
    _drop_database(new)
    engine = database.create_sqlalchemy_engine(f"sqlite:///{new}")
    try:
        database._initialize_tables(engine)
        engine.dispose()
        os.replace(new, path)
    finally:
        engine.dispose()
        _drop_database(new)


def _drop_database(path: Path) -> None:
    for name in (path.name, f"{path.name}-journal"):
        path.with_name(name).unlink(missing_ok=True)


@contextlib.contextmanager
def _postgres_lock(uri: str) -> Iterator[None]:
    """An advisory lock of the database, which ends with its connection, however that ends."""
    sqlalchemy = importlib.import_module("sqlalchemy")
    with contextlib.ExitStack() as held:
        # MLflow, which comes next, says what is wrong with a database that cannot be reached.
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError, ImportError):
            engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
            connection = held.enter_context(engine.connect())
            connection.execute(sqlalchemy.text(f"SET lock_timeout = '{_LOCK_S}s'"))
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_LOCK_KEY})"))
        yield


def sqlite_path(uri: str) -> Path | None:
    """The file behind a `sqlite:///` address without its options; None for what is no such address,
    or names no file in the usual way (`:memory:`, `file:...`)."""
    prefix = "sqlite:///"
    name = uri.removeprefix(prefix).partition("?")[0]
    is_file = uri.startswith(prefix) and name and not name.startswith((":memory:", "file:"))
    return Path(name) if is_file else None
