"""
A failed message as a row and back, exactly, under a checksum that finds every flipped bit.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeAlias

from safepulsar.errors import InvalidMessage
from safepulsar.message import Attempt, Certainty, FailedMessage, Message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Column: TypeAlias = str | int | float | None
Stored: TypeAlias = Column | bytes
Row: TypeAlias = tuple[bytes | int | float | None, ...]
Encoded: TypeAlias = tuple[tuple[Column, ...], bytes | None, int]

# In the order of `encode_message`: all of a message but its payload.
MESSAGE_COLUMNS = (
    "topic",
    "partition_key",
    "ordering_key",
    "sequence_id",
    "event_timestamp_ms",
    "deliver_at_ms",
    "properties",
)
# In the order of `encode`. A row is read as: id, these, checksum, payload.
COLUMNS = (
    *MESSAGE_COLUMNS,
    "certainty",
    "error",
    "attempts",
    "accepted_at",
    "first_failed_at",
    "last_failed_at",
    "producer_name",
    "trace_id",
)
_WHOLE_NUMBERS = 1 << 63

_to_json_text = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class RowDamaged(Exception):
    """
    A row does not fit its checksum. Internal: a store makes a `StoreCorrupted` of it.
    """


def encode(failed: FailedMessage) -> Encoded:
    """
    The columns, the payload, and the checksum of both (without the id, which is not known before the write).

    Raises:
        InvalidMessage: a value that would come back changed.
    """
    message = failed.message
    columns: tuple[Column, ...] = (
        *encode_message(message),
        _certainty(failed.certainty),
        _text("error", failed.error),
        _attempts(failed.attempts),
        _seconds("accepted_at", failed.accepted_at),
        _seconds("first_failed_at", failed.first_failed_at),
        _seconds("last_failed_at", failed.last_failed_at),
        _optional_text("producer_name", failed.producer_name),
        _optional_text("trace_id", failed.trace_id),
    )
    return columns, message.payload, checksum_of(columns, message.payload)


def encode_message(message: Message) -> tuple[Column, ...]:
    """
    The columns of a message, without its payload, which is looked at and goes as it is.

    Raises:
        InvalidMessage: a value that would come back changed.
    """
    payload = message.payload
    if payload is not None and not isinstance(payload, bytes):
        raise InvalidMessage("payload", f"must be bytes or None, not {type(payload).__name__}")
    return (
        _text("topic", message.topic),
        _optional_text("partition_key", message.partition_key),
        _optional_text("ordering_key", message.ordering_key),
        _whole("sequence_id", message.sequence_id),
        _whole("event_timestamp_ms", message.event_timestamp_ms),
        _whole("deliver_at_ms", message.deliver_at_ms),
        _properties(message.properties),
    )


def with_id(checksum: int, failed_message_id: int) -> int:
    """
    The checksum to store: it also covers the id, so that a row in another's place is found.
    """
    return zlib.crc32(failed_message_id.to_bytes(8, "big"), checksum)


def decode(row: Row) -> FailedMessage:
    """
    The failed message of a row.

    Raises:
        RowDamaged: what is stored is not what was written.
    """
    failed_message_id, *stored, checksum, payload = row
    columns = decoded(stored)
    if (
        type(failed_message_id) is not int
        or not (payload is None or isinstance(payload, bytes))
        or with_id(checksum_of(columns, payload), failed_message_id) != checksum
    ):
        raise RowDamaged
    return _failed_message(failed_message_id, columns, payload)


def decoded(stored: Sequence[bytes | float | None]) -> tuple[Column, ...]:
    """
    Columns as `encode` made them: SQLite gives texts as bytes here.

    Raises:
        RowDamaged: one is no UTF-8.
    """
    try:
        return tuple([value.decode() if isinstance(value, bytes) else value for value in stored])
    except UnicodeDecodeError as error:
        raise RowDamaged from error


def message_of(columns: Sequence[Column], payload: bytes | None) -> Message:
    """
    The message of its columns, whose checksum was found to be right.
    """
    topic, partition_key, ordering_key, sequence_id, event_timestamp_ms, deliver_at_ms, properties = columns
    return Message(
        topic=topic,  # type: ignore[arg-type]  # the checksum says that it is what `encode_message` made
        payload=payload,
        properties=None if properties is None else json.loads(str(properties)),
        partition_key=partition_key,  # type: ignore[arg-type]  # as above, and so on
        ordering_key=ordering_key,  # type: ignore[arg-type]
        sequence_id=sequence_id,  # type: ignore[arg-type]
        event_timestamp_ms=event_timestamp_ms,  # type: ignore[arg-type]
        deliver_at_ms=deliver_at_ms,  # type: ignore[arg-type]
    )


def to_json(failed: FailedMessage) -> dict[str, object]:
    """
    Everything about it as data for `json.dumps`: the payload in base64, and as text too where it is UTF-8.
    """
    message, payload = failed.message, failed.message.payload
    text: str | None = None
    if payload is not None:
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            text = None  # binary: base64 has it
    return {
        "id": failed.id,
        "topic": message.topic,
        "payload": None if payload is None else base64.b64encode(payload).decode(),
        "payload_text": text,
        "properties": dict(message.properties or {}),
        "partition_key": message.partition_key,
        "ordering_key": message.ordering_key,
        "sequence_id": message.sequence_id,
        "event_timestamp_ms": message.event_timestamp_ms,
        "deliver_at_ms": message.deliver_at_ms,
        "certainty": failed.certainty.value,
        "error": failed.error,
        "attempts": [asdict(attempt) for attempt in failed.attempts],
        "accepted_at": failed.accepted_at,
        "first_failed_at": failed.first_failed_at,
        "last_failed_at": failed.last_failed_at,
        "producer_name": failed.producer_name,
        "trace_id": failed.trace_id,
    }


def checksum_of(columns: tuple[Column, ...], payload: bytes | None) -> int:
    """
    Of a row, without its id.
    """
    # ascii() writes the same on every Python: repr() leaves characters unescaped that an older one doesn't know.
    head = ascii((columns, None if payload is None else len(payload))).encode()
    return zlib.crc32(head, zlib.crc32(payload or b""))


def _failed_message(failed_message_id: int, columns: Sequence[Column], payload: bytes | None) -> FailedMessage:
    of_message, others = columns[: len(MESSAGE_COLUMNS)], columns[len(MESSAGE_COLUMNS) :]
    certainty, error, attempts, accepted_at, first_failed_at, last_failed_at, producer_name, trace_id = others
    return FailedMessage(
        id=failed_message_id,
        message=message_of(of_message, payload),
        certainty=Certainty(certainty),
        error=error,  # type: ignore[arg-type]  # the checksum says that it is what `encode` made
        attempts=() if attempts == "[]" else tuple(_attempt(values) for values in json.loads(str(attempts))),
        accepted_at=accepted_at,  # type: ignore[arg-type]  # as above, and so on
        first_failed_at=first_failed_at,  # type: ignore[arg-type]
        last_failed_at=last_failed_at,  # type: ignore[arg-type]
        producer_name=producer_name,  # type: ignore[arg-type]
        trace_id=trace_id,  # type: ignore[arg-type]
    )


def _attempts(attempts: Sequence[Attempt]) -> str:
    return _to_json_text(
        [
            (
                _seconds("attempts", attempt.started_at),
                _seconds("attempts", attempt.elapsed_seconds),
                _text("attempts", attempt.code),
                bool(attempt.maybe_stored),
                None if attempt.delay_seconds is None else _seconds("attempts", attempt.delay_seconds),
            )
            for attempt in attempts
        ]
    )


def _attempt(values: tuple[float, float, str, bool, float | None]) -> Attempt:
    started_at, elapsed_seconds, code, maybe_stored, delay_seconds = values
    return Attempt(
        started_at=started_at,
        elapsed_seconds=elapsed_seconds,
        code=code,
        maybe_stored=maybe_stored,
        delay_seconds=delay_seconds,
    )


def _certainty(value: Certainty) -> str:
    if not isinstance(value, Certainty):
        raise InvalidMessage("certainty", f"must be a Certainty, not {type(value).__name__}")
    return value.value


def _properties(properties: Mapping[str, str] | None) -> str | None:
    if properties is None:
        return None
    plain = {_text("properties", name): _text("properties", value) for name, value in properties.items()}
    return _to_json_text(plain)


def _text(field: str, value: str) -> str:
    if not isinstance(value, str):
        raise InvalidMessage(field, f"must be text, not {type(value).__name__}")
    if type(value) is str and value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        problem = f"holds a lone surrogate at character {error.start}, which cannot be stored"
        raise InvalidMessage(field, problem) from None  # the cause would quote the value
    return value if type(value) is str else str.__str__(value)  # a subclass may show itself in another way


def _optional_text(field: str, value: str | None) -> str | None:
    return None if value is None else _text(field, value)


def _whole(field: str, value: int | None) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not -_WHOLE_NUMBERS <= value < _WHOLE_NUMBERS:
        raise InvalidMessage(field, "must be a whole number of at most 63 bits")
    return int(value)


def _seconds(field: str, value: float) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InvalidMessage(field, f"must be a finite number of seconds, not {value!r:.40}")
    return seconds + 0.0  # makes 0.0 of -0.0, which SQLite would do too, behind the checksum's back
