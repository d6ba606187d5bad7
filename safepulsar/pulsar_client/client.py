"""
A client: opens producers and closes, never waiting inside the native library, which holds up interrupts and exits.

What this relies on was measured with pulsar-client 3.13.0:

- `create_producer` that races `close` succeeds with a null producer, whose use crashes the process. Its asynchronous
  form shows the code that comes with it, `Disconnected`.
- On a frozen broker the native `close` of a client waits for open producers up to the operation timeout; where
  closing them has begun before, as `PulsarProducer.close` does it, it takes milliseconds.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import _pulsar

from safepulsar.errors import BrokerError
from safepulsar.outcomes import Phase, classify
from safepulsar.pulsar_client.configuration import TokenSource, client_configuration, producer_configuration
from safepulsar.pulsar_client.native import OK, Closings, code_of, leak, quietly
from safepulsar.pulsar_client.partitions import PartitionedProducer
from safepulsar.pulsar_client.producer import PulsarProducer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safepulsar.settings import ClientSettings, ProducerSettings
    from safepulsar.transport import TransportProducer

    # The native library's answer, once it has one: `(result, value)`.
    _Answer = SimpleQueue[tuple[_pulsar.Result, Any]]

log = logging.getLogger("safepulsar")

_CLOSED_PRODUCERS_SECONDS: Final = 0.5
_GRACE_SECONDS: Final = 0.5  # for the library's own timeout to come first: its code says more than ours


def connect(settings: ClientSettings) -> PulsarClient:
    """
    Make a client: the `safepulsar.transport.Connect` of Apache Pulsar. It connects when it opens its first producer.

    Where the client library writes its log is settled once per process, by the first client.

    Raises:
        BrokerError: the library does not take the settings.
        InvalidSettings: a file cannot be read, or the log cannot be written.
    """
    token = TokenSource(settings.token) if callable(settings.token) else None
    native = quietly(lambda: _pulsar.Client(settings.url, client_configuration(settings, token)))
    if native is None:
        raise classify("InvalidConfiguration", Phase.CREATE)
    return PulsarClient(settings, native, token)


class PulsarClient:
    """
    A `safepulsar.transport.TransportClient`. Made by `connect`; whoever made it closes it before the interpreter ends.
    """

    def __init__(self, settings: ClientSettings, native: _pulsar.Client, token: TokenSource | None) -> None:
        self.settings = settings
        self._token = token
        self._timeout_seconds = settings.operation_timeout_seconds + _GRACE_SECONDS
        self._closings = Closings()
        # Re-entrant, because a signal handler may close in the middle of another call.
        self._lock = threading.RLock()  # guards _native and _late
        self._native: _pulsar.Client | None = native
        self._leaving: _pulsar.Client | None = None  # being closed: letting go of it now would hold up everything
        self._late: list[_Answer] = []  # that nobody waited for long enough; each may still bring a producer

    def __repr__(self) -> str:
        return f"<PulsarClient {self.settings.url} {'closed' if self._native is None else 'open'}>"

    def create_producer(self, settings: ProducerSettings) -> TransportProducer:
        """
        Open a producer; on a topic of several partitions a `PartitionedProducer` of as many as there are now.

        Takes half a second more than the operation timeout at most, for everything together.

        Raises:
            BrokerError: with its verdict, and never with the client library's own text, which can quote arguments.
            InvalidSettings: a key file cannot be read, or a schema is asked for.
        """
        native = self._native
        topic = settings.topic
        if native is None:
            raise classify("AlreadyClosed", Phase.CREATE, topic)
        deadline = time.monotonic() + self._timeout_seconds
        self._close_late()
        names: list[str] = self._wait(_ask(native.get_topic_partitions_async, topic), topic, deadline)
        if len(names) == 1:
            (opened,) = self._open(native, settings, names, deadline)
            partitioned = names[0].endswith("-partition-0") and not topic.endswith("-partition-0")
            return PulsarProducer(settings, opened, self._closings, 0 if partitioned else -1)
        settings_of_one = PartitionedProducer.settings_of_one(settings)
        partitions = self._open(native, settings_of_one, names, deadline)
        return PartitionedProducer(
            settings,
            [PulsarProducer(settings_of_one, each, self._closings, index) for index, each in enumerate(partitions)],
        )

    def close(self) -> None:
        """
        Close, and return when the native library calls nothing of ours any more. Never raises; idempotent.

        Takes milliseconds; on a frozen broker half a second, or up to the operation timeout if producers are open. If
        it is not done even then, the native client is leaked. What Ctrl-C interrupts, the next call finishes.
        """
        with self._lock:
            if self._native is not None:
                self._leaving = self._native
                self._native = None
        leaving = self._leaving
        if leaving is None:
            return
        # Or the library would write an error to its log for each producer that has not heard from the broker yet.
        self._closings.wait(_CLOSED_PRODUCERS_SECONDS)
        leaving.close_async(self._closings.add())
        if not self._closings.wait(self._timeout_seconds):
            log.warning("safepulsar.client_not_closed", extra={"url": self.settings.url})
            leak(leaving)
        self._leaving = None

    def leak(self) -> None:
        """
        Never destroy the native client, nor a producer that came too late.
        """
        leak(self._native, self._leaving, self._late)

    def _open(
        self, native: _pulsar.Client, settings: ProducerSettings, names: Sequence[str], deadline: float
    ) -> list[_pulsar.Producer]:
        """
        Open a native producer on each of `names`, at the same time: all of them or none.
        """
        configuration = quietly(lambda: producer_configuration(settings))
        if configuration is None:
            raise classify("InvalidConfiguration", Phase.CREATE, settings.topic)
        waiting = [_ask(native.create_producer_async, name, configuration) for name in names]
        opened: list[_pulsar.Producer] = []
        failures: list[BrokerError] = []
        try:
            while waiting:
                try:
                    opened.append(self._wait(waiting[0], settings.topic, deadline))
                except BrokerError as error:
                    failures.append(error)
                del waiting[0]
        finally:
            # What comes while the client closes must not be touched.
            closing = self._native is None
            if closing or failures or waiting:  # the last if the wait was interrupted
                for each in opened:
                    self._dispose(each)
                with self._lock:
                    self._late += waiting
        if closing or failures:
            raise failures[0] if failures else classify("AlreadyClosed", Phase.CREATE, settings.topic)
        return opened

    def _wait(self, answer: _Answer, topic: str, deadline: float) -> Any:  # noqa: ANN401  # the question's own type
        try:
            result, value = answer.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            with self._lock:
                self._late.append(answer)
            raise classify("Timeout", Phase.CREATE, topic) from None
        if result.value == OK:
            return value
        code = code_of(result)
        told = self._token.failure if self._token is not None and code == "AuthenticationError" else None
        raise classify(code, Phase.CREATE, topic, detail=told)

    def _close_late(self) -> None:
        with self._lock:
            late, self._late = self._late, []
        for answer in late:
            try:
                result, value = answer.get_nowait()
            except Empty:
                with self._lock:
                    self._late.append(answer)
            else:
                if result.value == OK and isinstance(value, _pulsar.Producer):
                    self._dispose(value)

    def _dispose(self, producer: _pulsar.Producer) -> None:
        if self._native is None:
            leak(producer)
        else:
            producer.close_async(self._closings.add())


def _ask(question: Callable[..., None], *arguments: object) -> _Answer:
    answer: _Answer = SimpleQueue()
    # A Python function on the network thread, where each message's must be in C: rare, and it can't fail or block.
    question(*arguments, lambda result, value: answer.put((result, value)))
    return answer
