"""
The file that the failed messages, the journal of producer names and the outbox share: opened, bounded and timed as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.errors import InvalidSettings, StoreFull
from safepulsar.failed_messages import files, rows
from safepulsar.failed_messages.database import Database

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Callable

    from typing_extensions import Self

    from safepulsar.failed_messages.stored_payload import StoredPayloads

_SMALLEST_BYTES = 64 * 1024
_LONGEST_SECONDS = 3600.0


class StoreFile:
    """
    One SQLite file of this user alone. Thread-safe; processes share it.

    Args:
        path: of the file.
        busy_timeout_seconds: how long to wait while another process writes.
        max_bytes: write no more payloads when so much is in use.
        payloads: what all payloads in the file go through.
        clock: Unix time in seconds, by which all leases in the file are counted.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout_seconds: float,
        max_bytes: int | None,
        payloads: StoredPayloads,
        clock: Callable[[], float],
    ) -> None:
        self._path = files.checked_path(path)
        number = isinstance(busy_timeout_seconds, (int, float)) and not isinstance(busy_timeout_seconds, bool)
        if not number or not 0 <= busy_timeout_seconds <= _LONGEST_SECONDS:
            msg = f"must be a number of seconds from 0 to {_LONGEST_SECONDS:g}, not {busy_timeout_seconds!r:.80}"
            raise InvalidSettings("busy_timeout_seconds", msg)
        if max_bytes is not None and (type(max_bytes) is not int or max_bytes < _SMALLEST_BYTES):
            msg = f"must be a whole number of at least {_SMALLEST_BYTES}, or None, not {max_bytes!r:.80}"
            raise InvalidSettings("max_bytes", msg)
        self.max_bytes = max_bytes
        self.payloads = payloads
        self.clock = clock
        self.database = Database(self._path, busy_timeout_seconds=busy_timeout_seconds)

    def __repr__(self) -> str:
        state = "open" if self.database.is_open else "closed"
        return f"<{type(self).__name__} {str(self._path)!r} {state}>"

    def open(self) -> Self:
        """
        See `FailedMessageStore.open`; makes the file, checks who may reach it, and that it can be written.

        Raises:
            StoreInsecure: others could read or replace it.
            StoreTooNew: a later version wrote it.
            StoreUnavailable: it cannot be made or written, or is not a store.
            StoreFull: there is no space even for an empty one.
            StoreCorrupted: its structure is damaged.
        """
        self.database.open()
        return self

    def close(self) -> None:
        """
        See `FailedMessageStore.close`.
        """
        self.database.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def check_room(self, connection: sqlite3.Connection, size: int) -> None:
        """
        Whether so many bytes of payload may be written.

        Raises:
            StoreFull: not under `max_bytes`.
        """
        if self.max_bytes is not None and rows.bytes_in_use(connection) + size > self.max_bytes:
            raise StoreFull(
                f"the store {str(self._path)!r} has reached max_bytes={self.max_bytes}: replay or purge what it "
                "holds, or allow more; what was kept before is safe"
            )
