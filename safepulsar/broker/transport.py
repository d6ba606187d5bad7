"""
The seam below the sender: what it needs of a message queue's client library, and no more.

`safepulsar.broker.pulsar_client` implements it over the official client, `safepulsar.testing` in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from safepulsar.errors import BrokerError
    from safepulsar.message import MessageId, Outgoing
    from safepulsar.settings import ClientSettings, ProducerSettings

    # Called with the client library's own result and message id. It must be C code (`{}.setdefault`): it runs
    # on the library's network thread, where a Python frame costs more than the send and must not raise.
    OnResult = Callable[[object, object], object]
    # What such a callback fills: empty as long as there is no answer, else one item {result: message id}.
    Slot = dict[object, object]


class Stored(NamedTuple):
    """
    What reading back tells of a message in a topic.

    Args:
        message_id: with its partition, and its place in its batch.
        producer_name: of the producer that sent it.
        properties: as they were sent.
    """

    message_id: MessageId
    producer_name: str
    properties: Mapping[str, str]


class TransportProducer(Protocol):
    """
    One producer of one topic. `send_batch` is called by one thread at a time; the rest by any.

    Attributes:
        mark: behind the number of each message, if it is exactly-once; see `safepulsar.message.numbered`.
    """

    mark: str

    @property
    def settings(self) -> ProducerSettings:
        """
        What it was made from.
        """

    @property
    def batch_max_messages(self) -> int:
        """
        How many messages one `send_batch` may carry; 1 if the settings say so or the topic does not allow more.
        """

    @property
    def name(self) -> str:
        """
        The producer name, given or chosen by the broker.
        """

    def send_batch(self, messages: Sequence[Outgoing], on_result: OnResult) -> None:
        """
        Hand over `messages` in order without waiting; `on_result` fires with the last one's fate.

        With `batch_max_messages` > 1 a batch is closed when it has that many messages, and by `flush`; a call with
        fewer leaves it open, and what comes next joins it. The messages of a batch have one fate. With
        `batch_max_messages` == 1 the caller hands over one.

        `on_result` may fire on another thread before this returns. Never blocks.

        Raises:
            BrokerError: the whole call is refused and surely not stored; `on_result` may have fired, too.
        """

    def flush(self) -> None:
        """
        Close an open batch and wait until everything handed over is answered or the producer is closed.

        Says nothing about success (look at the slots), never raises, and does not hold the GIL meanwhile.
        """

    def read(self, slot: Slot) -> MessageId | BrokerError | None:
        """
        What a slot says: the last message's id, an error that came after the hand-over, or None (no answer yet).

        The id's `batch_index` tells which place the message has in its entry (-1: alone in it).
        """

    def is_connected(self) -> bool:
        """
        Whether the producer has a connection right now.
        """

    @property
    def next_sequence_id(self) -> int | None:
        """
        The sequence id that the next message without one gets; None where it is not known beforehand.
        """

    def last_sequence_id(self) -> int:
        """
        The highest sequence id that the broker confirmed for this producer's name, -1 if none.

        Right after opening, without an `initial_sequence_id`, it is what the broker knows: -1 where it does not
        deduplicate or has no message of that name, else the *first* id of the last batch that it stored. From then on
        the client library counts it up with each acknowledgement. Of several partitions, the highest.
        """

    def last_sequence_ids(self) -> dict[int, int]:
        """
        The same by partition, because each partition deduplicates by itself; by -1 if the topic is not partitioned.
        """

    def close(self) -> None:
        """
        Close; what was handed over and not answered gets an error. Never raises; idempotent.
        """

    def leak(self) -> None:
        """
        Make sure that this object's native part is never destroyed: after a fork, or when closing hangs.
        """


class TransportClient(Protocol):
    """
    One connection to one cluster. Safe to share between threads.
    """

    def create_producer(self, settings: ProducerSettings) -> TransportProducer:
        """
        Open a producer; blocks up to the operation timeout.

        Raises:
            BrokerError: with its verdict.
        """

    def last_message_ids(self, topic: str, *, timeout_seconds: float) -> dict[int, MessageId | None]:
        """
        Where a topic ends now: the id of the last message by partition, None where there is none.

        By -1 if the topic is not partitioned. A topic that does not exist is made, where the broker allows that.

        Raises:
            BrokerError: with its verdict, e.g. `AuthorizationFailed` without the right to consume.
        """

    def read_back(
        self, topic: str, partition: int, after: MessageId | None, *, timeout_seconds: float
    ) -> Iterator[Stored]:
        """
        Every message behind `after`, in order, up to the end of the topic as it is when the reading begins.

        Begins in the middle of a batch if `after` is there; if it is gone (trimmed), with the earliest message that is
        left behind it. Leaves nothing behind on the broker.

        The end is the last message that is stored. What a producer brought to the broker before its connection broke
        may still be on its way into the storage then, and appears a moment later, also after the next producer of its
        name is open: with Apache Pulsar 4.0.0 up to a second later, in one of thirty cuts under load.

        Args:
            topic: in full, without a partition.
            partition: as `last_message_ids` numbers it.
            after: None, or the id of a duplicate, which is no place: from the earliest message on.
            timeout_seconds: for all of it, also for the time between two messages.

        Raises:
            BrokerError: with its verdict; what was not read yet may be there or not.
        """

    def close(self) -> None:
        """
        Close; producers are closed before. Never raises; idempotent.
        """

    def leak(self) -> None:
        """
        As `TransportProducer.leak`.
        """


class Connect(Protocol):
    """
    Makes a client from settings without waiting for the network.
    """

    def __call__(self, settings: ClientSettings) -> TransportClient:
        """
        Make one.
        """
