"""
A client: opens producers, reads topics back and closes, never waiting inside the native library, which holds up interrupts and exits.

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
from typing import TYPE_CHECKING, Any, Final

import _pulsar

from safepulsar.broker.outcomes import Phase, classify
from safepulsar.broker.pulsar_client.configuration import TokenSource, client_configuration, producer_configuration
from safepulsar.broker.pulsar_client.native import OK, Answer, Closings, code_of, leak, quietly
from safepulsar.broker.pulsar_client.partitions import PartitionCounts, PartitionedProducer
from safepulsar.broker.pulsar_client.producer import PulsarProducer
from safepulsar.broker.pulsar_client.reader import last_message_id, read_back
from safepulsar.broker.pulsar_client.schemas import both_versions
from safepulsar.errors import BrokerError, IncompatibleSchema
from safepulsar.processes.native_calls import native_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from safepulsar.broker.transport import Stored, TransportProducer
    from safepulsar.message import MessageId
    from safepulsar.settings import ClientSettings, ProducerSettings

log = logging.getLogger("safepulsar")

_CLOSED_PRODUCERS_SECONDS: Final = 0.5
_GRACE_SECONDS: Final = 0.5  # for the library's own timeout to come first: its code says more than ours


def connect(settings: ClientSettings) -> PulsarClient:
    """
    Make a client: the `safepulsar.broker.transport.Connect` of Apache Pulsar. It connects when it opens its first producer.

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
    A `safepulsar.broker.transport.TransportClient`. Made by `connect`; whoever made it closes it before the interpreter ends.
    """

    def __init__(self, settings: ClientSettings, native: _pulsar.Client, token: TokenSource | None) -> None:
        self.settings = settings
        self._token = token
        self._timeout_seconds = settings.operation_timeout_seconds + _GRACE_SECONDS
        self._closings = Closings()
        self._counts = PartitionCounts()
        # Re-entrant, because a signal handler may close in the middle of another call.
        self._lock = threading.RLock()  # guards _native and _late
        self._native: _pulsar.Client | None = native
        self._leaving: _pulsar.Client | None = None  # being closed: letting go of it now would hold up everything
        self._late: list[Answer] = []  # that nobody waited for long enough; each may still bring what is to be closed

    def __repr__(self) -> str:
        return f"<PulsarClient {self.settings.url} {'closed' if self._native is None else 'open'}>"

    def create_producer(self, settings: ProducerSettings) -> TransportProducer:
        """
        Open a producer; on a topic of several partitions a `PartitionedProducer` of as many as there are now.

        Takes half a second more than the operation timeout at most, for everything together.

        Raises:
            BrokerError: with its verdict, and never with the client library's own text, which can quote arguments.
            InvalidSettings: a key file cannot be read.
        """
        native = self._native
        topic = settings.topic
        if native is None:
            raise classify("AlreadyClosed", Phase.CREATE, topic)
        deadline = time.monotonic() + self._timeout_seconds
        self._close_late()
        names = self._partitions(native, topic, deadline)
        if len(names) == 1:
            ((partition, name),) = names.items()
            (opened,) = self._open(native, settings, [name], deadline)
            if partition >= 0:
                self._counts.opened(topic, 1)
            return PulsarProducer(settings, opened, self._closings, partition)
        settings_of_one = PartitionedProducer.settings_of_one(settings)
        partitions = self._open(native, settings_of_one, list(names.values()), deadline)
        self._counts.opened(topic, len(names))
        return PartitionedProducer(
            settings,
            [PulsarProducer(settings_of_one, each, self._closings, index) for index, each in enumerate(partitions)],
        )

    def last_message_ids(self, topic: str, *, timeout_seconds: float) -> dict[int, MessageId | None]:
        """
        Say where the topic ends now; see `TransportClient.last_message_ids`.

        Raises:
            BrokerError: with its verdict; nothing is known then.
        """
        native = self._native
        if native is None:
            raise classify("AlreadyClosed", Phase.CREATE, topic)
        deadline = time.monotonic() + timeout_seconds
        self._close_late()
        names = self._partitions(native, topic, deadline)
        return {
            partition: last_message_id(self, native, name, partition, deadline) for partition, name in names.items()
        }

    def read_back(
        self, topic: str, partition: int, after: MessageId | None, *, timeout_seconds: float
    ) -> Iterator[Stored]:
        """
        Read what is behind `after`; see `TransportClient.read_back`. A message takes 17 µs here, the rest is the broker.

        Raises:
            BrokerError: with its verdict; there may be more then.
        """
        native = self._native
        if native is None:
            raise classify("AlreadyClosed", Phase.CREATE, topic)
        deadline = time.monotonic() + timeout_seconds
        self._close_late()
        name = topic if partition < 0 else f"{topic}-partition-{partition}"
        yield from read_back(self, native, name, partition, after, deadline)

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
        self._native = None  # so that what is still open is leaked as well when its user lets go of it

    # -- for what is opened here ------------------------------------------------------------------------------

    @staticmethod
    def ask(question: Callable[..., None], *arguments: object) -> Answer:
        """
        Make an asynchronous call.
        """
        answer = Answer()
        native_calls.begin(id(answer))
        try:
            question(*arguments, answer)
        except BaseException:
            native_calls.end(id(answer))
            raise
        return answer

    def wait(self, answer: Answer, topic: str, deadline: float) -> Any:  # noqa: ANN401  # the question's own type
        """
        Return what the native library answered.

        Raises:
            BrokerError: its code; `Timeout` if there is no answer by the deadline. What still comes is closed later.
        """
        told = answer.wait(deadline)
        if told is None:
            with self._lock:
                self._late.append(answer)
            raise classify("Timeout", Phase.CREATE, topic)
        result, value = told
        if result.value == OK:
            return value
        code = code_of(result)
        detail = self._token.failure if self._token is not None and code == "AuthenticationError" else None
        raise classify(code, Phase.CREATE, topic, detail=detail)

    def watch(self, function: Callable[..., object]) -> None:
        """
        Do not end `close` before the native library let go of this function.
        """
        self._closings.watch(function)

    def dispose(self, opened: _pulsar.Producer | _pulsar.Reader | _pulsar.Consumer) -> None:
        """
        Close it without waiting; what comes while the client closes is not touched.
        """
        if self._native is None:
            leak(opened)
        else:
            opened.close_async(self._closings.add())

    # -- parts ------------------------------------------------------------------------------------------------

    def _open(
        self, native: _pulsar.Client, settings: ProducerSettings, names: Sequence[str], deadline: float
    ) -> list[_pulsar.Producer]:
        """
        Open a native producer on each of `names`, at the same time: all of them or none.
        """
        configuration = quietly(lambda: producer_configuration(settings))
        if configuration is None:
            raise classify("InvalidConfiguration", Phase.CREATE, settings.topic)
        waiting = [self.ask(native.create_producer_async, name, configuration) for name in names]
        opened: list[_pulsar.Producer] = []
        failures: list[BrokerError] = []
        try:
            while waiting:
                try:
                    opened.append(self.wait(waiting[0], settings.topic, deadline))
                except BrokerError as error:
                    failures.append(error)
                del waiting[0]
        finally:
            # What comes while the client closes must not be touched.
            closing = self._native is None
            if closing or failures or waiting:  # the last if the wait was interrupted
                for each in opened:
                    self.dispose(each)
                with self._lock:
                    self._late += waiting
        if closing or failures:
            failure = failures[0] if failures else classify("AlreadyClosed", Phase.CREATE, settings.topic)
            if isinstance(failure, IncompatibleSchema) and not closing:
                detail = both_versions(native, settings.topic, settings.schema, deadline)
                failure = classify(failure.code, Phase.CREATE, settings.topic, detail=detail)
            raise failure
        return opened

    def _partitions(self, native: _pulsar.Client, topic: str, deadline: float) -> dict[int, str]:
        """
        Return the topics behind a topic by the number of their partition, -1 if it is not partitioned.
        """
        names: list[str] = self.wait(self.ask(native.get_topic_partitions_async, topic), topic, deadline)
        if len(names) == 1 and (topic.endswith("-partition-0") or not names[0].endswith("-partition-0")):
            return {-1: names[0]}
        return dict(enumerate(names))

    def _close_late(self) -> None:
        with self._lock:
            late, self._late = self._late, []
        for answer in late:
            told = answer.wait(0.0)
            if told is None:
                with self._lock:
                    self._late.append(answer)
            elif told[0].value == OK and hasattr(told[1], "close_async"):
                self.dispose(told[1])
