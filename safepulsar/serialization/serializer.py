"""
A serializer: one declaration of what a topic's payloads are, for those who send and for those who receive.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

from safepulsar.errors import InvalidMessage
from safepulsar.serialization.json_text import from_json, to_json
from safepulsar.serialization.payload import text_to_bytes, to_bytes
from safepulsar.settings import Schema, SchemaKind

T_co = TypeVar("T_co", covariant=True)


class Serializer(Protocol[T_co]):
    """
    Makes payloads of values, and values of payloads. Shared by threads.

    A tombstone has no payload and passes it by.

    Attributes:
        content_type: goes with each message, in the property `content-type`.
        schema: what to give to `TopicSettings.schema`, so that the broker knows it too; None if it has none.
    """

    @property
    def content_type(self) -> str: ...  # noqa: D102 - see above
    @property
    def schema(self) -> Schema | None: ...  # noqa: D102

    def serialize(self, value: object) -> bytes:
        """
        Return the payload.

        Raises:
            InvalidMessage: `value` is not what this serializer is for; the field names its place.
        """
        ...

    def deserialize(self, payload: bytes) -> T_co:
        """
        Return the value, checked as for sending.

        Raises:
            InvalidMessage: the payload is not what this serializer makes.
        """
        ...


class BytesSerializer:
    """
    Bytes as they are.
    """

    content_type: Final = "application/octet-stream"
    schema: Final = None

    def serialize(self, value: object) -> bytes:
        """
        Return `value`; a bytearray or memoryview is copied.

        Raises:
            InvalidMessage: no bytes.
        """
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise InvalidMessage("value", f"must be bytes, not {type(value).__name__}")
        return to_bytes(value) or b""

    def deserialize(self, payload: bytes) -> bytes:
        """
        Return the payload.
        """
        return payload


class TextSerializer:
    """
    Text as UTF-8.
    """

    content_type: Final = "text/plain; charset=utf-8"

    @property
    def schema(self) -> Schema:
        """
        Pulsar's own schema of text.
        """
        return Schema(kind=SchemaKind.STRING)

    def serialize(self, value: object) -> bytes:
        """
        Return the UTF-8 of `value`.

        Raises:
            InvalidMessage: no text, or with a lone surrogate.
        """
        if not isinstance(value, str):
            raise InvalidMessage("value", f"must be text, not {type(value).__name__}")
        return text_to_bytes(value)

    def deserialize(self, payload: bytes) -> str:
        """
        Return the text.

        Raises:
            InvalidMessage: no UTF-8.
        """
        try:
            return payload.decode()
        except UnicodeDecodeError as error:
            raise InvalidMessage("payload", f"is no UTF-8 at byte {error.start}") from None


class JsonSerializer:
    """
    Data as JSON, see `json_text`; what comes back is plain data.

    For data of a declared type there are `StructSerializer` and `ModelSerializer`.

    Args:
        schema: to be registered with the broker, if any.
    """

    content_type: Final = "application/json"

    def __init__(self, schema: Schema | None = None) -> None:
        self.schema = schema

    def serialize(self, value: object) -> bytes:
        """
        Return the JSON of `value`; see `to_json`.
        """
        return to_json(value)

    def deserialize(self, payload: bytes) -> object:
        """
        Return dicts, lists, text, numbers, bools and None; see `from_json`.
        """
        return from_json(payload)
