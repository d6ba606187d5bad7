"""
Data as JSON that says exactly the same, in one form whichever encoder is installed; everything else is refused.

With `msgspec` (the extra) or else `orjson` installed it is several times as fast; the text is the same.

| Value | JSON |
| --- | --- |
| mapping with text keys, dataclass, msgspec struct, pydantic model | object |
| list, tuple | array |
| text, `UUID` | string |
| `Decimal` | string, because a reader would make a float of a number |
| `datetime`, `date`, `time` | ISO 8601 in a string, UTC as `Z` |
| enum | its value |
| int of any length, float, bool, None | themselves; NaN and infinity are refused |
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum
from functools import cache, lru_cache
from math import isfinite
from typing import TYPE_CHECKING

from safepulsar.detachment import Undetached, detached
from safepulsar.errors import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_LONGEST_NAME = 40
_NATIVE = frozenset({str, int, bool, type(None)})
# What every encoder writes in the same way, by name: importing these modules takes longer than a start may.
_EXACT = frozenset({("uuid", "UUID"), ("decimal", "Decimal"), ("datetime", "date")})
# Beyond these some write an exponent, and some don't. NaN and infinity are beyond, too.
_LEAST, _MOST = 1e-4, 1e16
_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class _Unfit(Exception):
    """
    A part of a value that JSON cannot hold.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.path = ""


def to_json(value: object) -> bytes:
    """
    The JSON of `value` in UTF-8, compact and in the order of its fields.

    Raises:
        InvalidMessage: something in it has no exact JSON; the field names its place (`value.items[3].price`), as far as
            the names there are plain words, and quotes no data.
    """
    # What goes wrong on the fast way goes wrong on the slow one too, which says where.
    try:
        if (fast := _fast()) is not None:
            if _is_written_alike(value):
                return fast(value)
            if _is_model(value) and _is_written_alike(plain := _dumped(_detached(value))):
                return fast(plain)
    except Exception:  # noqa: BLE001, S110
        pass
    field = "value"
    try:
        return _write(_plain(value)).encode()
    except _Unfit as unfit:
        field, problem = f"value{unfit.path}", str(unfit)
    except UnicodeEncodeError:
        problem = "holds a lone surrogate, which UTF-8 cannot carry; remove it"
    except RecursionError:
        problem = "is nested too deeply for JSON, or holds itself; flatten it"
    except RuntimeError:
        problem = "was changed by another thread meanwhile; pass a copy"
    raise InvalidMessage(field, problem)  # outside, because what was raised can quote the data


def from_json(payload: bytes) -> object:
    """
    The data of a JSON payload: dicts, lists, text, numbers, bools and None.

    Raises:
        InvalidMessage: it is none.
    """
    try:
        return json.loads(payload, parse_constant=_refuse)
    except RecursionError:
        problem = "is nested too deeply"
    except ValueError:  # of which UnicodeDecodeError is one
        problem = "is no JSON in UTF-8"
    raise InvalidMessage("payload", problem)


def unfit_part(value: object) -> tuple[str, str]:
    """
    Where `value` holds something that has no JSON, and what is wrong there.
    """
    try:
        to_json(value)
    except InvalidMessage as error:
        return error.field, str(error).removeprefix(f"{error.field}: ")
    return "value", "holds something that has no JSON"


def place_of(key: object) -> str:
    """
    A key or an index as a part of a path; what is no plain word may be data, and is not shown.
    """
    if isinstance(key, int):
        return f"[{key}]"
    named = isinstance(key, str) and key.isascii() and key.isidentifier() and len(key) <= _LONGEST_NAME
    return f".{key}" if named else "[...]"


def is_a_class(module: str, name: str, kind: type) -> bool:
    """
    Whether `kind` is this class or one of its own. Where nobody has imported the module, nothing can be.
    """
    return module in sys.modules and issubclass(kind, getattr(sys.modules[module], name))


def is_data(value: object) -> bool:
    """
    Whether it is an object or an array in JSON.
    """
    return _is_record(value) or isinstance(value, (dict, list, tuple, Mapping))


@cache
def _fast() -> Callable[[object], bytes] | None:
    # Looked for at the first use and not before, see `_EXACT`.
    try:
        from msgspec.json import Encoder  # noqa: PLC0415

        return Encoder().encode
    except ImportError:
        pass
    try:
        import orjson  # noqa: PLC0415

        return lambda value: orjson.dumps(value, default=_decimal_text, option=orjson.OPT_UTC_Z)
    except ImportError:
        return None


@cache
def _msgspec() -> ModuleType:
    import msgspec  # noqa: PLC0415  # it is there, because it made the value

    return msgspec


def _decimal_text(value: object) -> str:
    if not _is_a("decimal", "Decimal", value):
        raise TypeError
    return str(value)


