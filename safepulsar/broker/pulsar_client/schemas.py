"""
Schemas as the native library has them, and what the broker knows of a topic's when it refuses one.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Final

import _pulsar

from safepulsar.broker.pulsar_client.native import quietly
from safepulsar.settings import SchemaKind

if TYPE_CHECKING:
    from safepulsar.settings import Schema

_KINDS: Final = {
    SchemaKind.STRING: _pulsar.SchemaType.STRING,
    SchemaKind.JSON: _pulsar.SchemaType.JSON,
    SchemaKind.AVRO: _pulsar.SchemaType.AVRO,
    SchemaKind.PROTOBUF: _pulsar.SchemaType.PROTOBUF,
    SchemaKind.PROTOBUF_NATIVE: _pulsar.SchemaType.PROTOBUF_NATIVE,
}
_LATEST: Final = -1
_MOST_VERSIONS: Final = 1 << 20


def schema_info(schema: Schema) -> _pulsar.SchemaInfo:
    """
    Return the native library's form of a schema.
    """
    return _pulsar.SchemaInfo(_KINDS[schema.kind], schema.name, schema.definition)


def both_versions(native: _pulsar.Client, topic: str, schema: Schema | None, deadline: float) -> str:
    """
    Say which schema the topic has and which was offered, when the broker refused the latter.

    Definitions are told by a digest, because they can be long. Asks the broker some times, until the deadline. Waits in the
    native library, without the GIL, and for a broker that has just answered.
    """
    offered = "bytes" if schema is None else _named(schema.kind.value, schema.name, schema.definition)
    latest = quietly(lambda: native.get_schema_info(topic, _LATEST))
    if latest is None:
        return f"the broker does not take the {offered} of this producer as a schema; see its log"
    known = _named(latest.schema_type().name, latest.name().strip(), latest.schema())
    number = _latest_number(native, topic, deadline)
    version = "a version" if number is None else f"version {number}"
    return (
        f"the topic has {version} of its schema, {known}; this producer offers a version that does not fit it, {offered}. "
        "Change the declaration, or the compatibility that the namespace asks for"
    )


def _named(kind: str, name: str, definition: str) -> str:
    digest = f" with SHA-256 {hashlib.sha256(definition.encode()).hexdigest()[:12]}" if definition else ""
    return f"{kind} {name!r}{digest}" if name else f"{kind}{digest}"


def _latest_number(native: _pulsar.Client, topic: str, deadline: float) -> int | None:
    # The broker tells a version's content, and not its number; they count from 0 without a gap.
    def exists(number: int) -> bool:
        return quietly(lambda: native.get_schema_info(topic, number)) is not None

    low, high = 0, 1
    while exists(high):
        low, high = high, 2 * high
        if high > _MOST_VERSIONS or time.monotonic() > deadline:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exists(middle) else (low, middle)
    return low
