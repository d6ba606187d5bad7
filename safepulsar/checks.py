"""
What a message may carry: keys, properties and times, checked before anything is sent.

The client library takes most of this silently: an empty key is dropped, a lone surrogate raises a text that quotes
the payload, a control character reaches the broker. The checks are cheap where the value is plain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from safepulsar.detachment import Undetached, detached
from safepulsar.errors import InvalidInput, InvalidMessage, shown

MAX_KEY_BYTES = 32 * 1024
RESERVED_PREFIX = "safepulsar-"
_LANE_PROPERTIES = frozenset(
    {f"{RESERVED_PREFIX}lane", f"{RESERVED_PREFIX}sequence"}
)  # the application's, from `lane_properties`
_MAX_MS = 253_402_300_800_000  # the year 10000, beyond which a number is surely not milliseconds
_MAX_SEQUENCE_ID = 2**63 - 1
_MAX_DEADLINE_SECONDS = 365 * 86_400
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def check_detached(field: str, value: object) -> object:
    """
    The value, or what it stands for if it is a proxy. For whatever is not of a plain type.

    Raises:
        InvalidMessage: it belongs to a request, a session or a loop, and may be gone when it is sent.
    """
    try:
        return detached(value)
    except Undetached as error:
        raise InvalidMessage(field, str(error)) from None


def check_key(field: str, key: object) -> int:
    """
    The key's size in bytes.

    Raises:
        InvalidMessage: not text, empty, too long, with control characters or lone surrogates.
    """
    if type(key) is str and 0 < len(key) <= MAX_KEY_BYTES and key.isascii() and key.isprintable():
        return len(key)
    if not isinstance(key, str):
        raise InvalidMessage(
            field, f"must be text, not {type(key).__name__}; convert it with str() if that is its name"
        )
    if not key:
        problem = "must not be empty (the client library would drop it silently); leave it out instead"
        raise InvalidMessage(field, problem)
    return _check_text(field, key, MAX_KEY_BYTES)


def check_properties(properties: object, *, reserved: bool = False) -> tuple[dict[str, str], int]:
    """
    A copy of the properties, and their size in bytes.

    Args:
        properties: text to text.
        reserved: whether names may be such as only steps of ours set, which begin with `safepulsar-`.

    Raises:
        InvalidMessage: not a mapping of text to text, a name or value with control characters or lone surrogates, or a
            reserved name.
    """
    if type(properties) is not dict:
        properties = check_detached("properties", properties)
        if not isinstance(properties, Mapping):
            raise InvalidMessage("properties", f"must be a mapping of text to text, not {type(properties).__name__}")
    copy: dict[str, str] = {}
    size = 0
    for name, value in properties.items():
        if type(name) is str and type(value) is str and name and (reserved or not name.startswith(RESERVED_PREFIX)):
            text = name + value  # looked at together: half as many calls
            if text.isascii() and text.isprintable():
                size += len(text)
                copy[name] = value
                continue
        size += _check_property(name, value, copy, reserved=reserved)
    return copy, size


def _check_property(name: object, value: object, into: dict[str, str], *, reserved: bool) -> int:
    name = name if type(name) is str else _plain_text(check_detached("properties", name))
    if not isinstance(name, str) or not name:
        what = "empty" if name == "" else type(name).__name__
        raise InvalidMessage("properties", f"each name must be text, not {what}")
    size = _check_text("properties", name, None)
    field = f"properties[{name[:80]!a}]"
    if name.startswith(RESERVED_PREFIX) and not reserved and name not in _LANE_PROPERTIES:
        problem = f"names that begin with {RESERVED_PREFIX!r} are set by safepulsar alone; choose another name"
        raise InvalidMessage(field, problem)
    value = value if type(value) is str else _plain_text(check_detached(field, value))
    if not isinstance(value, str):
        raise InvalidMessage(field, f"must be text, not {type(value).__name__}; convert it with str()")
    size += _check_text(field, value, None)
    into[name] = value
    return size


def check_time_ms(field: str, value: object) -> int:
    """
    Unix milliseconds, from 1 (the client library drops 0 silently) to the year 10000.

    Raises:
        InvalidMessage: not a whole number in that range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_MS:
        problem = f"must be Unix milliseconds as a whole number from 1 to {_MAX_MS - 1}, not {shown(value)}"
        raise InvalidMessage(field, problem)
    return value


def check_sequence_id(value: object) -> int:
    """
    A sequence id of the application's own, from 1.

    Raises:
        InvalidMessage: not a whole number of at least 1 (the client library drops 0 silently).
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_SEQUENCE_ID:
        problem = f"must be a whole number from 1 to {_MAX_SEQUENCE_ID}, not {shown(value)}"
        raise InvalidMessage("sequence_id", problem)
    return value


def check_deadline_seconds(value: object) -> float:
    """
    A message's own deadline, above 0 and up to a year: what the timers of every system take.

    Raises:
        InvalidMessage: not a number in that range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _MAX_DEADLINE_SECONDS:
        problem = f"must be a number above 0 and at most {_MAX_DEADLINE_SECONDS}, not {shown(value)}"
        raise InvalidMessage("deadline_seconds", problem)
    return value


def check_timeout(value: object) -> float:
    """
    How long to wait, in seconds from 0 to a year.

    Raises:
        InvalidInput: not a number in that range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MAX_DEADLINE_SECONDS:
        raise InvalidInput(
            "timeout", f"must be a number of seconds from 0 to {_MAX_DEADLINE_SECONDS}, not {shown(value)}"
        )
    return value


def _plain_text(value: object) -> object:
    # Of a class of its own, text could hold more than text.
    return str.__str__(value) if isinstance(value, str) else value


def _check_text(field: str, text: str, limit: int | None) -> int:
    control = _CONTROL.search(text)
    if control is not None:
        problem = f"holds the control character U+{ord(control[0]):04X} at position {control.start()}; remove it"
        raise InvalidMessage(field, problem)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        problem = f"holds a lone surrogate at position {error.start}, which UTF-8 cannot carry; remove it"
        raise InvalidMessage(field, problem) from None
    if limit is not None and size > limit:
        raise InvalidMessage(field, f"has {size} bytes; at most {limit} are allowed: send a shorter one, or a digest")
    return size
