"""
The seam below the sender: what it needs of a message queue's client library, and no more.

`safepulsar.pulsar_client` implements it over the official client, `safepulsar.testing` in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safepulsar.errors import BrokerError
    from safepulsar.message import MessageId, Outgoing
    from safepulsar.settings import ClientSettings, ProducerSettings

    # Called with the client library's own result and message id. It must be C code (`{}.setdefault`): it runs
    # on the library's network thread, where a Python frame costs more than the send and must not raise.
    OnResult = Callable[[object, object], object]
    # What such a callback fills: empty as long as there is no answer, else one item {result: message id}.
    Slot = dict[object, object]


class TransportProducer(Protocol):
    """
    One producer of one topic. `send_batch` is called by one thread at a time; the rest by any.
    """

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

    def last_sequence_id(self) -> int:
        """
        The highest sequence id that the broker confirmed for this producer's name, -1 if none.
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
