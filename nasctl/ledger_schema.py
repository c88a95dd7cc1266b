"""Layer 3: the tables of a ledger, and how an older file gets those that it lacks."""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 3
READABLE = (1, 2, 3)
"""Version 1 has no reference networks; a driver that continues such a run adds their tables. Up to
version 2 a network was unique with its seed and epochs: there were no studies, whose trainings
also differ in recipe and data, which their key says."""

_TRIAL_COLUMNS = """
    number INTEGER PRIMARY KEY,
    arch_id TEXT NOT NULL REFERENCES architectures,
    seed INTEGER NOT NULL,
    epochs INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    choices TEXT NOT NULL,
    cost TEXT NOT NULL,
    cost_intervals TEXT NOT NULL,
    metrics TEXT NOT NULL,
    error TEXT,
    sampler_state TEXT NOT NULL,
    started_at REAL NOT NULL,
    seconds REAL NOT NULL
"""


def _tables(trials: str, evaluations: str) -> str:
    """A table of trainings and the one of their epochs."""
    return f"""
CREATE TABLE {trials} ({_TRIAL_COLUMNS});
CREATE UNIQUE INDEX {trials}_once ON {trials}
    (arch_id, seed, epochs, coalesce(json_extract(choices, '$.training'), ''));
CREATE TABLE {evaluations} (
    number INTEGER NOT NULL REFERENCES {trials},
    epoch INTEGER NOT NULL,
    metrics TEXT NOT NULL,
    PRIMARY KEY (number, epoch)
);
"""


# Apart from the trials, numbered -1, -2, ...: a candidate may be the same network, and nothing
# that reads the trials can take a reference network for a proposal.
_REFERENCES = _tables("reference_trials", "reference_evaluations")

_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE architectures (arch_id TEXT PRIMARY KEY, data TEXT NOT NULL);
{_tables("trials", "evaluations")}
CREATE TABLE rejections (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    before INTEGER NOT NULL,
    arch_id TEXT,
    choices TEXT NOT NULL,
    cost TEXT NOT NULL,
    violations TEXT NOT NULL,
    reason TEXT NOT NULL,
    attempt INTEGER,
    sampler_state TEXT NOT NULL
);
CREATE TABLE measurements (arch_id TEXT PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL
);
{_REFERENCES}
"""


def version_of(db: sqlite3.Connection) -> int:
    """0 for a file without tables."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def prepare(db: sqlite3.Connection) -> None:
    """Gives an empty file its tables, and an older one those that it lacks; leaves others alone."""
    version = version_of(db)
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    missing = _SCHEMA if version == 0 and tables == 0 else _REFERENCES if version == 1 else None
    if missing is not None:
        # One script, one transaction: a ledger has its whole schema or none of it.
        db.executescript(f"BEGIN;{missing}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
