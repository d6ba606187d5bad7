"""
Each serializer refuses what it is not for, names the place, and its twin reads what it made.
"""

from __future__ import annotations

import dataclasses
import traceback
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pulsar.schema
import pydantic
import pytest
from google.protobuf import descriptor_pb2, struct_pb2, timestamp_pb2

from safepulsar.errors import InvalidMessage, InvalidSettings
from safepulsar.serialization import BytesSerializer, JsonSerializer, Serializers, TextSerializer
from safepulsar.serialization.avro import AvroSerializer
from safepulsar.serialization.client_schema import ClientSchemaSerializer
from safepulsar.serialization.models import ModelSerializer
from safepulsar.serialization.protobuf import ProtobufSerializer
from safepulsar.serialization.structs import StructSerializer
from safepulsar.settings import SchemaKind
from safepulsar.steps import Draft
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safepulsar.serialization import Serializer
    from safepulsar.serialization.client_schema import ClientSchema


class Line(msgspec.Struct):
    """
    A part of an order.
    """

    price: float
    note: float | None = None


class Order(msgspec.Struct):
    """
    An order as a struct.
    """

    number: int
    lines: list[Line] = []


@dataclasses.dataclass
class Plain:
    """
    An order as a dataclass.
    """

    number: int


class LineModel(pydantic.BaseModel):
    """
    A part of an order.
    """

    price: Annotated[float, pydantic.Field(gt=0)]
    note: float | None = None


