"""
What an application passes as a message becomes bytes here: bytes as they are, text as UTF-8, data as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from safepulsar.errors import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    # Mapping and Sequence, because a dict[str, int] is a Mapping[str, Json], but no dict[str, Json].
    Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
    Sendable: TypeAlias = "Mapping[str, Json] | Sequence[Json] | bytes | bytearray | memoryview | str | None"


def to_bytes(value: object) -> bytes | None:
    """
    The payload of `value`; None stays None (a tombstone).

    Bytes are sent as they are (a bytearray or memoryview is copied, so that later changes don't reach the
    message), text as UTF-8, a mapping, list or tuple as compact JSON in UTF-8.

    Raises:
        InvalidMessage: another type, text with lone surrogates, or data that JSON cannot hold exactly: keys that
            are not text, NaN and infinity, a circle, other objects.
    """
    if value is None or type(value) is bytes:
        return value
    if isinstance(value, str):
        text = value
    elif isinstance(value, (bytes, bytearray, memoryview)):
        return _copy(value)
    elif isinstance(value, (dict, list, tuple, Mapping)):  # the quick ones first
        text = _to_json(value)
    else:
        what = type(value).__name__
        raise InvalidMessage("value", f"must be bytes, text, a mapping, a list or None (a tombstone), not {what}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        problem = f"holds a lone surrogate at character {error.start}, which UTF-8 cannot carry; remove it"
        raise InvalidMessage("value", problem) from None


def _copy(value: bytes | bytearray | memoryview) -> bytes:
    try:
        return bytes(value)
    except ValueError:
        raise InvalidMessage("value", "is a memoryview that was released; pass it before, or its bytes") from None


def _to_json(value: object) -> str:
    # What is raised here can quote the data, so that only its kind is told.
    try:
        _check_keys(value)
        return _encode(value)
    except RecursionError:
        problem = "is nested too deeply for JSON, or holds itself; flatten it"
    except RuntimeError:
        problem = "was changed by another thread meanwhile; pass a copy"
    except (TypeError, ValueError):
        problem = (
            "holds something that JSON cannot hold (keys must be text; NaN and infinity are refused); "
            "convert it to text, numbers, lists and dicts first"
        )
    raise InvalidMessage("value", problem)


def _check_keys(value: object) -> None:
    """
    Refuse keys that are not text. JSON would make them text silently, and then 1 and "1" are the same key.
    """
    if isinstance(value, (dict, Mapping)):
        for key, each in value.items():
            if not isinstance(key, str):
                raise TypeError
            if type(each) not in _PLAIN:
                _check_keys(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            if type(each) not in _PLAIN:
                _check_keys(each)


def _plain_dict(value: object) -> dict[str, object]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


_PLAIN = frozenset({str, int, float, bool, type(None)})
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain_dict).encode
