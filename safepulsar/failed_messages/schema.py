"""
The tables, and how an older file is brought up to date: one migration per version, applied in one transaction.

Version 1 has the failed messages; version 2 adds the producers' journal and the outbox, which share the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.errors import StoreTooNew, StoreUnavailable

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

APPLICATION_ID = 0x73616670  # "safp": tells our files from those of other applications
NEEDS_SQLITE = (3, 37, 0)  # STRICT tables

# What is at index n makes version n + 1. Never change what was released: add.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # AUTOINCREMENT: the id of a message that is gone never comes back for another one.
        # The payload is last, so that looking for messages does not read it.
        """
        CREATE TABLE failed_messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            topic TEXT NOT NULL,
            partition_key TEXT,
            ordering_key TEXT,
            lane_key TEXT GENERATED ALWAYS AS (coalesce(ordering_key, partition_key)) VIRTUAL,
            sequence_id INTEGER,
            event_timestamp_ms INTEGER,
            deliver_at_ms INTEGER,
            properties TEXT,
            certainty TEXT NOT NULL,
            error TEXT NOT NULL,
            attempts TEXT NOT NULL,
            accepted_at REAL NOT NULL,
            first_failed_at REAL NOT NULL,
            last_failed_at REAL NOT NULL,
            producer_name TEXT,
            trace_id TEXT,
            checksum INTEGER NOT NULL,
            payload BLOB
        ) STRICT
        """,
        "CREATE INDEX failed_messages_by_lane ON failed_messages (topic, lane_key)",
        # Apart from the messages, so that a claim does not write a payload again.
        """
        CREATE TABLE claims (
            id INTEGER PRIMARY KEY,
            owner TEXT NOT NULL,
            lease_ends_at REAL NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE deliveries (
            id INTEGER PRIMARY KEY,
            topic TEXT NOT NULL,
            lane_key TEXT,
            certainty TEXT NOT NULL,
            error TEXT NOT NULL,
            first_failed_at REAL NOT NULL,
            delivered_at REAL NOT NULL,
            owner TEXT,
            ledger_id INTEGER NOT NULL,
            entry_id INTEGER NOT NULL,
            partition INTEGER NOT NULL,
            batch_index INTEGER NOT NULL
        ) STRICT
        """,
    ),
    (
        # What is known for sure about each producer name, and who may number its messages. The one without a name stands
        # for the outbox.
        """
        CREATE TABLE producers (
            name TEXT PRIMARY KEY,
            topic TEXT NOT NULL,
            source TEXT,
            confirmed INTEGER NOT NULL,
            allocated INTEGER NOT NULL,
            positions TEXT NOT NULL,
            owner TEXT,
            process TEXT,
            lease_ends_at REAL NOT NULL,
            fencing_token INTEGER NOT NULL,
            in_outbox INTEGER NOT NULL,
            checksum INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        # The id is the sequence id. The highest one that was removed is what the producer without a name has allocated:
        # so a new row changes one page, which AUTOINCREMENT and a counter of their own would make three. The payload is
        # last, as above.
        """
        CREATE TABLE outbox (
            id INTEGER PRIMARY KEY,
            topic TEXT NOT NULL,
            partition_key TEXT,
            ordering_key TEXT,
            event_timestamp_ms INTEGER,
            deliver_at_ms INTEGER,
            properties TEXT,
            producer_name TEXT NOT NULL,
            accepted_at REAL NOT NULL,
            checksum INTEGER NOT NULL,
            payload BLOB
        ) STRICT
        """,
    ),
)
VERSION = len(MIGRATIONS)


def check(connection: sqlite3.Connection, path: Path) -> None:
    """
    Look at a file without changing it.

    Raises:
        StoreTooNew: a later version wrote it.
        StoreUnavailable: another application wrote it.
    """
    # All from one moment: another process may be making the store right now.
    connection.execute("BEGIN")
    try:
        application_id = _number(connection, "PRAGMA application_id")
        version = _number(connection, "PRAGMA user_version")
        tables = _number(connection, "SELECT count(*) FROM sqlite_master")
    finally:
        connection.execute("ROLLBACK")
    if application_id == APPLICATION_ID and version > VERSION:
        raise StoreTooNew(
            f"{str(path)!r} was written by a later safepulsar (schema {version}, this one knows up to {VERSION}): "
            "upgrade safepulsar here, or name another path; the file was not touched"
        )
    empty = application_id == version == tables == 0
    if application_id != APPLICATION_ID and not empty:
        raise StoreUnavailable(
            f"{str(path)!r} is a database of another application; name another path; the file was not touched"
        )


def is_up_to_date(connection: sqlite3.Connection) -> bool:
    """
    Whether `migrate` has nothing to do.
    """
    return _number(connection, "PRAGMA user_version") == VERSION


def migrate(connection: sqlite3.Connection) -> None:
    """
    Bring the file up to date. Inside a transaction, and after `check`.
    """
    version = _number(connection, "PRAGMA user_version")  # again: another process may have done it by now
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _number(connection: sqlite3.Connection, question: str) -> int:
    return int(connection.execute(question).fetchone()[0])
