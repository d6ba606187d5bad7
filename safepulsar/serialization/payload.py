"""
What an application passes as a message becomes bytes here: bytes as they are, text as UTF-8, data as JSON.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from safepulsar.errors import InvalidMessage
from safepulsar.serialization.json_text import is_data, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, time
    from decimal import Decimal
    from enum import Enum
    from typing import TypeAlias
    from uuid import UUID

    # Mapping and Sequence, because a dict[str, int] is a Mapping[str, Json], but no dict[str, Json].
    Json: TypeAlias = (
        "Mapping[str, Json] | Sequence[Json] | str | int | float | bool"
        " | Decimal | date | time | UUID | Enum | Dataclass | Struct | Model | None"
    )
    Sendable: TypeAlias = (
        "Mapping[str, Json] | Sequence[Json] | bytes | bytearray | memoryview | str"
        " | Dataclass | Struct | Model | ProtobufMessage | None"
    )


# Bytes for one of its parts: `,"":0` in an object, `,0` in an array.
_DATA = frozenset({dict, list, tuple})
_LEAST: dict[type, int] = {str: 1, bytes: 1, bytearray: 1, dict: 5, list: 2, tuple: 2}


class Dataclass(Protocol):
    """
    An instance of any dataclass.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Struct(Protocol):
    """
    An instance of any `msgspec.Struct`.
    """

    __struct_fields__: ClassVar[tuple[str, ...]]


class Model(Protocol):
    """
    An instance of any pydantic model.
    """

    __pydantic_fields__: ClassVar[dict[str, Any]]


class ProtobufMessage(Protocol):
    """
    An instance of any Protobuf message; it needs a `ProtobufSerializer`.
    """

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:  # noqa: N802 - Protobuf's own name
        """
        Return its bytes.
        """
        ...


def to_bytes(value: object, at_most: float = inf) -> bytes | None:
    """
    The payload of `value`; None stays None (a tombstone).

    Bytes are sent as they are (a bytearray or memoryview is copied, so that later changes don't reach the
    message), text as UTF-8, a mapping, list, tuple, dataclass, struct or model as JSON, see `json_text`.

    Args:
        value: what the application passed.
        at_most: bytes; what surely has more is not encoded first. What is returned can have more.

    Raises:
        InvalidMessage: another type, surely too long, text with lone surrogates, or data that JSON cannot hold exactly.
    """
    kind = type(value)
    if kind in _LEAST and _LEAST[kind] * len(value) > at_most:  # type: ignore[arg-type]  # of these each has a length
        raise too_big("at least ", least_size(value), at_most)
    if kind in _DATA:  # the most usual ones first
        return to_json(value)
    if value is None or type(value) is bytes:
        return value
    if isinstance(value, str):
        return text_to_bytes(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _copy(value)
    if is_data(value):
        return to_json(value)
    what = kind.__name__
    problem = f"must be bytes, text, a mapping, a list, a dataclass or None (a tombstone), not {what}; see Serializers"
    raise InvalidMessage("value", problem)


def too_big(about: str, size: int, limit: float) -> InvalidMessage:
    """
    The error of a message with `size` bytes where `limit` are allowed.
    """
    problem = (
        f"the message has {about}{size} bytes with its keys and properties; at most {limit} are allowed: send a "
        "reference, or see `chunking` and `max_message_bytes`"
    )
    return InvalidMessage("value", problem)


def text_to_bytes(text: str) -> bytes:
    """
    Text in UTF-8.

    Raises:
        InvalidMessage: it holds a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        problem = f"holds a lone surrogate at character {error.start}, which UTF-8 cannot carry; remove it"
        raise InvalidMessage("value", problem) from None


def least_size(value: object) -> int:
    """
    How many bytes the payload of `value` has at least, without making it; 0 if that is not plain to see.
    """
    each = _LEAST.get(type(value))
    return 0 if each is None else each * len(value)  # type: ignore[arg-type]  # of these types each has a length


def _copy(value: bytes | bytearray | memoryview) -> bytes:
    try:
        return bytes(value)
    except ValueError:
        raise InvalidMessage("value", "is a memoryview that was released; pass it before, or its bytes") from None
