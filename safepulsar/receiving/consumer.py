"""
What the receiving side needs of a consumer: the few methods of `pulsar.Consumer` and `pulsar.Message` that it calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class ReceivedMessageId(Protocol):
    """
    Where the broker has a message. `pulsar.MessageId` is one.
    """

    def serialize(self) -> bytes:
        """
        Return bytes that differ from those of every other message of the topic.
        """
        ...


class ReceivedMessage(Protocol):
    """
    A message as a consumer gives it. `pulsar.Message` is one.
    """

    def data(self) -> bytes:
        """
        Return the payload.
        """
        ...

    def properties(self) -> Mapping[str, str]:
        """
        Return the properties.
        """
        ...

    def partition_key(self) -> str:
        """
        Return the partition key, "" if there is none.
        """
        ...

    def ordering_key(self) -> str:
        """
        Return the ordering key, "" if there is none.
        """
        ...

    def topic_name(self) -> str:
        """
        Return the topic, of a partitioned one the partition.
        """
        ...

    def message_id(self) -> ReceivedMessageId:
        """
        Return where the broker has it.
        """
        ...


M = TypeVar("M", bound=ReceivedMessage)


class Consumer(Protocol[M]):
    """
    Who receives and acknowledges. `pulsar.Consumer` is one.
    """

    def receive(self, timeout_millis: int | None = None) -> M:
        """
        Return the next message.

        Raises:
            Exception: none came in time: a `TimeoutError`, or an error whose class is named `Timeout` as Pulsar's is.
        """
        ...

    def acknowledge(self, message: M) -> None:
        """
        Let the broker forget the message.
        """
        ...

    def acknowledge_cumulative(self, message: M) -> None:
        """
        Let the broker forget the message and all before it in its topic.
        """
        ...

    def negative_acknowledge(self, message: M) -> None:
        """
        Let the broker deliver the message again later.
        """
        ...
