"""
The store in memory: the same promises as on disk, except that all is gone when the process ends.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from safepulsar.errors import StoreUnavailable
from safepulsar.failed_messages import codec
from safepulsar.failed_messages.filter import EVERYTHING, FailedMessageState
from safepulsar.failed_messages.status import FailedMessageStatus, StoreStats, absence
from safepulsar.failed_messages.transitions import (
    CLAIM_MAX_BYTES,
    check_claim,
    check_lease,
    check_owner,
    failed_again,
    is_live,
    left_behind,
)
from safepulsar.message import Certainty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from typing_extensions import Self

    from safepulsar.failed_messages.filter import FailedMessageFilter
    from safepulsar.failed_messages.transitions import FailedAgain
    from safepulsar.message import FailedMessage, Message, MessageId

_PAGE = 500


@dataclass(slots=True)
class _Entry:
    message: FailedMessage
    owner: str | None = None
    lease_ends_at: float = 0.0

    def held(self, now: float) -> bool:
        return self.owner is not None and is_live(self.lease_ends_at, now)

    def as_it_stands(self, now: float) -> FailedMessage:
        return left_behind(self.message) if self.owner is not None and not self.held(now) else self.message

    def lane(self) -> tuple[str, str] | None:
        key = self.message.message.lane_key
        return None if key is None else (self.message.message.topic, key)


@dataclass(slots=True)
class _Delivery:
    message: FailedMessage  # without its payload
    status: FailedMessageStatus


class InMemoryFailedMessages:
    """
    A `FailedMessageStore` for tests and for processes that have no disk: what it holds is **gone at exit**.

    Nothing but memory bounds it. A forked child begins with an empty one; its parent's goes on.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._open = False
        self._become_new()

    def _become_new(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards everything below
        self._last_id = 0
        self._entries: dict[int, _Entry] = {}  # in the order of ids
        self._deliveries: dict[int, _Delivery] = {}

    def __repr__(self) -> str:
        return f"<InMemoryFailedMessages {len(self._entries)} kept, {'open' if self._open else 'closed'}>"

    def open(self) -> Self:
        """
        See `FailedMessageStore.open`.
        """
        self._open = True
        return self

    def close(self) -> None:
        """
        See `FailedMessageStore.close`; what is kept is there again after `open()`.
        """
        self._open = False

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """
        See `FailedMessageStore.after_fork`: the child must not send what the parent still holds.
        """
        if self._pid != os.getpid():
            self._become_new()

    def _usable(self) -> threading.Lock:
        self.after_fork()
        if not self._open:
            raise StoreUnavailable("the store in memory is closed; call open() first, or use it in a with block")
        return self._lock

    def keep(self, messages: Sequence[FailedMessage]) -> list[int]:
        """
        See `FailedMessageStore.keep`.
        """
        for message in messages:
            codec.encode(message)  # refuses what the store on disk would refuse
        with self._usable():
            ids = list(range(self._last_id + 1, self._last_id + 1 + len(messages)))
            for number, failed in zip(ids, messages, strict=True):
                self._entries[number] = _Entry(replace(failed, id=number, message=_detached(failed.message)))
            self._last_id += len(ids)
        return ids

    def get(self, failed_message_id: int) -> FailedMessage:
        """
        See `FailedMessageStore.get`.
        """
        with self._usable():
            entry = self._entries.get(failed_message_id)
            if entry is None:
                delivery = self._deliveries.get(failed_message_id)
                raise absence(failed_message_id, None if delivery is None else delivery.status)
            return entry.as_it_stands(self._clock())

    def status(self, failed_message_id: int) -> FailedMessageStatus:
        """
        See `FailedMessageStore.status`.
        """
        with self._usable():
            entry = self._entries.get(failed_message_id)
            if entry is None:
                if failed_message_id not in self._deliveries:
                    raise absence(failed_message_id, None)
                return self._deliveries[failed_message_id].status
            claimed = entry.held(self._clock())
            return FailedMessageStatus(
                id=failed_message_id,
                topic=entry.message.message.topic,
                state=FailedMessageState.CLAIMED if claimed else FailedMessageState.KEPT,
                owner=entry.owner if claimed else None,
                lease_ends_at=entry.lease_ends_at if claimed else None,
            )

    def find(
        self, where: FailedMessageFilter = EVERYTHING, *, limit: int | None = None, after: int = 0
    ) -> Iterator[FailedMessage]:
        """
        See `FailedMessageStore.find`.
        """
        return self._find(where.needs_a_payload(), limit, after)

    def _find(self, where: FailedMessageFilter, limit: int | None, after: int) -> Iterator[FailedMessage]:
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            with self._usable():
                now = self._clock()
                matching = (
                    entry for number, entry in self._entries.items() if number > after and _matches(where, entry, now)
                )
                page = [entry.as_it_stands(now) for entry in islice(matching, size)]
            if not page:
                return
            yield from page
            after = page[-1].id or 0
            left = None if left is None else left - len(page)

    def count(self, where: FailedMessageFilter = EVERYTHING) -> int:
        """
        See `FailedMessageStore.count`.
        """
        with self._usable():
            return len(self._matching_locked(where))

    def _matching_locked(self, where: FailedMessageFilter) -> list[int]:
        now = self._clock()
        if where.state is FailedMessageState.DELIVERED:
            return [n for n, delivery in self._deliveries.items() if where.fits(delivery.message, now)]
        return [n for n, entry in self._entries.items() if _matches(where, entry, now)]

    def stopped_lanes(self, topic: str) -> dict[str, int]:
        """
        See `FailedMessageStore.stopped_lanes`.
        """
        found: dict[str, int] = {}
        with self._usable():
            for number in sorted(self._entries):
                message = self._entries[number].message.message
                if message.topic == topic and message.ordering_key is not None:
                    found.setdefault(message.ordering_key, number)
        return found

    def stats(self) -> StoreStats:
        """
        See `FailedMessageStore.stats`; `bytes` are those of the payloads.
        """
        with self._usable():
            now = self._clock()
            claimed = sum(entry.held(now) for entry in self._entries.values())
            first = next(iter(self._entries.values()), None)
            return StoreStats(
                kept=len(self._entries) - claimed,
                claimed=claimed,
                delivered=len(self._deliveries),
                corrupted=0,
                oldest_age_seconds=0.0 if first is None else max(0.0, now - first.message.first_failed_at),
                bytes=sum(len(entry.message.message.payload or b"") for entry in self._entries.values()),
            )

    def corrupted_ids(self) -> tuple[int, ...]:
        """
        See `FailedMessageStore.corrupted_ids`: none, ever.
        """
        return ()

    def claim(
        self,
        owner: str,
        where: FailedMessageFilter = EVERYTHING,
        *,
        limit: int,
        lease_seconds: float,
        max_bytes: int = CLAIM_MAX_BYTES,
    ) -> list[FailedMessage]:
        """
        See `FailedMessageStore.claim`.
        """
        check_claim(owner, limit, lease_seconds, max_bytes)
        where.needs_a_payload()
        with self._usable():
            now = self._clock()
            self._end_old_leases_locked(now)
            entries = self._entries.values()
            stopped = {entry.lane() for entry in entries if entry.owner not in (None, owner)} - {None}
            taken: list[_Entry] = []
            taken_bytes = 0
            for entry in entries:
                lane = entry.lane()
                if entry.owner is not None or lane in stopped:
                    continue
                if not _matches(where, entry, now):
                    stopped.add(lane)
                    stopped.discard(None)
                    continue
                size = len(entry.message.message.payload or b"")
                if taken and (len(taken) == limit or taken_bytes + size > max_bytes):
                    break
                taken.append(entry)
                taken_bytes += size
            for entry in taken:
                entry.owner, entry.lease_ends_at = owner, now + lease_seconds
            return [entry.message for entry in taken]

    def _end_old_leases_locked(self, now: float) -> None:
        for entry in self._entries.values():
            entry.message = entry.as_it_stands(now)
            if not entry.held(now):
                entry.owner = None

    def extend(self, owner: str, ids: Iterable[int], lease_seconds: float) -> list[int]:
        """
        See `FailedMessageStore.extend`.
        """
        check_owner(owner)
        check_lease(lease_seconds)
        with self._usable():
            now = self._clock()
            still = [number for number in self._held_locked(owner, ids) if self._entries[number].held(now)]
            for number in still:
                self._entries[number].lease_ends_at = now + lease_seconds
            return still

    def _held_locked(self, owner: str, ids: Iterable[int] | None) -> list[int]:
        wanted = self._entries if ids is None else set(ids)
        return [number for number, entry in self._entries.items() if entry.owner == owner and number in wanted]

    def delivered(self, owner: str, message_ids: Mapping[int, MessageId]) -> list[int]:
        """
        See `FailedMessageStore.delivered`.
        """
        check_owner(owner)
        with self._usable():
            mine = self._held_locked(owner, message_ids)
            for number in mine:
                self._record_locked(number, message_ids[number], owner)
            return mine

    def confirm(self, failed_message_id: int, message_id: MessageId) -> bool:
        """
        See `FailedMessageStore.confirm`.
        """
        with self._usable():
            if failed_message_id not in self._entries:
                return False
            self._record_locked(failed_message_id, message_id, None)
            return True

    def _record_locked(self, number: int, message_id: MessageId, owner: str | None) -> None:
        failed = self._entries.pop(number).message
        self._deliveries[number] = _Delivery(
            message=replace(failed, message=replace(failed.message, payload=None, properties=None)),
            status=FailedMessageStatus(
                id=number,
                topic=failed.message.topic,
                state=FailedMessageState.DELIVERED,
                owner=owner,
                delivered_at=self._clock(),
                message_id=message_id,
            ),
        )

    def refute(self, ids: Iterable[int]) -> None:
        """
        See `FailedMessageStore.refute`.
        """
        with self._usable():
            for number in ids:
                entry = self._entries.get(number)
                if entry is not None:
                    entry.message = replace(entry.message, certainty=Certainty.NOT_STORED)

    def failed_again(self, owner: str, failures: Sequence[FailedAgain]) -> list[int]:
        """
        See `FailedMessageStore.failed_again`.
        """
        check_owner(owner)
        by_id = {failure.id: failure for failure in failures}
        with self._usable():
            mine = self._held_locked(owner, by_id)
            now = self._clock()
            for number in mine:
                entry = self._entries[number]
                entry.message, entry.owner = failed_again(entry.message, by_id[number], now), None
            return mine

    def release(self, owner: str, ids: Iterable[int] | None = None) -> list[int]:
        """
        See `FailedMessageStore.release`.
        """
        check_owner(owner)
        with self._usable():
            mine = self._held_locked(owner, ids)
            for number in mine:
                self._entries[number].owner = None
            return mine

    def purge(self, where: FailedMessageFilter, *, dry_run: bool = False) -> int:
        """
        See `FailedMessageStore.purge`.
        """
        with self._usable():
            now = self._clock()
            matching = self._matching_locked(where)
            if where.state is FailedMessageState.DELIVERED:
                kept: dict[int, _Delivery] | dict[int, _Entry] = self._deliveries
            else:
                kept = self._entries
                matching = [number for number in matching if not self._entries[number].held(now)]
            if not dry_run:
                for number in matching:
                    del kept[number]
            return len(matching)


def _detached(message: Message) -> Message:
    return message if message.properties is None else replace(message, properties=dict(message.properties))


def _matches(where: FailedMessageFilter, entry: _Entry, now: float) -> bool:
    state = FailedMessageState.CLAIMED if entry.held(now) else FailedMessageState.KEPT
    return where.state in (None, state) and where.fits(entry.as_it_stands(now), now)
