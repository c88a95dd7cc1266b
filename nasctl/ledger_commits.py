"""Layer 3: when what was written to a ledger becomes durable, and what waits for it.

Usually each call's writes are committed, with fsync, before the call returns. Where trainings are
lookups that would be most of the time, so calls may be grouped: one commit for a tenth of a second
of them. What is to be shown waits for the commit either way, so nothing that was seen is lost.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from nasctl.errors import EnvironmentProblemError

GROUP_S = 0.1
"""The most that a kill can take from a search whose calls are grouped."""
SLOW_S = 0.05
"""Work that takes longer between two calls is worth a commit of its own."""


COPY = "ledger.backup.sqlite"
"""Beside a ledger: as it was when a driver last opened or finished its run."""
LEFT_UNTOUCHED = "the file was left untouched, restore a copy, or search anew with --fresh"


def _copy_beside(path: Path) -> str:
    copy = path.with_name(COPY)
    if not copy.is_file() or copy == path:
        return ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(copy.stat().st_mtime))
    return f" (there is one of {when}: {copy})"


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of SQLite as problems of the environment, with what to do."""
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
            hint = f"; {LEFT_UNTOUCHED}{_copy_beside(path)}"
        raise EnvironmentProblemError(f"{path}: {text}{hint}") from error


class Commits:
    """The transactions of one connection: `with` it, all writes become durable together, or not at
    all. One inside another is part of it.

    Args:
        db: in autocommit mode; nobody else begins transactions that write.
        path: of the database, for messages.
        on_rollback: called when something written may have been undone.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        path: Path,
        *,
        on_rollback: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._path = path
        self._on_rollback = on_rollback
        self._clock = clock
        self._depth = 0
        self._is_grouping = False
        self._waiting: list[Callable[[], None]] = []
        self._group_began = 0.0
        self._left_at = 0.0  # when the last call was over
        self._alone_until = 0.0  # until then every call is committed

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        now = self._clock()
        if now - self._left_at > SLOW_S:
            self._alone_until = now + SLOW_S
        try:
            with explained(self._path):
                if not self._db.in_transaction:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._group_began = now
                self._db.execute("SAVEPOINT call")
        except BaseException:
            self._depth = 0
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        with explained(self._path):
            if error is not None:
                self._undo_call()
                if isinstance(error, sqlite3.Error):
                    raise error  # to be explained
                return
            self._db.execute("RELEASE call")
            self._left_at = self._clock()
            alone = not self._is_grouping or self._left_at < self._alone_until
            if alone or self._left_at - self._group_began >= GROUP_S:
                self._commit()

    @contextlib.contextmanager
    def grouped(self) -> Iterator[None]:
        """Inside, calls are committed in groups as long as they follow each other fast; the rest at
        the end, whatever ends it."""
        self._is_grouping = True
        try:
            yield
        finally:
            self._is_grouping = False
            with explained(self._path):
                self._commit()

    def after_commit(self, call: Callable[[], None]) -> None:
        """Calls `call` once everything written so far is durable: now, if it is. In order."""
        if self._db.in_transaction or self._waiting:
            self._waiting.append(call)
        else:
            call()

    def _commit(self) -> None:
        if not self._db.in_transaction:
            self._waiting.clear()  # SQLite has undone the group itself: the disk is full
            return
        try:
            self._db.execute("COMMIT")
        except BaseException:
            self._undo()
            raise
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def _undo_call(self) -> None:
        """What the call has written, and only that where it is one of a group."""
        if self._is_grouping and self._db.in_transaction:
            self._on_rollback()
            self._db.execute("ROLLBACK TO call")
            self._db.execute("RELEASE call")
        else:
            self._undo()

    def _undo(self) -> None:
        self._on_rollback()
        self._waiting.clear()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
