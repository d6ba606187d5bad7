"""
The messages of one producer, in the order of acceptance, and the threads that hand them over.

    submit ─> append ─> gather ─> lease a producer ─> take a group ─> hand over in batches ─┐ one thread: the turn
                          ^                                                                 │
                          │                  whoever is free takes the turn <───────────────┤
                          └── again <── settle <── flush, without the GIL <─────────────────┘ (delivery.py)

Only these threads touch the native client, so application threads can be killed, interrupted or left behind at
exit without harm. Only the one that has the turn hands over, which keeps the order and fixes every batch's
boundaries. Messages that go one by one are waited for without the turn, so a few groups of them are on their way
together. With batches the turn is kept until they are settled: a flush, or another group, in the middle of a batch
would split it. What comes meanwhile is the next group: low load sends small ones at once, high load fills them.
Handing over and settling take place at the desk, which all queues of a sender share.

Nothing overtakes: as soon as anything handed over fails or runs out of time, the queue is *frozen*. Nobody hands
over until the fate of all that was handed over is known, and what is sent again goes back to its old place first.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from safepulsar.books.callbacks import tell
from safepulsar.books.handle import SendHandle, now
from safepulsar.delivery.borrowing import Borrower
from safepulsar.delivery.crew import Crew
from safepulsar.delivery.group import Delivery
from safepulsar.delivery.lanes import LaneStops
from safepulsar.delivery.recovery import Recovered, recover
from safepulsar.delivery.sequence_rule import SequenceRule
from safepulsar.errors import DeadlineExceeded, SafePulsarError
from safepulsar.exactly_once.connection_guard import ConnectionGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.books.callbacks import Callbacks
    from safepulsar.books.keeper import GivenUp, Keeper
    from safepulsar.books.ledger import Ledger
    from safepulsar.broker.producer_pool import Lease, ProducerPool
    from safepulsar.broker.transport import TransportProducer
    from safepulsar.delivery.desk import Desk
    from safepulsar.delivery.rate_limit import RateLimit
    from safepulsar.delivery.retry import RetryPolicy
    from safepulsar.exactly_once.resolution import ExactlyOnce
    from safepulsar.outbox.relay import OutboxRelay
    from safepulsar.settings import LanePolicy, ProducerSettings

log = logging.getLogger("safepulsar")

_GROUP = 2000  # messages of one group at most: longer ones gain nothing and delay their first message's fate
_FLYING = 16  # these, and finished ones that are remembered until those before them are finished, too


class SendQueue:
    """
    The queue of one producer. Made by the engine, which appends to `waiting`.

    Args:
        settings: of the producer that it feeds.
        lane_policy: what a failed message does to those behind it.
        exactly_once: numbers the messages and finds out what is stored, None for a producer that is not exactly-once.
        outbox: has its messages on disk, None if they are in memory alone.
        ledger: whose lock guards everything here that two threads see.
        callbacks: for telling the application.
        keeper: takes what is given up.
        pool: lends the producer.
        retry: decides.
        limit: the sender's rate.
        desk: where its threads hand over and settle, those of all queues of a sender.
        retire: called with the lock held when the last thread ends for lack of work.

    Attributes:
        waiting: accepted and not handed over, in order. What is appended needs a thread, see `rouse_locked`.
        lanes: those that a failure has stopped.
        flying: handed over, in this order. One that is finished stays as long as one before it is not: should that one
            fail, it must be known what is stored behind it.
        borrower: gets the producer.
        cancelled: so many of those that wait were cancelled, about; whoever takes them from the line drops them.
        alone: so many messages from the front go one by one, to find the one that is refused.
        retired: it is not the engine's any more; see `Engine.accept`.
        forked: True in a child that inherited this object: its messages are the parent's.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        *,
        lane_policy: LanePolicy,
        exactly_once: ExactlyOnce | None = None,
        outbox: OutboxRelay | None = None,
        ledger: Ledger,
        callbacks: Callbacks,
        keeper: Keeper,
        pool: ProducerPool,
        retry: RetryPolicy,
        limit: RateLimit,
        desk: Desk,
        retire: Callable[[SendQueue], None],
    ) -> None:
        self.settings = settings
        self.topic = settings.topic
        self.ledger = ledger
        self.callbacks = callbacks
        self.keeper = keeper
        self.pool = pool
        self.retry = retry
        self.forked = False
        self.retired = False
        self.named = settings.producer_name is not None
        self.alone = 0
        self.cancelled = 0
        self.limit = limit
        self._desk = desk
        self._retire = retire
        self.sequence = SequenceRule()
        self.waiting: deque[SendHandle] = deque()
        self.lanes = LaneStops(self, lane_policy)
        self.exactly_once = exactly_once
        self.outbox = outbox
        self.flying: list[Delivery] = []
        self.frozen = False
        self.borrower = Borrower(self)
        self.crew = Crew(self, ledger)
        self.closing = self.crew.closing
        self.guard = None
        if exactly_once is not None:
            self.guard = ConnectionGuard(
                self, needed=lambda: not exactly_once.deduplicates, idle=lambda: exactly_once.idle(self)
            )

    def __repr__(self) -> str:
        frozen = ", frozen" if self.frozen else ""
        return f"<SendQueue {self.topic!r}, {len(self.waiting)} waiting{frozen}>"

    # -- called by any thread --------------------------------------------------------------------------------

    def rouse_locked(self, *, hurry: bool = True) -> None:
        """
        Have a thread that looks for messages. Called before one is appended; `hurry` if somebody waits for it.

        Where no thread can be had nothing may wait for it, and who is interrupted in between leaves a thread that looks
        in vain, not a message that nobody looks for.

        Raises:
            RuntimeError: no thread can be had.
        """
        if self.guard is not None:
            self.guard.start_locked()
        self.crew.rouse_locked(hurry=hurry)

    def pending(self) -> list[SendHandle]:
        """
        A copy of what is waiting or handed over.
        """
        with self.ledger.lock:
            flying = [handle for delivery in self.flying for handle in delivery.group]
            behind = [handle for stop in self.lanes.stops.values() for handle in stop.behind]
            return [*flying, *self.waiting, *behind]

    def producers(self) -> list[TransportProducer]:
        """
        Those of what is on its way.
        """
        with self.ledger.lock:
            return list({id(each.producer): each.producer for each in self.flying if not each.finished}.values())

    def expire(self, moment: float, cause: SafePulsarError | None = None) -> bool:
        """
        Give up what is past its deadline at `moment`, or everything if `cause` says why; True if work is left.

        What waits is surely not stored. What was handed over may be, and the queue is frozen then; once nobody
        waits for anything that was handed over, the producer is closed, so that the client library does not
        send it later behind everyone's back.
        """
        reason = cause or DeadlineExceeded("the deadline passed")
        with self.ledger.lock:
            self._give_up_late_locked(moment, reason, everything=cause is not None)
            abandoned = self.frozen and all(each.abandoned_locked() for each in self.flying)
            producers = {id(d.producer): d.producer for d in self.flying} if abandoned else {}
            busy = bool(self.waiting) or bool(self.flying) or any(stop.behind for stop in self.lanes.stops.values())
        for producer in producers.values():
            self.pool.abandon(producer)
        return busy

    # -- the queue's own threads -----------------------------------------------------------------------------

    def held_up_locked(self) -> bool:
        """
        Whether nothing may be handed over now.
        """
        return self.frozen or len(self.flying) >= _FLYING

    def idle_locked(self) -> None:
        """
        The last thread ended for lack of work.
        """
        # A named queue stays, because it remembers its sequence ids; one with stopped lanes, because it remembers those.
        if not self.named and not self.waiting and not self.lanes.stops:
            self.retired = True
            self._retire(self)

    def hand_over_next(self) -> Delivery | None:
        """
        Take the next group and hand it over. One with batches is answered when this returns.
        """
        delivery: Delivery | None = None
        try:
            delivery = self._next()
            if delivery is not None and delivery.batched:
                delivery.wait()
        except Exception as error:  # noqa: BLE001  # see `_broken`
            self._broken(error)
        return delivery

    def finish(self, delivery: Delivery) -> None:
        """
        Wait for the answers, settle, and let the group go.
        """
        try:
            if not delivery.batched:
                delivery.wait()
            with self._desk:
                delivery.settle()
        except Exception as error:  # noqa: BLE001  # see `_broken`
            self._broken(error)
        self._finished(delivery)

    def _broken(self, error: Exception) -> None:
        # Not expected, and no reason to leave anyone waiting: what was handed over may be stored.
        log.error("safepulsar.send_queue_failed", exc_info=error, extra={"topic": self.topic})
        self.expire(now(), SafePulsarError(f"internal error: {type(error).__name__}"))

    def _next(self) -> Delivery | None:
        """
        Take the next group and hand it over.
        """
        count = self.borrower.pace(_GROUP)
        lease = self.borrower.borrow()
        if lease is None:
            return None
        with self._desk:
            delivery = self._take(lease, count)
            if delivery is None:
                lease.release()
                return None
            if self.guard is not None:
                self.guard.ring()
            delivery.hand_over()
        if delivery.failed:
            with self.ledger.lock:
                self.frozen = True  # before anybody else has the turn
        return delivery

    def _give_up_late_locked(self, moment: float, reason: SafePulsarError, *, everything: bool = False) -> None:
        """
        Give up what is late, in the order of acceptance, in which the store keeps it.
        """
        late = set() if everything else self.lanes.late_locked(moment)
        if late or everything:
            given_up: list[GivenUp] = []
            for delivery in self.flying:
                given_up += delivery.expire_locked(late, reason, everything=everything)
            self.frozen = self.frozen or bool(given_up)
            given_up += self.lanes.sweep_locked(reason=reason, everything=True) if everything else []
            self.lanes.give_up_locked(given_up)
        # Half of the cancelled ones at least, or a line of many would be gone through again and again.
        if late or 2 * self.cancelled > len(self.waiting):
            self.cancelled = 0
            self.keeper.give_up_locked(self.lanes.sweep_locked(late, reason))

    def _take(self, lease: Lease, count: int) -> Delivery | None:
        """
        Take the next group from the queue; from here on each of its messages may be stored.
        """
        group: list[SendHandle] = []
        exactly_once = self.exactly_once
        with self.ledger.lock:
            if exactly_once is not None:
                found = exactly_once.found.settle_locked(self)
                tell(found, self.callbacks)
                self.keeper.observers.delivered(self.topic, found, len(found))
            self._give_up_late_locked(now(), DeadlineExceeded("the deadline passed before it was handed over"))
            waiting = self.waiting
            self.borrower.hand_on_attempts_locked()
            if self.frozen:
                return None
            for _ in range(min(count, len(waiting))):
                handle = waiting.popleft()
                if handle._state == 0:  # State.QUEUED, and not cancelled
                    handle._state = 1  # State.HANDED_OVER
                    group.append(handle)
            if not group:
                return None
            if exactly_once is not None:
                exactly_once.number(group)
            delivery = Delivery(self, lease, group)
            self.flying.append(delivery)
            return delivery

    def _finished(self, delivery: Delivery) -> None:
        """
        Every batch of `delivery` has its answer: let it go, or recover if it was the last of a frozen queue.
        """
        with self.ledger.lock:
            self.crew.comeback = delivery.waiting
            delivery.finished = True
            self.frozen = frozen = self.frozen or bool(delivery.failed)
            if not frozen:
                while self.flying and self.flying[0].finished:
                    if self.exactly_once is not None:
                        self.exactly_once.delivered(self.flying[0])
                    del self.flying[0]
            elif not all(each.finished for each in self.flying):
                return
        if not frozen:
            delivery.lease.release()
            if self.exactly_once is not None:
                self.exactly_once.record(self)
        else:
            self._recover()

    def _recover(self) -> None:
        """
        Decide for all that was handed over. Nobody hands over meanwhile, and nobody else settles.
        """
        result = Recovered()
        try:
            if self.exactly_once is not None:
                self.exactly_once.resolve(self, self.flying)
            recover(self, self.flying, result)
        except Exception as error:  # noqa: BLE001  # see `_broken`
            self._broken(error)
        for producer in result.dead:
            self.pool.discard(producer)
        for each in self.flying:
            each.lease.release()
        with self.ledger.lock:
            self.waiting.extendleft(reversed(result.back_locked()))
            self.flying.clear()
            if self.lanes.stops:  # what went back may stand behind one that was given up
                self.keeper.give_up_locked(self.lanes.sweep_locked())
        self.closing.wait(result.delay_seconds)  # still frozen: the pause is for those behind them, too
        with self.ledger.lock:
            self.frozen = False