class OrderModel(pydantic.BaseModel):
    """
    An order as a model, with another name in JSON.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    number: int = pydantic.Field(alias="orderNumber")
    lines: list[LineModel] = []


_AVRO = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "number", "type": "long"},
        {"name": "note", "type": ["null", "string"], "default": None},
        {
            "name": "lines",
            "type": {
                "type": "array",
                "items": {"type": "record", "name": "Line", "fields": [{"name": "price", "type": "double"}]},
            },
        },
        {"name": "tags", "type": {"type": "map", "values": "Line"}, "default": {}},
    ],
}
_model = OrderModel(orderNumber=7, lines=[LineModel(price=1.5)])
_round_trips: list[tuple[Serializer[object], object, object]] = [
    (BytesSerializer(), b"\x00\xff", b"\x00\xff"),
    (BytesSerializer(), bytearray(b"ab"), b"ab"),
    (TextSerializer(), "Größe", "Größe"),
    (JsonSerializer(), {"a": [1, None]}, {"a": [1, None]}),
    (JsonSerializer(), 7, 7),
    (StructSerializer(Order), Order(7, [Line(1.5)]), Order(7, [Line(1.5)])),
    (StructSerializer(Order), {"number": 7}, Order(7)),
    (StructSerializer(Plain), Plain(7), Plain(7)),
    (StructSerializer(dict[int, float]), {1: 1.5}, {1: 1.5}),
    (ModelSerializer(OrderModel), _model, _model),
    (ModelSerializer(OrderModel), {"orderNumber": 7}, OrderModel(orderNumber=7)),
    (ProtobufSerializer(timestamp_pb2.Timestamp), timestamp_pb2.Timestamp(seconds=7), timestamp_pb2.Timestamp(seconds=7)),
    (
        AvroSerializer(_AVRO),
        {"number": 7, "lines": [{"price": 1.5}]},
        {"number": 7, "note": None, "lines": [{"price": 1.5}], "tags": {}},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("serializer", "value", "read"), _round_trips, ids=lambda each: type(each).__name__)
def test_a_twin_reads_what_was_written(serializer: Serializer[object], value: object, read: object) -> None:
    """
    Sender and receiver share one declaration.
    """
    payload = serializer.serialize(value)
    assert type(payload) is bytes
    assert serializer.deserialize(payload) == read


def _changed() -> OrderModel:
    model = OrderModel(orderNumber=7, lines=[LineModel(price=1.5)])
    model.lines[0].price = -1
    return model


def _mistyped() -> OrderModel:
    model = OrderModel(orderNumber=7)
    model.lines = ["canary"]  # type: ignore[list-item]
    return model


_refused: list[tuple[Serializer[object], object, str]] = [
    (BytesSerializer(), "canary", "value: must be bytes, not str"),
    (TextSerializer(), b"canary", "value: must be text, not bytes"),
    (TextSerializer(), "canary\ud800", "value: holds a lone surrogate"),
    (JsonSerializer(), b"canary", "value: is of the type bytes"),
    (StructSerializer(Order), Order("canary"), "value.number: Expected `int`, got `str`"),  # type: ignore[arg-type]
    (StructSerializer(Order), Order(1, [Line("canary")]), "value.lines[0].price: Expected `float`, got `str`"),  # type: ignore[arg-type]
    (StructSerializer(Order), Order(1, [Line(float("nan"))]), "value.lines[0].price: Expected `float`, got `null`"),
    (StructSerializer(Order), Order(1, [Line(1, float("nan"))]), "value.lines[0].note: is NaN or infinity"),
    (StructSerializer(Order), Order(1, [Line(object())]), "value.lines[0].price: is of the type object"),  # type: ignore[arg-type]
    (StructSerializer(Order), {"lines": []}, "value: Object missing required field `number`"),
    (StructSerializer(Order), b"canary", "value: Expected `object`, got `str`"),
    (ModelSerializer(OrderModel), _changed(), "value.lines[0].price: fails validation: greater_than"),
    (ModelSerializer(OrderModel), _mistyped(), "value.lines[0]: fails validation: "),
    (ModelSerializer(OrderModel), {"orderNumber": "canary"}, "value.orderNumber: fails validation: int_parsing"),
    (ModelSerializer(OrderModel), {"orderNumber": 1, "a canary": 1}, "value[...]: fails validation: extra_forbidden"),
    (ModelSerializer(LineModel), LineModel(price=1, note=float("nan")), "value.note: is NaN or infinity"),
    (ProtobufSerializer(timestamp_pb2.Timestamp), struct_pb2.Struct(), "value: must be a Timestamp, not Struct"),
    (
        ProtobufSerializer(descriptor_pb2.UninterpretedOption.NamePart),
        descriptor_pb2.UninterpretedOption.NamePart(is_extension=True),
        "value.name_part: is required and not set",
    ),
    (AvroSerializer(_AVRO), {"number": "canary", "lines": []}, "value.number: must be long, not str"),
    (AvroSerializer(_AVRO), {"number": 2**70, "lines": []}, "value.number: must be long, not int, or is beyond its range"),
    (AvroSerializer(_AVRO), {"number": 1, "lines": [{"price": "canary"}]}, "value.lines[0].price: must be double, not str"),
    (AvroSerializer(_AVRO), {"number": 1, "lines": [{}]}, "value.lines[0].price: is missing"),
    (AvroSerializer(_AVRO), {"number": 1}, "value.lines: is missing"),
    (AvroSerializer(_AVRO), {"number": 1, "lines": [], "canary 1": 1}, "value[...]: is not in the schema"),
    (AvroSerializer(_AVRO), {"number": 1, "lines": [], "note": 5}, "value.note: is of the type int, which"),
    (AvroSerializer(_AVRO), {"number": 1, "lines": [], "tags": {"a": {"b": 1}}}, "value.tags.a.price: is missing"),
    (AvroSerializer(_AVRO), ["canary"], "value: must be record, not list"),
]  # fmt: skip


@pytest.mark.parametrize(("serializer", "value", "told"), _refused, ids=lambda each: type(each).__name__)
def test_what_a_serializer_is_not_for_is_refused_with_its_place(
    serializer: Serializer[object], value: object, told: str
) -> None:
    """
    Everything is validated at the call. The error names the path and quotes nothing of the value.
    """
    with pytest.raises(InvalidMessage) as caught:
        serializer.serialize(value)
    assert told in str(caught.value)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("serializer", "payload"),
    [
        (TextSerializer(), b"canary\xff"),
        (JsonSerializer(), b"canary"),
        (StructSerializer(Order), b'{"number":"canary"}'),
        (StructSerializer(Order), b"canary"),
        (StructSerializer(Order), b'{"number":\xff}'),
        (ModelSerializer(OrderModel), b'{"orderNumber":"canary"}'),
        (ModelSerializer(OrderModel), b"canary"),
        (ProtobufSerializer(timestamp_pb2.Timestamp), b"canary"),
        (AvroSerializer(_AVRO), b"\xff"),
        (AvroSerializer(_AVRO), b"canary"),
        (AvroSerializer(_AVRO), AvroSerializer(_AVRO).serialize({"number": 7, "lines": []}) + b"canary"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_payload_that_is_not_the_serializers_is_refused(serializer: Serializer[object], payload: bytes) -> None:
    """
    A receiver gets a typed error that quotes nothing.
    """
    with pytest.raises(InvalidMessage, match=r"^payload") as caught:
        serializer.deserialize(payload)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_damaged_avro_is_a_typed_error_or_another_record() -> None:
    """
    Whatever bytes come, the reader ends with a record or with a typed error.
    """
    serializer = AvroSerializer(_AVRO)
    whole = serializer.serialize({"number": 7, "note": "text", "lines": [{"price": 1.5}], "tags": {}})
    for bit in range(8 * len(whole)):
        payload = bytearray(whole)
        payload[bit // 8] ^= 1 << (bit % 8)
        try:
            assert isinstance(serializer.deserialize(bytes(payload)), dict)
        except InvalidMessage as error:
            assert error.field == "payload"  # noqa: PT017 - it need not raise


class OrderRecord(pulsar.schema.Record):
    """
    An order as the official client declares it.
    """

    number: int = pulsar.schema.Long(required=True)  # type: ignore[assignment]  # as that client has it
    customer: str = pulsar.schema.String(required=True)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("schema", "value", "wrong", "kind"),
    [
        (pulsar.schema.StringSchema(), "Größe", 7, SchemaKind.STRING),
        (pulsar.schema.JsonSchema(OrderRecord), OrderRecord(number=7, customer="c"), "canary", SchemaKind.JSON),
        (pulsar.schema.AvroSchema(OrderRecord), OrderRecord(number=7, customer="c"), "canary", SchemaKind.AVRO),
        (
            pulsar.schema.ProtobufNativeSchema(timestamp_pb2.Timestamp),
            timestamp_pb2.Timestamp(seconds=7),
            "canary",
            SchemaKind.PROTOBUF_NATIVE,
        ),
    ],
    ids=["STRING", "JSON", "AVRO", "PROTOBUF_NATIVE"],
)
def test_a_schema_of_the_official_client_is_a_serializer_too(
    schema: ClientSchema, value: object, wrong: object, kind: SchemaKind
) -> None:
    """
    Who has declared schemas for the official client goes on with them.
    """
    serializer = ClientSchemaSerializer(schema)
    assert serializer.schema.kind is kind
    assert serializer.deserialize(serializer.serialize(value)) == value
    with pytest.raises(InvalidMessage, match=r"^value: is no value of the schema") as caught:
        serializer.serialize(wrong)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(InvalidMessage, match=r"^payload: "):
        serializer.deserialize(b"\xff\xff")


def test_serializers_know_their_schemas() -> None:
    """
    What has a schema of its own offers it for the settings of the topic.
    """
    assert TextSerializer().schema.kind is SchemaKind.STRING
    assert AvroSerializer(_AVRO).schema.kind is SchemaKind.AVRO
    assert ProtobufSerializer(timestamp_pb2.Timestamp).schema.kind is SchemaKind.PROTOBUF_NATIVE
    assert BytesSerializer().schema is None
    assert JsonSerializer().schema is None


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (
            lambda: StructSerializer(Line | Order),  # type: ignore[arg-type]
            "kind",
        ),
        (lambda: ModelSerializer(_Received), "kind"),
        (lambda: ProtobufSerializer(dict), "kind"),  # type: ignore[type-var]
        (lambda: AvroSerializer("{"), "definition"),
        (lambda: ClientSchemaSerializer(pulsar.schema.BytesSchema()), "schema"),
        (lambda: ClientSchemaSerializer(7), "schema"),  # type: ignore[arg-type]
        (lambda: AvroSerializer({"type": "record", "fields": []}), "definition"),
        (lambda: AvroSerializer({"type": "nothing", "name": "x"}), "definition"),
        (lambda: Serializers({"orders": JsonSerializer}), "topics['orders']"),  # type: ignore[dict-item]
        (lambda: Serializers(default=3), "default"),  # type: ignore[arg-type]
        (lambda: Serializers(max_bytes=0), "max_bytes"),
        (lambda: Serializers(max_bytes=True), "max_bytes"),
    ],
)
def test_what_cannot_be_declared_is_refused_at_once(make: Any, field: str) -> None:  # noqa: ANN401 - any of the above
    """
    A wrong declaration is found when the serializer is made, not when the first message is sent.
    """
    with pytest.raises(InvalidSettings) as caught:
        make()
    assert caught.value.field == field


class _Received:
    """
    A received message, as far as a payload is read of it.
    """

    def __init__(self, topic: str, payload: bytes, properties: Mapping[str, str], *, null: bool = False) -> None:
        self._topic, self._payload, self._properties, self._null = topic, payload, properties, null

    def topic_name(self) -> str:
        return self._topic

    def data(self) -> bytes:
        return self._payload

    def properties(self) -> Mapping[str, str]:
        return self._properties

    def has_null_value(self) -> bool:
        return self._null


_serializers = Serializers(
    {"orders": StructSerializer(Order), "shop/eu/text": TextSerializer()}, default=JsonSerializer()
)


@pytest.mark.parametrize(
    ("topic", "value", "payload", "content_type"),
    [
        ("persistent://public/default/orders", Order(7), b'{"number":7,"lines":[]}', "application/json"),
        ("persistent://shop/eu/text", "abc", b"abc", "text/plain; charset=utf-8"),
        ("persistent://public/default/others", {"a": 1}, b'{"a":1}', "application/json"),
        ("persistent://public/default/orders", None, None, None),
    ],
)  # fmt: skip
def test_each_topic_has_its_serializer(
    topic: str, value: object, payload: bytes | None, content_type: str | None
) -> None:
    """
    The step makes the payload and says what it is; the twin reads it back, also from a partition.
    """
    draft = _serializers.before_send(Draft(topic, value))
    assert draft.value == payload
    assert (draft.properties or {}).get("content-type") == content_type
    received = _Received(f"{topic}-partition-3", payload or b"", draft.properties or {}, null=payload is None)
    assert _serializers.read(received) == value


def test_a_content_type_of_the_application_stays() -> None:
    """
    What the application says of its payload is not overwritten, nor are its other properties.
    """
    topic = "persistent://public/default/x"
    draft = _serializers.before_send(Draft(topic, {}, properties={"content-type": "application/cloudevents+json"}))
    assert draft.properties == {"content-type": "application/cloudevents+json"}
    assert _serializers.before_send(Draft(topic, {}, properties={"a": "b"})).properties == {
        "a": "b",
        "content-type": "application/json",
    }


def test_without_a_serializer_a_value_is_left_to_the_sender() -> None:
    """
    A topic that is not named, where there is no default, is sent as without any step, and not read.
    """
    serializers = Serializers({"orders": JsonSerializer()})
    topic = "persistent://public/default/others"
    draft = serializers.before_send(Draft(topic, {"a": 1}))
    assert (draft.value, draft.properties) == ({"a": 1}, None)
    with pytest.raises(InvalidMessage, match=r"^topic: 'persistent://public/default/others' has no serializer"):
        serializers.read(_Received(topic, b"{}", {}))


@pytest.mark.parametrize(
    ("serializer", "fits", "too_long"),
    [
        (JsonSerializer(), [0] * 10, [0] * 11),
        (JsonSerializer(), {"a": 1}, dict.fromkeys("abcde", 0)),
        (TextSerializer(), "x" * 20, "x" * 21),
        (BytesSerializer(), b"x" * 20, bytearray(21)),
    ],
)
def test_what_is_surely_too_long_is_not_even_encoded(
    serializer: Serializer[object], fits: object, too_long: object
) -> None:
    """
    Where it can be told without encoding, in every form; what can't be told is the sender's to check.
    """
    calls: list[object] = []

    class Counting:
        content_type = serializer.content_type
        schema = None

        def serialize(self, value: object) -> bytes:
            calls.append(value)
            return serializer.serialize(value)

        def deserialize(self, payload: bytes) -> object:
            return serializer.deserialize(payload)

    serializers = Serializers(default=Counting(), max_bytes=20)
    topic = "persistent://public/default/orders"
    assert serializers.before_send(Draft(topic, fits)).value is not None
    with pytest.raises(InvalidMessage, match=r"^value: has at least 2[1-5] bytes as .*; at most 20 are allowed"):
        serializers.before_send(Draft(topic, too_long))
    assert calls == [fits]
    assert Serializers(default=serializer).before_send(Draft(topic, too_long)).value is not None
    avro = Serializers(default=AvroSerializer(_AVRO), max_bytes=1)  # which writes no names
    assert avro.before_send(Draft(topic, {"number": 7, "lines": []})).value is not None


def test_another_content_type_is_not_guessed() -> None:
    """
    A payload that says it is something else is refused, instead of being read as if it were not.
    """
    received = _Received("persistent://public/default/orders", b"{}", {"content-type": "text/plain"})
    with pytest.raises(InvalidMessage, match="is 'text/plain', not 'application/json', on topic"):
        _serializers.read(received)


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("structs", "msgspec", "msgspec"),
        ("models", "pydantic", "pydantic"),
        ("protobuf", "google.protobuf", "protobuf"),
        ("avro", "fastavro", "avro"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(module: str, package: str, extra: str) -> None:
    """
    What is not installed is an ImportError that says what to install.
    """
    result = run_script(
        f"""
        import sys
        sys.modules[{package!r}] = None
        try:
            import safepulsar.serialization.{module}
        except ImportError as error:
            print(error)
        """,
        timeout_seconds=30,
    )
    assert f'pip install "safepulsar[{extra}]"' in result.check()
