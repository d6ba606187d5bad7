"""
Many rows in few statements: each statement lets go of the GIL, and takes it back from whoever has it by then.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from safepulsar.failed_messages.codec import Stored
    from safepulsar.failed_messages.database import Database, Transaction

AT_ONCE = 128  # rows; times the columns of a row: far below the 32,766 parameters that SQLite takes


def insert(
    connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[Stored]], before: Sequence[Stored] = ()
) -> None:
    """
    Write rows of one width. `into` is the statement up to `VALUES`, or has `{values}` where they belong.

    Args:
        connection: within a transaction.
        into: the statement.
        rows: what is written.
        before: the parameters that stand before those of the rows.
    """
    start = 0
    for size in _sizes(len(rows)):
        part = rows[start : start + size]
        connection.execute(_statement(into, len(part[0]), size), [*before, *chain.from_iterable(part)])
        start += size


def insert_if(
    database: Database,
    into: str,
    rows: Sequence[Sequence[Stored]],
    condition: str,
    expected: Stored,
    transaction: Transaction,
) -> bool:
    """
    Write at most `AT_ONCE` rows in a transaction of their own, if the condition has the value expected; whether it had.
    """
    statement = _conditional(into, len(rows[0]), len(rows), condition)
    return database.write_at_once(statement, [*chain.from_iterable(rows), expected], transaction)


def delete(connection: sqlite3.Connection, table: str, ids: Iterable[int]) -> None:
    """
    Remove rows by their ids; those that are not there do no harm.
    """
    statement = f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608 - a constant
    connection.execute(statement, (json.dumps(list(ids)),))


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """
    Rising numbers as ranges, each by its first and its last one.
    """
    first = last = None
    for number in numbers:
        if last is not None and first is not None and number != last + 1:
            yield first, last
            first = None
        if first is None:
            first = number
        last = number
    if first is not None and last is not None:
        yield first, last


def _sizes(count: int) -> Iterator[int]:
    """
    Powers of two, so that there are few statements, which stay prepared.
    """
    size = AT_ONCE
    while count:
        while size > count:
            size //= 2
        yield size
        count -= size


@cache
def _statement(into: str, width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    values = f"VALUES {', '.join([row] * size)}"
    return into.format(values=values) if "{values}" in into else f"{into} {values}"


@cache
def _conditional(into: str, width: int, size: int, condition: str) -> str:
    return f"{into} SELECT * FROM ({_statement('', width, size)}) WHERE ({condition}) = ?"  # noqa: S608 - made of constants
