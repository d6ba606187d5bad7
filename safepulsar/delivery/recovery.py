"""
What becomes of everything that failed in a frozen queue: sent again at its old place, or given up.

Called once all that was handed over has its answer, so that nothing is decided on half the facts. A message is
never sent again behind a later one of its lane that is stored: a retry must not overtake.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from safepulsar.books.handle import SendHandle, State, now
from safepulsar.books.keeper import GivenUp
from safepulsar.delivery.retry import Again
from safepulsar.errors import BrokerError, MessageRefused, MessageTooBig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.broker.transport import TransportProducer
    from safepulsar.delivery.group import Delivery
    from safepulsar.delivery.send_queue import SendQueue
    from safepulsar.message import Attempt

# The lane of all messages with sequence ids: the broker would drop a lower one behind a higher one, and call that success.
_IDS = 0


@dataclass(slots=True)
class Recovered:
    """
    What to do next.

    Args:
        again: messages to put back at the front of the queue, in order, unless somebody gives them up before.
        attempts: by the handles' ids, what those have behind them that are sent again for a failure of their own.
        delay_seconds: the pause before the next attempt.
        dead: producers that are of no more use.
    """

    again: list[SendHandle] = field(default_factory=list)
    attempts: dict[int, tuple[Attempt, ...]] = field(default_factory=dict)
    delay_seconds: float = 0.0
    dead: list[TransportProducer] = field(default_factory=list)

    def back_locked(self) -> list[SendHandle]:
        """
        Those that go back, waiting from now on; the ledger's lock is held.
        """
        back = [handle for handle in self.again if handle._state == State.HANDED_OVER]
        for handle in back:
            handle._state = State.QUEUED
            handle._attempts = self.attempts.get(id(handle), handle._attempts)
        return back


def recover(queue: SendQueue, deliveries: Sequence[Delivery], result: Recovered) -> None:
    """
    Decide for every message of `deliveries`, which are all finished, oldest first.
    """
    overtaken = _overtaken(deliveries, by_id=queue.exactly_once is None)
    for delivery in deliveries:
        for batch, error in delivery.failed:
            refused = isinstance(error, (MessageTooBig, MessageRefused))
            if not refused and delivery.producer not in result.dead:
                # Closed, fenced or refused: a new one finds out what is the matter.
                result.dead.append(delivery.producer)
            if refused and len(batch) > 1 and not error.retriable:
                # Surely not stored, for one of them, or because together they are too big: one by one shows which.
                queue.alone += len(batch)
                _put_back(queue, [handle for handle in batch if id(handle) not in overtaken], result)
                _give_up(queue, delivery, [handle for handle in batch if id(handle) in overtaken], error, result)
            else:
                _retry_or_give_up(queue, delivery, batch, error, overtaken, result)
        _put_back(queue, delivery.unsent, result)


def _overtaken(deliveries: Sequence[Delivery], *, by_id: bool) -> set[int]:
    """
    The messages behind which a later one of their lane is stored; or may be, if they themselves surely are not.

    Of two that both may be stored, the later one is only if the earlier one is, because they went out in order.
    A message without a key or an id belongs to no lane, so nothing of its order is promised across a retry.
    """
    stored: set[str | int] = set()
    doubtful: set[str | int] = set()
    overtaken: set[int] = set()
    for delivery in reversed(deliveries):
        for handle in reversed(delivery.group):
            lane = _lane(handle, by_id=by_id)
            if lane is None:
                continue
            if delivery.stored(handle):
                stored.add(lane)
                continue
            doubt = delivery.maybe_stored(handle)
            if lane in stored or (lane in doubtful and not doubt):
                overtaken.add(id(handle))
            if doubt:
                doubtful.add(lane)
    return overtaken


def _lane(handle: SendHandle, *, by_id: bool) -> str | int | None:
    if by_id and handle.sequence_id is not None:
        return _IDS
    return handle.ordering_key if handle.ordering_key is not None else handle.partition_key


def _retry_or_give_up(
    queue: SendQueue,
    delivery: Delivery,
    batch: Sequence[SendHandle],
    error: BrokerError,
    overtaken: set[int],
    result: Recovered,
) -> None:
    moment, attempt = now(), delivery.attempt(error)
    over: list[SendHandle] = []
    again, longest = 0, 0.0
    for handle in batch:
        count = len(handle._attempts) + 1
        verdict = queue.retry.decide(error, attempts=count, seconds_left=handle._deadline - moment)
        if isinstance(verdict, Again) and id(handle) not in overtaken:
            if _put_back(queue, [handle], result):
                attempts = (*handle._attempts, replace(attempt, delay_seconds=verdict.delay_seconds))
                result.attempts[id(handle)] = attempts
                result.delay_seconds = max(result.delay_seconds, verdict.delay_seconds)
                again, longest = again + 1, max(longest, verdict.delay_seconds)
        else:
            over.append(handle)
    if again:
        queue.keeper.observers.retrying(queue.topic, error, again, longest)
    _give_up(queue, delivery, over, error, result)


def _put_back(queue: SendQueue, handles: Sequence[SendHandle], result: Recovered) -> bool:
    with queue.ledger.lock:
        # They stay as they are until they are back in the line: who looks at deadlines meanwhile must find them before
        # those that wait there.
        back = [handle for handle in handles if handle._state == State.HANDED_OVER]
        result.again += back
        return bool(back)


def _give_up(
    queue: SendQueue, delivery: Delivery, handles: Sequence[SendHandle], error: BrokerError, result: Recovered
) -> None:
    attempt = delivery.attempt(error)
    given_up: list[GivenUp] = []
    with queue.ledger.lock:
        # Those of their lanes that were to go again stand before them, also in the store, and so go there first.
        lanes = {queue.lanes.stopping(handle) for handle in handles if handle._state == State.HANDED_OVER} - {None}
        before = [handle for handle in result.again if lanes and queue.lanes.stopping(handle) in lanes]
        if before:
            result.again = [handle for handle in result.again if queue.lanes.stopping(handle) not in lanes]
        for handle in before:
            if handle._state == State.HANDED_OVER:
                handle._state = State.FAILING
                given_up.append(GivenUp(handle, error, result.attempts.get(id(handle), handle._attempts)))
        for handle in handles:
            if handle._state == State.HANDED_OVER:  # not given up by the watch
                handle._state = State.FAILING
                given_up.append(GivenUp(handle, error, (*handle._attempts, attempt)))
        queue.lanes.give_up_locked(given_up)
