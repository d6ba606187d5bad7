"""
Protobuf messages of one class.

Needs `protobuf`: `pip install "safepulsar[protobuf]"`.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from safepulsar.errors import InvalidMessage, InvalidSettings
from safepulsar.settings import Schema, SchemaKind

try:
    from google.protobuf import descriptor_pb2
    from google.protobuf.message import DecodeError, EncodeError, Message
except ImportError as error:
    raise ImportError('Protobuf messages need protobuf: pip install "safepulsar[protobuf]"') from error

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

M = TypeVar("M", bound="Message")


class ProtobufSerializer(Generic[M]):
    """
    Messages of one generated class.

    Args:
        kind: the class.

    Attributes:
        schema: what Pulsar calls PROTOBUF_NATIVE: the message with all that it is made of.

    Raises:
        InvalidSettings: no class of Protobuf messages.
    """

    content_type: Final = "application/x-protobuf"

    def __init__(self, kind: type[M]) -> None:
        if not isinstance(kind, type) or not issubclass(kind, Message):
            raise InvalidSettings("kind", "must be a class of Protobuf messages, as the compiler generates it")
        self._kind = kind
        self.schema = Schema(kind=SchemaKind.PROTOBUF_NATIVE, name=kind.DESCRIPTOR.name, definition=_definition(kind))

    def serialize(self, value: object) -> bytes:
        """
        Return the bytes of the message, the same for the same message.

        Raises:
            InvalidMessage: not of the class, or without a field that proto2 requires; the field names it.
        """
        if not isinstance(value, self._kind):
            raise InvalidMessage("value", f"must be a {self._kind.__name__}, not {type(value).__name__}")
        missing: list[str] = value.FindInitializationErrors()  # type: ignore[attr-defined]  # unknown to the stubs
        if missing:
            raise InvalidMessage(f"value.{missing[0]}", "is required and not set")
        try:
            return value.SerializeToString(deterministic=True)
        except (EncodeError, ValueError):
            problem = "cannot be made bytes"
        raise InvalidMessage("value", problem)

    def deserialize(self, payload: bytes) -> M:
        """
        Return the message.

        Raises:
            InvalidMessage: the payload is no message of the class.
        """
        message = self._kind()
        try:
            message.ParseFromString(payload)
        except (DecodeError, ValueError, UnicodeDecodeError):
            pass
        else:
            return message
        raise InvalidMessage("payload", f"is no {self._kind.__name__}")


def _definition(kind: type[Message]) -> str:
    files = descriptor_pb2.FileDescriptorSet()
    _collect(kind.DESCRIPTOR.file, files, set())  # type: ignore[arg-type]  # one class, of several names
    return json.dumps(
        {
            "fileDescriptorSet": base64.b64encode(files.SerializeToString(deterministic=True)).decode(),
            "rootMessageTypeName": kind.DESCRIPTOR.full_name,
            "rootFileDescriptorName": kind.DESCRIPTOR.file.name,
        }
    )


def _collect(file: FileDescriptor, files: descriptor_pb2.FileDescriptorSet, seen: set[str]) -> None:
    if file.name not in seen:
        seen.add(file.name)
        for needed in file.dependencies:
            _collect(needed, files, seen)
        file.CopyToProto(files.file.add())
