"""
Messages of the outbox as rows: the SQL that writes, reads and deletes them, and the checksum that covers each.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from safepulsar.errors import InvalidMessage
from safepulsar.exactly_once.producer_facts import OUTBOX, of_topic, read_facts, skip_in_outbox, write_facts
from safepulsar.failed_messages import codec, many
from safepulsar.outbox.row import OutboxRow

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from safepulsar.failed_messages.database import Database, Transaction
    from safepulsar.failed_messages.stored_payload import StoredPayloads
    from safepulsar.message import Message

_SEQUENCE_ID = codec.MESSAGE_COLUMNS.index("sequence_id")
# The id is the sequence id.
_COLUMNS = (*(name for name in codec.MESSAGE_COLUMNS if name != "sequence_id"), "producer_name", "accepted_at")
_INSERT_INTO = f"INSERT INTO outbox (id, {', '.join(_COLUMNS)}, checksum, payload)"
_SELECT_PAGE = f"SELECT id, {', '.join(_COLUMNS)}, checksum, payload FROM outbox WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - made of constants
_LAST = f"SELECT max(id), (SELECT allocated FROM producers WHERE name = '{OUTBOX}') FROM outbox"  # noqa: S608 - as above
_LAST_OF_ALL = f"""
    max(
        coalesce((SELECT max(id) FROM outbox), 0),
        coalesce((SELECT allocated FROM producers WHERE name = '{OUTBOX}'), 0)
    )
"""  # noqa: S608 - as above
_DELETE = "DELETE FROM outbox WHERE id BETWEEN ? AND ?"


class Encoded(NamedTuple):
    """
    A message ready to be written, but for its id.
    """

    columns: tuple[codec.Column, ...]
    checksum: int
    message: Message
    producer_name: str
    accepted_at: float


def encode(message: Message, producer_name: str, accepted_at: float) -> Encoded:
    """
    All columns but the id and the payload, and the checksum without the id.

    Raises:
        InvalidMessage: it has a sequence id of its own, or a value that would come back changed.
    """
    if message.sequence_id is not None:
        problem = "must not be given: the outbox numbers its messages itself"
        raise InvalidMessage("sequence_id", problem)
    of_message = codec.encode_message(message)
    columns = (*of_message[:_SEQUENCE_ID], *of_message[_SEQUENCE_ID + 1 :], producer_name, accepted_at)
    return Encoded(columns, codec.checksum_of(columns, message.payload), message, producer_name, accepted_at)


def enter(connection: sqlite3.Connection, producer_name: str, topic: str) -> None:
    """
    Let the outbox number the messages of a producer name from now on. Inside a transaction.

    Raises:
        StoreOfAnotherProducer: the name belongs to another topic here.
        StoreCorrupted: its facts are damaged.
    """
    facts = of_topic(read_facts(connection, producer_name), producer_name, topic)
    if not facts.in_outbox:
        write_facts(connection, producer_name, replace(facts, in_outbox=True))


def last_id(connection: sqlite3.Connection, believed: int = 0) -> tuple[int, int]:
    """
    The highest id that was ever given, 0 if none was; and what to believe next time.

    Args:
        connection: any.
        believed: the count of removed ids that was found intact last time: the same again is not checked again.

    Raises:
        StoreCorrupted: the count is damaged.
    """
    newest, removed = connection.execute(_LAST).fetchone()
    if (removed or 0) != believed:
        facts = read_facts(connection, OUTBOX)
        believed = 0 if facts is None else facts.allocated
    return max(newest or 0, believed), believed


def values(messages: Sequence[Encoded], last: int, payloads: StoredPayloads) -> list[tuple[codec.Stored, ...]]:
    """
    What is written of messages in the order given, with the ids behind `last`.

    Raises:
        StoreUnavailable: there is no key.
    """
    written: list[tuple[codec.Stored, ...]] = []
    for number, (columns, checksum, message, _, _) in enumerate(messages, last + 1):
        stored = payloads.conceal(message.payload, message.topic, number)
        known = checksum if stored is message.payload else codec.checksum_of(columns, stored)
        written.append((number, *columns, codec.with_id(known, number), stored))
    return written


def insert(connection: sqlite3.Connection, written: Sequence[tuple[codec.Stored, ...]]) -> None:
    """
    Write `values`. Inside a transaction.
    """
    many.insert(connection, _INSERT_INTO, written)


def insert_if_last(
    database: Database, written: Sequence[tuple[codec.Stored, ...]], last: int, transaction: Transaction
) -> bool:
    """
    Write `values` in a transaction of its own, if `last` is the highest id that was ever given; whether it was.
    """
    return many.insert_if(database, _INSERT_INTO, written, _LAST_OF_ALL, last, transaction)


def read(connection: sqlite3.Connection, after: int, *, limit: int, max_bytes: int) -> tuple[list[codec.Row], bool]:
    """
    The next rows behind `after`, as they are, and whether these are all.
    """
    page: list[codec.Row] = []
    size = 0
    cursor = connection.execute(_SELECT_PAGE, (after, limit + 1))
    for row in cursor:
        payload = row[-1]
        size += len(payload) if isinstance(payload, bytes) else 0
        if page and (len(page) == limit or size > max_bytes):
            cursor.close()
            return page, False
        page.append(row)
    return page, True


def decode(row: codec.Row, payloads: StoredPayloads) -> OutboxRow:
    """
    The row, if it is what was written.

    Raises:
        RowDamaged: it is not.
        StoreUnavailable: there is no key.
    """
    number, *stored, checksum, payload = row
    columns = codec.decoded(stored)
    if (
        type(number) is not int
        or not (payload is None or isinstance(payload, bytes))
        or codec.with_id(codec.checksum_of(columns, payload), number) != checksum
    ):
        raise codec.RowDamaged
    *of_message, producer_name, accepted_at = columns
    of_message.insert(_SEQUENCE_ID, None)
    message = payloads.reveal_message(codec.message_of(of_message, payload), number)
    return OutboxRow(number, str(producer_name), float(accepted_at or 0.0), message)


def there(connection: sqlite3.Connection, ids: Iterable[int]) -> list[int]:
    """
    Those that are in the outbox, rising.
    """
    wanted = json.dumps(list(ids))
    statement = "SELECT id FROM outbox WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
    return [number for (number,) in connection.execute(statement, (wanted,))]


def delete(connection: sqlite3.Connection, ids: Iterable[int]) -> None:
    """
    Remove rows, and give none of their ids again; those that are not there do no harm. Inside a transaction.
    """
    numbers = sorted(set(ids))
    newest = connection.execute(_LAST).fetchone()[0]
    for first, last in many.runs(numbers):
        connection.execute(_DELETE, (first, last))
    if newest is not None and numbers and numbers[-1] >= newest:
        skip_in_outbox(connection, newest)


def stats(connection: sqlite3.Connection) -> tuple[int, int, float | None]:
    """
    How many rows, how many bytes of payload, and when the first one was accepted.
    """
    waiting, size = connection.execute("SELECT count(*), coalesce(sum(length(payload)), 0) FROM outbox").fetchone()
    first = connection.execute("SELECT accepted_at FROM outbox ORDER BY id LIMIT 1").fetchone()
    return waiting, size, None if first is None else first[0]
