"""
One SQLite file that survives kill -9 and power cuts, used by one thread at a time, never carried across a fork.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safepulsar.errors import StoreCorrupted, StoreError, StoreUnavailable
from safepulsar.failed_messages import files, schema
from safepulsar.processes.forks import forks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from safepulsar.failed_messages.codec import Stored

log = logging.getLogger("safepulsar")

_KEPT_LOG_BYTES = 64 * 1024 * 1024
_PAUSE_SECONDS = 0.005
_PREPARED = 512  # one for each number of rows that are written at once


@dataclass(slots=True)
class Transaction:
    """
    What became of a transaction, right also for a thread that was interrupted in the middle of it.
    """

    committed: bool = False


class Database:
    """
    The file of a store. Thread-safe; processes share it by SQLite's own locks.

    Args:
        path: absolute.
        busy_timeout_seconds: how long to wait for another process that writes.
    """

    def __init__(self, path: Path, *, busy_timeout_seconds: float) -> None:
        self.path = path
        self._path_text = str(path)  # looked at in every transaction
        self._busy_timeout_seconds = busy_timeout_seconds
        self._open = False
        self._beyond_saving = False  # forked with the file open; see after_fork
        self._become_new()
        forks.watch(self)

    def __del__(self) -> None:
        # Whoever forgets to close loses nothing, and need not be warned. In a forked child it is the parent's.
        connection = getattr(self, "_connection", None)
        if connection is not None and self._pid == os.getpid():
            with suppress(sqlite3.Error):
                connection.close()

    def _become_new(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards everything below, and is held by whoever is inside SQLite
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None  # of the file that the connection has open
        self._holding_for_fork = False

    @property
    def is_open(self) -> bool:
        """
        Whether `open` was called, and `close` not since.
        """
        return self._open

    def open(self) -> None:
        """
        Make and check the file, once now, so that what is wrong with it is known before it is needed.

        Raises:
            StoreError: why it cannot be used.
        """
        if self._open:
            return
        self._open = True
        try:
            with self.writing():
                pass  # that a transaction can begin is what had to be known
        except BaseException:
            self.close()
            raise
        with self._lock:
            # Opened again when it is needed: until then a server may fork in whatever way it likes.
            self._disconnect_locked()

    def close(self) -> None:
        """
        Close the file. Idempotent.
        """
        self._notice_fork()
        with self._lock:
            self._open = False
            self._disconnect_locked()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """
        The connection, for a few reads; others wait meanwhile.
        """
        self._notice_fork()
        with self._lock:
            try:
                yield self._connected_locked()
            except sqlite3.Error as error:
                raise self._explain(error) from error

    @contextmanager
    def writing(self, transaction: Transaction | None = None, *, lazily: bool = False) -> Iterator[sqlite3.Connection]:
        """
        The connection within a transaction that is safe on disk at the end of the block, or undone if it raises.

        Args:
            transaction: told whether it was committed.
            lazily: don't wait for the disk. It survives the end of the process all the same, but a power cut may undo
                it, if nothing was written with care after it.
        """
        transaction = transaction or Transaction()
        self._notice_fork()
        with self._lock:
            try:
                connection = self._connected_locked()
                finished = False
                try:
                    if lazily:
                        connection.execute("PRAGMA synchronous = NORMAL")
                    connection.execute("BEGIN IMMEDIATE")
                    yield connection
                    finished = True
                    connection.execute("COMMIT")
                    transaction.committed = True
                except BaseException as error:
                    if connection.in_transaction:
                        self._roll_back_locked(connection)
                    elif finished and not isinstance(error, sqlite3.Error):
                        transaction.committed = True  # an interrupt between the commit and the line after it
                    raise
                finally:
                    if lazily and self._connection is not None:
                        self._wait_for_the_disk_locked(connection)
            except sqlite3.Error as error:
                raise self._explain(error) from error

    def before_fork(self) -> None:
        """
        Close the file, and hold everybody off until the fork is over.
        """
        # Bounded: a signal handler that forks may have interrupted this very thread inside a transaction.
        self._holding_for_fork = self._lock.acquire(timeout=self._busy_timeout_seconds + 1)
        if self._holding_for_fork:
            self._disconnect_locked()

    def after_fork_in_parent(self) -> None:
        """
        Let the others go on.
        """
        if self._holding_for_fork:
            self._holding_for_fork = False
            self._lock.release()

    def after_fork(self) -> None:
        """
        Become new in a forked child; a connection that came along all the same is leaked, never used or closed.
        """
        if self._pid == os.getpid():
            return
        inherited = self._connection
        self._become_new()
        if inherited is not None:
            import ctypes  # noqa: PLC0415  # only after a fork, and would be a part of every start

            ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
            # Its copy of SQLite's lock table is wrong from now on, for every connection to the same file.
            self._beyond_saving = True

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():  # forked past Python, whose hooks would have told us
            self.after_fork()

    def _connected_locked(self) -> sqlite3.Connection:
        if not self._open:
            raise StoreUnavailable(
                f"the store {str(self.path)!r} is closed; call open() first, or use it in a with block"
            )
        if self._beyond_saving:
            raise StoreUnavailable(
                f"the store {str(self.path)!r} was in use while this process was forked past Python's own fork, "
                "and SQLite does not survive that; open the store after the fork"
            )
        if self._connection is not None and self._identity != self._identity_now():
            # Somebody moved or deleted the file: what is written into the old one would be lost unnoticed.
            log.warning("safepulsar.store_file_replaced", extra={"path": str(self.path)})
            self._disconnect_locked()
        if self._connection is None:
            self._connection = self._connect()
            self._identity = self._identity_now()
        return self._connection

    def _identity_now(self) -> tuple[int, int] | None:
        try:
            found = os.lstat(self._path_text)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _connect(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < schema.NEEDS_SQLITE:
            needed = ".".join(map(str, schema.NEEDS_SQLITE))
            raise StoreUnavailable(
                f"failed messages need SQLite {needed} and this Python has {sqlite3.sqlite_version}; use a newer Python, "
                "or keep them in memory"
            )
        files.prepare(self.path)
        connection = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout_seconds,
            isolation_level=None,  # transactions begin where this module says so
            cached_statements=_PREPARED,
            check_same_thread=False,  # the lock sees to that
        )
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()  # which undoes what was begun
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = bytes  # a damaged text must reach the checksum instead of failing the whole query
        schema.check(connection, self.path)
        connection.execute("PRAGMA synchronous = FULL")  # each commit is on disk before it returns
        connection.execute("PRAGMA secure_delete = ON")  # a deleted payload is overwritten
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute(f"PRAGMA journal_size_limit = {_KEPT_LOG_BYTES}")
        self._write_ahead(connection)
        if schema.is_up_to_date(connection):
            return  # without a lock: a reader need not wait for whoever writes
        connection.execute("BEGIN IMMEDIATE")
        schema.migrate(connection)
        connection.execute("COMMIT")

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._busy_timeout_seconds
        while connection.execute("PRAGMA journal_mode").fetchone() != (b"wal",):
            try:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                # Others are making this store at the same moment. Here SQLite does not wait by itself.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)
                continue
            if mode != (b"wal",):
                raise StoreUnavailable(
                    f"the file system of {str(self.path)!r} does not let SQLite write ahead (a network drive?); "
                    "name a path on a local disk"
                )

    def _disconnect_locked(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except sqlite3.Error:
            # Nothing is lost: all that was promised is in the log, which the next opening reads.
            log.exception("safepulsar.store_close_failed", extra={"path": str(self.path)})

    def write_at_once(self, statement: str, parameters: Sequence[Stored], transaction: Transaction) -> bool:
        """
        One statement that is a transaction by itself, and safe on disk when it returns; whether it changed anything.

        Its four steps, each of which would have to get the GIL back from other threads, need it back once.
        """
        with self.reading() as connection:
            before = connection.total_changes
            try:
                connection.execute(statement, parameters)
            finally:
                transaction.committed = connection.total_changes != before  # also of one that was interrupted after it
        return transaction.committed

    def _wait_for_the_disk_locked(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            self._disconnect_locked()  # the next one begins as it has to
            raise

    def _roll_back_locked(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            log.exception("safepulsar.store_rollback_failed", extra={"path": str(self.path)})
            self._disconnect_locked()  # which undoes the transaction too

    def _explain(self, error: sqlite3.Error) -> StoreError:
        text, where = str(error), repr(str(self.path))
        unspecific = "disk I/O error" in text or "unable to open" in text
        if "disk is full" in text or (unspecific and files.out_of_space(self.path)):
            return files.full(self.path)
        if "readonly" in text or "unable to open" in text:
            return StoreUnavailable(
                f"failed messages cannot be written to {where} ({text}); "
                "make the file and its folder writable for this user, or name another path"
            )
        if "locked" in text:
            return StoreUnavailable(
                f"another process has been writing to {where} for over {self._busy_timeout_seconds:g} s; "
                "wait for it or end it, then try again"
            )
        if "not a database" in text:
            return StoreUnavailable(
                f"{where} is not a database, or its first page is destroyed; "
                "name another path, or put a backup in its place"
            )
        if "malformed" in text:
            return StoreCorrupted(
                f"the file {where} is damaged; move it away together with its -wal and -shm, "
                "and get back what can be read with: sqlite3 FILE .recover"
            )
        return StoreUnavailable(f"SQLite cannot use {where} ({text}); check disk and file system, or name another path")
