"""
The messages of one producer, in the order of acceptance, and the threads that hand them over.

    submit ─> append ─> gather ─> lease a producer ─> take a group ─> hand over in batches ─┐ one thread: the turn
                          ^                                                                 │
                          │                  whoever is free takes the turn <───────────────┤
                          └── again <── settle <── flush, without the GIL <─────────────────┘ (delivery.py)

Only these threads touch the native client, so application threads can be killed, interrupted or left behind at
exit without harm. Only the one that has the turn hands over, which keeps the order and fixes every batch's
boundaries. Messages that go one by one are waited for without the turn, so a few groups of them are on their way
together. With batches the turn is kept until they are answered: a flush, or another group, in the middle of a batch
would split it. What comes meanwhile is the next group: low load sends small ones at once, high load fills them.

Nothing overtakes: as soon as anything handed over fails or runs out of time, the queue is *frozen*. Nobody hands
over until the fate of all that was handed over is known, and what is sent again goes back to its old place first.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from safepulsar.borrowing import Borrower
from safepulsar.delivery import Delivery
from safepulsar.errors import DeadlineExceeded, SafePulsarError
from safepulsar.gate import Gate
from safepulsar.handle import SendHandle, State, now
from safepulsar.keeper import GivenUp
from safepulsar.recovery import Recovered, recover
from safepulsar.sequence_rule import SequenceRule
from safepulsar.worker import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.callbacks import Callbacks
    from safepulsar.keeper import Keeper
    from safepulsar.ledger import Ledger
    from safepulsar.producer_pool import Lease, ProducerPool
    from safepulsar.rate_limit import RateLimit
    from safepulsar.retry import RetryPolicy
    from safepulsar.settings import ProducerSettings

log = logging.getLogger("safepulsar")

_GROUP = 2000  # messages of one group at most: longer ones gain nothing and delay their first message's fate
_THREADS = 3  # groups on their way together at most; more made smaller groups and no higher rate
_FLYING = 16  # these, and finished ones that are remembered until those before them are finished, too
_IDLE_SECONDS = 10.0  # a thread with nothing to do ends after so long; the next message starts another
_LAST_STEPS_SECONDS = 0.1  # from a thread's goodbye to its end
# Threads that just got their answer often send again at once. Waiting for them, as long as they keep coming, puts
# them into one group instead of many small ones.
_COMEBACK_GAP_SECONDS = 0.0002
_COMEBACK_MAX_SECONDS = 0.002


class SendQueue:
    """
    The queue of one producer. Made by the engine, which appends to `waiting`.

    Args:
        settings: of the producer that it feeds.
        ledger: whose lock guards everything here that two threads see.
        callbacks: for telling the application.
        keeper: takes what is given up.
        pool: lends the producer.
        retry: decides.
        limit: the sender's rate.
        retire: called with the lock held when the last thread ends for lack of work.

    Attributes:
        waiting: accepted and not handed over, in order. What is appended needs a thread, see `rouse_locked`.
        alone: so many messages from the front go one by one, to find the one that is refused.
        retired: it is not the engine's any more; see `Engine.accept`.
        forked: True in a child that inherited this object: its messages are the parent's.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        *,
        ledger: Ledger,
        callbacks: Callbacks,
        keeper: Keeper,
        pool: ProducerPool,
        retry: RetryPolicy,
        limit: RateLimit,
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
        self.limit = limit
        self._retire = retire
        self.sequence = SequenceRule()
        self.waiting: deque[SendHandle] = deque()
        # Handed over, in this order. One that is finished stays as long as one before it is not: should that one fail,
        # it must be known what is stored behind it.
        self._flying: list[Delivery] = []
        self._frozen = False
        self._borrower = Borrower(self)
        self._comeback = 0  # how many threads just got their answer
        self._turn = False  # whether one of the threads gathers or hands over
        self._threads: set[threading.Thread] = set()
        self._starting: threading.Thread | None = None  # not among them yet
        # Each sleeps on a lock of its own, which whoever wakes it releases exactly once.
        self._parked: list[threading.Lock] = []  # without the turn
        self._lingering: threading.Lock | None = None  # with it, until _need messages are there
        self._need = 1
        self.closing = Gate()

    def __repr__(self) -> str:
        frozen = ", frozen" if self._frozen else ""
        return f"<SendQueue {self.topic!r}, {len(self.waiting)} waiting{frozen}>"

    # -- called by any thread --------------------------------------------------------------------------------

    def rouse_locked(self) -> None:
        """
        Have a thread that looks for messages. Called before one is appended.

        Where no thread can be had nothing may wait for it, and who is interrupted in between leaves a thread that looks
        in vain, not a message that nobody looks for.

        Raises:
            RuntimeError: no thread can be had.
        """
        if not self._turn:
            if not self._held_up_locked():
                self._give_turn_locked()
        elif self._lingering is not None and len(self.waiting) + 1 >= self._need:
            sleeper, self._lingering = self._lingering, None
            sleeper.release()

    def pending(self) -> list[SendHandle]:
        """
        A copy of what is waiting or handed over.
        """
        with self.ledger.lock:
            return [handle for delivery in self._flying for handle in delivery.group] + list(self.waiting)

    def expire(self, moment: float, cause: SafePulsarError | None = None) -> bool:
        """
        Give up what is past its deadline at `moment`, or everything if `cause` says why; True if work is left.

        What waits is surely not stored. What was handed over may be, and the queue is frozen then; once nobody
        waits for anything that was handed over, the producer is closed, so that the client library does not
        send it later behind everyone's back.
        """
        reason = cause or DeadlineExceeded("the deadline passed")
        with self.ledger.lock:
            given_up: list[GivenUp] = []  # in the order of acceptance, in which the store keeps them
            for delivery in self._flying:
                late = delivery.expire_locked(moment, reason, everything=cause is not None)
                self._frozen = self._frozen or bool(late)
                given_up += late
            given_up += self._expire_waiting_locked(moment, reason, everything=cause is not None)
            abandoned = self._frozen and all(each.abandoned_locked() for each in self._flying)
            producers = {id(d.producer): d.producer for d in self._flying} if abandoned else {}
            busy = bool(self.waiting) or bool(self._flying)
            self.keeper.give_up_locked(given_up)
        for producer in producers.values():
            self.pool.abandon(producer)
        return busy

    def close(self) -> None:
        """
        Let the threads end; nothing is accepted any more and nothing is left.
        """
        self.closing.open()
        with self.ledger.lock:
            while self._parked:  # one by one, and up to the release no call, see `Ledger`
                sleeper = self._parked[-1]
                del self._parked[-1]
                sleeper.release()

    def join(self, deadline: float) -> bool:
        """
        Wait for the threads' end; False if one is still in a native call.
        """
        threads = list(self._threads)
        # Not by `Thread.join` alone: for their end they need the lock that a signal handler may have interrupted.
        ended = self.ledger.wait_until(lambda: not self._threads and not self._is_starting_locked(), deadline)
        for thread in threads:
            thread.join(_LAST_STEPS_SECONDS if ended else 0.0)
        return ended

    # -- the queue's own threads -----------------------------------------------------------------------------

    def _held_up_locked(self) -> bool:
        return self._frozen or len(self._flying) >= _FLYING

    def _give_turn_locked(self) -> None:
        """
        Give the turn, which nobody has, to a thread that sleeps, or start one, which takes it by itself.
        """
        if self._parked:
            self._turn = True
            # The one that slept last: its memory is still warm. Up to the release no call, see `Ledger`.
            sleeper = self._parked[-1]
            del self._parked[-1]
            sleeper.release()
        elif len(self._threads) < _THREADS and not self._is_starting_locked():
            name = f"safepulsar-send-{len(self._threads)} {self.topic}"
            self._starting = threading.Thread(target=self._run, name=name, daemon=True)
            try:
                start_thread(self._starting)
            except RuntimeError:
                self._starting = None
                if not self._threads:  # or they will take it
                    raise

    def _is_starting_locked(self) -> bool:
        # Not alive is one whose start was interrupted. Should it run after all, it is one thread more, and no harm.
        return self._starting is not None and self._starting.is_alive()

    def _run(self) -> None:
        sleeper = threading.Lock()
        sleeper.acquire()
        with self.ledger.lock:
            self._threads.add(threading.current_thread())
            if self._starting is threading.current_thread():
                self._starting = None
        while self._wait_for_turn(sleeper):
            delivery: Delivery | None = None
            try:
                self._linger(sleeper)
                delivery = self._next()
                if delivery is not None and delivery.batched:
                    delivery.wait()
            except Exception as error:  # noqa: BLE001  # see `_broken`
                self._broken(error)
            self._pass_turn()
            if delivery is not None:
                try:
                    if not delivery.batched:
                        delivery.wait()
                    delivery.settle()
                except Exception as error:  # noqa: BLE001  # see `_broken`
                    self._broken(error)
                self._finished(delivery)
            del delivery  # or it would keep its messages in memory while this thread sleeps

    def _pass_turn(self) -> None:
        with self.ledger.lock:
            self._turn = False
            if self.waiting and not self._held_up_locked():
                self._give_turn_locked()

    def _wait_for_turn(self, sleeper: threading.Lock) -> bool:
        """
        Take the turn if there is something to do, or sleep until it is given; False if the thread is to end.
        """
        with self.ledger.lock:
            if self.closing.is_open:
                return self._end_locked()
            if not self._turn and not self._held_up_locked() and (self.waiting or self._comeback):
                self._turn = True
                return True
            self._parked.append(sleeper)
        if not sleeper.acquire(timeout=_IDLE_SECONDS):
            with self.ledger.lock:
                if sleeper in self._parked:
                    self._parked.remove(sleeper)
                    return self._end_locked()
                sleeper.acquire()  # whoever took it out released it, too
        if self.closing.is_open:
            with self.ledger.lock:  # type: ignore[unreachable]  # it may have opened meanwhile
                return self._end_locked()
        return True

    def _end_locked(self) -> bool:
        self._threads.discard(threading.current_thread())
        self.ledger.changed_locked()
        # A named queue stays, because it remembers its sequence ids.
        if not self._threads and not self.named and not self.waiting and not self.closing.is_open:
            self.retired = True
            self._retire(self)
        return False

    def _broken(self, error: Exception) -> None:
        # Not expected, and no reason to leave anyone waiting: what was handed over may be stored.
        log.error("safepulsar.send_queue_failed", exc_info=error, extra={"topic": self.topic})
        self.expire(now(), SafePulsarError(f"internal error: {type(error).__name__}"))

    def _linger(self, sleeper: threading.Lock) -> None:
        """
        Wait a moment for the threads that just got their answer, as long as they keep coming.
        """
        expected, self._comeback = self._comeback, 0
        until, seen = now() + _COMEBACK_MAX_SECONDS, -1
        while expected:
            with self.ledger.lock:
                count = len(self.waiting)
                if count >= expected or count == seen or now() > until:
                    return
                seen, self._need, self._lingering = count, expected, sleeper
            if not sleeper.acquire(timeout=_COMEBACK_GAP_SECONDS):
                with self.ledger.lock:
                    woken = self._lingering is None
                    self._lingering = None
                    if woken:
                        sleeper.acquire()  # whoever cleared it released it, too

    def _next(self) -> Delivery | None:
        """
        Take the next group and hand it over.
        """
        count = self._borrower.pace(_GROUP)
        lease = self._borrower.borrow()
        if lease is None:
            return None
        delivery = self._take(lease, count)
        if delivery is None:
            lease.release()
            return None
        delivery.hand_over()
        if delivery.failed:
            with self.ledger.lock:
                self._frozen = True  # before anybody else has the turn
        return delivery

    def _expire_waiting_locked(self, moment: float, reason: SafePulsarError, *, everything: bool) -> list[GivenUp]:
        late = [handle for handle in self.waiting if everything or handle._deadline <= moment]
        if not late:
            return []
        for handle in late:
            handle._state = State.FAILING
        self.waiting = deque(handle for handle in self.waiting if handle._state == State.QUEUED)
        return [GivenUp(handle, reason, self._borrower.attempts_of(handle)) for handle in late]

    def _take(self, lease: Lease, count: int) -> Delivery | None:
        """
        Take the next group from the queue; from here on each of its messages may be stored.
        """
        group: list[SendHandle] = []
        with self.ledger.lock:
            self.keeper.give_up_locked(
                self._expire_waiting_locked(
                    now(), DeadlineExceeded("the deadline passed before it was handed over"), everything=False
                )
            )
            waiting = self.waiting
            self._borrower.hand_on_attempts_locked()
            if self._frozen:
                return None
            for _ in range(min(count, len(waiting))):
                handle = waiting.popleft()
                handle._state = 1  # State.HANDED_OVER
                group.append(handle)
            if not group:
                return None
            delivery = Delivery(self, lease, group)
            self._flying.append(delivery)
            return delivery

    def _finished(self, delivery: Delivery) -> None:
        """
        Every batch of `delivery` has its answer: let it go, or recover if it was the last of a frozen queue.
        """
        with self.ledger.lock:
            self._comeback = delivery.waiting
            delivery.finished = True
            self._frozen = frozen = self._frozen or bool(delivery.failed)
            if not frozen:
                while self._flying and self._flying[0].finished:
                    del self._flying[0]
            elif not all(each.finished for each in self._flying):
                return
        if not frozen:
            delivery.lease.release()
            return
        # Nobody hands over while the queue is frozen, and nobody else settles: this thread has it alone.
        result = Recovered()
        try:
            recover(self, self._flying, result)
        except Exception as error:  # noqa: BLE001  # see `_broken`
            self._broken(error)
        for producer in result.dead:
            self.pool.discard(producer)
        for each in self._flying:
            each.lease.release()
        with self.ledger.lock:
            self.waiting.extendleft(reversed(result.again))
            self._flying.clear()
        self.closing.wait(result.delay_seconds)  # still frozen: the pause is for those behind them, too
        with self.ledger.lock:
            self._frozen = False
