"""
Brings facts to observers, so that none of them can slow, stop or reorder a send.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from safepulsar.books.handle import now
from safepulsar.books.worker import Worker
from safepulsar.logs.outcomes import LogOutcomes
from safepulsar.logs.repeats import RepeatLog, Repeats
from safepulsar.message import Fate
from safepulsar.observing import Cancelled, Finished, RateLimited, Refused, Retrying, code_of, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from safepulsar.books.handle import SendHandle
    from safepulsar.books.ledger import Ledger
    from safepulsar.errors import SafePulsarError, SendFailed
    from safepulsar.observing import Fact, Observer

log = logging.getLogger("safepulsar")
# The most messages that facts are kept of: an observer that is further behind misses some. Some 50 MB at worst.
_MOST_MESSAGES = 100_000
# Facts come together for so long: one wake-up of the thread serves many groups.
_GATHER_SECONDS = 0.02
_COMPLAIN_SECONDS = 10.0
_REMIND_SECONDS = 1.0  # between two looks for what the log has not told yet


class Observers:
    """
    Tells facts on the thread `safepulsar-observers`, one after the other, which is started with the first one.

    What fails is logged even if nobody observes, unless a `LogOutcomes` of your own is among the observers.

    Args:
        observers: in the order in which they are told.
        ledger: of the sender.

    Attributes:
        dropped: messages whose facts were dropped so far because observers were too slow.
        log: for what the sender's threads find again and again.
    """

    def __init__(self, observers: Sequence[Observer], ledger: Ledger) -> None:
        self._own = tuple(observers)
        logs = any(isinstance(each, LogOutcomes) for each in observers)
        self._all: tuple[Observer, ...] = self._own if logs else (LogOutcomes(), *self._own)
        self.log = RepeatLog(log, _COMPLAIN_SECONDS)
        self._logs: list[RepeatLog | LogOutcomes] = [
            self.log,
            *(each for each in self._all if isinstance(each, LogOutcomes)),
        ]
        self._failures = Repeats(_COMPLAIN_SECONDS)
        self.dropped = 0
        self._told = 0  # of these the log knows
        self._tell_at = 0.0
        # Guards _facts, _held and dropped. Re-entrant, because a signal handler may close the sender in the middle.
        self._lock = threading.RLock()
        self._facts: deque[tuple[Fact, int]] = deque()
        self._held = 0
        self._closing = False
        self._ledger = ledger
        self._worker = Worker("safepulsar-observers", ledger, step=self._step, done_locked=self._done_locked)

    # -- told by the sender's threads, without a lock --------------------------------------------------------

    def delivered(self, topic: str, handles: Sequence[SendHandle], duplicates: int) -> None:
        """
        These were acknowledged, so many of them as known already.
        """
        if not self._own or not handles:
            return
        if not duplicates:
            self._put(Finished(topic=topic, fate=Fate.DELIVERED, handles=handles), len(handles))
            return
        for fate in (Fate.DELIVERED, Fate.DUPLICATE):
            some = [handle for handle in handles if handle._fate() is fate]
            if some:
                self._put(Finished(topic=topic, fate=fate, handles=some), len(some))

    def failed(self, failures: Iterable[tuple[SendHandle, SendFailed]]) -> None:
        """
        These were given up, and are kept if they could be.
        """
        groups: dict[tuple[object, ...], list[SendHandle]] = {}
        for handle, failure in failures:
            groups.setdefault((handle.topic, failure.certainty, code_of(failure)), []).append(handle)
        for handles in groups.values():
            failure = handles[0]._error  # type: ignore[assignment]  # it is the one that was just noted
            fact = Finished(
                topic=handles[0].topic,
                fate=Fate.FAILED,
                certainty=failure.certainty,
                error_code=code_of(failure),
                handles=handles,
            )
            self._put(fact, len(handles))

    def retrying(self, topic: str, error: SafePulsarError, messages: int, delay_seconds: float) -> None:
        """
        So many will be sent again.
        """
        code = code_of(error)
        self._put(Retrying(topic=topic, error_code=code, messages=messages, delay_seconds=delay_seconds), 1)

    def rate_limited(self, topic: str, messages: int, seconds: float) -> None:
        """
        So many wait for the rate limit.
        """
        if self._own and seconds > 0:
            self._put(RateLimited(topic=topic, messages=messages, seconds=seconds), 1)

    def refused(self, handle: SendHandle, error: BaseException) -> None:
        """
        It was not accepted.
        """
        if self._own:
            self._put(Refused(topic=handle.topic, error_code=code_of(error)), 1)

    def cancelled(self, handle: SendHandle) -> None:
        """
        It was taken back.
        """
        if self._own:
            self._put(Cancelled(topic=handle.topic, handle=handle), 1)

    def _put(self, fact: Fact, messages: int) -> None:
        with self._lock:
            if self._held + messages > _MOST_MESSAGES and self._facts:
                self.dropped += messages
                return
            self._held += messages
            self._facts.append((fact, messages))
        if not self._worker.up:
            try:
                with self._ledger.lock:
                    self._worker.start_locked()
            except RuntimeError:
                return  # no thread can be had, as at the exit of Python 3.12: `close` tells what is here by then
        self._worker.ring()

    # -- the thread ------------------------------------------------------------------------------------------

    def _done_locked(self) -> bool:
        return self._closing and not self._facts

    def _step(self) -> None:
        self._tell()
        more = [each.remind(everything=self._closing) for each in self._logs]
        if not self._closing:
            self._worker.wait(_REMIND_SECONDS if any(more) else None)
            if not self._closing:
                time.sleep(_GATHER_SECONDS)

    def _tell(self, deadline: float | None = None) -> None:
        while deadline is None or now() < deadline:
            with self._lock:
                if not self._facts:
                    break
                fact, messages = self._facts.popleft()
            for observer in self._all:
                try:
                    observer.observe(fact)
                except BaseException:  # also SystemExit: an observer decides nothing about this thread
                    name = name_of(observer)
                    missed = self._failures.count(name)
                    if missed is not None:
                        fields = {"observer": name} | ({"suppressed": missed} if missed else {})
                        log.exception("safepulsar.observer_failed", extra=fields)
            with self._lock:
                self._held -= messages
        if self.dropped > self._told and (self._closing or now() >= self._tell_at):
            new, self._told, self._tell_at = self.dropped - self._told, self.dropped, now() + _COMPLAIN_SECONDS
            log.warning("safepulsar.facts_dropped", extra={"messages": new})

    def close(self, deadline: float) -> bool:
        """
        Tell what is left and end; False if an observer did not return in time.
        """
        self._closing = True
        self._worker.ring()
        ended = self._worker.ended(deadline)
        if ended:
            self._tell(deadline)  # what no thread could be had for
            for each in self._logs:
                each.remind(everything=True)
        return ended
