"""Layer 3: the truth about a run. One SQLite file, written by the driver alone.

WAL and `synchronous=FULL`: what a method has returned from survives `kill -9` and power loss.
Everything else (Ray's directory, the Optuna study, MLflow) is rebuilt from here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from nasctl import ledger_schema
from nasctl.arch import Architecture, Block, Cost
from nasctl.errors import EnvironmentProblemError
from nasctl.fields import canonical_json
from nasctl.trial import Evaluation, Rejection, State, Trial


class RunLock:
    """One driver per run: an flock that the kernel releases whatever happens to the holder.

    Raises:
        EnvironmentProblemError: another process holds it; the message names its pid.
    """

    def __init__(self, directory: Path) -> None:
        self._file: IO[str] | None = None
        path = directory / ".lock"
        try:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held until release()
        except OSError as error:
            raise EnvironmentProblemError(f"{path}: cannot lock the run: {error}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise EnvironmentProblemError(
                f"{directory}: this run is being driven by another process (pid {holder}); wait "
                "for it, stop it, or choose another name=..."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        text = str(error)
        hint = ""
        if "full" in text or "I/O" in text:
            hint = "; free some space and run the same command again, nothing finished is lost"
        elif "malformed" in text or "not a database" in text:
            hint = "; the file was left untouched, restore a copy, or search anew with --fresh"
        raise EnvironmentProblemError(f"{path}: {text}{hint}") from error


def _prefix(number: int) -> str:
    """Of the tables that a training with this number is in."""
    return "reference_" if number < 0 else ""


class Ledger:
    """The records of one run.

    Args:
        path: `ledger.sqlite`.
        block_types: op name to class, for reading architectures back; architectures with other
            blocks are read as opaque.
        readonly: for everybody but the driver; never blocks it.

    Raises:
        EnvironmentProblemError: the file is missing, damaged, or of a newer nasctl.
    """

    def __init__(
        self, path: Path, block_types: Mapping[str, type[Block]], *, readonly: bool = False
    ) -> None:
        self.path = path
        self._block_types = block_types
        self._architectures: dict[str, Architecture] = {}
        if readonly and not path.exists():
            raise EnvironmentProblemError(f"{path}: no such ledger")
        with _explained(path):
            mode = "ro" if readonly else "rwc"
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=10,
            )
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
            raise EnvironmentProblemError(
                f"{self.path}: there is nothing in it: its search has not begun, or was cut short "
                "at once; run the search"
            )
        if version not in ledger_schema.READABLE:
            raise EnvironmentProblemError(
                f"{self.path}: ledger version {version}, this nasctl reads version "
                f"{ledger_schema.SCHEMA_VERSION}; use the nasctl that wrote it"
            )
        self._has_references = version > 1

    def close(self) -> None:
        self._db.close()

    def _is_open(self) -> bool:
        return self._db.in_transaction

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside become durable together, or not at all."""
        with _explained(self.path):
            if self._is_open():
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._architectures.clear()  # some of them may just have been rolled back
                if self._is_open():
                    self._db.execute("ROLLBACK")
                raise

    # -- settings of the run ------------------------------------------------------------------

    def set_meta(self, **values: Any) -> None:
        """Stores JSON values under their names."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [(k, canonical_json(v)) for k, v in values.items()],
            )

    def meta(self, key: str, default: Any = None) -> Any:
        with _explained(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def add_event(self, kind: str, **data: Any) -> None:
        """Notes something that happened, with the wall clock time."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO events (at, kind, data) VALUES (?, ?, ?)",
                (time.time(), kind, canonical_json(data)),
            )

    def events(self) -> list[tuple[float, str, dict[str, Any]]]:
        with _explained(self.path):
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
        with self.transaction():
            self._add_architecture(trial.architecture)
            self._db.execute(
                f"INSERT INTO {_prefix(trial.number)}trials "
                "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (number) "
                "DO UPDATE SET state=excluded.state, attempts=excluded.attempts, "
                "metrics=excluded.metrics, error=excluded.error, "
                "started_at=excluded.started_at, seconds=excluded.seconds",
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
                    canonical_json(dict(trial.metrics)),
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

    def clear_evaluations(self, number: int) -> None:
        """Forgets the epochs of an attempt that was lost."""
        with self.transaction():
            self._db.execute(f"DELETE FROM {_prefix(number)}evaluations WHERE number=?", (number,))

    def trials(self) -> list[Trial]:
        """Every trial in order of its number, with its evaluations."""
        return self._trials_of("")

    def references(self) -> list[Trial]:
        """The reference networks in the order of the configuration, likewise."""
        return self._trials_of("reference_")[::-1] if self._has_references else []

    def _trials_of(self, prefix: str) -> list[Trial]:
        with _explained(self.path):
            # One snapshot for both tables: the driver may be writing.
            self._db.execute("BEGIN")
            try:
                rows = self._db.execute(f"SELECT * FROM {prefix}trials ORDER BY number").fetchall()
                epochs = self._db.execute(
                    f"SELECT number, epoch, metrics FROM {prefix}evaluations ORDER BY number, epoch"
                ).fetchall()
                self._load_architectures()
            finally:
                self._db.execute("COMMIT")
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

    def rejections(self) -> list[Rejection]:
        """Every rejected candidate in the order in which it was proposed."""
        with _explained(self.path):
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
        with _explained(self.path):
            return int(self._db.execute("SELECT count(*) FROM rejections").fetchone()[0])

    # -- whole-network measurements -----------------------------------------------------------

    def put_measurements(self, measured: Mapping[str, Mapping[str, Any]]) -> None:
        """Stores what was measured of whole networks, by architecture id."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO measurements VALUES (?, ?)",
                [(k, canonical_json(dict(v))) for k, v in measured.items()],
            )

    def measurements(self) -> dict[str, dict[str, Any]]:
        with _explained(self.path):
            rows = self._db.execute("SELECT arch_id, data FROM measurements").fetchall()
        return {arch_id: json.loads(data) for arch_id, data in rows}
