"""Layer 3: the one place that talks to MLflow. Writes run views into a store, idempotently.

MLflow is imported on first use (seconds of CPU), always through an explicit client: no active
run, no global tracking address, nothing on stdout.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nasctl.tracking.charts import saved_view
from nasctl.tracking.models import LoggedModel
from nasctl.tracking.text import VIEW_KEY
from nasctl.tracking.view import RunView

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

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

_EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
_ARTIFACTS_TAG = "nasctl.artifacts"
_BATCH_ENTITIES = 1000
_BATCH_TEXTS = 100
"""What goes into one request of `log_batch`: in all, and of parameters and of tags each."""
_LOCK_KEY = 0x6E617363746C
"""Of whoever creates tables in PostgreSQL: any number that nobody else takes."""
_LOCK_S = 60
"""Seconds that it is waited for; tables take a few."""


class GoneError(Exception):
    """The store has forgotten a run or experiment that we had written: start again."""


@dataclass
class Sent:
    """What one run of the store holds already; `view` is None until known to be complete."""

    run_id: str
    status: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    points: int = 0
    view: RunView | None = None


@dataclass
class ProjectionState:
    """In-memory cursor of one run: rebuilt from the store by whoever starts without it."""

    store: Store | None = None
    runs: dict[str, Sent] = field(default_factory=dict)
    adopted: bool = False
    artifacts: dict[tuple[str, str], str] = field(default_factory=dict)
    models: dict[str, LoggedModel] | None = None
    hashes: dict[Path, tuple[tuple[int, int], str]] = field(default_factory=dict)

    def forget(self) -> None:
        """Nothing is known to be in the store any more."""
        self.store, self.adopted, self.models = None, False, None
        self.runs.clear()
        self.artifacts.clear()


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
def _init_lock(uri: str) -> Iterator[None]:
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


class Store:
    """One experiment of one MLflow store.

    Args:
        uri: of the store.
        experiment: name; created if missing.
        artifact_root: where files go if the store is a database; a server decides for itself.
        timeout_s: of one HTTP request.

    Raises:
        Exception: whatever MLflow raises; `explain` puts it into words.
    """

    def __init__(self, uri: str, experiment: str, artifact_root: Path, timeout_s: int) -> None:
        self._mlflow = import_mlflow(timeout_s)
        self.writes = 0  # calls that changed something
        with warnings.catch_warnings(action="ignore"), _init_lock(uri):
            self.client = open_client(uri, timeout_s)
            self.experiment_id = self._experiment(uri, experiment, artifact_root)

    def _experiment(self, uri: str, name: str, artifact_root: Path) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            local = urlsplit(uri).scheme not in ("http", "https")
            location = (artifact_root / "mlartifacts").absolute().as_uri() if local else None
            try:
                tags = {**_EXPERIMENT_KIND, _VIEW_TAG: saved_view()}
                return str(self.client.create_experiment(name, location, tags))
            except self._mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)  # another search was faster
        if found.lifecycle_stage != "active":
            raise ValueError(
                f"experiment {name!r} was deleted there; restore it or set tracking.experiment"
            )
        if found.tags.get(_VIEW_TAG) != saved_view():
            self.client.set_experiment_tag(found.experiment_id, _VIEW_TAG, saved_view())
        return str(found.experiment_id)

    @contextlib.contextmanager
    def noticing_loss(self) -> Iterator[None]:
        try:
            yield
        except self._mlflow.exceptions.MlflowException as error:
            # A deleted run still answers, but refuses writes ("must be in the 'active' state").
            gone = error.error_code == "RESOURCE_DOES_NOT_EXIST" or "'active' state" in str(error)
            if gone:
                raise GoneError(str(error)) from error
            raise

    # -- what is there ------------------------------------------------------------------------

    def find(self, uid: str) -> dict[str, Sent]:
        """Every run of a search by view key; extra copies of a trial are deleted."""
        quoted = uid.replace("'", "")
        found: dict[str, Sent] = {}
        for tag, condition in (
            ("nasctl.run_uid", f"= '{quoted}'"),
            ("nasctl.trial_uid", f"LIKE '{quoted}:%'"),
        ):
            for run in self._search(f"tags.`{tag}` {condition}"):
                key = run.data.tags[tag]
                if key in found:
                    self.client.delete_run(run.info.run_id)
                else:
                    found[key] = _sent(run)
        return found

    def _search(self, query: str) -> Iterator[Run]:
        search = functools.partial(
            self.client.search_runs,
            [self.experiment_id],
            query,
            order_by=["attributes.start_time ASC"],
        )
        page = search()
        yield from page
        while page.token:
            page = search(page_token=page.token)
            yield from page

    # -- writing ------------------------------------------------------------------------------

    def write(self, view: RunView, sent: Sent | None, parent_id: str | None) -> Sent:
        """Makes one run of the store equal to `view`, creating it if need be."""
        tags = dict(view.tags)
        if parent_id is not None:
            tags["mlflow.parentRunId"] = parent_id
        with self.noticing_loss():
            if sent is not None and int(sent.tags.get("nasctl.attempt", "1")) != view.attempt:
                self.client.delete_run(sent.run_id)
                sent = None
            if sent is None:
                run = self.client.create_run(
                    self.experiment_id,
                    start_time=view.start_ms or None,
                    tags=tags,
                    run_name=view.name,
                )
                self.writes += 1
                sent = _sent(run)
            self._write_changes(view, sent, tags)
        sent.view = view
        return sent

    def _write_changes(self, view: RunView, sent: Sent, tags: dict[str, str]) -> None:
        entities = self._mlflow.entities
        if view.name != sent.name:
            self.client.update_run(sent.run_id, name=view.name)
            sent.name = view.name
            self.writes += 1
        for key, value in view.params.items():
            if sent.params.get(key, value) != value:  # a parameter never changes there
                tags[f"config.{key}"] = value
        params = {k: v for k, v in view.params.items() if k not in sent.params}
        tags["nasctl.digest"] = view.digest()
        tags = {k: v for k, v in tags.items() if sent.tags.get(k) != v}
        points = view.points[sent.points :]
        metrics = [
            *(entities.Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points),
            *self._latest(view, sent),
        ]
        # The digest is there only if everything else is: a store writes the tags of a batch last,
        # and the status, which it finds cheapest while the run is empty, has gone before.
        if sent.status != view.status:
            if view.status == "RUNNING":
                self.client.update_run(sent.run_id, status=view.status)
            else:
                self.client.set_terminated(sent.run_id, view.status, view.end_ms)
            sent.status = view.status
            self.writes += 1
        digest = {k: tags.pop(k) for k in ("nasctl.digest",) if k in tags}
        if view.status == "RUNNING":
            digest = {}
        one_batch = (
            len(metrics) + len(params) + len(tags) < _BATCH_ENTITIES
            and len(params) <= _BATCH_TEXTS
            and len(tags) < _BATCH_TEXTS
        )
        if one_batch:
            self._log(sent, metrics, params, tags | digest)
        else:  # the client cuts it up and sends the last metrics after the tags
            self._log(sent, metrics, params, tags)
            self._log(sent, [], {}, digest)
        sent.points = len(view.points)

    def _latest(self, view: RunView, sent: Sent) -> Iterator[Any]:
        histories = {p.key: p for p in view.points}
        for key, value in view.latest.items():
            last = histories.get(key)
            if last is not None and last.value == value:
                continue
            there = sent.metrics.get(key)
            grown = last is not None and 0 < sent.points < len(view.points)
            if there == value and not grown:
                continue
            # The newest of several values at one step is the current one.
            stamp = view.end_ms or view.start_ms
            if there is not None or (last is not None and last.timestamp_ms >= stamp):
                after = last.timestamp_ms + 1 if last is not None else 0
                stamp = max(time.time_ns() // 1_000_000, stamp, after)
            step = view.step if last is not None else 0
            yield self._mlflow.entities.Metric(key, value, stamp, step)

    def _log(
        self, sent: Sent, metrics: Sequence[Any], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        if not (metrics or params or tags):
            return
        self.writes += 1
        entities = self._mlflow.entities
        self.client.log_batch(
            sent.run_id,
            metrics=metrics,
            params=[entities.Param(k, v) for k, v in params.items()],
            tags=[entities.RunTag(k, v) for k, v in tags.items()],
            synchronous=True,
        )
        sent.params |= params
        sent.tags |= tags
        sent.metrics |= {m.key: m.value for m in metrics}

    def retire(self, sent: Sent) -> None:
        """Ends a run that no trial of the ledger stands behind."""
        if sent.status != "KILLED":
            self.client.set_terminated(sent.run_id, "KILLED")
            sent.status = "KILLED"

    def upload(self, sent: Sent, path: Path, folder: str) -> None:
        """Stores one file under `folder` of the run's artifacts, replacing its old version."""
        with self.noticing_loss():
            self.client.log_artifact(sent.run_id, str(path), folder or None)

    def mark_artifacts(self, sent: Sent, digest: str) -> None:
        """Notes which files the search's runs hold, for a process that starts anew."""
        if sent.tags.get(_ARTIFACTS_TAG) != digest:
            self._log(sent, [], {}, {_ARTIFACTS_TAG: digest})


def _sent(run: Run) -> Sent:
    return Sent(
        run_id=run.info.run_id,
        status=run.info.status,
        name=run.info.run_name or "",
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
    )
