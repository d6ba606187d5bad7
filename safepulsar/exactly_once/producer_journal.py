"""
What is surely known about a producer name, on disk: what its ids count, how far they are final, who may use it now.

It survives kill -9 and power cuts, and lets one owner at a time write. It is in the same file as the failed messages.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from safepulsar.errors import ForkedProcess, InvalidInput, ProducerNameInUse, StoreOfAnotherProducer
from safepulsar.exactly_once.producer_facts import MAX_SEQUENCE_ID, allocate, of_topic, read_facts, write_facts
from safepulsar.failed_messages.transitions import check_lease, check_owner
from safepulsar.message import MessageId
from safepulsar.processes.live_process import this_process
from safepulsar.settings.base import check_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from safepulsar.exactly_once.producer_facts import ProducerFacts
    from safepulsar.failed_messages import SqliteFailedMessages


class ProducerJournal:
    """
    The journal of all producer names in one store. Thread-safe; processes share it.

    Args:
        store: open whenever the journal is used.
    """

    def __init__(self, store: SqliteFailedMessages) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<ProducerJournal in {self._store!r}>"

    def claim(self, producer_name: str, topic: str, *, owner: str, lease_seconds: float) -> JournalClaim:
        """
        Take a name for oneself, with all that is known about it. It belongs to this topic from now on.

        A name is free at once when the process of its owner is gone, and not before, where the system can tell. Within
        one process, and where the system can't tell, it is free when the lease ends.

        Args:
            producer_name: as the broker knows it.
            topic: its full name.
            owner: who takes it, such as host and process id; errors name it.
            lease_seconds: how long; `extend` before it is over.

        Raises:
            ProducerNameInUse: another owner has it.
            StoreOfAnotherProducer: it belongs to another topic here.
            StoreError: the store failed.
        """
        check_text("ProducerJournal.claim", "producer_name", producer_name, optional=False)
        check_text("ProducerJournal.claim", "topic", topic, optional=False)
        return JournalClaim(self._store, producer_name, topic, owner=owner, lease_seconds=lease_seconds)


class JournalClaim:
    """
    One owner's hold on a producer name; `ProducerJournal.claim` makes it. Thread-safe.

    All methods that write are on disk when they return, and raise `ProducerNameInUse` once another owner took over:
    send nothing more under this name then. A lease that ran out is no harm as long as nobody took over.

    After a fork it belongs to the parent alone, and raises `ForkedProcess` in the child.
    """

    def __init__(
        self, store: SqliteFailedMessages, producer_name: str, topic: str, *, owner: str, lease_seconds: float
    ) -> None:
        check_owner(owner)
        check_lease(lease_seconds)
        self.producer_name = producer_name
        self.fencing_token = 0
        process = this_process()
        with store.database.writing() as connection:
            now = store.clock()
            facts = of_topic(read_facts(connection, producer_name), producer_name, topic)
            if facts.is_held(now, process):
                raise _in_use(producer_name, facts, f"end it, or {_instead(producer_name)}; {_when_free(facts)}")
            facts = replace(
                facts,
                owner=owner,
                process=process,
                lease_ends_at=now + lease_seconds,
                fencing_token=facts.fencing_token + 1,
            )
            write_facts(connection, producer_name, facts)
        self.fencing_token = facts.fencing_token
        self._store = store
        self._facts = facts
        self._pid = os.getpid()
        # Held over each write, so that what is remembered is what was written last. It guards _facts.
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<JournalClaim of {self.producer_name!r}, fencing token {self.fencing_token}>"

    @property
    def topic(self) -> str:
        """
        The full name of the topic.
        """
        return self._facts.topic

    @property
    def source(self) -> str | None:
        """
        What the ids count, such as the fingerprint of an input; None if nobody said.
        """
        return self._facts.source

    @property
    def confirmed(self) -> int:
        """
        Every id up to here is final; 0 if none is.
        """
        return self._facts.confirmed

    @property
    def allocated(self) -> int:
        """
        The highest id that may have been used, as of the last write through this claim; not counting the outbox's ids.
        """
        return self._facts.allocated

    @property
    def positions(self) -> dict[int, MessageId]:
        """
        By partition (-1: not partitioned), a message id that stands before everything unconfirmed. A copy.
        """
        return dict(self._facts.positions)

    def allocate(self, count: int) -> range:
        """
        Ids that nobody was ever given under this name, rising, from 1.

        Each call is a write to disk: ask for many at once. Ids that are not used leave a gap, which does no harm.

        Raises:
            InvalidInput: not a whole number of at least 1, or there are not so many left.
            StoreOfAnotherProducer: the outbox numbers the messages of this name.
        """
        given: list[range] = []

        def change(facts: ProducerFacts) -> ProducerFacts:
            facts, ids = allocate(facts, self.producer_name, count)
            given.append(ids)
            return facts

        self._write(change)
        return given[0]

    def advance(self, beyond: int) -> None:
        """
        Never hand out an id up to `beyond`: the broker knows it, so it would drop what comes with a lower one.

        Raises:
            InvalidInput: not a whole number from 0 to 2**63 - 1.
        """
        _check_id("beyond", beyond)
        self._write(lambda facts: replace(facts, allocated=max(facts.allocated, beyond)))

    def record(self, *, confirmed: int, positions: Mapping[int, MessageId]) -> None:
        """
        Every id up to `confirmed` is final, and in these partitions it stands at or before these message ids.

        Partitions that are not named keep what was recorded.

        Raises:
            InvalidInput: `confirmed` is below what was recorded before, or not a sequence id.
        """
        _check_id("confirmed", confirmed)

        def change(facts: ProducerFacts) -> ProducerFacts:
            if confirmed < facts.confirmed:
                problem = f"must be at least {facts.confirmed}, which is recorded: what is final stays so"
                raise InvalidInput("confirmed", problem)
            return replace(
                facts,
                confirmed=confirmed,
                allocated=max(facts.allocated, confirmed),
                positions={
                    **facts.positions,
                    **{partition: MessageId(*where) for partition, where in positions.items()},
                },
            )

        self._write(change)

    def set_source(self, source: str) -> None:
        """
        Say what the ids count. Once said, it stays.

        Raises:
            StoreOfAnotherProducer: they count something else.
        """
        check_text("JournalClaim.set_source", "source", source, optional=False)

        def change(facts: ProducerFacts) -> ProducerFacts:
            if facts.source not in (None, source):
                raise StoreOfAnotherProducer(
                    f"the ids of producer name {self.producer_name!r} count another input than this one; go on with that "
                    "input, unchanged, or use another producer name"
                )
            return replace(facts, source=source)

        self._write(change)

    def extend(self, lease_seconds: float) -> None:
        """
        Renew the lease from now on.
        """
        check_lease(lease_seconds)
        self._write(lambda facts: replace(facts, lease_ends_at=self._store.clock() + lease_seconds))

    def release(self) -> None:
        """
        Let go of the name, so that others need not wait. Idempotent; what is known about it stays.
        """
        try:
            self._write(lambda facts: replace(facts, owner=None, process=None, lease_ends_at=0.0))
        except ProducerNameInUse:
            return  # somebody else has it, or it was released before

    def _write(self, change: Callable[[ProducerFacts], ProducerFacts]) -> None:
        self._refuse_in_child()  # before the lock, which a thread of the parent may have held at the fork
        with self._turn:
            with self._store.database.writing() as connection:
                facts = change(self.held(connection))
                write_facts(connection, self.producer_name, facts)
            self._facts = facts

    def held(self, connection: sqlite3.Connection) -> ProducerFacts:
        """
        The facts, if this claim holds still. Inside a transaction.

        Raises:
            ProducerNameInUse: it does not.
            ForkedProcess: it belongs to the parent of this process.
        """
        self._refuse_in_child()
        facts = read_facts(connection, self.producer_name)
        if facts is None or facts.fencing_token != self.fencing_token or facts.owner is None:
            raise self._lost(facts)
        return facts

    def _refuse_in_child(self) -> None:
        if self._pid != os.getpid():
            raise ForkedProcess(
                f"{_called(self.producer_name)} was claimed by the parent of this process, which goes on using it; "
                "claim another one here"
            )

    def _lost(self, facts: ProducerFacts | None) -> ProducerNameInUse:
        if facts is None or facts.owner is None:
            return ProducerNameInUse(f"{_called(self.producer_name)} was released; claim it again")
        return _in_use(self.producer_name, facts, "it took over when this one's lease had run out; send nothing more")


def _in_use(producer_name: str, facts: ProducerFacts, remedy: str) -> ProducerNameInUse:
    topic = f" of topic {facts.topic!r}" if facts.topic else ""
    return ProducerNameInUse(f"{_called(producer_name)}{topic} is in use by {facts.owner!r}: {remedy}")


def _called(producer_name: str) -> str:
    return f"producer name {producer_name!r}" if producer_name else "the outbox of this store"


def _instead(producer_name: str) -> str:
    return "use another producer name" if producer_name else "use another store"


def _when_free(facts: ProducerFacts) -> str:
    when = datetime.fromtimestamp(facts.lease_ends_at, timezone.utc).isoformat(timespec="seconds")
    return f"if it is gone already, and the system can't tell, its lease ends at {when}"


def _check_id(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEQUENCE_ID:
        raise InvalidInput(field, f"must be a whole number from 0 to {MAX_SEQUENCE_ID}")
