"""
Which topic has which serializer: a step for those who send, and its twin for those who receive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from safepulsar.errors import InvalidMessage, InvalidSettings
from safepulsar.serialization.payload import least_size
from safepulsar.serialization.serializer import BytesSerializer, JsonSerializer, TextSerializer
from safepulsar.topics import TopicNames, topic_of_partition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safepulsar.serialization.serializer import Serializer
    from safepulsar.steps import Draft

CONTENT_TYPE: Final = "content-type"
# Whose payloads are never shorter than `least_size` says: others may leave names out.
_AT_LEAST: Final = frozenset({BytesSerializer.content_type, TextSerializer.content_type, JsonSerializer.content_type})


class Payload(Protocol):
    """
    What is read of a received message. `pulsar.Message` and `safepulsar.receiving.ReceivedMessage` have it.
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

    def topic_name(self) -> str:
        """
        Return the topic, of a partitioned one the partition.
        """
        ...


class Serializers:
    """
    A step that makes payloads, and writes their content type into the property `content-type`.

        serializers = Serializers({"orders": StructSerializer(Order)}, default=JsonSerializer())
        sender = RetryingSender(url, steps=[serializers])
        order = serializers.read(consumer.receive())

    A property that the application has set stays. None is a tombstone, and passes. Frozen, shared by threads.

    Args:
        topics: by the topic's name in any form.
        default: of all other topics; None leaves them to the sender, which sends bytes, text and data as JSON.
        max_bytes: bytes, text and plain data for JSON that surely have more are refused before they are encoded. None
            leaves all of it to the sender, whose `max_message_bytes` holds for what was encoded.

    Raises:
        InvalidSettings: something in it is no serializer, or `max_bytes` is no whole number above 0.
        InvalidTopic: a topic's name is none.
    """

    def __init__(
        self,
        topics: Mapping[str, Serializer[object]] | None = None,
        *,
        default: Serializer[object] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        if max_bytes is not None and (type(max_bytes) is not int or max_bytes < 1):
            raise InvalidSettings("max_bytes", f"must be a whole number above 0, or None, not {max_bytes!r:.80}")
        self._max_bytes = max_bytes
        full = TopicNames().full
        self._of_topic = {full(topic): _checked(f"topics[{topic!r}]", own) for topic, own in (topics or {}).items()}
        self._default = None if default is None else _checked("default", default)

    def before_send(self, draft: Draft) -> Draft:
        """
        Make the payload.

        Raises:
            InvalidMessage: the value is not what the topic's serializer is for, or surely too long.
        """
        value = draft.value
        serializer = self._of_topic.get(draft.topic, self._default)
        if serializer is None or value is None:
            return draft
        if self._max_bytes is not None and serializer.content_type in _AT_LEAST:
            least = least_size(value)
            if least > self._max_bytes:
                problem = (
                    f"has at least {least} bytes as {serializer.content_type}; at most {self._max_bytes} are allowed"
                )
                raise InvalidMessage("value", f"{problem}: send a reference, or less at a time")
        draft.value = serializer.serialize(value)
        properties = draft.properties
        if properties is None:
            draft.properties = {CONTENT_TYPE: serializer.content_type}
        elif CONTENT_TYPE not in properties:
            properties[CONTENT_TYPE] = serializer.content_type
        return draft

    def read(self, message: Payload) -> object:
        """
        Return the value of a received message; None of a tombstone.

        Raises:
            InvalidMessage: its topic has no serializer, another content type was sent, or the payload is not what the
                serializer makes.
        """
        if is_tombstone(message):
            return None
        topic = topic_of_partition(message.topic_name())
        serializer = self._of_topic.get(topic, self._default)
        if serializer is None:
            raise InvalidMessage("topic", f"{topic!r} has no serializer; name it in `topics`, or give a default")
        sent = message.properties().get(CONTENT_TYPE, serializer.content_type)
        if sent != serializer.content_type:
            problem = f"is {sent[:80]!a}, not {serializer.content_type!r}, on topic {topic!r}"
            raise InvalidMessage(f"properties[{CONTENT_TYPE!r}]", problem)
        return serializer.deserialize(message.data())


def is_tombstone(message: object) -> bool:
    """
    Whether a received message has no payload at all, as far as the consumer tells.
    """
    told = getattr(message, "has_null_value", None)
    return callable(told) and bool(told())


def _checked(field: str, serializer: Serializer[object]) -> Serializer[object]:
    if isinstance(serializer, type) or not all(
        hasattr(serializer, name) for name in ("content_type", "serialize", "deserialize")
    ):
        what = serializer.__name__ if isinstance(serializer, type) else type(serializer).__name__
        raise InvalidSettings(field, f"must be a serializer such as JsonSerializer(), not {what}")
    return serializer
