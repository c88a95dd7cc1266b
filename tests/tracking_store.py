"""What a tracking store really holds, read from its file."""

from __future__ import annotations

import sqlite3

from nasctl.tracking import (
    TrackingSettings,
    sync,
)
from tests.tracking_records import FakeRecords


def rows(settings: TrackingSettings, query: str) -> list[tuple]:
    """What the store's file really holds for active runs of the experiment (as table `mine`)."""
    with sqlite3.connect(settings.output_dir / "mlflow.db") as db:
        mine = (
            "WITH mine AS (SELECT r.* FROM runs r JOIN experiments e USING (experiment_id) "
            f"WHERE e.name='{settings.experiment}' AND r.lifecycle_stage='active') "
        )
        result = db.execute(mine + query).fetchall()
    db.close()
    return result


def contents(settings: TrackingSettings) -> dict[str, list[tuple]]:
    join = "JOIN mine USING (run_uuid) ORDER BY 1, 2, 3, 4"
    return {
        "runs": rows(settings, "SELECT name, status, start_time, end_time FROM mine ORDER BY 1, 2"),
        "params": rows(settings, f"SELECT mine.name, key, value, 0 FROM params {join}"),
        "metrics": rows(
            settings, f"SELECT mine.name, key, step, value, timestamp FROM metrics {join}, 5"
        ),
        "tags": rows(settings, f"SELECT mine.name, key, value, 0 FROM tags {join}"),
    }


def tags_of(settings: TrackingSettings, key: str) -> dict[str, str]:
    found = rows(
        settings,
        f"SELECT mine.name, value FROM tags JOIN mine USING (run_uuid) WHERE key='{key}'",
    )
    assert len(found) == len(dict(found)), "a run exists twice"
    return dict(found)


def latest(settings: TrackingSettings, run_name: str) -> dict[str, float]:
    return dict(
        rows(
            settings,
            "SELECT key, value FROM latest_metrics JOIN mine USING (run_uuid) "
            f"WHERE mine.name='{run_name}'",
        )
    )


def latest_after(trial, settings: TrackingSettings) -> dict[str, float]:
    assert sync(FakeRecords([trial]), settings).problem is None
    return latest(settings, f"000 {trial.arch_id}")
