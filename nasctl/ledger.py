"""Layer 3: the truth about a run. One SQLite file, written by the driver alone.

WAL and `synchronous=FULL`: what a method has returned from survives `kill -9` and power loss.
Everything else (Ray's directory, the Optuna study, MLflow) is rebuilt from here.
"""

from __future__ import annotations

import functools
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from nasctl import ledger_schema
from nasctl.arch import Architecture, Block, Cost
from nasctl.errors import EmptyLedgerError, EnvironmentProblemError
from nasctl.fields import canonical_json
from nasctl.files import replacing
from nasctl.ledger_commits import LEFT_UNTOUCHED, Commits, copy_beside, explained
from nasctl.trial import Evaluation, Rejection, State, Trial

P = ParamSpec("P")
T = TypeVar("T")


def _prefix(number: int) -> str:
    """Of the tables that a training with this number is in."""
    return "reference_" if number < 0 else ""


def _decoding(read: Callable[Concatenate[Ledger, P], T]) -> Callable[Concatenate[Ledger, P], T]:
    """What is not as we have written it (somebody else did) is damage of the file, in one line."""

    @functools.wraps(read)
    def decode(self: Ledger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(self, *args, **kwargs)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise EnvironmentProblemError(
                f"{self.path}: a row cannot be read ({text}); {LEFT_UNTOUCHED}"
                f"{copy_beside(self.path)}"
            ) from error

    return decode


class Ledger:
    """The records of one run.

    Args:
        path: `ledger.sqlite`.
        block_types: op name to class, for reading architectures back; architectures with other
            blocks are read as opaque.
        readonly: for everybody but the driver; never blocks it.

    Raises:
        EnvironmentProblemError: the file is missing, damaged, or of a newer nasctl.
        EmptyLedgerError: it has no tables yet, and is only to be read.
    """

    def __init__(
        self, path: Path, block_types: Mapping[str, type[Block]], *, readonly: bool = False
    ) -> None:
        self.path = path
        self._block_types = block_types
        self._architectures: dict[str, Architecture] = {}
        if readonly and not path.exists():
            raise EnvironmentProblemError(f"{path}: no such ledger")
        with explained(path):
            mode = "ro" if readonly else "rwc"
            if readonly and _is_archived(path):
                mode += "&immutable=1"
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=10,
            )
            self._commits = Commits(self._db, path, on_rollback=self._architectures.clear)
            if not readonly:
                self._prepare()
            else:
                self._check_version()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA foreign_keys=ON")
        problem = self._db.execute("PRAGMA quick_check").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {problem}")
        ledger_schema.prepare(self._db)
        self._check_version()

    def _check_version(self) -> None:
        version = ledger_schema.version_of(self._db)
        if version == 0:
            raise EmptyLedgerError(
                f"{self.path}: there is nothing in it{copy_beside(self.path)}: its search has not "
                "begun, or was cut short at once; run the search"
            )
        if version not in ledger_schema.READABLE:
            raise EnvironmentProblemError(
                f"{self.path}: ledger version {version}, this nasctl reads version "
                f"{ledger_schema.SCHEMA_VERSION}; use the nasctl that wrote it"
            )
        self._has_references = version > 1

    def close(self) -> None:
        self._db.close()

    @_decoding
    def damage(self) -> list[str]:
        """What is wrong with the file, one line each: its pages, its references, and networks that
        are stored under another name than their own."""
        with explained(self.path):
            pages = self._db.execute("PRAGMA integrity_check(5)").fetchall()
            dangling = self._db.execute("PRAGMA foreign_key_check").fetchall()
            stored = self._db.execute("SELECT * FROM architectures").fetchall()
        found = [f"{self.path.name}: {text}" for (text,) in pages if text != "ok"]
        found += [
            f"a row of {table} refers to one of {other} that is not there"
            for table, _, other, _ in dangling
        ]
        for arch_id, data in stored:
            name = Architecture.from_json(json.loads(data), self._block_types).id
            if name != arch_id:
                found.append(f"network {arch_id} is stored as another one, {name}")
        return found

    def copy_to(self, path: Path) -> None:
        """Replaces `path` by a copy of what is durable now.

        Raises:
            EnvironmentProblemError: it cannot be written; an older copy stays as it was.
        """
        with replacing(path) as temporary, explained(path):
            copy = sqlite3.connect(temporary)
            try:
                self._db.backup(copy)
            finally:
                copy.close()

    def transaction(self) -> AbstractContextManager[None]:
        """All writes inside become durable together, or not at all."""
        return self._commits

    def grouped(self) -> AbstractContextManager[None]:
        """Inside, calls that follow each other fast become durable in groups; see `Commits`."""
        return self._commits.grouped()

    def after_commit(self, call: Callable[[], None]) -> None:
        """Calls `call` once everything written so far is durable: now, if it is. In order."""
        self._commits.after_commit(call)

    # -- settings of the run ------------------------------------------------------------------

    def set_meta(self, **values: Any) -> None:
        """Stores JSON values under their names."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [(k, canonical_json(v)) for k, v in values.items()],
            )

    @_decoding
    def meta(self, key: str, default: Any = None) -> Any:
        with explained(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def add_event(self, kind: str, **data: Any) -> None:
        """Notes something that happened, with the wall clock time."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO events (at, kind, data) VALUES (?, ?, ?)",
                (time.time(), kind, canonical_json(data)),
            )

    @_decoding
    def events(self) -> list[tuple[float, str, dict[str, Any]]]:
        with explained(self.path):
            rows = self._db.execute("SELECT at, kind, data FROM events ORDER BY seq").fetchall()
        return [(at, kind, json.loads(data)) for at, kind, data in rows]

    # -- trials -------------------------------------------------------------------------------

    def _add_architecture(self, architecture: Architecture) -> None:
        if architecture.id not in self._architectures:
            self._db.execute(
                "INSERT OR IGNORE INTO architectures VALUES (?, ?)",
                (architecture.id, canonical_json(architecture.to_json())),
            )
            self._architectures[architecture.id] = architecture

    def put_trial(self, trial: Trial) -> None:
        """Inserts or replaces the row of a trial (not its evaluations); of a reference network
        where the number is negative, in a table of their own."""
        table = f"{_prefix(trial.number)}trials"
        metrics = canonical_json(dict(trial.metrics))
        with self.transaction():
            replaced = self._db.execute(
                f"UPDATE {table} SET state=?, attempts=?, metrics=?, error=?, started_at=?, "
                "seconds=? WHERE number=?",
                (
                    trial.state.value,
                    trial.attempts,
                    metrics,
                    trial.error,
                    trial.started_at,
                    trial.seconds,
                    trial.number,
                ),
            )
            if replaced.rowcount:
                return
            self._add_architecture(trial.architecture)
            self._db.execute(
                f"INSERT INTO {table} VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    trial.number,
                    trial.arch_id,
                    trial.seed,
                    trial.epochs,
                    trial.state.value,
                    trial.attempts,
                    canonical_json(trial.choices),
                    canonical_json(dict(trial.cost)),
                    canonical_json(dict(trial.cost_intervals)),
                    metrics,
                    trial.error,
                    canonical_json(dict(trial.sampler_state)),
                    trial.started_at,
                    trial.seconds,
                ),
            )

    def put_evaluation(self, number: int, evaluation: Evaluation) -> None:
        """Stores one epoch; the same epoch of a later attempt replaces it."""
        with self.transaction():
            self._db.execute(
                f"INSERT OR REPLACE INTO {_prefix(number)}evaluations VALUES (?, ?, ?)",
                (number, evaluation.epoch, canonical_json(dict(evaluation.metrics))),
            )

    def clear_evaluations(self, number: int, *, since: int = 0) -> None:
        """Forgets the epochs of an attempt that was lost, from `since` on."""
        with self.transaction():
            self._db.execute(
                f"DELETE FROM {_prefix(number)}evaluations WHERE number=? AND epoch>=?",
                (number, since),
            )

    @_decoding
    def trials(self) -> list[Trial]:
        """Every trial in order of its number, with its evaluations."""
        return self._trials_of("")

    @_decoding
    def references(self) -> list[Trial]:
        """The reference networks in the order of the configuration, likewise."""
        return self._trials_of("reference_")[::-1] if self._has_references else []

    def _trials_of(self, prefix: str) -> list[Trial]:
        with explained(self.path):
            # One snapshot for both tables: the driver may be writing.
            self._db.execute("SAVEPOINT reading")
            try:
                rows = self._db.execute(f"SELECT * FROM {prefix}trials ORDER BY number").fetchall()
                epochs = self._db.execute(
                    f"SELECT number, epoch, metrics FROM {prefix}evaluations ORDER BY number, epoch"
                ).fetchall()
                self._load_architectures()
            finally:
                self._db.execute("RELEASE reading")
        evaluations: dict[int, list[Evaluation]] = {}
        for number, epoch, metrics in epochs:
            evaluations.setdefault(number, []).append(
                Evaluation(epoch=epoch, metrics=json.loads(metrics))
            )
        return [self._trial(row, tuple(evaluations.get(row[0], ()))) for row in rows]

    def _trial(self, row: tuple[Any, ...], evaluations: tuple[Evaluation, ...]) -> Trial:
        intervals = json.loads(row[8])
        return Trial(
            number=row[0],
            architecture=self._architectures[row[1]],
            seed=row[2],
            epochs=row[3],
            state=State(row[4]),
            attempts=row[5],
            choices=json.loads(row[6]),
            cost=Cost(**json.loads(row[7])),
            cost_intervals={k: (v[0], v[1]) for k, v in intervals.items()},
            metrics=json.loads(row[9]),
            error=row[10],
            sampler_state=json.loads(row[11]),
            started_at=row[12],
            seconds=row[13],
            evaluations=evaluations,
        )

    def _load_architectures(self) -> None:
        for arch_id, data in self._db.execute("SELECT * FROM architectures").fetchall():
            if arch_id not in self._architectures:
                self._architectures[arch_id] = Architecture.from_json(
                    json.loads(data), self._block_types
                )

    # -- candidates that were never trained ---------------------------------------------------

    def add_rejections(self, rejections: Iterable[Rejection]) -> None:
        with self.transaction():
            for r in rejections:
                if r.architecture is not None:
                    self._add_architecture(r.architecture)
                self._db.execute(
                    "INSERT INTO rejections (before, arch_id, choices, cost, violations, reason, "
                    "attempt, sampler_state) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        r.before,
                        r.architecture.id if r.architecture else None,
                        canonical_json(r.choices),
                        canonical_json(dict(r.cost)),
                        canonical_json(dict(r.violations)),
                        r.reason,
                        r.attempt,
                        canonical_json(dict(r.sampler_state)),
                    ),
                )

    @_decoding
    def rejections(self) -> list[Rejection]:
        """Every rejected candidate in the order in which it was proposed."""
        with explained(self.path):
            self._load_architectures()
            rows = self._db.execute(
                "SELECT before, arch_id, choices, cost, violations, reason, attempt, "
                "sampler_state "
                "FROM rejections ORDER BY seq"
            ).fetchall()
        return [
            Rejection(
                before=before,
                architecture=self._architectures[arch_id] if arch_id else None,
                choices=json.loads(choices),
                cost=Cost(**json.loads(cost)),
                violations=json.loads(violations),
                reason=reason,
                attempt=attempt,
                sampler_state=json.loads(state),
            )
            for before, arch_id, choices, cost, violations, reason, attempt, state in rows
        ]

    def count_rejections(self) -> int:
        with explained(self.path):
            return int(self._db.execute("SELECT count(*) FROM rejections").fetchone()[0])

    # -- whole-network measurements -----------------------------------------------------------

    def put_measurements(self, measured: Mapping[str, Mapping[str, Any]]) -> None:
        """Stores what was measured of whole networks, by architecture id."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO measurements VALUES (?, ?)",
                [(k, canonical_json(dict(v))) for k, v in measured.items()],
            )

    @_decoding
    def measurements(self) -> dict[str, dict[str, Any]]:
        with explained(self.path):
            rows = self._db.execute("SELECT arch_id, data FROM measurements").fetchall()
        return {arch_id: json.loads(data) for arch_id, data in rows}


def _is_archived(path: Path) -> bool:
    """In a folder that cannot be written to: SQLite then reads only what is promised to stay."""
    wal = path.with_name(path.name + "-wal")
    return not os.access(path.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size)
