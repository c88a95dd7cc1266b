"""Layer 3: what a tracking store holds of a run; reads only, and creates nothing."""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from pathlib import Path

from nasctl.tracking.client import open_client, sqlite_path
from nasctl.tracking.project import TrackingSettings, explain

_QUERY = """
SELECT tags.value, runs.status FROM tags
JOIN runs ON runs.run_uuid = tags.run_uuid
JOIN experiments ON experiments.experiment_id = runs.experiment_id
WHERE runs.lifecycle_stage = 'active' AND experiments.name = :experiment
AND ((tags.key = 'nasctl.run_uid' AND tags.value = :uid)
     OR (tags.key = 'nasctl.trial_uid' AND tags.value LIKE :uid || ':%'))
"""


class StoreUnreachableError(Exception):
    """There is no store to look into; one line says why."""


def stored_statuses(settings: TrackingSettings, uid: str) -> dict[str, list[str]]:
    """The statuses of all active runs of a search, by the key of their view.

    A SQLite store is read directly, which neither creates nor upgrades it, and takes milliseconds
    where MLflow takes seconds to import.

    Raises:
        StoreUnreachableError: the store is not there, or does not answer.
    """
    path = sqlite_path(settings.store_uri)
    rows = _through_mlflow(settings, uid) if path is None else _from_sqlite(path, settings, uid)
    found: dict[str, list[str]] = {}
    for key, status in rows:
        found.setdefault(key, []).append(status)
    return found


def _from_sqlite(path: Path, settings: TrackingSettings, uid: str) -> list[tuple[str, str]]:
    if not path.is_file():
        raise StoreUnreachableError(f"there is no MLflow store {path}")
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as db:
            return db.execute(_QUERY, {"uid": uid, "experiment": settings.experiment}).fetchall()
    except sqlite3.Error as error:
        raise StoreUnreachableError(explain(error, settings)) from error


def _through_mlflow(settings: TrackingSettings, uid: str) -> list[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside its dependencies are not ours
            client = open_client(settings.store_uri, settings.timeout_s)
            experiment = client.get_experiment_by_name(settings.experiment)
            rows: list[tuple[str, str]] = []
            for tag, condition in (
                ("nasctl.run_uid", f"= '{uid}'"),
                ("nasctl.trial_uid", f"LIKE '{uid}:%'"),
            ):
                page = None
                while experiment is not None and (page is None or page.token):
                    page = client.search_runs(
                        [experiment.experiment_id],
                        f"tags.`{tag}` {condition}",
                        page_token=page.token if page is not None else None,
                    )
                    rows += [(run.data.tags[tag], run.info.status) for run in page]
    except Exception as error:  # whatever MLflow raises
        raise StoreUnreachableError(explain(error, settings)) from error
    return rows
