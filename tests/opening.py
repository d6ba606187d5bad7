"""
Producers of the smallest kind, for tests of the pool: opened, flushed, closed and leaked, and nothing else.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from safepulsar.settings import ProducerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.broker.transport import OnResult, Slot
    from safepulsar.errors import BrokerError
    from safepulsar.message import MessageId, Outgoing


class Clock:
    """
    Seconds that pass only when a test says so.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """
        Return the time.
        """
        return self.now


class Opened:
    """
    A producer that keeps what was done to it, in order.
    """

    batch_max_messages = 1
    name = "opened"
    mark = ""

    def __init__(self, settings: ProducerSettings, opener: Opener) -> None:
        self.settings = settings
        self.calls: list[str] = []
        self.leaked = False
        self._closed = threading.Event()
        self._opener = opener

    def flush(self) -> None:
        """
        Note it; hangs on a frozen topic until it is closed, as the real one does.
        """
        self.calls.append("flush")
        if self.settings.topic in self._opener.frozen:
            self._closed.wait()

    def close(self) -> None:
        """
        Note it.
        """
        if not self._closed.is_set():
            self.calls.append("close")
            self._closed.set()
            self._opener.closed(self)

    @property
    def is_closed(self) -> bool:
        """
        Whether `close` was called.
        """
        return self._closed.is_set()

    def leak(self) -> None:
        """
        Note it.
        """
        self.leaked = True

    def send_batch(self, messages: Sequence[Outgoing], on_result: OnResult) -> None:
        """
        Not for the pool.
        """
        raise NotImplementedError

    def read(self, slot: Slot) -> MessageId | BrokerError | None:
        """
        Not for the pool.
        """
        raise NotImplementedError

    def is_connected(self) -> bool:
        """
        As long as it is open.
        """
        return not self.is_closed

    @property
    def next_sequence_id(self) -> int | None:
        """
        Not known.
        """
        return None

    def last_sequence_id(self) -> int:
        """
        None yet.
        """
        return -1

    def last_sequence_ids(self) -> dict[int, int]:
        """
        None yet.
        """
        return {-1: -1}


class Opener:
    """
    Opens `Opened` producers, and counts. Topics can be made to fail or to hang. Thread-safe.

    Attributes:
        opened: all so far, in order.
        most: how many were open at the same time at most.
        most_at_once: how many were being opened at the same time at most.
        failing: what opening a topic raises.
        hanging: opening such a topic waits for its event.
        frozen: flushing a producer of such a topic hangs until it is closed.
    """

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        self.most = 0
        self.most_at_once = 0
        self.failing: dict[str, Exception] = {}
        self.hanging: dict[str, threading.Event] = {}
        self.frozen: set[str] = set()
        self._lock = threading.Lock()
        self._opening = 0
        self._open: dict[int, Opened] = {}

    def __call__(self, settings: ProducerSettings) -> Opened:
        """
        Open one.
        """
        with self._lock:
            self._opening += 1
            self.most_at_once = max(self.most_at_once, self._opening)
        try:
            hanging = self.hanging.get(settings.topic)
            if hanging is not None and not hanging.wait(30):
                raise AssertionError("the test did not let this topic open")
            failing = self.failing.get(settings.topic)
            if failing is not None:
                raise failing
            producer = Opened(settings, self)
            with self._lock:
                self.opened.append(producer)
                self._open[id(producer)] = producer
                self.most = max(self.most, len(self._open))
            return producer
        finally:
            with self._lock:
                self._opening -= 1

    def closed(self, producer: Opened) -> None:
        """
        Called by a producer that closes.
        """
        with self._lock:
            del self._open[id(producer)]

    def open(self) -> list[Opened]:
        """
        Return those that are open.
        """
        with self._lock:
            return list(self._open.values())


def settings_of(name: str) -> ProducerSettings:
    """
    Settings of a producer, equal for equal names, and another object at each call.
    """
    return ProducerSettings(topic=f"persistent://public/default/{name}")
