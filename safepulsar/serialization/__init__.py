"""
Payloads: what a sender makes by itself, and serializers for topics that declare more.

Those that need an extra have modules of their own: `structs` (msgspec), `models` (pydantic), `protobuf`, `avro`.
"""

from typing import TYPE_CHECKING

from safepulsar.serialization.json_text import from_json, to_json
from safepulsar.serialization.payload import least_size, to_bytes
from safepulsar.serialization.registry import CONTENT_TYPE, Serializers, is_tombstone
from safepulsar.serialization.serializer import BytesSerializer, JsonSerializer, Serializer, TextSerializer

if TYPE_CHECKING:
    from safepulsar.serialization.payload import Json as Json
    from safepulsar.serialization.payload import Sendable as Sendable

__all__ = [
    "CONTENT_TYPE",
    "BytesSerializer",
    "JsonSerializer",
    "Serializer",
    "Serializers",
    "TextSerializer",
    "from_json",
    "is_tombstone",
    "least_size",
    "to_bytes",
    "to_json",
]
