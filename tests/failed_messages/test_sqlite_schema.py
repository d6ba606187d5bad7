"""
A foreign, newer, damaged or locked file is a typed error and stays as it is; our own is durable and discreet.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import StoreCorrupted, StoreTooNew, StoreUnavailable
from safepulsar.failed_messages import FailedMessageFilter, SqliteFailedMessages, schema
from safepulsar.message import MessageId
from tests.failed_messages.samples import ORDERS, failed, meddle

if TYPE_CHECKING:
    from pathlib import Path

    from tests.failed_messages.samples import ManualClock


def test_a_damaged_file_says_what_to_do(path: Path) -> None:
    """
    A file whose structure is destroyed is `StoreCorrupted`, with the way to get back what can be read.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed(b"x" * 3000) for _ in range(100)])
    whole = bytearray(path.read_bytes())
    whole[8 * 4096 : 40 * 4096] = b"\xff" * (32 * 4096)
    path.write_bytes(whole)
    with SqliteFailedMessages(path) as store, pytest.raises(StoreCorrupted, match=r"\.recover"):
        list(store.find())


@pytest.mark.parametrize(
    "content", [b"not a database at all\n" * 100, b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 4080]
)
def test_a_file_that_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    """
    Any other file is refused, by name, and not changed.
    """
    path.parent.mkdir(0o700)
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="name another path"):
        SqliteFailedMessages(path).open()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "setup", ["CREATE TABLE theirs (x)", "PRAGMA application_id = 1234", "PRAGMA user_version = 3"]
)
def test_a_database_of_another_application_is_left_alone(path: Path, setup: str) -> None:
    """
    A database that safepulsar did not make is refused, by name, and not changed.
    """
    path.parent.mkdir(0o700)
    path.touch(0o600)
    meddle(path, setup)
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="another application"):
        SqliteFailedMessages(path).open()
    assert path.read_bytes() == before


def test_a_newer_store_is_left_alone(path: Path) -> None:
    """
    A store of a later version is refused with both versions named, and not changed.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed()])
    newer = schema.VERSION + 1
    meddle(path, f"PRAGMA user_version = {newer}")
    before = path.read_bytes()
    with pytest.raises(
        StoreTooNew, match=rf"schema {newer}, this one knows up to {schema.VERSION}\): upgrade safepulsar"
    ):
        SqliteFailedMessages(path).open()
    assert path.read_bytes() == before


def test_an_older_store_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A store of an earlier version gets what is missing, and keeps what it holds.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed(b"old")])
    further = (*schema.MIGRATIONS, ("CREATE TABLE further (x INTEGER) STRICT",))
    monkeypatch.setattr(schema, "MIGRATIONS", further)
    monkeypatch.setattr(schema, "VERSION", len(further))
    with SqliteFailedMessages(path) as store:
        assert [message.message.payload for message in store.find()] == [b"old"]
    meddle(path, "INSERT INTO further VALUES (1)")


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A file is brought up to date as a whole or stays as it was.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed()])
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE further (x)", "NONSENSE")))
        patch.setattr(schema, "VERSION", schema.VERSION + 1)
        with pytest.raises(StoreUnavailable, match="NONSENSE"):
            SqliteFailedMessages(path).open()
    with SqliteFailedMessages(path) as store:
        assert store.count() == 1
    meddle(path, "CREATE TABLE further (x)")


def test_an_old_sqlite_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where SQLite is too old the error says which is needed.
    """
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    with pytest.raises(StoreUnavailable, match=r"need SQLite 3\.37\.0"):
        SqliteFailedMessages(path).open()
    assert not path.exists()


def test_a_file_that_is_locked_for_too_long_is_an_error(
    disk: SqliteFailedMessages, path: Path, clock: ManualClock
) -> None:
    """
    Waiting for another process is bounded; afterwards everything works again and nothing is lost.
    """
    with SqliteFailedMessages(path, busy_timeout_seconds=0.05, clock=clock) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match=r"for over 0\.05 s"):
                store.keep([failed()])
            with pytest.raises(StoreUnavailable, match="another process"):
                store.claim("r1", limit=1, lease_seconds=1)
            assert store.count() == 0  # reading needs no lock
        assert store.keep([failed()]) == [1]
    assert disk.count() == 1


def test_a_commit_is_on_disk_and_a_deletion_is_gone(disk: SqliteFailedMessages, path: Path) -> None:
    """
    Commits are synchronous in a write-ahead log, and what was delivered or purged is overwritten in the file.
    """
    disk.keep([failed(b"SECRET-delivered"), failed(b"SECRET-purged"), failed(b"stays")])
    with disk.database.reading() as connection:
        settings = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "secure_delete", "application_id", "user_version")
        }
    assert settings == {
        "journal_mode": b"wal",
        "synchronous": 2,
        "secure_delete": 1,
        "application_id": 0x73616670,
        "user_version": 2,
    }
    disk.confirm(1, MessageId(1, 1))
    disk.purge(FailedMessageFilter(ids=(2,)))
    disk.close()
    assert [file.name for file in path.parent.iterdir()] == ["failed.db"]
    content = path.read_bytes()
    assert b"SECRET" not in content
    assert b"stays" in content
    assert ORDERS.encode() in content


@pytest.mark.slow
def test_a_store_of_a_million_messages_opens_at_once(path: Path) -> None:
    """
    Opening does not read what is kept: a million messages open in less than a second, and one is found at once.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed(b"x" * 100, key="a")])
    meddle(
        path,
        "INSERT INTO failed_messages (topic, partition_key, certainty, error, attempts, accepted_at, "
        "first_failed_at, last_failed_at, checksum, payload) "
        "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 999999) "
        "SELECT topic, partition_key || value, certainty, error, attempts, accepted_at, "
        "first_failed_at, last_failed_at, checksum, payload FROM failed_messages, n WHERE failed_messages.id = 1",
    )
    start = time.monotonic()
    with SqliteFailedMessages(path) as store:
        assert store.get(1).message.payload == b"x" * 100
        assert len(store.claim("r1", limit=1, lease_seconds=30)) == 1
        seconds = time.monotonic() - start
        assert store.stats()["kept"] == 999_999
    assert seconds < 1.0
