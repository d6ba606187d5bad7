"""
Failed messages as rows: the SQL that writes, finds and deletes them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from safepulsar.failed_messages import codec, many
from safepulsar.failed_messages.filter import FailedMessageState
from safepulsar.failed_messages.transitions import MAX_LEASE_SECONDS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from safepulsar.failed_messages.database import Database, Transaction
    from safepulsar.failed_messages.filter import FailedMessageFilter
    from safepulsar.failed_messages.stored_payload import StoredPayloads
    from safepulsar.message import FailedMessage

_STORED = (*codec.COLUMNS, "checksum", "payload")
_READ = ", ".join(f"m.{name}" for name in ("id", *_STORED))

# As `transitions.is_live`.
LIVE = f"(c.lease_ends_at > :now AND c.lease_ends_at <= :now + {MAX_LEASE_SECONDS})"
# One constant statement for every filter. What holds for a message whose lease ran out is said here as it will be
# written when somebody takes it over.
MATCHES = f"""
    m.id > :after
    AND (:topic IS NULL OR m.topic = :topic)
    AND (:key IS NULL OR m.lane_key = :key)
    AND (:error IS NULL OR m.error = :error)
    AND m.first_failed_at BETWEEN :oldest AND :newest
    AND (:ids IS NULL OR m.id IN (SELECT value FROM json_each(:ids)))
    AND (:state IS NULL OR :state = CASE WHEN {LIVE} THEN 'CLAIMED' ELSE 'KEPT' END)
    AND (:certainty IS NULL OR :certainty = CASE
        WHEN c.id IS NULL OR {LIVE} THEN m.certainty ELSE 'MAYBE_STORED'
    END)
"""  # noqa: S608 - made of constants
SELECT_ROW = f"SELECT {_READ} FROM failed_messages m WHERE m.id = ?"  # noqa: S608 - made of constants
_SELECT_ROWS = f"SELECT {_READ} FROM failed_messages m WHERE m.id IN (SELECT value FROM json_each(?))"  # noqa: S608 - as above
SELECT_PAGE = f"""
    SELECT c.lease_ends_at, {_READ}
    FROM failed_messages m LEFT JOIN claims c ON c.id = m.id
    WHERE {MATCHES}
    ORDER BY m.id
    LIMIT :page
"""  # noqa: S608 - made of constants
COUNT = f"SELECT count(*) FROM failed_messages m LEFT JOIN claims c ON c.id = m.id WHERE {MATCHES}"  # noqa: S608 - as above
COUNT_PURGEABLE = f"{COUNT} AND (c.id IS NULL OR NOT {LIVE})"
SELECT_PURGEABLE = f"""
    SELECT m.id FROM failed_messages m LEFT JOIN claims c ON c.id = m.id
    WHERE {MATCHES} AND (c.id IS NULL OR NOT {LIVE})
    ORDER BY m.id
    LIMIT :page
"""  # noqa: S608 - made of constants
STOPPED_LANES = """
    SELECT ordering_key, min(id) FROM failed_messages
    WHERE topic = ? AND ordering_key IS NOT NULL
    GROUP BY ordering_key ORDER BY min(id)
"""
STANDING = """
    SELECT m.topic, c.owner, c.lease_ends_at
    FROM failed_messages m LEFT JOIN claims c ON c.id = m.id
    WHERE m.id = ?
"""
_INSERT_INTO = f"INSERT INTO failed_messages (id, {', '.join(_STORED)})"
_LAST = "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'failed_messages'), 0)"
_UPDATE = """
    UPDATE failed_messages
    SET certainty = ?, error = ?, attempts = ?, last_failed_at = ?, checksum = ?
    WHERE id = ?
"""


def parameters(where: FailedMessageFilter, now: float, *, after: int = 0, page: int = -1) -> dict[str, object]:
    """
    What `MATCHES` asks for, and the size of a page (-1: all).
    """
    oldest, newest = where.first_failed_between(now)
    return {
        "now": now,
        "after": after,
        "page": page,
        "topic": where.full_topic,
        "key": where.key,
        "error": where.error,
        "oldest": oldest,
        "newest": newest,
        "ids": None if where.ids is None else json.dumps(where.ids),
        # Delivered messages have a table of their own, in which all are delivered.
        "state": None if where.state in (None, FailedMessageState.DELIVERED) else where.state.value,
        "certainty": None if where.certainty is None else where.certainty.value,
    }


def last_id(connection: sqlite3.Connection) -> int:
    """
    The highest id that was ever given, 0 if none was.
    """
    return int(connection.execute(f"SELECT {_LAST}").fetchone()[0])


def values(messages: Sequence[codec.Encoded], last: int, payloads: StoredPayloads) -> list[tuple[codec.Stored, ...]]:
    """
    What is written of messages in the order given, with the ids behind `last`.

    Raises:
        StoreUnavailable: there is no key.
    """
    return [_row(number, message, payloads) for number, message in enumerate(messages, last + 1)]


def insert(connection: sqlite3.Connection, written: Sequence[tuple[codec.Stored, ...]]) -> None:
    """
    Write `values`. Inside a transaction, which keeps others from taking the same ids.
    """
    many.insert(connection, _INSERT_INTO, written)


def insert_if_last(
    database: Database, written: Sequence[tuple[codec.Stored, ...]], last: int, transaction: Transaction
) -> bool:
    """
    Write `values` in a transaction of its own, if `last` is the highest id that was ever given; whether it was.
    """
    return many.insert_if(database, _INSERT_INTO, written, _LAST, last, transaction)


def _row(number: int, message: codec.Encoded, payloads: StoredPayloads) -> tuple[codec.Stored, ...]:
    columns, payload, checksum = message
    stored = payloads.conceal(payload, str(columns[0]), number)
    if stored is not payload:
        checksum = codec.checksum_of(columns, stored)
    return number, *columns, codec.with_id(checksum, number), stored


def read_rows(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, codec.Row]:
    """
    Those that are there, as they are, by their ids.
    """
    return {row[0]: row for row in connection.execute(_SELECT_ROWS, (json.dumps(ids),))}


def update(connection: sqlite3.Connection, message: FailedMessage) -> None:
    """
    Write what a replay may change, and the checksum.
    """
    assert message.id is not None  # noqa: S101 - it was read from a row
    columns, _, checksum = codec.encode(message)
    named = dict(zip(codec.COLUMNS, columns, strict=True))
    changed = [named[name] for name in ("certainty", "error", "attempts", "last_failed_at")]
    connection.execute(_UPDATE, (*changed, codec.with_id(checksum, message.id), message.id))


def delete(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """
    Remove messages and their claims.
    """
    many.delete(connection, "claims", ids)
    many.delete(connection, "failed_messages", ids)


def bytes_in_use(connection: sqlite3.Connection) -> int:
    """
    Of the file, without what is free in it.
    """
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
