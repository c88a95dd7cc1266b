"""Layer 3: the one place that writes to MLflow: run views into a store, idempotently.

Always through an explicit client: no active run, no global tracking address, nothing on stdout.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nasctl.tracking.charts import saved_view
from nasctl.tracking.client import creating_tables, import_mlflow, open_client
from nasctl.tracking.models import LoggedModel
from nasctl.tracking.text import VIEW_KEY
from nasctl.tracking.view import RunView

if TYPE_CHECKING:
    from mlflow.entities import Run

_EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
_ARTIFACTS_TAG = "nasctl.artifacts"
_BATCH_ENTITIES = 1000
_BATCH_TEXTS = 100
"""What goes into one request of `log_batch`: in all, and of parameters and of tags each."""


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
        with warnings.catch_warnings(action="ignore"), creating_tables(uri):
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
