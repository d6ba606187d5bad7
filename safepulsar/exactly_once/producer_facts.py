"""
What the file has about a producer name, under a checksum: the SQL of the journal and of the outbox.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safepulsar.errors import InvalidInput, StoreCorrupted, StoreOfAnotherProducer
from safepulsar.failed_messages import codec
from safepulsar.failed_messages.transitions import is_live
from safepulsar.message import MessageId
from safepulsar.processes.live_process import lives

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

MAX_SEQUENCE_ID = 2**63 - 1
OUTBOX = ""  # no producer is named so
_COLUMNS = (
    "topic",
    "source",
    "confirmed",
    "allocated",
    "positions",
    "owner",
    "process",
    "lease_ends_at",
    "fencing_token",
    "in_outbox",
    "checksum",
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM producers WHERE name = ?"  # noqa: S608 - made of constants
_WRITE = f"INSERT OR REPLACE INTO producers (name, {', '.join(_COLUMNS)}) VALUES (?{', ?' * len(_COLUMNS)})"  # noqa: S608 - as above


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerFacts:
    """
    One producer name as the file has it.

    Args:
        topic: the one that it belongs to.
        source: what its ids count, None if nobody said.
        confirmed: every id up to here is final.
        allocated: no id up to here is ever handed out again.
        positions: by partition, a message of the topic that stands before everything unconfirmed.
        owner: who may write, None if nobody.
        process: the owner's process, see `live_process`.
        lease_ends_at: Unix time in seconds.
        fencing_token: how often the name was claimed.
        in_outbox: whether the outbox numbers its messages.
    """

    topic: str
    source: str | None = None
    confirmed: int = 0
    allocated: int = 0
    positions: Mapping[int, MessageId]
    owner: str | None = None
    process: str | None = None
    lease_ends_at: float = 0.0
    fencing_token: int = 0
    in_outbox: bool = False

    def is_held(self, now: float, asked_by: str | None) -> bool:
        """
        Whether a living owner has it.

        Another process that lives has it, however long ago its lease ended: what it holds up may still arrive. Within
        one process, and where nobody can tell, the lease counts.
        """
        if self.owner is None:
            return False
        alive = lives(self.process)
        if alive and self.process != asked_by:
            return True
        return alive is not False and is_live(self.lease_ends_at, now)


def read_facts(connection: sqlite3.Connection, producer_name: str) -> ProducerFacts | None:
    """
    What the file has about a name, None if nothing.

    Raises:
        StoreCorrupted: the row is damaged.
    """
    row = connection.execute(_SELECT, (producer_name,)).fetchone()
    if row is None:
        return None
    *stored, checksum = row
    try:
        columns: tuple[Any, ...] = codec.decoded(stored)
    except codec.RowDamaged:
        columns = ()
    if _checksum(producer_name, columns) != checksum:
        what = f"producer name {producer_name!r}" if producer_name else "the ids of its outbox"
        raise StoreCorrupted(
            f"what the store knows about {what} fails its checksum and cannot be trusted; restore a backup, or go on with "
            "another producer name in another store"
        )
    topic, source, confirmed, allocated, positions, owner, process, lease_ends_at, fencing_token, in_outbox = columns
    return ProducerFacts(
        topic=topic,
        source=source,
        confirmed=confirmed,
        allocated=allocated,
        positions={partition: MessageId(*where) for partition, *where in json.loads(positions)},
        owner=owner,
        process=process,
        lease_ends_at=lease_ends_at,
        fencing_token=fencing_token,
        in_outbox=bool(in_outbox),
    )


def write_facts(connection: sqlite3.Connection, producer_name: str, facts: ProducerFacts) -> None:
    """
    Put these facts in the place of what the file has. Inside a transaction.
    """
    positions = sorted((partition, *where) for partition, where in facts.positions.items())
    columns = (
        facts.topic,
        facts.source,
        facts.confirmed,
        facts.allocated,
        json.dumps(positions, separators=(",", ":")),
        facts.owner,
        facts.process,
        float(facts.lease_ends_at),
        facts.fencing_token,
        int(facts.in_outbox),
    )
    connection.execute(_WRITE, (producer_name, *columns, _checksum(producer_name, columns)))
    if facts.in_outbox:
        skip_in_outbox(connection, facts.allocated)


def skip_in_outbox(connection: sqlite3.Connection, last: int) -> None:
    """
    Let the outbox give no id up to `last` again. Inside a transaction.
    """
    facts = read_facts(connection, OUTBOX) or ProducerFacts(topic="", positions={})
    if facts.allocated < last:
        write_facts(connection, OUTBOX, replace(facts, allocated=last))


def of_topic(facts: ProducerFacts | None, producer_name: str, topic: str) -> ProducerFacts:
    """
    The facts, which are new ones if there are none.

    Raises:
        StoreOfAnotherProducer: the name belongs to another topic here.
    """
    if facts is None:
        return ProducerFacts(topic=topic, positions={})
    if facts.topic != topic:
        raise StoreOfAnotherProducer(
            f"producer name {producer_name!r} belongs to topic {facts.topic!r} in this store, not to {topic!r}: its ids "
            "count that topic's messages; use another producer name, or another store"
        )
    return facts


def allocate(facts: ProducerFacts, producer_name: str, count: int) -> tuple[ProducerFacts, range]:
    """
    The facts after handing out the next `count` ids, and these.

    Raises:
        InvalidInput: there are not so many ids.
        StoreOfAnotherProducer: the outbox numbers the messages of this name.
    """
    if facts.in_outbox:
        raise StoreOfAnotherProducer(
            f"the outbox of this store numbers the messages of producer name {producer_name!r}; use another one for ids of "
            "your own"
        )
    first = facts.allocated + 1
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_SEQUENCE_ID - facts.allocated:
        problem = f"must be a whole number from 1 to {MAX_SEQUENCE_ID - facts.allocated}, the ids that are left"
        raise InvalidInput("count", problem)
    return replace(facts, allocated=facts.allocated + count), range(first, first + count)


def _checksum(producer_name: str, columns: tuple[object, ...]) -> int:
    return zlib.crc32(ascii((producer_name, columns)).encode())
