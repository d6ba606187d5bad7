"""
What happened to each message, written down as it happens: the history that the checker judges.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from safepulsar.testing import StoredMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from safepulsar.message import Certainty, MessageId, Outgoing
    from tests.brokers import Record

    # What a reader found: on the fake broker, or on a real one.
    Readable: TypeAlias = StoredMessage | Record


class What(str, Enum):
    """
    The kinds of events; each says what somebody saw, not what it means.
    """

    ATTEMPTED = "attempted"  # about to be handed to the code under test
    ACCEPTED = "accepted"  # the call returned and took the message
    REJECTED = "rejected"  # the call raised and did not take it: surely not stored
    ACKED = "acked"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    RESENT = "resent"  # sent once more although an earlier try may have been stored
    REPLAYED = "replayed"  # a failed message was sent again from the store, and confirmed
    KEPT = "kept"  # the store holds it, seen there when all was over
    FOUND = "found"  # a reader found it in the topic
    BROKEN = "broken"  # connections to the broker break from here on ...
    HEALED = "healed"  # ... and do so no more
    KILLED = "killed"  # the sending process is dead (kill -9); what was under way will have no fate
    LEDGER = "ledger"  # the numbers that the code under test gave of itself


class Event(NamedTuple):
    """
    One thing that happened. Events stand in the order in which they were recorded.
    """

    what: What
    identity: str
    facts: Mapping[str, Any]


class History:
    """
    A recorder. Every method may be called by any thread, and with a `path` also by any process.

    Without a path the events stay in memory. With one, each is appended to that file as a line of JSON before
    the method returns: it outlives a kill -9 of the process, and several processes may share one file. Wherever
    the order matters, record ATTEMPTED before the call and everything else after it.

    Args:
        path: the file; made if it doesn't exist.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()  # guards the file's descriptor while it is opened
        self._file: int | None = None
        self._events: list[Event] = []

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        """
        A history in memory that begins with these events.
        """
        history = cls()
        history._events.extend(events)
        return history

    def attempted(self, identity: str, topic: str, message: Outgoing, *, lane: str | None = None) -> None:
        """
        `message` goes to `topic` now.

        Args:
            identity: the name of this message, the one that a reader's `identify` will find in it again.
            topic: as it will be given to `found`.
            message: its content as it must be found.
            lane: messages of one lane must be stored in the order of acceptance; None takes the message's
                ordering key, or else its partition key. A message without either is in no order.
        """
        key = message.ordering_key if message.ordering_key is not None else message.partition_key
        self._record(
            What.ATTEMPTED,
            identity,
            topic=topic,
            lane=lane if lane is not None else key,
            content=_content(message.payload, message.partition_key, message.ordering_key),
            properties=dict(message.properties or {}),
        )

    def accepted(self, identity: str) -> None:
        """
        The message was taken. Also implied by a fate.
        """
        self._record(What.ACCEPTED, identity)

    def rejected(self, identity: str) -> None:
        """
        The message was refused with an error at the call, so it must not be in the topic.
        """
        self._record(What.REJECTED, identity)

    def acked(self, identity: str, message_id: MessageId | None = None) -> None:
        """
        The fate was DELIVERED.
        """
        self._record(What.ACKED, identity, message_id=None if message_id is None else _place(message_id))

    def duplicate(self, identity: str) -> None:
        """
        The fate was DUPLICATE.
        """
        self._record(What.DUPLICATE, identity)

    def failed(self, identity: str, certainty: Certainty, kept_id: int | None = None) -> None:
        """
        The fate was FAILED; `kept_id` is the failed message's number in the store.
        """
        self._record(What.FAILED, identity, certainty=certainty.value, kept_id=kept_id)

    def resent(self, identity: str) -> None:
        """
        The code under test sent the message once more, on purpose, while an earlier try may have been stored.
        """
        self._record(What.RESENT, identity)

    def replayed(self, identity: str) -> None:
        """
        The message was kept, sent again from the store and confirmed: it must be in the topic now.
        """
        self._record(What.REPLAYED, identity)

    def kept(self, identity: str, kept_id: int) -> None:
        """
        The store holds the message under this number at the end.
        """
        self._record(What.KEPT, identity, kept_id=kept_id)

    def broken(self) -> None:
        """
        From now on connections break. To be called before the fault is made.
        """
        self._record(What.BROKEN, "")

    def healed(self) -> None:
        """
        The fault is over. To be called after the broker answers again.
        """
        self._record(What.HEALED, "")

    def killed(self) -> None:
        """
        The sending process was killed (-9). To be called, by whoever killed it, when it is gone.
        """
        self._record(What.KILLED, "")

    def ledger(self, *, accepted: int, delivered: int, duplicate: int, failed: int, in_flight: int = 0) -> None:
        """
        The numbers of one sender at its end; those of several senders add up.
        """
        self._record(
            What.LEDGER,
            "",
            accepted=accepted,
            delivered=delivered,
            duplicate=duplicate,
            failed=failed,
            in_flight=in_flight,
        )

    def found(self, topic: str, records: Iterable[Readable], identify: Callable[[Readable], str | None]) -> None:
        """
        A reader found these in the topic, in this order, from its first message to its last.

        Args:
            topic: as given to `attempted`.
            records: all of them; a topic is read once.
            identify: the identity of a record, from its payload or a property. None: not one of ours.
        """
        for record in records:
            identity = identify(record)
            self._record(
                What.FOUND,
                "" if identity is None else identity,
                topic=topic,
                message_id=_place_of(record),
                content=_content(record.payload, record.partition_key, record.ordering_key),
                properties=dict(record.properties),
            )

    def events(self) -> Iterator[Event]:
        """
        Everything so far, in order.

        A last line that a kill left unfinished is passed over; any other broken line raises.
        """
        if self._path is None:
            yield from self._events
            return
        with self._path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    what, identity, facts = json.loads(line)
                    yield Event(What(what), identity, facts)

    def close(self) -> None:
        """
        Close the file. Recording again opens it again.
        """
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _record(self, what: What, identity: str, **facts: object) -> None:
        event = Event(what, identity, facts)
        if self._path is None:
            self._events.append(event)  # one list.append: atomic, so threads need no lock
        else:
            # One write of a whole line to a file open for appending: the lines of several threads and
            # processes stand one after the other, and a killed process leaves at most its last one short.
            os.write(self._open(self._path), json.dumps(event).encode() + b"\n")

    def _open(self, path: Path) -> int:
        with self._lock:
            if self._file is None:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            return self._file


def _content(payload: bytes | None, partition_key: str | None, ordering_key: str | None) -> list[object]:
    # A digest, because a million payloads need not stand in memory or in the file; the size is for the reader of
    # a report. Readers of the official client show a tombstone as an empty payload and no key as an empty one.
    data = payload or b""
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return [len(data), digest, partition_key or "", ordering_key or ""]


def _place(message_id: MessageId) -> list[int]:
    # 0 also for "not in a batch", and without the partition: a reader and an acknowledgement may differ there.
    return [message_id.ledger_id, message_id.entry_id, max(message_id.batch_index, 0)]


def _place_of(record: Readable) -> list[int]:
    if isinstance(record, StoredMessage):
        return _place(record.message_id)
    ledger_id, entry_id, batch_index, _partition = record.position
    return [ledger_id, entry_id, max(batch_index, 0)]
