"""
Types that msgspec understands (structs, dataclasses, TypedDicts, named tuples) as JSON, validated on both ways.

Needs `msgspec`: `pip install "safepulsar[msgspec]"`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from safepulsar.errors import InvalidMessage, InvalidSettings
from safepulsar.serialization.json_text import to_json, unfit_part

try:
    import msgspec
except ImportError as error:
    raise ImportError('structs need msgspec: pip install "safepulsar[msgspec]"') from error

if TYPE_CHECKING:
    from safepulsar.settings import Schema

T = TypeVar("T")

# `Expected `int`, got `str` - at `$.items[0].price``: the place, and what is said of types. All else could quote data.
_PLACE: Final = re.compile(r" - at `(?:key in )?\$([^`]*)`\Z")
_TYPES: Final = re.compile(r"Expected `[^`]+`, got `[^`]+`|Object missing required field `\w+`")


class StructSerializer(Generic[T]):
    """
    Values of one type as JSON.

    What is sent is what the receiver's twin takes: the payload is read back once, because msgspec does not check a
    struct when it is made.

    Args:
        kind: the type, such as a `msgspec.Struct`.
        schema: to be registered with the broker, if any.

    Raises:
        InvalidSettings: msgspec doesn't understand the type.
    """

    content_type: Final = "application/json"

    def __init__(self, kind: type[T], *, schema: Schema | None = None) -> None:
        self.schema = schema
        self._kind = kind
        self._encode = msgspec.json.Encoder().encode
        try:
            self._decode = msgspec.json.Decoder(kind).decode
        except (TypeError, RecursionError):
            problem = "must be a type that msgspec understands, such as a msgspec.Struct or a dataclass"
            raise InvalidSettings("kind", problem) from None

    def serialize(self, value: object) -> bytes:
        """
        Return the JSON of `value`.

        Raises:
            InvalidMessage: it is not of the type; the field names the place (`value.items[0].price`).
        """
        try:
            payload = self._encode(value)
            decoded = self._decode(payload)
        except msgspec.ValidationError as error:
            field, problem = _told(error, "value", self._kind)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError):
            field, problem = unfit_part(value)
        except RecursionError:
            field, problem = "value", "is nested too deeply, or holds itself"
        else:
            if b"null" in payload and decoded != value:
                to_json(value)  # msgspec writes null for NaN and infinity: this refuses them
            return payload
        raise InvalidMessage(field, problem)  # outside, because what was raised can quote the data

    def deserialize(self, payload: bytes) -> T:
        """
        Return the value.

        Raises:
            InvalidMessage: no JSON, or not of the type; the field names the place.
        """
        try:
            return self._decode(payload)
        except msgspec.ValidationError as error:
            field, problem = _told(error, "payload", self._kind)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            field, problem = "payload", "is no JSON in UTF-8"
        raise InvalidMessage(field, problem)


def _told(error: Exception, what: str, kind: type) -> tuple[str, str]:
    text = str(error)
    place = _PLACE.search(text)
    types = _TYPES.match(text)
    return what + (place[1] if place else ""), types[0] if types else f"is not as {kind.__name__} declares it"
