"""
`SequenceLane`: one topic and ordering key, whose messages keep their order whatever happens.

    lane = sender.lane("orders", "customer-7")
    lane.send({"id": 7})

Any number of threads may send. A message that fails stops its lane, as `LanePolicy` says, and `resume` lets it go on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from safepulsar.books.handle import State, now
from safepulsar.checks import check_key
from safepulsar.delivery.lanes import Lane, LaneState
from safepulsar.errors import InvalidInput, LaneNotPaused, LanePaused
from safepulsar.failed_messages import FailedMessageFilter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safepulsar.books.handle import SendHandle
    from safepulsar.delivery.lanes import Stop
    from safepulsar.delivery.send_queue import SendQueue
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.message import SendResult
    from safepulsar.sender import RetryingSender
    from safepulsar.sending.engine import Engine
    from safepulsar.serialization import Sendable


class SequenceLane:
    """
    All messages of one topic and ordering key. Made by `RetryingSender.lane`; costs nothing to make or to drop.

    Args:
        sender: sends.
        topic: as for `RetryingSender.send`.
        ordering_key: of every message.
    """

    def __init__(self, sender: RetryingSender, topic: str, ordering_key: str) -> None:
        check_key("ordering_key", ordering_key)
        self._sender = sender
        self.topic = topic
        self.ordering_key = ordering_key

    def __repr__(self) -> str:
        """
        Where it is and how it stands; no key, keys may be private.
        """
        return f"<SequenceLane of {self.topic!r}, {self.state().value.lower()}>"

    def send(
        self, value: Sendable, *, properties: Mapping[str, str] | None = None, deadline_seconds: float | None = None
    ) -> SendResult:
        """
        Send the next message of the lane and wait for its fate; see `RetryingSender.send`.

        Raises:
            LanePaused: one before it failed, and the policy is `PAUSE`. Nothing was accepted.
        """
        return self._sender.send(
            self.topic,
            value,
            ordering_key=self.ordering_key,
            properties=properties,
            deadline_seconds=deadline_seconds,
        )

    def submit(
        self, value: Sendable, *, properties: Mapping[str, str] | None = None, deadline_seconds: float | None = None
    ) -> SendHandle:
        """
        Accept the next message of the lane and return at once; see `RetryingSender.submit`.

        Raises:
            LanePaused: as for `send`.
        """
        return self._sender.submit(
            self.topic,
            value,
            ordering_key=self.ordering_key,
            properties=properties,
            deadline_seconds=deadline_seconds,
        )

    def state(self) -> LaneState:
        """
        Where it is at this moment.
        """
        return self.look().state

    def look(self) -> Lane:
        """
        The lane at this moment, with its depth and what stopped it.
        """
        return look(self._sender._started(), self.topic, self.ordering_key)

    def resume(self, *, skip: bool = False) -> None:
        """
        Let it go on; see `RetryingSender.resume`.
        """
        self._sender.resume(self, skip=skip)


def lanes(engine: Engine) -> list[Lane]:
    """
    Every lane that is stopped or has something in flight, those that wait longest first.
    """
    with engine.ledger.lock:
        moment, closing = now(), not engine.ledger.open
        found = [lane for queue in engine.queues() for lane in queue.lanes.lanes_locked(moment, closing=closing)]
    return sorted(found, key=lambda lane: -lane.oldest_age_seconds)


def look(engine: Engine, topic: str, ordering_key: str) -> Lane:
    """
    One lane.
    """
    queue = engine.queue(topic, keyed=True)
    with engine.ledger.lock:
        closing = not engine.ledger.open
        for lane in queue.lanes.lanes_locked(now(), closing=closing):
            if lane.ordering_key == ordering_key:
                return replace(lane, state=LaneState.CLOSED) if engine.closed else lane
    state = LaneState.CLOSED if engine.closed else LaneState.DRAINING if closing else LaneState.OPEN
    return Lane(topic=queue.topic, ordering_key=ordering_key, state=state)


def resume(engine: Engine, store: FailedMessageStore, lane: Lane | SequenceLane, *, skip: bool) -> None:
    """
    Let a stopped lane go on, but not past what the store keeps of it, unless `skip` says so.

    Raises:
        LaneNotPaused: it is not stopped.
        LanePaused: the store still keeps messages of it.
    """
    if not isinstance(lane, (Lane, SequenceLane)):
        raise InvalidInput("lane", f"must be a Lane or a SequenceLane, not {type(lane).__name__}; see sender.lanes()")
    queue = engine.queue(lane.topic, keyed=True)
    key = lane.ordering_key
    while True:
        with engine.ledger.lock:
            stop = queue.lanes.stops.get(key)
            parked = 0 if stop is None else stop.parked
        if stop is None:
            raise LaneNotPaused(f"this lane of topic {queue.topic!r} is not paused; resume it once")
        if not skip:
            _check_nothing_kept(engine, queue, store, key, stop)
        with engine.ledger.lock:
            if queue.lanes.resume_locked(key, stop, parked):
                return


def _check_nothing_kept(engine: Engine, queue: SendQueue, store: FailedMessageStore, key: str, stop: Stop) -> None:
    with engine.ledger.lock:
        on_their_way = any(
            handle.ordering_key == key and handle._queue is queue and handle._state != State.FINAL
            for handle in engine.keeper.pending()
        )
    if on_their_way or store.count(FailedMessageFilter(topic=queue.topic, key=key)):
        raise LanePaused(queue.topic, cause=stop.cause, failed_message_id=stop.failed_message_id)


def resume_all(engine: Engine, store: FailedMessageStore, *, skip: bool) -> list[Lane]:
    """
    Let go on what can; the lanes that stay paused.
    """
    for lane in lanes(engine):
        if lane.state is LaneState.PAUSED:
            with suppress(LaneNotPaused, LanePaused):  # resumed by somebody else meanwhile, or still kept
                resume(engine, store, lane, skip=skip)
    return [lane for lane in lanes(engine) if lane.state is LaneState.PAUSED]
