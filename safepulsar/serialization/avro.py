"""
Records of an Avro schema, in Avro's binary form without a header, as Pulsar's AVRO schema has it.

Needs `fastavro`: `pip install "safepulsar[avro]"`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from safepulsar.errors import InvalidMessage, InvalidSettings
from safepulsar.serialization.json_text import place_of
from safepulsar.settings import Schema, SchemaKind

try:
    import fastavro
    from fastavro.schema import SchemaParseException
    from fastavro.validation import ValidationError, validate
except ImportError as error:
    raise ImportError('Avro needs fastavro: pip install "safepulsar[avro]"') from error


_WRONG: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


class _Misfit(NamedTuple):
    field: str
    problem: str


class AvroSerializer:
    """
    Dicts as records of one Avro schema.

    Args:
        definition: the schema, as JSON text or as what that says.

    Attributes:
        schema: the same for the broker.

    Raises:
        InvalidSettings: no Avro schema of a record.
    """

    content_type: Final = "avro/binary"

    def __init__(self, definition: str | Mapping[str, object]) -> None:
        try:
            plain = json.loads(definition) if isinstance(definition, str) else json.loads(json.dumps(definition))
            self._parsed = fastavro.parse_schema(plain)
            name = plain["name"]
            self._named: dict[str, object] = self._parsed["__named_schemas"]  # type: ignore[index,call-overload,assignment]
        except (SchemaParseException, ValueError, TypeError, KeyError, AttributeError) as error:
            problem = f"must be the Avro schema of a record ({type(error).__name__})"
            raise InvalidSettings("definition", problem) from error
        self.schema = Schema(kind=SchemaKind.AVRO, name=name, definition=json.dumps(plain))

    def serialize(self, value: object) -> bytes:
        """
        Return the record.

        Raises:
            InvalidMessage: `value` does not fit the schema; the field names the place (`value.items.price`).
        """
        stream = io.BytesIO()
        try:
            validate(value, self._parsed)  # the writer alone would take the text "7" for a number
            fastavro.schemaless_writer(stream, self._parsed, value, strict_allow_default=True)
            return stream.getvalue()
        except RecursionError:
            misfit = _Misfit("value", "holds itself")
        except (ValidationError, *_WRONG):
            misfit = self._misfit(self._parsed, value, "value") or _Misfit("value", "does not fit the Avro schema")
        raise InvalidMessage(misfit.field, misfit.problem)  # outside, because what was raised quotes the data

    def deserialize(self, payload: bytes) -> object:
        """
        Return the record as a dict.

        Raises:
            InvalidMessage: the payload is no record of the schema, or has more behind it.
        """
        stream = io.BytesIO(payload)
        try:
            value: object = fastavro.schemaless_reader(stream, self._parsed, None)
        except (*_WRONG, EOFError, RecursionError, MemoryError):
            pass
        else:
            if stream.tell() == len(payload):
                return value
        raise InvalidMessage("payload", "is no record of the Avro schema")

    def _misfit(self, schema: object, value: object, path: str) -> _Misfit | None:
        """
        The first place at which `value` does not fit.
        """
        schema = self._named.get(schema, schema) if isinstance(schema, str) else schema
        kind = schema["type"] if isinstance(schema, dict) else schema
        if kind == "record" and isinstance(schema, dict) and isinstance(value, Mapping):
            return self._misfit_of_record(schema["fields"], value, path)
        if kind == "array" and isinstance(schema, dict) and isinstance(value, (list, tuple)):
            parts = ((schema["items"], each, place_of(place)) for place, each in enumerate(value))
        elif kind == "map" and isinstance(schema, dict) and isinstance(value, Mapping):
            parts = ((schema["values"], each, place_of(key)) for key, each in value.items())
        elif isinstance(kind, str) and not _fits(value, schema):
            return _Misfit(path, f"must be {kind}, not {type(value).__name__}, or is beyond its range")
        elif not _fits(value, schema):
            return _Misfit(path, f"is of the type {type(value).__name__}, which the schema does not allow")
        else:
            return None
        return next(filter(None, (self._misfit(part, each, path + place) for part, each, place in parts)), None)

    def _misfit_of_record(
        self, fields: list[dict[str, object]], value: Mapping[object, object], path: str
    ) -> _Misfit | None:
        for field in fields:
            name = field["name"]
            if name in value:
                misfit = self._misfit(field["type"], value[name], f"{path}.{name}")
                if misfit is not None:
                    return misfit
            elif "default" not in field:
                return _Misfit(f"{path}.{name}", "is missing")
        names = {field["name"] for field in fields}
        return next((_Misfit(path + place_of(key), "is not in the schema") for key in value if key not in names), None)


def _fits(value: object, schema: object) -> bool:
    try:
        return bool(validate(value, schema, raise_errors=False))  # type: ignore[arg-type]  # part of a parsed schema
    except Exception:  # noqa: BLE001  # a reference that it cannot follow from here: then it is not this one
        return True
