"""
A saved state as bytes and back: JSON below a line with its kind, its version and a checksum over everything.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Final

from safepulsar.receiving.errors import InvalidState
from safepulsar.receiving.settings import MAX_SEQUENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSION: Final = 1
_HEAD: Final = re.compile(rb"safepulsar ([a-z]+) ([0-9]{1,9}) ([0-9a-f]{8})\n")
_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def seal(kind: str, body: Mapping[str, object]) -> bytes:
    """
    Return a body as bytes. The same body always makes the same bytes.
    """
    text = _to_json(body).encode()
    return _head(kind, text) + text


def unseal(kind: str, state: object) -> dict[str, object]:
    """
    Return the body that `seal` was given.

    Raises:
        InvalidState: not bytes, damaged, of another kind, or of a newer version.
    """
    if not isinstance(state, (bytes, bytearray, memoryview)):
        raise InvalidState(f"must be the bytes that state() returned, not {type(state).__name__}")
    state = bytes(state)
    head = _HEAD.match(state)
    if head is None:
        raise InvalidState("is not a state that safepulsar saved; restore it from where state() was stored")
    if head[1] != kind.encode():
        raise InvalidState(f"is one of a {head[1].decode()}, not of a {kind}; each has a place of its own")
    if int(head[2]) > _VERSION:
        raise InvalidState(f"has version {int(head[2])}, and this safepulsar reads up to {_VERSION}; upgrade it")
    text = state[head.end() :]
    if head[0] != _head(kind, text):
        raise InvalidState("does not fit its checksum: it is damaged or cut off; use an earlier one")
    body = json.loads(text)
    if not isinstance(body, dict):
        raise InvalidState("holds no object; it was not made by state()")
    return body


def numbers_of(value: object) -> dict[str, int]:
    """
    A mapping of lanes to sequences, as a state holds it.

    Raises:
        InvalidState: it is anything else.
    """
    if not isinstance(value, dict) or not all(
        type(number) is int and 1 <= number <= MAX_SEQUENCE + 1 for number in value.values()
    ):
        raise InvalidState("holds something else than sequences by lane; it was not made by state()")
    return value


def _head(kind: str, text: bytes) -> bytes:
    # The checksum covers the kind and the version too, so that a flipped bit there is found as well.
    name = f"safepulsar {kind} {_VERSION}".encode()
    return b"%s %08x\n" % (name, zlib.crc32(text, zlib.crc32(name)))
