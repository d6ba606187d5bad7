"""
A real broker for tests, `safepulsar.local_broker`'s, with the fault switch and the view into topics of the fake one.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar.broker.outcomes import Phase
from safepulsar.broker.pulsar_client import connect
from safepulsar.errors import InvalidInput
from safepulsar.local_broker import LocalBroker
from safepulsar.message import MessageId
from safepulsar.settings import ClientSettings
from safepulsar.testing.faults import Fault, FaultScript
from safepulsar.testing.faulty_client import FaultyClient
from safepulsar.testing.topic_log import StoredMessage
from safepulsar.topics import TopicNames

if TYPE_CHECKING:
    import os

    import pulsar

_IDLE_MS: Final = 300  # pulsar-lite says too early that there is no more: so long it must be quiet


class EmbeddedPulsar(LocalBroker):
    """
    A broker in a process of its own, reached by the official client over the network.

    Everything of `LocalBroker`, and as `FakeBroker`: `connect`, `messages`, `payloads`, `fail_next`, `forget_faults`.
    It has no deduplication, and ignores access modes.

    Args:
        path: a folder for its data, see `start_broker`.
        port: of the loopback interface; any free one if left out.

    Raises:
        ImportError: pulsar-lite is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], port: int | None = None) -> None:
        super().__init__(Path(path), port)
        self._names = TopicNames()
        self._faults_lock = threading.Lock()  # guards the script
        self._faults = FaultScript()

    def connect(self, settings: ClientSettings) -> FaultyClient:
        """
        Make a client of this broker that meets the ordered faults; its settings' URL and credentials are of no account.
        """
        ours = ClientSettings(
            url=self.url,
            operation_timeout_seconds=settings.operation_timeout_seconds,
            connection_timeout_seconds=settings.connection_timeout_seconds,
            io_threads=settings.io_threads,
            log_level=settings.log_level,
            log_file=settings.log_file,
        )
        return FaultyClient(connect(ours), self._take_fault)

    def fail_next(
        self,
        count: int,
        code: str,
        *,
        phase: Phase = Phase.LATER,
        topic: str | None = None,
        stored: bool = False,
    ) -> None:
        """
        Let the next `count` calls of clients made by `connect` fail; the broker itself does not see them.

        After `AlreadyClosed`, `ProducerFenced` or `TopicTerminated` from the network a producer takes no more messages.

        Args:
            count: of creations, or of batches.
            code: Pulsar's name of the result, e.g. `ProducerFenced`.
            phase: CREATE fails the opening of a producer, INLINE the hand-over, LATER the answer.
            topic: only calls for this one count.
            stored: with LATER, the batch goes to the topic all the same.

        Raises:
            InvalidInput: a count below 1, or an option of another phase.
        """
        if count < 1:
            raise InvalidInput("count", f"must be at least 1, not {count}")
        if stored and phase is not Phase.LATER:
            raise InvalidInput("stored", f"only what fails later can be stored, not {phase.name}")
        full = None if topic is None else self._names.full(topic)
        with self._faults_lock:
            self._faults.order(Fault(code=code, phase=phase, topic=full, stored=stored, left=count))

    def forget_faults(self) -> None:
        """
        Take back what `fail_next` ordered and nothing has used up.
        """
        with self._faults_lock:
            self._faults.clear()

    def messages(self, topic: str) -> list[StoredMessage]:
        """
        Everything that `topic` holds, in order, read back from its first message on. Takes a third of a second.

        The client library shows readers no sequence id, so that it is -1 in all of them, and no time of delivery.
        """
        full = self._names.full(topic)
        import pulsar  # noqa: PLC0415  # its half in Python is needed by nothing else here

        # The same place as that of our clients' logs, which the first one of a process decides for all.
        client = pulsar.Client(self.url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Warn, "/dev/stderr"))
        try:
            reader = client.create_reader(full, pulsar.MessageId.earliest)
            # By their places, because this broker hands some messages to a reader more than once.
            found: dict[MessageId, StoredMessage] = {}
            while True:
                try:
                    message = reader.read_next(_IDLE_MS)
                except pulsar.Timeout:
                    break
                stored = _stored(full, message)
                found[stored.message_id] = stored
            return [found[place] for place in sorted(found)]
        finally:
            client.close()

    def payloads(self, topic: str) -> list[bytes | None]:
        """
        The payloads of `messages(topic)`.
        """
        return [message.payload for message in self.messages(topic)]

    def _take_fault(self, phase: Phase, topic: str) -> Fault | None:
        with self._faults_lock:
            return self._faults.take(phase, topic)


def _stored(topic: str, message: pulsar.Message) -> StoredMessage:
    place = message.message_id()
    return StoredMessage(
        topic=topic,
        message_id=MessageId(place.ledger_id(), place.entry_id(), place.partition(), place.batch_index()),
        payload=None if message.has_null_value() else message.data(),
        properties=message.properties(),
        partition_key=message.partition_key() or None,
        ordering_key=message.ordering_key() or None,
        sequence_id=-1,
        producer_name=message.producer_name(),
        event_timestamp_ms=message.event_timestamp() or None,
        deliver_at_ms=None,
    )
