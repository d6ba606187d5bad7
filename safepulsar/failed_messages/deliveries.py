"""
The record of what was delivered after all: one line in the place of each message, until it is purged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.failed_messages import many
from safepulsar.failed_messages.filter import FailedMessageState
from safepulsar.failed_messages.rows import MATCHES, delete
from safepulsar.failed_messages.status import FailedMessageStatus
from safepulsar.message import MessageId

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

# `MATCHES` knows the table as m; nothing in it is ever claimed.
COUNT = f"SELECT count(*) FROM deliveries m LEFT JOIN claims c ON c.id = m.id WHERE {MATCHES}"  # noqa: S608 - made of constants
SELECT = f"""
    SELECT m.id FROM deliveries m LEFT JOIN claims c ON c.id = m.id
    WHERE {MATCHES}
    ORDER BY m.id
    LIMIT :page
"""  # noqa: S608 - made of constants
_RECORD = """
    INSERT INTO deliveries
    SELECT id, topic, lane_key, certainty, error, first_failed_at, ?, ?, ?, ?, ?, ?
    FROM failed_messages WHERE id = ?
"""
_RECORD_ALL = """
    INSERT INTO deliveries
    SELECT m.id, m.topic, m.lane_key, m.certainty, m.error, m.first_failed_at, ?, ?,
        v.column2, v.column3, v.column4, v.column5
    FROM ({values}) v CROSS JOIN failed_messages m ON m.id = v.column1
"""
_FATE = "SELECT topic, owner, delivered_at, ledger_id, entry_id, partition, batch_index FROM deliveries WHERE id = ?"


def record(
    connection: sqlite3.Connection, failed_message_id: int, message_id: MessageId, *, owner: str | None, now: float
) -> bool:
    """
    Put a line in the place of the message and its claim; False if the message is not there.
    """
    where = (message_id.ledger_id, message_id.entry_id, message_id.partition, message_id.batch_index)
    if connection.execute(_RECORD, (now, owner, *where, failed_message_id)).rowcount == 0:
        return False
    delete(connection, [failed_message_id])
    return True


def record_all(connection: sqlite3.Connection, message_ids: Mapping[int, MessageId], *, owner: str, now: float) -> None:
    """
    The same for many messages, all of which are there.
    """
    places = [
        (number, where.ledger_id, where.entry_id, where.partition, where.batch_index)
        for number, where in message_ids.items()
    ]
    many.insert(connection, _RECORD_ALL, places, (now, owner))
    delete(connection, list(message_ids))


def fate(connection: sqlite3.Connection, failed_message_id: int) -> FailedMessageStatus | None:
    """
    What was recorded of a message, None if nothing.
    """
    found = connection.execute(_FATE, (failed_message_id,)).fetchone()
    if found is None:
        return None
    topic, owner, delivered_at, *message_id = found
    return FailedMessageStatus(
        id=failed_message_id,
        topic=topic.decode(errors="replace"),
        state=FailedMessageState.DELIVERED,
        owner=None if owner is None else owner.decode(errors="replace"),
        delivered_at=delivered_at,
        message_id=MessageId(*message_id),
    )


def forget(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """
    Remove the lines of these messages.
    """
    connection.executemany("DELETE FROM deliveries WHERE id = ?", [(number,) for number in ids])
