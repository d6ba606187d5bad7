"""
Who may replay what: the SQL of leases and lanes, inside the transactions of the SQLite store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.failed_messages import codec
from safepulsar.failed_messages.rows import MATCHES, SELECT_ROW, parameters, update
from safepulsar.failed_messages.transitions import is_live, left_behind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable

    from safepulsar.failed_messages.filter import FailedMessageFilter
    from safepulsar.message import FailedMessage

_CANDIDATES = f"""
    SELECT m.id, m.topic, m.lane_key, coalesce(length(m.payload), 0)
    FROM failed_messages m LEFT JOIN claims c ON c.id = m.id
    WHERE c.id IS NULL AND {MATCHES}
    ORDER BY m.id
"""  # noqa: S608 - made of constants
_LANES_OF_OTHERS = """
    SELECT DISTINCT m.topic, m.lane_key
    FROM claims c JOIN failed_messages m ON m.id = c.id
    WHERE c.owner <> :owner AND m.lane_key IS NOT NULL
"""
_UNCLAIMED_BETWEEN = """
    SELECT 1
    FROM failed_messages m LEFT JOIN claims c ON c.id = m.id
    WHERE m.topic = CAST(? AS TEXT) AND m.lane_key = CAST(? AS TEXT) AND m.id > ? AND m.id < ? AND c.id IS NULL
    LIMIT 1
"""


def end_old_leases(connection: sqlite3.Connection, now: float, report: Callable[[int], None]) -> None:
    """
    Remove the leases that ran out, and mark what they held as `MAYBE_STORED`.
    """
    leases = connection.execute("SELECT id, lease_ends_at FROM claims").fetchall()
    for failed_message_id, lease_ends_at in leases:
        if is_live(lease_ends_at, now):
            continue
        connection.execute("DELETE FROM claims WHERE id = ?", (failed_message_id,))
        for row in connection.execute(SELECT_ROW, (failed_message_id,)).fetchall():
            try:
                update(connection, left_behind(codec.decode(row)))
            except codec.RowDamaged:
                report(failed_message_id)


def claim(
    connection: sqlite3.Connection,
    owner: str,
    where: FailedMessageFilter,
    *,
    limit: int,
    max_bytes: int,
    lease_ends_at: float,
    now: float,
    report: Callable[[int], None],
) -> list[FailedMessage]:
    """
    Lease what may be leased, in the order of ids, and read it.
    """
    end_old_leases(connection, now, report)
    stopped: set[tuple[bytes, bytes]] = set(connection.execute(_LANES_OF_OTHERS, {"owner": owner}))
    looked_at: dict[tuple[bytes, bytes], int] = {}  # the last id of each lane up to which all is this owner's
    taken: list[FailedMessage] = []
    taken_bytes = 0
    for failed_message_id, topic, lane_key, payload_bytes in connection.execute(_CANDIDATES, parameters(where, now)):
        lane = None if lane_key is None else (topic, lane_key)
        if lane is not None:
            if lane in stopped:
                continue
            between = (*lane, looked_at.get(lane, 0), failed_message_id)
            if connection.execute(_UNCLAIMED_BETWEEN, between).fetchone():
                stopped.add(lane)
                continue
        if taken and (len(taken) == limit or taken_bytes + payload_bytes > max_bytes):
            break
        try:
            message = codec.decode(connection.execute(SELECT_ROW, (failed_message_id,)).fetchone())
        except codec.RowDamaged:
            report(failed_message_id)  # it stays unclaimed, and so in the way of what is behind it in its lane
            continue
        if lane is not None:
            looked_at[lane] = failed_message_id
        taken.append(message)
        taken_bytes += payload_bytes
    connection.executemany(
        "INSERT INTO claims (id, owner, lease_ends_at) VALUES (?, ?, ?)",
        [(message.id, owner, lease_ends_at) for message in taken],
    )
    return taken


def held(connection: sqlite3.Connection, owner: str, ids: Iterable[int] | None) -> list[int]:
    """
    Those of `ids` (None: all) that nobody took over from `owner`, in the order of ids.
    """
    mine = [number for (number,) in connection.execute("SELECT id FROM claims WHERE owner = ? ORDER BY id", (owner,))]
    if ids is None:
        return mine
    wanted = set(ids)
    return [number for number in mine if number in wanted]


def extend(
    connection: sqlite3.Connection, owner: str, ids: Iterable[int], *, lease_ends_at: float, now: float
) -> list[int]:
    """
    Renew what is held by a lease that has not run out.
    """
    wanted = set(ids)
    leases = connection.execute("SELECT id, lease_ends_at FROM claims WHERE owner = ? ORDER BY id", (owner,))
    still = [number for number, ends_at in leases if number in wanted and is_live(ends_at, now)]
    connection.executemany(
        "UPDATE claims SET lease_ends_at = ? WHERE id = ?", [(lease_ends_at, number) for number in still]
    )
    return still


def give_back(connection: sqlite3.Connection, ids: Iterable[int]) -> None:
    """
    End these claims.
    """
    connection.executemany("DELETE FROM claims WHERE id = ?", [(number,) for number in ids])
