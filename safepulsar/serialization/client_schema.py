"""
Schemas as the official client declares them (`JsonSchema`, `AvroSchema`, `StringSchema`, ...), for those who have them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from safepulsar.errors import InvalidMessage, InvalidSettings
from safepulsar.settings import Schema, SchemaKind

if TYPE_CHECKING:
    from typing_extensions import Buffer

_CONTENT_TYPES: Final = {
    SchemaKind.STRING: "text/plain; charset=utf-8",
    SchemaKind.JSON: "application/json",
    SchemaKind.AVRO: "avro/binary",
    SchemaKind.PROTOBUF: "application/x-protobuf",
    SchemaKind.PROTOBUF_NATIVE: "application/x-protobuf",
}


class _Kind(Protocol):
    @property
    def name(self) -> str: ...


class _Info(Protocol):
    def schema_type(self) -> _Kind: ...

    def name(self) -> str: ...

    def schema(self) -> str: ...


class ClientSchema(Protocol):
    """
    A schema of the official client. `pulsar.schema.JsonSchema(MyRecord)` is one.
    """

    def schema_info(self) -> _Info:
        """
        Return what the broker is told.
        """
        ...

    def encode(self, obj: object) -> Buffer:
        """
        Return the payload.
        """
        ...

    def decode(self, data: bytes) -> object:
        """
        Return the value.
        """
        ...


class ClientSchemaSerializer:
    """
    Values as the official client's own schema makes payloads of them.

    Args:
        schema: of the official client.

    Attributes:
        content_type: by the kind of the schema.
        schema: the same for the broker.

    Raises:
        InvalidSettings: no such schema, or of a kind that is none of messages.
    """

    def __init__(self, schema: ClientSchema) -> None:
        try:
            info = schema.schema_info()
            kind = SchemaKind.__members__.get(info.schema_type().name)
            name, definition = info.name(), info.schema()
        except AttributeError:
            what = type(schema).__name__
            raise InvalidSettings("schema", f"must be a schema such as JsonSchema(MyRecord), not {what}") from None
        if kind is None:
            kinds = ", ".join(SchemaKind.__members__)
            raise InvalidSettings("schema", f"must be of the kind {kinds}, not {info.schema_type().name}")
        self._schema = schema
        self.content_type = _CONTENT_TYPES[kind]
        self.schema = Schema(kind=kind, name=name, definition="" if kind is SchemaKind.STRING else definition)

    def serialize(self, value: object) -> bytes:
        """
        Return the payload.

        Raises:
            InvalidMessage: the client's schema does not take the value.
        """
        try:
            return bytes(self._schema.encode(value))
        except Exception:  # noqa: BLE001  # whatever it raises can quote the value
            problem = f"is no value of the schema {self.schema.name!r}"
        raise InvalidMessage("value", problem)

    def deserialize(self, payload: bytes) -> object:
        """
        Return the value.

        Raises:
            InvalidMessage: the client's schema does not take the payload.
        """
        try:
            return self._schema.decode(payload)
        except Exception:  # noqa: BLE001  # as above
            problem = f"is none of the schema {self.schema.name!r}"
        raise InvalidMessage("payload", problem)
