"""
The sender's books: what was accepted, what became of it, and the bounds on what is still in flight.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from safepulsar.books.handle import now
from safepulsar.errors import QueueFull, SenderClosed
from safepulsar.settings import WhenFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.settings import SenderSettings

_ASIDE_SECONDS = 1e-6  # as short as the system can: some 60 µs on Linux
_MAKE_WAY_SECONDS = 0.05  # what ten threads may keep the interpreter's lock from an eleventh


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """
    The books at one moment. `balanced` holds at every moment.
    """

    accepted: int
    delivered: int
    duplicate: int
    failed: int
    in_flight: int
    in_flight_bytes: int
    not_kept: int
    cancelled: int = 0

    @property
    def balanced(self) -> bool:
        """
        Whether every accepted message is accounted for.
        """
        ended = self.delivered + self.duplicate + self.failed + self.cancelled
        return self.accepted == ended + self.in_flight


class Waiter(Protocol):
    """
    Whoever waits for a change otherwise than by a lock.
    """

    def release(self) -> None:
        """
        Something changed. Called with the ledger's lock, and must not block.
        """


class Ledger:
    """
    Counts and bounds. All state of all messages of a sender changes under its one `lock`.

    The lock is re-entrant because a signal handler may call `close` while its own thread holds it. A handler runs, and
    Ctrl-C is raised, where a function begins, a call has just returned, or code jumps (over an `if`, too): never between
    two plain statements. So whoever accepts a message looks at `open`, counts, and makes the message visible by one call
    into C, in this order and straight on. Then the books balance whatever comes whenever. For the same reason there is no
    `threading.Condition` on an application's way: interrupted where it takes or releases its lock, it would keep or lose
    it for good.
    """

    def __init__(self, settings: SenderSettings) -> None:
        self.lock = threading.RLock()
        self.wanting = 0  # so many are about to take the lock for a message, see `make_way`
        self.open = True
        self.accepted = 0
        self.delivered = 0
        self.duplicate = 0
        self.failed = 0
        self.cancelled = 0
        self.not_kept = 0
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.max_messages = settings.max_in_flight_messages
        self.max_bytes = settings.max_in_flight_bytes
        self._when_full = settings.when_full
        self._waiters: list[threading.Lock | Waiter] = []  # each is released once when something becomes final

    def counts(self) -> Counts:
        """
        A consistent copy.
        """
        with self.lock:
            return Counts(
                accepted=self.accepted,
                delivered=self.delivered,
                duplicate=self.duplicate,
                failed=self.failed,
                in_flight=self.in_flight,
                in_flight_bytes=self.in_flight_bytes,
                not_kept=self.not_kept,
                cancelled=self.cancelled,
            )

    def make_way(self) -> None:
        """
        Wait until nobody is about to take the lock for a message, or a moment at most; for who has time.

        Python gives a lock to a thread that waits for it before that thread has the interpreter's. Whoever wants it next
        finds it taken, waits in turn, and so on: once two threads that do nothing but accept have met, each message costs a
        switch of threads, and all of them together are half as fast as one (a convoy: Blasgen, Gray, Mitoma and Price, 1979).
        It ends as soon as one of them sleeps while the other has the lock.
        """
        until = now() + _MAKE_WAY_SECONDS
        while self.wanting > 0 and now() < until:
            time.sleep(_ASIDE_SECONDS)
        # About, and only a hint: who was interrupted while it waited for the lock is still counted.
        if self.wanting < 0 or now() >= until:
            self.wanting = 0

    def check_open_locked(self) -> None:
        """
        Raise SenderClosed if nothing more is accepted.
        """
        if not self.open:
            raise self.closed_error()

    def closed_error(self) -> SenderClosed:
        """
        What to raise where nothing more is accepted.
        """
        return SenderClosed("the sender is closed and takes no more messages; make a new one")

    def stop_intake_locked(self) -> None:
        """
        Accept nothing more; those who wait for room are told.
        """
        self.open = False
        self.changed_locked()

    def full_locked(self, size_bytes: int) -> bool:
        """
        Whether one more message has to wait.
        """
        return self.in_flight >= self.max_messages or (
            self.in_flight_bytes + size_bytes > self.max_bytes and self.in_flight > 0
        )

    def wait_for_room_locked(self, size_bytes: int, deadline: float) -> bool:
        """
        Wait until one more message fits; False if it is to be kept in the store instead.

        Raises:
            QueueFull: it does not fit, and the settings say to raise, or not until `deadline`.
            SenderClosed: meanwhile.
        """
        blocking = self._when_full is WhenFull.BLOCK
        while self.full_locked(size_bytes):
            if self._when_full is WhenFull.KEEP:
                return False
            left = deadline - now()
            if not blocking or left <= 0:
                until = " until the deadline" if blocking else ""
                msg = (
                    f"{self.in_flight} messages with {self.in_flight_bytes} bytes are in flight{until} (at most "
                    f"{self.max_messages} and {self.max_bytes}); this one was not accepted: send slower, or raise "
                    "max_in_flight_messages or max_in_flight_bytes"
                )
                raise QueueFull(msg)
            self._wait_locked(left)
            self.check_open_locked()
        return True

    def count_locked(self, size_bytes: int) -> None:
        """
        Count one more message as accepted.

        Raises:
            SenderClosed: nothing is accepted any more.
        """
        if self.open:
            self.accepted += 1
            self.in_flight += 1
            self.in_flight_bytes += size_bytes
            return
        raise self.closed_error()

    def wait_for_change_locked(self, deadline: float) -> None:
        """
        Wait until something becomes final, or nothing is accepted any more.
        """
        self._wait_locked(deadline - now())

    def settle_locked(self, size_bytes: int, *, delivered: int = 0, duplicate: int = 0, failed: int = 0) -> None:
        """
        Book so many messages that just became final, with `size_bytes` together.
        """
        self.in_flight -= delivered + duplicate + failed
        self.in_flight_bytes -= size_bytes
        self.delivered += delivered
        self.duplicate += duplicate
        self.failed += failed
        if self._waiters:
            self.changed_locked()

    def changed_locked(self) -> None:
        """
        Let those who wait look again.
        """
        while self._waiters:
            # One by one, and up to the release no call: Ctrl-C in between leaves the rest for the next change.
            waiter = self._waiters[0]
            del self._waiters[0]
            waiter.release()

    def tell_of_room_locked(self, waiter: Waiter, size_bytes: int) -> None:
        """
        Release `waiter` with the next change, or at once if there is nothing to wait for; for whoever must not block.
        """
        if self.open and self.full_locked(size_bytes):
            self._waiters.append(waiter)
        else:
            waiter.release()

    def wait_until(self, fact: Callable[[], object], deadline: float) -> bool:
        """
        Wait until `fact()`, asked with the lock held, is true; False if the deadline came first.

        The lock is free meanwhile, even if a signal handler waits that interrupted its holder.
        """
        with self.lock:
            while not fact():
                left = deadline - now()
                if left <= 0:
                    return False
                self._wait_locked(left)
            return True

    def wait_until_empty(self, deadline: float) -> bool:
        """
        Wait until nothing is in flight; False if the deadline came first.
        """
        return self.wait_until(lambda: not self.in_flight, deadline)

    def _wait_locked(self, seconds: float) -> None:
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        # Should Ctrl-C come just behind the release; right, unless a signal handler waits that interrupted the holder.
        held = 1, threading.get_ident()
        try:
            # All of it, as a Condition does: whoever is to change something may have been interrupted while it held it.
            held = self.lock._release_save()  # type: ignore[attr-defined]
            waiter.acquire(timeout=seconds)
        finally:
            self.lock._acquire_restore(held)  # type: ignore[attr-defined]
            if waiter in self._waiters:
                self._waiters.remove(waiter)
