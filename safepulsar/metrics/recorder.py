"""
Counts what observers are told, and looks up what senders say of themselves.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

from safepulsar.at_fork import renew_in_child
from safepulsar.errors import InvalidSettings
from safepulsar.message import Fate
from safepulsar.metrics.family import BUCKETS, Distribution, Family, Kind
from safepulsar.metrics.lookup import Lookup
from safepulsar.observing import Finished, RateLimited, Refused, Retrying
from safepulsar.request_headers import malformed
from safepulsar.topics import TopicNames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from safepulsar.observing import Fact
    from safepulsar.sender import RetryingSender

_MOST_CODES: Final = 60  # values of a label; there are about fifty codes, and what a client invents is "other"
OTHER: Final = "other"
_FEW: Final = 16  # durations that are looked up one by one faster than sorted
_OUTCOMES: Final = {fate: fate.value.lower() for fate in Fate}


class _Counts:
    """
    What rises.
    """

    def __init__(self) -> None:
        self.durations: dict[tuple[str, ...], list[float]] = {}  # a count for each bucket, and the sum behind
        self.bytes: dict[tuple[str, ...], float] = {}
        self.errors: dict[tuple[str, ...], float] = {}
        self.attempts: dict[tuple[str, ...], float] = {}
        self.retries: dict[tuple[str, ...], float] = {}
        self.refused: dict[tuple[str, ...], float] = {}
        self.rate_limit_waits = 0
        self.rate_limit_seconds = 0.0


class Metrics:
    """
    The numbers of all senders that have it among their observers. Thread-safe; a forked child begins at zero.

    Labels are bounded: fates, the codes of errors, and topics only if you name some. None is ever a key, a payload, a
    property or a secret.

    Args:
        topics: these get a label `topic` of their own, all others share the value `other`; none adds no such label.

    Raises:
        InvalidSettings: the topics are no sequence of names.
        InvalidTopic: one of them is no name.
    """

    def __init__(self, topics: Iterable[str] = ()) -> None:
        if isinstance(topics, str):
            raise InvalidSettings("Metrics.topics", "must be a sequence of names, not one")
        full = TopicNames().full
        self._topics = {full(topic) for topic in topics}
        self._topic_label = ("topic",) if self._topics else ()
        self._lookup = Lookup()
        self._listeners: list[Callable[[Finished], None]] = []
        self._lock = threading.Lock()  # guards _counts
        self._counts = _Counts()
        renew_in_child(self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._counts = _Counts()
        self._lookup.after_fork()

    # -- what happens ----------------------------------------------------------------------------------------

    def watch(self, sender: RetryingSender) -> None:
        """
        Look at this sender, too, whenever somebody asks.
        """
        self._lookup.watch(sender)

    def on_finished(self, listener: Callable[[Finished], None]) -> None:
        """
        Have `listener` called with each group of messages that got their fate, on the thread that tells observers.
        """
        self._listeners.append(listener)

    def observe(self, fact: Fact) -> None:
        """
        Count it.
        """
        with self._lock:
            counts = self._counts
            if isinstance(fact, Finished):
                self._finished(counts, fact)
            elif isinstance(fact, Retrying):
                _add(counts.retries, fact.error_code, fact.messages)
            elif isinstance(fact, Refused):
                _add(counts.refused, fact.error_code, 1)
            elif isinstance(fact, RateLimited):
                counts.rate_limit_waits += 1
                counts.rate_limit_seconds += fact.seconds
        if isinstance(fact, Finished):
            for listener in self._listeners:
                listener(fact)

    def topic_of(self, full: str) -> tuple[str, ...]:
        """
        The value of the label `topic`, if there is that label.
        """
        if not self._topic_label:
            return ()
        return (full if full in self._topics else OTHER,)

    def _finished(self, counts: _Counts, fact: Finished) -> None:
        fate, topic = fact.fate, self.topic_of(fact.topic)
        durations = fact.durations()
        key = (_OUTCOMES[fate], *topic)
        spread = counts.durations.get(key)
        if spread is None:
            spread = counts.durations[key] = [0.0] * (len(BUCKETS) + 2)
        if len(durations) <= _FEW:
            for seconds in durations:
                spread[bisect_left(BUCKETS, seconds)] += 1
        else:
            durations.sort()  # in C, and of messages accepted one after the other they are in order already
            before = 0
            for place, bound in enumerate(BUCKETS):
                end = bisect_right(durations, bound)
                spread[place] += end - before
                before = end
            spread[-2] += len(durations) - before
        spread[-1] += sum(durations)
        counts.bytes[key] = counts.bytes.get(key, 0) + sum([handle.size_bytes for handle in fact.handles])
        if fate is Fate.FAILED:
            _add(counts.errors, fact.error_code, len(durations), topic)
        else:
            _add(counts.attempts, "ok" if fate is Fate.DELIVERED else "duplicate", len(durations))
        for attempt in fact.failed_attempts():
            _add(counts.attempts, attempt.code, 1)

    # -- what is asked ---------------------------------------------------------------------------------------

    def collect(self) -> list[Family]:
        """
        Everything at this moment, always the same families in the same order.
        """
        with self._lock:
            counts, topic = self._counts, self._topic_label
            counted = [
                Family(
                    name="safepulsar_send_duration_seconds",
                    kind=Kind.HISTOGRAM,
                    text="From the call to the fate, by fate; its count is the rate of messages.",
                    labels=("outcome", *topic),
                ).of({key: Distribution.of(spread) for key, spread in counts.durations.items()}),
                Family(
                    name="safepulsar_sent_bytes_total",
                    kind=Kind.COUNTER,
                    text="Bytes of payload, keys and properties of messages that got their fate.",
                    labels=("outcome", *topic),
                ).of(counts.bytes),
                Family(
                    name="safepulsar_errors_total",
                    kind=Kind.COUNTER,
                    text="Messages that failed, by the code of the last error.",
                    labels=("code", *topic),
                ).of(counts.errors),
                _by("safepulsar_attempts_total", "Attempts, by result: ok, duplicate, or an error.", "result").of(
                    counts.attempts
                ),
                _by("safepulsar_retries_total", "Messages that an attempt failed for and that go again.", "code").of(
                    counts.retries
                ),
                _by("safepulsar_refused_total", "Messages that were not accepted, by the error.", "code").of(
                    counts.refused
                ),
                _by("safepulsar_rate_limit_waits_total", "Waits for the sender's own rate limit.").at(
                    counts.rate_limit_waits
                ),
                _by("safepulsar_rate_limit_wait_seconds_total", "Seconds of these waits.").at(
                    counts.rate_limit_seconds
                ),
            ]
        context: dict[tuple[str, ...], float] = {(what,): float(n) for what, n in malformed.counts().items()}
        return [
            *counted,
            _by("safepulsar_malformed_context_total", "Trace contexts and baggage replaced or left out.", "what").of(
                context
            ),
            *self._lookup.collect(time.monotonic()),
        ]


def _by(name: str, text: str, *labels: str) -> Family:
    return Family(name=name, kind=Kind.COUNTER, text=text, labels=labels)


def _add(counts: dict[tuple[str, ...], float], code: str, number: int, rest: tuple[str, ...] = ()) -> None:
    key = (code, *rest)
    if key not in counts and len(counts) >= _MOST_CODES:
        key = (OTHER, *rest)
    counts[key] = counts.get(key, 0) + number