def _is_written_alike(value: object) -> bool:  # noqa: PLR0911  # one kind after the other
    """
    Whether all encoders write this in the same way, and lose nothing of it.
    """
    kind = type(value)
    if kind is dict:
        for key, each in value.items():  # type: ignore[attr-defined]  # a dict, as said
            if type(key) is not str or (type(each) not in _NATIVE and not _is_written_alike(each)):
                return False
        return True
    if kind is list or kind is tuple:
        for each in value:  # type: ignore[attr-defined]  # noqa: SIM110  # as above; half as fast in one line
            if type(each) not in _NATIVE and not _is_written_alike(each):
                return False
        return True
    if kind is float:
        return value == 0 or _LEAST <= abs(value) < _MOST  # type: ignore[arg-type]  # a float, as said
    if kind is datetime:
        return value.tzinfo is None or value.tzinfo is timezone.utc  # type: ignore[attr-defined]
    if hasattr(kind, "__struct_config__"):  # which msgspec alone writes, and orjson refuses
        parts = _msgspec().structs.astuple(value)
        return _NATIVE.issuperset(map(type, parts)) or all(map(_is_written_alike, parts))
    return kind in _NATIVE or (kind.__module__, kind.__name__) in _EXACT


def _plain(value: object) -> object:  # noqa: C901, PLR0911  # one kind after the other
    """
    The same as dicts, lists, text, numbers, bools and None.
    """
    if type(value) not in _NATIVE:
        value = _detached(value)
    if type(value) in _NATIVE:
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise _Unfit("is NaN or infinity, which JSON cannot hold; leave it out, or send text")
        return float(value)
    if isinstance(value, (dict, Mapping)):
        return _plain_items(value.items())
    if isinstance(value, (list, tuple)):
        return [_plain_part(place_of(place), each) for place, each in enumerate(value)]
    if isinstance(value, (datetime, date, time)):
        text = value.isoformat()
        return f"{text[:-6]}Z" if text.endswith("+00:00") else text
    if _is_a("uuid", "UUID", value) or _is_a("decimal", "Decimal", value):
        return str(value)
    if _is_record(value):
        return _plain_record(value)
    raise _Unfit(
        f"is of the type {type(value).__name__}, which JSON cannot hold; make text, numbers, lists or dicts of it"
    )


def _detached(value: object) -> object:
    try:
        return detached(value)
    except Undetached as error:
        raise _Unfit(str(error)) from None


def _is_record(value: object) -> bool:
    return _is_record_type(type(value))  # type: ignore[arg-type]  # every class can be hashed


@lru_cache(maxsize=256)
def _is_record_type(kind: type) -> bool:
    return is_dataclass(kind) or hasattr(kind, "__struct_config__") or hasattr(kind, "__pydantic_serializer__")


def _is_model(value: object) -> bool:
    return _is_model_type(type(value))  # type: ignore[arg-type]  # every class can be hashed


@lru_cache(maxsize=256)
def _is_model_type(kind: type) -> bool:
    return hasattr(kind, "model_dump")


def _dumped(model: object) -> object:
    return model.model_dump(by_alias=True, warnings=False)  # type: ignore[attr-defined]  # a model, as its type says


def _plain_record(value: object) -> object:
    if hasattr(type(value), "__struct_config__"):
        try:
            return _plain(_msgspec().to_builtins(value, builtin_types=_kept()))
        except (TypeError, ValueError):
            # Where is it? What the struct says of names does not matter any more.
            for name in value.__struct_fields__:  # type: ignore[attr-defined]
                _plain_part(place_of(name), getattr(value, name))
            raise _Unfit("holds something that JSON cannot hold") from None
    if _is_model(value):
        return _plain(_dumped(value))
    return _plain_items((each.name, getattr(value, each.name)) for each in fields(value))  # type: ignore[arg-type]


@cache
def _kept() -> tuple[type, ...]:
    # What msgspec would make text of, and `_plain` says how or whether.
    from decimal import Decimal  # noqa: PLC0415  # see `_EXACT`
    from uuid import UUID  # noqa: PLC0415

    return bytes, bytearray, memoryview, datetime, date, time, timedelta, Decimal, UUID


def _plain_items(items: object) -> dict[str, object]:
    plain = {}
    for key, each in items:  # type: ignore[attr-defined]
        if not isinstance(key, str):
            # JSON would make text of it silently, and then 1 and "1" are the same key.
            raise _Unfit(f"has a key of the type {type(key).__name__}; keys must be text")
        plain[str.__str__(key)] = _plain_part(place_of(key), each)
    return plain


def _plain_part(place: str, value: object) -> object:
    if type(value) in _NATIVE:
        return value
    try:
        return _plain(value)
    except _Unfit as unfit:
        unfit.path = place + unfit.path
        raise


def _is_a(module: str, name: str, value: object) -> bool:
    return is_a_class(module, name, type(value))


def _refuse(constant: str) -> object:
    raise ValueError(constant)
