"""
What a queue needs before it hands over: leave of the rate limit, and the producer, tried for as the policy says.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from safepulsar.books.handle import State, now
from safepulsar.books.keeper import GivenUp
from safepulsar.delivery.retry import Again
from safepulsar.errors import BrokerError, CreationBackoff, DeadlineExceeded, SafePulsarError
from safepulsar.message import Attempt

if TYPE_CHECKING:
    from safepulsar.books.handle import SendHandle
    from safepulsar.broker.producer_pool import Lease
    from safepulsar.delivery.send_queue import SendQueue

_REMEMBERED = 64
_PAUSE_SECONDS = 0.1


class Borrower:
    """
    Gets a queue its producer.

    A failed attempt counts for every message that waited meanwhile; nothing was handed over, so it surely stored
    nothing. `pace` and `borrow` are for the thread with the turn; the rest needs the ledger's lock.

    Args:
        queue: whose messages wait.
    """

    def __init__(self, queue: SendQueue) -> None:
        self._queue = queue
        self._failures: deque[tuple[float, Attempt]] = deque(maxlen=_REMEMBERED)  # when each ended

    def pace(self, most: int) -> int:
        """
        Wait for the rate limit, and return how many messages it lets through, at most `most`.
        """
        queue = self._queue
        if not queue.limit.limits:
            return most
        with queue.ledger.lock:
            sizes = [handle.size_bytes for handle in islice(queue.waiting, most)]
        count = queue.limit.burst(sizes)
        # They still wait here, and count as surely not stored if the deadline comes first.
        seconds = queue.limit.take(count, sum(sizes[:count]))
        queue.keeper.observers.rate_limited(queue.topic, count, seconds)
        queue.closing.wait(seconds)
        return count

    def borrow(self) -> Lease | None:
        """
        Borrow the producer; None if no message is left that could wait for it.
        """
        queue = self._queue
        while True:
            with queue.ledger.lock:
                if not queue.waiting:
                    return None
                left = max(queue.waiting[0]._deadline, queue.waiting[-1]._deadline) - now()
            started, began = time.time(), now()
            try:
                return self._lease(max(0.0, left))
            except CreationBackoff as error:
                delay: float | None = error.retry_after_seconds
            except SafePulsarError as error:
                delay = self._failed(error, started, now() - began)
            if delay is None:
                return None
            queue.closing.wait(delay)

    def open(self, timeout_seconds: float) -> None:
        """
        Have the producer before there is any message, trying again as long as that may help.

        Raises:
            BrokerError: the last error.
            StoreError: likewise.
        """
        deadline = now() + timeout_seconds
        last: SafePulsarError | None = None  # of the broker: that it is not asked again yet says less
        while True:
            try:
                self._lease(max(0.0, deadline - now())).release()
            except SafePulsarError as error:
                pause = error.retry_after_seconds if isinstance(error, CreationBackoff) else _PAUSE_SECONDS
                if last is None or not isinstance(error, (CreationBackoff, DeadlineExceeded)):
                    last = error
                if not error.retriable or now() + pause > deadline:
                    raise last from None
                self._queue.closing.wait(pause)
            else:
                return

    def _lease(self, timeout_seconds: float) -> Lease:
        queue = self._queue
        if queue.exactly_once is not None:
            queue.exactly_once.open_journal()
        lease = queue.pool.lease(queue.settings, timeout_seconds=timeout_seconds)
        if queue.exactly_once is not None:
            try:
                queue.exactly_once.adopt(lease.producer)
            except BaseException:
                lease.release()
                raise
        return lease

    def attempts_of(self, handle: SendHandle) -> tuple[Attempt, ...]:
        """
        All failed attempts of a message that waits.
        """
        return handle._attempts + tuple(attempt for at, attempt in self._failures if at >= handle._accepted_at)

    def last_failure(self) -> str | None:
        """
        The code of the last failed attempt, if there is no producer since; from any thread.
        """
        try:
            return self._failures[-1][1].code
        except IndexError:
            return None

    def hand_on_attempts_locked(self) -> None:
        """
        Note the failures at the messages that waited, because the producer is here now.
        """
        if self._failures:
            for handle in self._queue.waiting:
                handle._attempts = self.attempts_of(handle)
            self._failures.clear()

    def _failed(self, error: SafePulsarError, started: float, elapsed: float) -> float | None:
        """
        Note the failed attempt for every message that was waiting, give up whose turn is over, return the pause.
        """
        queue = self._queue
        code = error.code if isinstance(error, BrokerError) else type(error).__name__
        attempt = Attempt(started_at=started, elapsed_seconds=elapsed, code=code, maybe_stored=False)
        queue.keeper.observers.log.once(logging.WARNING, "safepulsar.no_producer", queue.topic, code)
        given_up: list[GivenUp] = []
        delay: float | None = None
        with queue.ledger.lock:
            moment = now()
            self._failures.append((moment, attempt))
            if queue.flying:
                # What was handed over before may still come to the store, and must not stand behind these there.
                delay = _PAUSE_SECONDS
            while queue.waiting and delay is None:
                head = queue.waiting[0]
                if head._state != State.QUEUED:  # cancelled
                    queue.waiting.popleft()
                    continue
                attempts = self.attempts_of(head)
                verdict = queue.retry.decide(error, attempts=len(attempts), seconds_left=head._deadline - moment)
                if isinstance(verdict, Again):
                    delay = verdict.delay_seconds
                    self._failures[-1] = moment, replace(attempt, delay_seconds=delay)
                    break  # those behind it have made no more attempts than it
                queue.waiting.popleft()
                head._state = State.FAILING
                given_up.append(GivenUp(head, error, attempts))
            queue.lanes.give_up_locked(given_up)
            waiting = len(queue.waiting)
        if delay is not None:
            queue.keeper.observers.retrying(queue.topic, error, waiting, delay)
        return delay
