"""
The schema of a type whose values are sent as JSON, so that it need not be declared a second time.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, time
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from typing_extensions import NotRequired, Required, is_typeddict

from safepulsar.errors import InvalidSettings
from safepulsar.serialization.json_text import is_a_class
from safepulsar.settings import Schema, SchemaKind

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = {str: "string", int: "long", float: "double", bool: "boolean", bytes: "bytes", type(None): "null"}
_TRANSPARENT = (Annotated, NotRequired, Required)


class _Field(NamedTuple):
    name: str
    kind: object
    default: object  # MISSING if it has none, or one that is no plain value


def record_schema(kind: type) -> Schema:
    """
    The schema of a dataclass, a msgspec struct, a pydantic model or a TypedDict, as JSON.

    Fields have the names that they have in JSON. A field that may be left out is optional, with `null` as its default if
    None is, so that a type that grows by such fields stays compatible. What JSON writes as text is text: dates, UUIDs,
    Decimals.

    Raises:
        InvalidSettings: a type has no counterpart; the field names the place.
    """
    if not _is_record(kind):
        raise InvalidSettings("kind", "must be a dataclass, a msgspec struct, a pydantic model or a TypedDict")
    definition = _record(kind, kind.__name__, set())
    return Schema(kind=SchemaKind.JSON, name=kind.__name__, definition=json.dumps(definition))


def _record(kind: type, path: str, seen: set[type]) -> dict[str, object]:
    if not kind.__name__.isascii() or not kind.__name__.isidentifier():
        raise InvalidSettings(path, f"the class {kind.__name__!a} has a name that no schema can have")
    seen.add(kind)
    return {
        "type": "record",
        "name": kind.__name__,
        "fields": [_field(each, f"{path}.{each.name}", seen) for each in _fields(kind)],
    }


def _field(field: _Field, path: str, seen: set[type]) -> dict[str, object]:
    made = _type(field.kind, path, seen)
    if field.default is MISSING:
        return {"name": field.name, "type": made}
    if field.default is None:
        others = [each for each in (made if isinstance(made, list) else [made]) if each != "null"]
        return {"name": field.name, "type": ["null", *others], "default": None}
    if isinstance(field.default, (str, int, float, list, dict)) and not isinstance(made, list):
        return {"name": field.name, "type": made, "default": field.default}
    return {"name": field.name, "type": made}


def _type(kind: object, path: str, seen: set[type]) -> object:  # noqa: C901, PLR0911  # one after the other
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in _TRANSPARENT:
        return _type(arguments[0], path, seen)
    if origin in (Union, types.UnionType):
        made = [_type(each, path, seen) for each in arguments]
        return [each for place, each in enumerate(made) if each not in made[:place]]
    if origin is Literal:
        return _type(type(arguments[0]), path, seen)
    if origin is tuple and (len(arguments) != 2 or arguments[1] is not Ellipsis):  # noqa: PLR2004  # tuple[kind, ...]
        raise InvalidSettings(path, "is a tuple of several types, which no schema can have; use a list or a record")
    container = origin or kind
    if isinstance(container, type):
        if container in _PLAIN:
            return _PLAIN[container]
        if issubclass(container, Enum):
            return _type(type(next(iter(container)).value), path, seen)
        if (
            issubclass(container, (date, time))
            or is_a_class("uuid", "UUID", container)
            or is_a_class("decimal", "Decimal", container)
        ):
            return "string"
        if issubclass(container, Mapping) and len(arguments) == 2 and arguments[0] is str:  # noqa: PLR2004
            return {"type": "map", "values": _type(arguments[1], f"{path}[...]", seen)}
        if issubclass(container, (Sequence, AbstractSet)) and arguments:
            return {"type": "array", "items": _type(arguments[0], f"{path}[...]", seen)}
        if _is_record(container):
            return container.__name__ if container in seen else _record(container, path, seen)
    raise InvalidSettings(path, "is of a type that has no counterpart in a schema")


def _is_record(kind: object) -> bool:
    return isinstance(kind, type) and (
        is_dataclass(kind) or is_typeddict(kind) or hasattr(kind, "__struct_config__") or hasattr(kind, "model_fields")
    )


def _fields(kind: Any) -> Iterator[_Field]:  # noqa: ANN401  # one of those above
    if hasattr(kind, "model_fields"):
        for name, each in kind.model_fields.items():
            given = MISSING if each.is_required() else each.default_factory or each.default
            yield _Field(each.serialization_alias or each.alias or name, each.annotation, _default(given))
        return
    hints = get_type_hints(kind, include_extras=True)
    if hasattr(kind, "__struct_config__"):
        defaults = kind.__struct_defaults__
        first = len(kind.__struct_fields__) - len(defaults)
        for place, name in enumerate(kind.__struct_fields__):
            given = MISSING if place < first else defaults[place - first]
            yield _Field(kind.__struct_encode_fields__[place], hints[name], _default(getattr(given, "factory", given)))
    elif is_dataclass(kind):
        for item in fields(kind):
            given = item.default if item.default_factory is MISSING else item.default_factory
            yield _Field(item.name, hints[item.name], _default(given))
    else:
        for name, hint in hints.items():
            # Where annotations are text, `__required_keys__` doesn't know of `NotRequired`.
            said = get_origin(hint)
            needed = said is Required or (said is not NotRequired and name in kind.__required_keys__)
            yield _Field(name, hint, MISSING if needed else None)


def _default(given: object) -> object:
    """
    The default of a field, or what its factory makes, as far as a schema can have it.
    """
    if given in (list, set, frozenset, tuple, [], ()):
        return []
    if given is dict or given == {}:
        return {}
    return given if given is None or isinstance(given, (str, int, float)) else MISSING
