"""
The schema of a type says what the JSON of its values holds.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import date, datetime  # noqa: TC003 - read at run time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID  # noqa: TC003 - as above

import fastavro
import msgspec
import pydantic
import pytest
from typing_extensions import NotRequired

from safepulsar.errors import InvalidSettings
from safepulsar.serialization import JsonSerializer
from safepulsar.serialization.record_schema import record_schema
from safepulsar.settings import SchemaKind


class Colour(Enum):
    """
    An enum of text.
    """

    RED = "red"


class Line(msgspec.Struct, rename="camel"):
    """
    A struct with other names in JSON, that holds others of its kind.
    """

    unit_price: Decimal
    amount: int = 1
    tags: dict[str, int] = {}
    part_of: Line | None = None


@dataclasses.dataclass
class Order:
    """
    A dataclass of everything.
    """

    number: UUID
    at: datetime
    day: date
    colour: Colour
    lines: list[Line]
    pair: tuple[Line, ...]
    raw: bytes
    either: int | str
    kind: Literal["a", "b"] = "a"
    rate: float = 0.5
    open: bool = True
    notes: list[str] = dataclasses.field(default_factory=list)
    maybe: Annotated[str | None, "documented"] = None


class Model(pydantic.BaseModel):
    """
    A model with another name in JSON.
    """

    total: Decimal = pydantic.Field(alias="sum")
    lines: list[str] = pydantic.Field(default_factory=list)


class Typed(TypedDict):
    """
    A typed dict.
    """

    number: int
    note: NotRequired[str]


def _fields(kind: type) -> dict[str, Any]:
    schema = record_schema(kind)
    assert (schema.kind, schema.name) == (SchemaKind.JSON, kind.__name__)
    definition = json.loads(schema.definition)
    fastavro.parse_schema(definition)
    return {field.pop("name"): field for field in definition["fields"]}


def test_a_struct_has_the_names_of_its_json() -> None:
    """
    Names are those that the encoder writes, a recursion names its record, and factories have empty defaults.
    """
    assert _fields(Line) == {
        "unitPrice": {"type": "string"},
        "amount": {"type": "long", "default": 1},
        "tags": {"type": {"type": "map", "values": "long"}, "default": {}},
        "partOf": {"type": ["null", "Line"], "default": None},
    }


def test_a_dataclass_has_a_counterpart_of_each_type() -> None:
    """
    What JSON writes as text is text; a record stands where it is first used, and is named from there on.
    """
    made = _fields(Order)
    line = made.pop("lines")["type"]["items"]
    assert (line["type"], line["name"]) == ("record", "Line")
    assert made == {
        "number": {"type": "string"},
        "at": {"type": "string"},
        "day": {"type": "string"},
        "colour": {"type": "string"},
        "pair": {"type": {"type": "array", "items": "Line"}},
        "raw": {"type": "bytes"},
        "either": {"type": ["long", "string"]},
        "kind": {"type": "string", "default": "a"},
        "rate": {"type": "double", "default": 0.5},
        "open": {"type": "boolean", "default": True},
        "notes": {"type": {"type": "array", "items": "string"}, "default": []},
        "maybe": {"type": ["null", "string"], "default": None},
    }


def test_models_and_typed_dicts_have_one() -> None:
    """
    A model has the names of its aliases, and a key that need not be there is optional.
    """
    assert _fields(Model) == {
        "sum": {"type": "string"},
        "lines": {"type": {"type": "array", "items": "string"}, "default": []},
    }
    assert _fields(Typed) == {"number": {"type": "long"}, "note": {"type": ["null", "string"], "default": None}}


def test_what_is_sent_fits_the_schema() -> None:
    """
    An Avro reader's own validation takes the JSON of a value for a record of the schema.
    """
    line = Line(Decimal("1.10"), tags={"a": 1}, part_of=Line(Decimal(2)))
    definition = fastavro.parse_schema(json.loads(record_schema(Line).definition))
    assert fastavro.validation.validate(json.loads(JsonSerializer().serialize(line)), definition)


class _Opaque(msgspec.Struct):
    lines: list[object]


class _Mixed(msgspec.Struct):
    pair: tuple[int, str]


class _Numbered(msgspec.Struct):
    by_number: dict[int, str]


@pytest.mark.parametrize(
    ("kind", "field"),
    [(int, "kind"), (_Opaque, "_Opaque.lines[...]"), (_Mixed, "_Mixed.pair"), (_Numbered, "_Numbered.by_number")],
)
def test_what_no_schema_can_say_is_refused_with_its_place(kind: type, field: str) -> None:
    """
    A type without a counterpart is found when the schema is made.
    """
    with pytest.raises(InvalidSettings) as caught:
        record_schema(kind)
    assert caught.value.field == field
