"""
Receives in order: a consumer's messages by lane and sequence, acknowledged when they are done and that is saved.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic

from safepulsar.errors import InvalidInput, InvalidSettings, shown
from safepulsar.receiving.acknowledger import Acknowledger
from safepulsar.receiving.consumer import Consumer, M, ReceivedMessage
from safepulsar.receiving.desk import Desk
from safepulsar.receiving.errors import BufferFull, InvalidSequence, SequenceGap, TooManyLanes
from safepulsar.receiving.lane_sequence import SEQUENCE_PROPERTY, LaneSequence, lane_sequence
from safepulsar.receiving.ordered_message import OrderedMessage
from safepulsar.receiving.reorder_buffer import ReorderBuffer
from safepulsar.receiving.settings import ReceiverSettings, Unsequenced
from safepulsar.receiving.stats import ReceiverStats
from safepulsar.settings.base import YEAR_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from types import TracebackType

    from typing_extensions import Self

    from safepulsar.receiving.gap import Gap

# A consumer is asked for no longer at a time, so that Ctrl-C, which the client library doesn't see, gets its turn.
_SLICE_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    What `save` is to store, together with what the application did.

    Args:
        changed: by lane, the sequence that it expects next, of the lanes in which something was done since the last
            save. Enough where each lane has a row of its own; `recall` reads it.
        state: returns everything as bytes, for where there is one place for all. Costs time in proportion to the lanes.
    """

    changed: Mapping[str, int]
    state: Callable[[], bytes]


