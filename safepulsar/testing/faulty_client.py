"""
A client in front of a real one, which meets the faults that a test ordered, and passes everything else on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safepulsar.broker.outcomes import Phase, classify
from safepulsar.testing.faults import ENDS_A_PRODUCER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeAlias

    from safepulsar.broker.transport import OnResult, Slot, Stored, TransportClient, TransportProducer
    from safepulsar.errors import BrokerError
    from safepulsar.message import MessageId, Outgoing
    from safepulsar.settings import ProducerSettings
    from safepulsar.testing.faults import Fault

    TakeFault: TypeAlias = Callable[[Phase, str], Fault | None]


class FaultyClient:
    """
    A `safepulsar.broker.transport.TransportClient`. Thread-safe.

    Args:
        client: does what is not to fail.
        take_fault: the fault that is due for a call, used up by that.
    """

    def __init__(self, client: TransportClient, take_fault: TakeFault) -> None:
        self._client = client
        self._take_fault = take_fault

    def __repr__(self) -> str:
        return f"<FaultyClient before {self._client!r}>"

    def create_producer(self, settings: ProducerSettings) -> FaultyProducer:
        """
        Open a producer.

        Raises:
            BrokerError: with its verdict; by order of the test, or the client's own.
        """
        fault = self._take_fault(Phase.CREATE, settings.topic)
        if fault is not None:
            raise classify(fault.code, Phase.CREATE, settings.topic)
        return FaultyProducer(self._client.create_producer(settings), self._take_fault)

    def last_message_ids(self, topic: str, *, timeout_seconds: float) -> dict[int, MessageId | None]:
        """
        As `TransportClient.last_message_ids`.
        """
        return self._client.last_message_ids(topic, timeout_seconds=timeout_seconds)

    def read_back(
        self, topic: str, partition: int, after: MessageId | None, *, timeout_seconds: float
    ) -> Iterator[Stored]:
        """
        As `TransportClient.read_back`.
        """
        return self._client.read_back(topic, partition, after, timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """
        As `TransportClient.close`.
        """
        self._client.close()

    def leak(self) -> None:
        """
        As `TransportClient.leak`.
        """
        self._client.leak()


class FaultyProducer:
    """
    A `safepulsar.broker.transport.TransportProducer`, made by `FaultyClient.create_producer`.
    """

    def __init__(self, producer: TransportProducer, take_fault: TakeFault) -> None:
        self._producer = producer
        self._take_fault = take_fault
        self._dead: str | None = None  # why it takes no more messages
        # Slots whose message is stored and whose answer is a lie. Kept, so that no other slot can take their places.
        self._lies: list[tuple[Slot, str]] = []

    def __repr__(self) -> str:
        return f"<FaultyProducer before {self._producer!r}>"

    @property
    def settings(self) -> ProducerSettings:
        """
        What it was made from.
        """
        return self._producer.settings

    @property
    def mark(self) -> str:
        """
        As `TransportProducer.mark`.
        """
        return self._producer.mark

    @mark.setter
    def mark(self, mark: str) -> None:
        self._producer.mark = mark

    @property
    def batch_max_messages(self) -> int:
        """
        As `TransportProducer.batch_max_messages`.
        """
        return self._producer.batch_max_messages

    @property
    def name(self) -> str:
        """
        As `TransportProducer.name`.
        """
        return self._producer.name

    def send_batch(self, messages: Sequence[Outgoing], on_result: OnResult) -> None:
        """
        Hand over, unless a fault is due.

        Raises:
            BrokerError: by order of the test, or the producer's own.
        """
        topic = self.settings.topic
        refused = self._dead
        if refused is None and (fault := self._take_fault(Phase.INLINE, topic)) is not None:
            refused = fault.code
        if refused is not None:
            on_result(refused, None)
            raise classify(refused, Phase.INLINE, topic)
        fault = self._take_fault(Phase.LATER, topic)
        if fault is None:
            self._producer.send_batch(messages, on_result)
            return
        if fault.code in ENDS_A_PRODUCER:
            self._dead = fault.code
        if fault.stored:
            slot: Any = getattr(on_result, "__self__", None)
            self._lies.append((slot, fault.code))
            self._producer.send_batch(messages, on_result)
        else:
            on_result(fault.code, None)

    def read(self, slot: Slot) -> MessageId | BrokerError | None:
        """
        What a slot says.
        """
        if not slot:
            return None
        code = next((code for lie, code in self._lies if lie is slot), None)
        if code is None:
            (told,) = slot
            if not isinstance(told, str):  # the native library's own answer
                return self._producer.read(slot)
            code = told
        return classify(code, Phase.LATER, self.settings.topic)

    def flush(self) -> None:
        """
        As `TransportProducer.flush`.
        """
        self._producer.flush()

    def is_connected(self) -> bool:
        """
        As `TransportProducer.is_connected`.
        """
        return self._dead is None and self._producer.is_connected()

    @property
    def next_sequence_id(self) -> int | None:
        """
        As `TransportProducer.next_sequence_id`.
        """
        return self._producer.next_sequence_id

    def last_sequence_id(self) -> int:
        """
        As `TransportProducer.last_sequence_id`.
        """
        return self._producer.last_sequence_id()

    def last_sequence_ids(self) -> dict[int, int]:
        """
        As `TransportProducer.last_sequence_ids`.
        """
        return self._producer.last_sequence_ids()

    def close(self) -> None:
        """
        As `TransportProducer.close`.
        """
        self._producer.close()

    def leak(self) -> None:
        """
        As `TransportProducer.leak`.
        """
        self._producer.leak()
