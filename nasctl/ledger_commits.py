"""Layer 3: when what was written to a ledger becomes durable, and what waits for it.

Usually each call's writes are committed, with fsync, before the call returns. Where trainings are
lookups that would be most of the time, so calls may be grouped: one commit for a tenth of a second
of them. What is to be shown waits for the commit either way, so nothing that was seen is lost; and
where a lookup turns out to be a training, a thread commits what came before it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
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
LEFT_UNTOUCHED = "the file was left untouched, restore a copy, or begin anew with --fresh"


def copy_beside(path: Path) -> str:
    """Of a damaged or empty ledger: where there is a copy of it, in brackets, or nothing."""
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
            hint = f"; {LEFT_UNTOUCHED}{copy_beside(path)}"
        raise EnvironmentProblemError(f"{path}: {text}{hint}") from error


class Commits:
    """The transactions of one connection: `with` it, all writes become durable together, or not at
    all. One inside another is part of it. For one thread; the connection must allow a second,
    which commits groups that nobody adds to.

    Args:
        db: in autocommit mode; nobody else begins transactions that write.
        path: of the database, for messages.
        on_rollback: called when something written may have been undone.
        clock: monotonic seconds.
        patience: real seconds between two looks for a group that nobody adds to.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        path: Path,
        *,
        on_rollback: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        patience: float = GROUP_S,
    ) -> None:
        self._db = db
        self._path = path
        self._on_rollback = on_rollback
        self._clock = clock
        self._patience = patience
        self._depth = 0
        self._is_grouping = False
        self._waiting: list[Callable[[], None]] = []
        self._group_began = 0.0
        self._left_at = 0.0  # when the last call was over
        self._alone_until = 0.0  # until then every call is committed
        self._is_open = False  # what was begun is neither committed nor undone
        self._in_call = threading.RLock()
        self._failed: BaseException | None = None  # what befell the other thread

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self._in_call.acquire()
        now = self._clock()
        if now - self._left_at > SLOW_S:
            self._alone_until = now + SLOW_S
        try:
            with explained(self._path):
                self._raise_failure()
                if not self._db.in_transaction:
                    self._settle()
                    self._db.execute("BEGIN IMMEDIATE")
                    self._group_began = now
                    self._is_open = True
                self._db.execute("SAVEPOINT call")
        except BaseException:
            self._depth = 0
            self._in_call.release()
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
        try:
            self._end_call(error)
        finally:
            self._in_call.release()

    def _end_call(self, error: BaseException | None) -> None:
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
        # The first calls are told at once: it may be long until there is another that tells them.
        self._alone_until = self._clock() + SLOW_S
        over = threading.Event()
        other = threading.Thread(target=self._commit_late, args=(over,), daemon=True)
        other.start()
        try:
            yield
        finally:
            over.set()
            other.join()
            self._is_grouping = False
            with explained(self._path):
                self._raise_failure()
                self._commit()

    def _commit_late(self, over: threading.Event) -> None:
        """Commits a group that no call has been added to for long; not what waits for it, which is
        for the thread of the calls."""
        while not over.wait(self._patience):
            with self._in_call:
                is_late = self._clock() - self._group_began >= GROUP_S
                if not (self._db.in_transaction and is_late):
                    continue
                try:
                    self._db.execute("COMMIT")
                except sqlite3.Error as error:
                    self._failed = error
                    return
                self._is_open = False

    def _raise_failure(self) -> None:
        if self._failed is not None:
            failed, self._failed = self._failed, None
            self._undo()
            raise failed

    def after_commit(self, call: Callable[[], None]) -> None:
        """Calls `call` once everything written so far is durable: now, if it is. In order."""
        with self._in_call:  # the other thread may be within a commit, neither before nor after it
            if self._db.in_transaction:
                self._waiting.append(call)
                return
            self._settle()
        call()

    def _commit(self) -> None:
        if not self._db.in_transaction:
            self._settle()
            return
        try:
            self._db.execute("COMMIT")
        except BaseException:
            self._undo()
            raise
        self._call_waiting()

    def _call_waiting(self) -> None:
        self._is_open = False
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def _settle(self) -> None:
        """After a group that ended elsewhere: in the other thread or, full disk, in SQLite."""
        if self._is_open:
            self._undo()
        else:
            self._call_waiting()

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
        self._is_open = False
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