class OrderedReceiver(Generic[M]):
    """
    Hands out what a consumer receives, each message once, in the order of its lane.

    A lane's next message is handed out when the application is done with the one before, so it may hold messages of
    several lanes at a time, and never two of one lane. A message is acknowledged after it is done and `save` returned.
    What comes again is dropped, and acknowledged with the first of it. A crash at any moment loses nothing; it repeats
    what was done and not saved, and therefore nothing at all where `save` commits the transaction in which the
    application did it.

    Receives from one topic, partitioned or not: lanes are told apart by name only. Belongs to one thread.
    The consumer stays the caller's, to be closed after the receiver.

    Args:
        consumer: a `pulsar.Consumer`, or what looks like one.
        save: called with the progress before anything is acknowledged; returns when it is stored safely. None stores
            nothing: then a restarted consumer knows nothing of what was acknowledged, and waits for it in vain unless
            its lanes begin with `first_sequence=None`.
        state: what `Progress.state()` returned for the last `save`; None for a subscription that is new.
        recall: instead of `state`, looks up what `save` stored of a lane in `Progress.changed`, None if nothing. Lanes
            are then forgotten when there are too many, the longest unused first, and found again.
        settings: see `ReceiverSettings`.
        on_skip: see `ReorderBuffer`.
        read: says where a message belongs, None if it has no sequence. May raise InvalidSequence.
        clock: seconds that only rise.

    Raises:
        InvalidState: the state is not what `Progress.state()` returned.
        InvalidInput: both `state` and `recall` are given.
    """

    def __init__(
        self,
        consumer: Consumer[M],
        *,
        save: Callable[[Progress], None] | None,
        state: bytes | None = None,
        recall: Callable[[str], int | None] | None = None,
        settings: ReceiverSettings | None = None,
        on_skip: Callable[[Gap], None] | None = None,
        read: Callable[[ReceivedMessage], LaneSequence | None] = lane_sequence,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if settings is not None and not isinstance(settings, ReceiverSettings):
            raise InvalidSettings("settings", f"must be ReceiverSettings(...), not {type(settings).__name__}")
        if state is not None and recall is not None:
            raise InvalidInput(
                "recall", "cannot be combined with state, whose lanes it does not know; give one of them"
            )
        self._settings = settings or ReceiverSettings()
        self._consumer = consumer
        self._save = save
        self._recall = recall
        self._read = read
        self._clock = clock
        reorder = self._settings.reorder
        self._buffer: ReorderBuffer[OrderedMessage[M]] = (
            ReorderBuffer(reorder, clock=clock, on_skip=on_skip, recall=recall)
            if state is None
            else ReorderBuffer.from_state(state, reorder, clock=clock, on_skip=on_skip)
        )
        self._acknowledger = Acknowledger(consumer, self._settings.acknowledge)
        self._desk: Desk[M] = Desk(self._after_done)
        self._no_gap_before = 0.0  # when a gap may be raised again
        self._received = self._committed = self._duplicates = self._refused = self._unsequenced = 0

    def __repr__(self) -> str:
        return f"<OrderedReceiver {len(self._desk)} held, {self._desk.out} handed out>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.commit()

    def receive(self, timeout_seconds: float | None = None) -> OrderedMessage[M] | None:
        """
        Return the next message that is in order, or None if there is none in the time allowed.

        While nothing comes and nothing is handed out, it commits what is done.

        Args:
            timeout_seconds: None waits as long as it takes.

        Raises:
            InvalidInput: a wrong timeout.
            BufferFull: a message that would have to wait found no room, and was given back to the broker; or the
                application has as many as `max_messages`, and is to finish some first. `TooManyLanes` likewise.
                Receiving goes on with the next call.
            SequenceGap: under `GapPolicy.RAISE`, for messages that wait too long at most once in `max_wait_seconds`.
                Receiving goes on with the next call; call `skip` to give the gap up.
            InvalidSequence: under `Unsequenced.RAISE`; the message was given back to the broker.
            Exception: what the consumer raised, or `save`.
        """
        deadline = self._clock() + _check_timeout(timeout_seconds)
        while not self._desk.is_ready:
            self._check_room()
            now = self._clock()
            message = self._next(min(_SLICE_SECONDS, deadline - now, self._expires_in(now)))
            if message is not None:
                self._take(message)
            elif not self._desk.out:
                self.commit()
            self._expire()
            if message is None and not self._desk.is_ready and self._clock() >= deadline:
                return None
        return self._desk.hand_out()

    def commit(self) -> None:
        """
        Save what is done, and then acknowledge it. If nothing was done since the last time, it saves nothing.

        Raises:
            Exception: what `save` raised: nothing is acknowledged, and all is rolled back. If it may have been stored
                in spite of that, go on with a new receiver from what is stored. Or what acknowledging raised: then it
                is saved, and the rest is acknowledged the next time.
        """
        if self._desk.uncommitted and self._save is not None:
            try:
                self._save(Progress(changed=self._desk.changed(), state=self._state))
            except BaseException:
                self.rollback()
                raise
        self._committed += self._desk.uncommitted
        for message in self._desk.commit():
            self._acknowledger.finished(message)
        self._acknowledger.flush()

    def rollback(self) -> None:
        """
        Take back all that is handed out, and all that is done since the last commit, to hand it out again in order.
        """
        self._desk.rollback()

    def gaps(self) -> list[Gap]:
        """
        Return the first gap of each lane in which something waits, the one that waits longest first.
        """
        return self._buffer.gaps()

    def skip(self, lane: str) -> None:
        """
        Give up the first gap of a lane, under any policy; what waited behind it is handed out next.
        """
        self._desk.queue(self._buffer.skip(lane))

    def forget(self, lane: str) -> None:
        """
        Forget a lane that is finished, to spare its memory. A late copy of one of its messages would be new.

        Raises:
            InvalidInput: something of it is held, or not committed.
        """
        if lane in self._desk.lanes():
            raise InvalidInput(
                "lane", "has messages that are not done or not committed; finish and commit() them first"
            )
        self._buffer.forget(lane)

    def stats(self) -> ReceiverStats:
        """
        Return the numbers of this moment.
        """
        return ReceiverStats(
            received=self._received,
            handed_out=self._desk.handed_out,
            done=self._desk.done_count,
            committed=self._committed,
            duplicates=self._duplicates,
            refused=self._refused,
            unsequenced=self._unsequenced,
            held=len(self._desk) - self._desk.uncommitted,
            reorder=self._buffer.stats(),
        )

    def _after_done(self) -> None:
        if self._desk.uncommitted >= self._settings.commit_messages:
            self.commit()

    def _state(self) -> bytes:
        return self._buffer.state(instead=self._desk.not_done())

    def _check_room(self) -> None:
        limit = self._settings.reorder.max_messages
        if len(self._desk) < limit or len(self._desk) - self._buffer.stats().waiting_messages < limit:
            return
        if self._desk.out:
            raise BufferFull(f"{self._desk.out} messages are handed out; call done() for some, or raise max_messages")
        self.commit()

    def _next(self, seconds: float) -> M | None:
        try:
            return self._consumer.receive(max(1, round(seconds * 1000)))
        except Exception as exc:
            # By its name, because the official client's error is not known in this layer.
            if isinstance(exc, TimeoutError) or type(exc).__name__ == "Timeout":
                return None
            raise

    def _take(self, message: M) -> None:
        self._received += 1
        self._acknowledger.received(message)
        place = self._place_of(message)
        message_id = message.message_id().serialize()
        key: Hashable = place or (message.topic_name(), message_id)
        held = self._desk.find(key)
        if held is not None:
            # Not acknowledged yet, because the first of it could still be lost. The newest object of a message id,
            # because the client library counts per object what is done of a batch.
            held.copies[message_id] = message
            self._duplicates += 1
        elif place is None:
            self._hold(OrderedMessage(self._desk, message, None, None, key))
        elif not self._buffer.is_new(*place):
            self._duplicates += 1
            self._acknowledger.finished(message)
            self._acknowledger.flush()
        else:
            self._hold(OrderedMessage(self._desk, message, place.lane, place.sequence, key))

    def _place_of(self, message: M) -> LaneSequence | None:
        place, cause = None, None
        try:
            place = self._read(message)
        except InvalidSequence as exc:
            cause = exc
        if place is not None:
            return place
        self._unsequenced += 1
        if self._settings.unsequenced is Unsequenced.HAND_OUT:
            return None
        self._refuse(message)
        if cause is not None:
            raise cause
        problem = "is missing; send with the properties of lane_properties(), or receive with Unsequenced.HAND_OUT"
        raise InvalidSequence(SEQUENCE_PROPERTY, problem)

    def _hold(self, ordered: OrderedMessage[M]) -> None:
        if ordered.lane is None or ordered.sequence is None:
            released = [ordered]
        else:
            try:
                released = self._add(ordered, ordered.lane, ordered.sequence)
            except (BufferFull, SequenceGap):
                self._refuse(ordered.message)
                raise
        self._desk.hold(ordered)
        self._desk.queue(released)

    def _add(self, ordered: OrderedMessage[M], lane: str, sequence: int) -> list[OrderedMessage[M]]:
        size_bytes = len(ordered.message.data())
        try:
            return self._buffer.add(lane, sequence, ordered, size_bytes)
        except TooManyLanes:
            if self._recall is None or self._save is None:
                raise
        # A quarter at once, because to find them takes time in proportion to those that stay.
        self._buffer.forget_idle(self._settings.reorder.max_lanes * 3 // 4, but=self._desk.lanes())
        return self._buffer.add(lane, sequence, ordered, size_bytes)

    def _refuse(self, message: M) -> None:
        self._refused += 1
        self._acknowledger.refuse(message)

    def _expires_in(self, now: float) -> float:
        seconds = self._buffer.expires_in(now)
        return _SLICE_SECONDS if seconds is None else max(seconds, self._no_gap_before - now)

    def _expire(self) -> None:
        now = self._clock()
        if now < self._no_gap_before:
            return
        try:
            self._desk.queue(self._buffer.expire(now))
        except SequenceGap:
            self._no_gap_before = now + self._settings.reorder.max_wait_seconds
            raise


def _check_timeout(value: object) -> float:
    if value is None:
        return YEAR_SECONDS
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= YEAR_SECONDS:
        problem = f"must be a number of seconds from 0 to {YEAR_SECONDS}, or None, not {shown(value)}"
        raise InvalidInput("timeout_seconds", problem)
    return value
