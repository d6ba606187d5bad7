"""
The threads of one queue, and which of them has the turn: to gather messages and to hand them over.

They start when there is something to do, sleep when there is not, and end after a while, so that an idle topic costs none.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from safepulsar.books.gate import Gate
from safepulsar.books.handle import now
from safepulsar.books.worker import start_thread

if TYPE_CHECKING:
    from safepulsar.books.ledger import Ledger
    from safepulsar.delivery.send_queue import SendQueue

_THREADS = 3  # groups on their way together at most; more made smaller groups and no higher rate
_IDLE_SECONDS = 10.0  # a thread with nothing to do ends after so long; the next message starts another
_LAST_STEPS_SECONDS = 0.1  # from a thread's goodbye to its end
# Threads that just got their answer often send again at once. Waiting for them, as long as they keep coming, puts
# them into one group instead of many small ones.
_COMEBACK_GAP_SECONDS = 0.0002
_COMEBACK_MAX_SECONDS = 0.002
# Where nobody waits for any of them, messages gather for so long, unless so many are there before: a group costs about as
# much as ten messages. The first one after a pause goes at once.
_GATHER_SECONDS = 0.002
_GATHERED = 100


class Crew:
    """
    Runs the queue's work on its threads. Whatever ends in `_locked` needs the ledger's lock.

    Args:
        queue: has the work.
        ledger: whose lock guards everything here.

    Attributes:
        closing: opens when the threads are to end.
        comeback: how many threads just got their answer.
    """

    def __init__(self, queue: SendQueue, ledger: Ledger) -> None:
        self.closing = Gate()
        self.comeback = 0
        self._queue = queue
        self._ledger = ledger
        self._turn = False  # whether one of the threads gathers or hands over
        self._threads: set[threading.Thread] = set()
        self._starting: threading.Thread | None = None  # not among them yet
        # Each sleeps on a lock of its own, which whoever wakes it releases exactly once.
        self._parked: list[threading.Lock] = []  # without the turn
        self._lingering: threading.Lock | None = None  # with it, until _need messages are there
        self._need = 1
        self._gathering = False  # it lingers until somebody waits, too
        self._gather_until = 0.0
        self._hurry = False  # somebody waits for a message that is not taken yet

    @property
    def empty(self) -> bool:
        """
        Whether it has no thread.
        """
        return not self._threads

    def rouse_locked(self, *, hurry: bool) -> None:
        """
        Have a thread that looks for messages; see `SendQueue.rouse_locked`.
        """
        if hurry:
            self._hurry = True
        if not self._turn:
            if not self._queue.held_up_locked():
                self._give_turn_locked()
        elif self._lingering is not None and (
            len(self._queue.waiting) + 1 >= self._need or (hurry and self._gathering)
        ):
            sleeper, self._lingering = self._lingering, None
            sleeper.release()

    def hurry_locked(self) -> None:
        """
        Somebody waits from now on for a message that waits here.
        """
        self._hurry = True
        if self._gathering and self._lingering is not None:
            sleeper, self._lingering = self._lingering, None
            sleeper.release()

    def close(self) -> None:
        """
        Let the threads end.
        """
        self.closing.open()
        with self._ledger.lock:
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
        ended = self._ledger.wait_until(lambda: not self._threads and not self._is_starting_locked(), deadline)
        for thread in threads:
            thread.join(_LAST_STEPS_SECONDS if ended else 0.0)
        return ended

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
            name = f"safepulsar-send-{len(self._threads)} {self._queue.topic}"
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

    # -- the threads -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        queue = self._queue
        sleeper = threading.Lock()
        sleeper.acquire()
        with self._ledger.lock:
            self._threads.add(threading.current_thread())
            if self._starting is threading.current_thread():
                self._starting = None
        while self._wait_for_turn(sleeper):
            self._linger(sleeper)
            self._gather(sleeper)
            delivery = queue.hand_over_next()
            if delivery is not None and delivery.batched:
                # Answered by now. To wake another thread for what came meanwhile would cost more than it gains.
                queue.finish(delivery)
                with self._ledger.lock:
                    self._turn = False
            else:
                self._pass_turn()
                if delivery is not None:
                    queue.finish(delivery)
            del delivery  # or it would keep its messages in memory while this thread sleeps

    def _pass_turn(self) -> None:
        with self._ledger.lock:
            self._turn = False
            if self._queue.waiting and not self._queue.held_up_locked():
                self._give_turn_locked()

    def _wait_for_turn(self, sleeper: threading.Lock) -> bool:
        """
        Take the turn if there is something to do, or sleep until it is given; False if the thread is to end.
        """
        with self._ledger.lock:
            if self.closing.is_open:
                return self._end_locked()
            if not self._turn and not self._queue.held_up_locked() and (self._queue.waiting or self.comeback):
                self._turn = True
                return True
            self._parked.append(sleeper)
        if not sleeper.acquire(timeout=_IDLE_SECONDS):
            with self._ledger.lock:
                if sleeper in self._parked:
                    self._parked.remove(sleeper)
                    return self._end_locked()
                sleeper.acquire()  # whoever took it out released it, too
        if self.closing.is_open:
            with self._ledger.lock:  # type: ignore[unreachable]  # it may have opened meanwhile
                return self._end_locked()
        return True

    def _end_locked(self) -> bool:
        self._threads.discard(threading.current_thread())
        self._ledger.changed_locked()
        if not self._threads and not self.closing.is_open:
            self._queue.idle_locked()
        return False

    def _linger(self, sleeper: threading.Lock) -> None:
        """
        Wait a moment for the threads that just got their answer, as long as they keep coming.
        """
        expected, self.comeback = self.comeback, 0
        until, seen = now() + _COMEBACK_MAX_SECONDS, -1
        while expected:
            with self._ledger.lock:
                count = len(self._queue.waiting)
                if count >= expected or count == seen or now() > until:
                    return
                seen, self._need, self._lingering = count, expected, sleeper
            self._sleep(sleeper, _COMEBACK_GAP_SECONDS)

    def _gather(self, sleeper: threading.Lock) -> None:
        """
        Wait a moment for more, as long as nobody waits for those that are here.
        """
        while True:
            with self._ledger.lock:
                moment = now()
                left = self._gather_until - moment
                self._gathering = not self._hurry and left > 0 and 0 < len(self._queue.waiting) < _GATHERED
                if not self._gathering:
                    self._hurry = False  # all that are here are taken now
                    self._gather_until = moment + _GATHER_SECONDS
                    return
                self._need, self._lingering = _GATHERED, sleeper
            self._sleep(sleeper, left)

    def _sleep(self, sleeper: threading.Lock, seconds: float) -> None:
        if not sleeper.acquire(timeout=seconds):
            with self._ledger.lock:
                woken = self._lingering is None
                self._lingering = None
                if woken:
                    sleeper.acquire()  # whoever cleared it released it, too
