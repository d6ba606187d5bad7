"""
Who may replay what: the SQL of leases and lanes, inside the transactions of the SQLite store.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from safepulsar.failed_messages import codec, many
from safepulsar.failed_messages.filter import FailedMessageFilter
from safepulsar.failed_messages.rows import MATCHES, SELECT_ROW, parameters, read_rows, update
from safepulsar.failed_messages.transitions import is_live, left_behind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator

    from safepulsar.message import FailedMessage

_Lane: TypeAlias = tuple[bytes, bytes]

_AT_ONCE = 500  # rows that are read together
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
    reveal: Callable[[FailedMessage], FailedMessage],
) -> list[FailedMessage]:
    """
    Lease what may be leased, in the order of ids, and read it.
    """
    end_old_leases(connection, now, report)
    selection = _Selection(connection, owner, where, now, limit=limit, max_bytes=max_bytes)
    taken: list[FailedMessage] = []
    broken: set[_Lane | None] = set()  # lanes in which a damaged one was found; what was selected before it stays
    while not (selection.full and taken):
        wanted = selection.more()
        if not wanted:
            break
        found = read_rows(connection, [failed_message_id for failed_message_id, _ in wanted])
        for failed_message_id, lane in wanted:
            if lane in broken:
                selection.count -= 1
                continue
            try:
                taken.append(reveal(codec.decode(found[failed_message_id])))
            except codec.RowDamaged:
                report(failed_message_id)  # it stays unclaimed, and so in the way of what is behind it in its lane
                selection.count -= 1
                if lane is not None:
                    broken.add(lane)
                    selection.stopped.add(lane)
    many.insert(
        connection,
        "INSERT INTO claims (id, owner, lease_ends_at)",
        [(message.id, owner, lease_ends_at) for message in taken],
    )
    return taken


class _Selection:
    """
    Which messages may be leased, in the order of ids, some at a time.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        owner: str,
        where: FailedMessageFilter,
        now: float,
        *,
        limit: int,
        max_bytes: int,
    ) -> None:
        self.full = False  # whether the next one would be too much
        self.count = 0  # of those selected; one that can't be taken is taken off
        self.stopped: set[_Lane | None] = set(connection.execute(_LANES_OF_OTHERS, {"owner": owner}))
        self._connection = connection
        self._candidates: Iterator[tuple[int, bytes, bytes | None, int]] = connection.execute(
            _CANDIDATES, parameters(where, now)
        )
        # A filter that takes whole lanes leaves nothing out, so there it need not be asked for each message.
        self._takes_whole_lanes = where == FailedMessageFilter(topic=where.topic, key=where.key)
        self._looked_at: dict[_Lane, int] = {}  # the last id of each lane up to which all is this owner's
        self._limit, self._max_bytes = limit, max_bytes
        self._bytes = 0

    def more(self) -> list[tuple[int, _Lane | None]]:
        """
        The next ones with their lanes; whoever finds one damaged stops its lane.
        """
        self.full = False
        wanted: list[tuple[int, _Lane | None]] = []
        for candidate in self._candidates:
            failed_message_id, topic, lane_key, payload_bytes = candidate
            lane = None if lane_key is None else (topic, lane_key)
            if lane is not None and (lane in self.stopped or self._something_is_before(failed_message_id, lane)):
                self.stopped.add(lane)
                continue
            if self.count and (self.count >= self._limit or self._bytes + payload_bytes > self._max_bytes):
                self.full = True
                self._candidates = chain([candidate], self._candidates)
                break
            wanted.append((failed_message_id, lane))
            self.count += 1
            self._bytes += payload_bytes
            if len(wanted) == _AT_ONCE:
                break
        return wanted

    def _something_is_before(self, failed_message_id: int, lane: _Lane) -> bool:
        """
        Whether anything stands before it in its lane that is neither this owner's nor gone.
        """
        if self._takes_whole_lanes:
            return False
        between = (*lane, self._looked_at.get(lane, 0), failed_message_id)
        self._looked_at[lane] = failed_message_id
        return self._connection.execute(_UNCLAIMED_BETWEEN, between).fetchone() is not None


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
    many.delete(connection, "claims", ids)
