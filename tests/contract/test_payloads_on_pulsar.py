"""
What becomes of payloads on a real Apache Pulsar: schemas, compression, encryption, chunks, delays, and the seal on all.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pulsar
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from google.protobuf import duration_pb2, timestamp_pb2
from pulsar.schema import AvroSchema, JsonSchema, Long, ProtobufNativeSchema, Record, String, StringSchema

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import IncompatibleSchema, SealBroken, SendFailed
from safepulsar.integrity import Seal, SealKind
from safepulsar.message import Certainty
from safepulsar.sender import RetryingSender
from safepulsar.serialization import JsonSerializer, Serializers, TextSerializer
from safepulsar.serialization.avro import AvroSerializer
from safepulsar.serialization.client_schema import ClientSchemaSerializer
from safepulsar.serialization.protobuf import ProtobufSerializer
from safepulsar.serialization.record_schema import record_schema
from safepulsar.serialization.structs import StructSerializer
from safepulsar.settings import ClientSettings, Compression, Schema, SchemaKind, SenderSettings, TopicSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from safepulsar.serialization import Serializer
    from safepulsar.steps import Step
    from tests.brokers import RealBroker

_WAIT_MS: Final = 20_000
_KEY: Final = b"a secret of many bytes"


class Order(msgspec.Struct):
    """
    What is sent.
    """

    number: int
    customer: str


class OrderRecord(Record):
    """
    The same as the official client declares it.
    """

    number: int = Long(required=True)  # type: ignore[assignment]  # as that client has it
    customer: str = String(required=True)  # type: ignore[assignment]


def _definition(*fields: dict[str, Any]) -> str:
    return json.dumps({"type": "record", "name": "Order", "fields": fields})


_NUMBER: Final = {"name": "number", "type": "long"}
_CUSTOMER: Final = {"name": "customer", "type": "string"}
_NOTE: Final = {"name": "note", "type": ["null", "string"], "default": None}
_ORDER: Final = _definition(_NUMBER, _CUSTOMER)


def _json_schema(*fields: dict[str, Any]) -> Schema:
    return Schema(kind=SchemaKind.JSON, name="Order", definition=_definition(*fields))


@contextmanager
def _sender(
    broker: RealBroker, topic: str, settings: TopicSettings, serializer: Serializer[Any] | None = None
) -> Iterator[tuple[RetryingSender, Seal]]:
    """
    A sender whose messages are serialised and sealed.
    """
    seal = Seal(SealKind.HMAC_SHA256, keys={"k": _KEY}, properties=["tenant"])
    steps: list[Step] = [Serializers({topic: serializer}), seal] if serializer is not None else [seal]
    with RetryingSender(
        ClientSettings(url=broker.url, operation_timeout_seconds=10),
        settings=SenderSettings(deadline_seconds=30, drain_on_sigterm=False, topics={topic: settings}),
        registry=ClientRegistry(),
        steps=steps,
    ) as sender:
        yield sender, seal


@contextmanager
def _consumer(broker: RealBroker, topic: str, **named: Any) -> Iterator[pulsar.Consumer]:  # noqa: ANN401 - as subscribe
    """
    The official client's consumer, from the topic's beginning.
    """
    client = pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        yield client.subscribe(topic, "test", initial_position=pulsar.InitialPosition.Earliest, **named)
    finally:
        client.close()


# -- schemas -------------------------------------------------------------------------------------------------------

_schemas: list[tuple[Serializer[Any], object, pulsar.schema.Schema, object]] = [
    (StructSerializer(Order, schema=record_schema(Order)), Order(7, "c"), JsonSchema(OrderRecord), (7, "c")),
    (AvroSerializer(_ORDER), {"number": 7, "customer": "ö"}, AvroSchema(OrderRecord), (7, "ö")),
    (TextSerializer(), "Größe", StringSchema(), "Größe"),
    (
        ProtobufSerializer(timestamp_pb2.Timestamp),
        timestamp_pb2.Timestamp(seconds=7),
        ProtobufNativeSchema(timestamp_pb2.Timestamp),
        timestamp_pb2.Timestamp(seconds=7),
    ),
    (
        ClientSchemaSerializer(AvroSchema(OrderRecord)),
        OrderRecord(number=7, customer="c"),
        AvroSchema(OrderRecord),
        (7, "c"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("serializer", "value", "schema", "read"),
    _schemas,
    ids=["JSON", "AVRO", "STRING", "PROTOBUF_NATIVE", "of the client"],
)
def test_a_schema_is_registered_and_read_by_the_official_client(
    pulsar_broker: RealBroker,
    topic: str,
    serializer: Serializer[Any],
    value: object,
    schema: pulsar.schema.Schema,
    read: object,
) -> None:
    """
    The broker knows the serializer's schema, and a consumer that declares its own fitting one reads the value.
    """
    assert serializer.schema is not None
    with _sender(pulsar_broker, topic, TopicSettings(schema=serializer.schema), serializer) as (sender, seal):
        sender.send(topic, value, partition_key="k")  # type: ignore[arg-type]  # any of the above
        sender.send(topic, value)  # type: ignore[arg-type]  # by the other producer
        known = pulsar_broker.admin.schema(topic)
        assert (known["type"], known["version"]) == (serializer.schema.kind.value, 0)
        with _consumer(pulsar_broker, topic, schema=schema) as consumer:
            for _ in range(2):
                message = consumer.receive(_WAIT_MS)
                got = message.value()
                assert ((got.number, got.customer) if isinstance(got, OrderRecord) else got) == read
                seal.verify(message)
                assert Serializers({topic: serializer}).read(message) == value


def test_a_protobuf_schema_in_avro_form_is_registered(pulsar_broker: RealBroker, topic: str) -> None:
    """
    Pulsar's older kind for Protobuf, which describes the message as Avro, is taken as it is given.
    """
    schema = Schema(kind=SchemaKind.PROTOBUF, name="Order", definition=_ORDER)
    with _sender(pulsar_broker, topic, TopicSettings(schema=schema)) as (sender, _):
        sender.send(topic, b"\x08\x07")
    assert pulsar_broker.admin.schema(topic)["type"] == "PROTOBUF"


def test_a_schema_grows_and_older_producers_go_on(pulsar_broker: RealBroker, topic: str) -> None:
    """
    A compatible schema becomes the next version, and a producer of the version before is still welcome.
    """
    old, new = _json_schema(_NUMBER, _CUSTOMER), _json_schema(_NUMBER, _CUSTOMER, _NOTE)
    for schema, version in ((old, 0), (new, 1), (old, 1)):
        with _sender(pulsar_broker, topic, TopicSettings(schema=schema), JsonSerializer()) as (sender, _):
            sender.send(topic, {"number": 7, "customer": "c"})
        assert pulsar_broker.admin.schema(topic)["version"] == version


class NewOrder(Order):
    """
    The next version of it.
    """

    note: str | None = None
    lines: list[Order] = []
    status: str = "open"


def test_a_type_that_grows_by_optional_fields_stays_compatible(pulsar_broker: RealBroker, topic: str) -> None:
    """
    The schema of a type and that of its next version go together, and both producers do.
    """
    for kind, version in ((Order, 0), (NewOrder, 1), (Order, 1)):
        serializer = StructSerializer(kind, schema=replace(record_schema(kind), name="Order"))
        with _sender(pulsar_broker, topic, TopicSettings(schema=serializer.schema), serializer) as (sender, _):
            sender.send(topic, kind(7, "c"))
        assert pulsar_broker.admin.schema(topic)["version"] == version


@pytest.mark.parametrize(
    ("offered", "told"),
    [
        (_json_schema({"name": "number", "type": "string"}), "JSON 'Order' with SHA-256 "),
        (AvroSerializer(_ORDER).schema, "AVRO 'Order' with SHA-256 "),
        (TextSerializer().schema, "STRING"),
        (ProtobufSerializer(duration_pb2.Duration).schema, "PROTOBUF_NATIVE 'Duration' with SHA-256 "),
    ],
    ids=["another field", "another kind", "text", "Protobuf"],
)
@pytest.mark.parametrize("versions", [1, 2, 6])
def test_an_incompatible_schema_is_fatal_and_both_versions_are_named(
    pulsar_broker: RealBroker, topic: str, offered: Schema, told: str, versions: int
) -> None:
    """
    The producer is refused once and for good; the message is kept, surely not stored, and the error says which schemas.
    """
    notes = [{"name": f"note{place}", "type": ["null", "string"], "default": None} for place in range(versions)]
    for count in range(versions):
        settings = TopicSettings(schema=_json_schema(_NUMBER, _CUSTOMER, *notes[:count]))
        with _sender(pulsar_broker, topic, settings, JsonSerializer()) as (sender, _):
            sender.send(topic, {"number": 7, "customer": "c"})
    started = time.monotonic()
    with _sender(pulsar_broker, topic, TopicSettings(schema=offered)) as (sender, _):
        with pytest.raises(SendFailed) as caught:
            sender.send(topic, b"...")
        assert sender.failed_messages.count() == 1
    cause = caught.value.__cause__
    assert isinstance(cause, IncompatibleSchema)
    assert not cause.retriable
    assert caught.value.certainty is Certainty.NOT_STORED
    assert time.monotonic() - started < 10
    assert f"the topic has version {versions - 1} of its schema, JSON" in str(cause)
    assert f"this producer offers a version that does not fit it, {told}" in str(cause)


def test_a_definition_that_the_broker_cannot_read_is_told_apart(pulsar_broker: RealBroker, topic: str) -> None:
    """
    Where the topic has no schema yet, it is the definition itself that is wrong.
    """
    schema = Schema(kind=SchemaKind.AVRO, name="Order", definition='{"type":"nothing"}')
    with (
        _sender(pulsar_broker, topic, TopicSettings(schema=schema)) as (sender, _),
        pytest.raises(SendFailed) as caught,
    ):
        sender.send(topic, b"...")
    assert "the broker does not take the AVRO 'Order' with SHA-256" in str(caught.value.__cause__)


def test_a_partitioned_topic_has_one_schema(pulsar_broker: RealBroker, topic: str) -> None:
    """
    All partitions' producers offer it, and an incompatible one is told of as on any topic.
    """
    pulsar_broker.admin.create_partitioned_topic(topic, 3)
    settings = TopicSettings(schema=_json_schema(_NUMBER, _CUSTOMER))
    with _sender(pulsar_broker, topic, settings, StructSerializer(Order)) as (sender, _):
        report = sender.send_many(topic, [Order(number, "c") for number in range(9)], partition_key="k")
    assert report.delivered == 9
    with (
        _sender(pulsar_broker, topic, TopicSettings(schema=TextSerializer().schema)) as (sender, _),
        pytest.raises(SendFailed) as caught,
    ):
        sender.send(topic, "text")
    assert "the topic has version 0 of its schema, JSON" in str(caught.value.__cause__)


def test_a_tombstone_passes_a_schema(pulsar_broker: RealBroker, topic: str) -> None:
    """
    A tombstone has no payload to serialise, arrives as one, and is sealed.
    """
    serializer = StructSerializer(Order, schema=_json_schema(_NUMBER, _CUSTOMER))
    with _sender(pulsar_broker, topic, TopicSettings(schema=serializer.schema), serializer) as (sender, seal):
        sender.send(topic, None, partition_key="gone", event_timestamp_ms=1_700_000_000_000)
        with _consumer(pulsar_broker, topic) as consumer:
            message = consumer.receive(_WAIT_MS)
            assert message.has_null_value()
            assert (message.partition_key(), message.event_timestamp()) == ("gone", 1_700_000_000_000)
            seal.verify(message)
            assert Serializers({topic: serializer}).read(message) is None


# -- what the client library does to payloads --------------------------------------------------------------------------


@pytest.mark.parametrize("compression", Compression)
def test_compressed_batches_are_read_and_verified(
    pulsar_broker: RealBroker, topic: str, compression: Compression
) -> None:
    """
    Sealed messages come through every compression, in batches and alone.
    """
    with _sender(pulsar_broker, topic, TopicSettings(compression=compression), JsonSerializer()) as (sender, seal):
        sender.send_many(topic, [{"number": number, "text": "x" * 500} for number in range(20)])
        sender.send(topic, {"number": 20}, partition_key="k", properties={"tenant": "shop"})
    with _consumer(pulsar_broker, topic) as consumer:
        messages = [consumer.receive(_WAIT_MS) for _ in range(21)]
    for message in messages:
        seal.verify(message)
    assert sorted(json.loads(message.data())["number"] for message in messages) == list(range(21))


@pytest.mark.parametrize("kind", SealKind)
def test_every_kind_of_seal_comes_through(pulsar_broker: RealBroker, topic: str, kind: SealKind) -> None:
    """
    With both keys, with neither, of an empty payload and of a tombstone; and it is the seal of that one message.
    """
    seal = Seal(kind, keys={"k": _KEY} if kind is SealKind.HMAC_SHA256 else None, properties=["tenant"])
    with RetryingSender(
        ClientSettings(url=pulsar_broker.url),
        settings=SenderSettings(deadline_seconds=30, drain_on_sigterm=False),
        registry=ClientRegistry(),
        steps=[seal],
    ) as sender:
        sender.send(topic, "größer", partition_key="ä", ordering_key="o", properties={"tenant": "shop"})
        sender.send(topic, b"")
        sender.send(topic, None, partition_key="ä")
    with _consumer(pulsar_broker, topic) as consumer:
        messages = [consumer.receive(_WAIT_MS) for _ in range(3)]
    for message in messages:
        seal.verify(message)
        for other in messages:
            if other is not message:
                with pytest.raises(SealBroken):
                    seal.verify(_Mixed(message, other))


class _Mixed:
    """
    The payload and keys of one message with the properties of another.
    """

    def __init__(self, message: pulsar.Message, other: pulsar.Message) -> None:
        self.data, self.has_null_value = message.data, message.has_null_value
        self.partition_key, self.ordering_key = message.partition_key, message.ordering_key
        self.properties = other.properties


@pytest.fixture(scope="module")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """
    A public and a private RSA key in files.
    """
    folder: Path = tmp_path_factory.mktemp("keys")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public, private = folder / "public.pem", folder / "private.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    return str(public), str(private)


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.ZSTD])
def test_an_encrypted_payload_is_read_by_who_has_the_key(
    pulsar_broker: RealBroker, topic: str, key_files: tuple[str, str], compression: Compression
) -> None:
    """
    The broker has what nobody reads without the private key; with it, payload and seal are as they were sent.
    """
    settings = TopicSettings(encryption_key="shop", crypto_key_files=key_files, compression=compression)
    with _sender(pulsar_broker, topic, settings) as (sender, seal):
        sender.send(topic, b"canary " * 9, partition_key="k")
        sender.send(topic, b"canary " * 9)
    consume = pulsar.ConsumerCryptoFailureAction.CONSUME
    with _consumer(pulsar_broker, topic, crypto_failure_action=consume) as consumer:
        assert b"canary" not in consumer.receive(_WAIT_MS).data()
    reader = pulsar.CryptoKeyReader(*key_files)
    with _consumer(pulsar_broker, topic, crypto_key_reader=reader) as consumer:
        for _ in range(2):
            message = consumer.receive(_WAIT_MS)
            assert message.data() == b"canary " * 9
            seal.verify(message)


def test_a_message_in_chunks_arrives_whole(pulsar_broker: RealBroker, topic: str) -> None:
    """
    A payload of more than the broker takes at once is split, put together by the consumer, and its seal holds.
    """
    payload = bytes(range(256)) * 4 * 1024 * 12  # 12 MiB
    with _sender(pulsar_broker, topic, TopicSettings(chunking=True)) as (sender, seal):
        sender.send(topic, payload, partition_key="k", properties={"tenant": "shop"})
        sender.send(topic, b"small")
    with _consumer(pulsar_broker, topic) as consumer:
        message = consumer.receive(_WAIT_MS)
        assert message.data() == payload
        seal.verify(message)
        assert consumer.receive(_WAIT_MS).data() == b"small"


def test_a_message_is_not_delivered_before_its_time(pulsar_broker: RealBroker, topic: str) -> None:
    """
    On a Shared subscription a later message without a time comes first.
    """
    with (
        _consumer(pulsar_broker, topic, consumer_type=pulsar.ConsumerType.Shared) as consumer,
        _sender(pulsar_broker, topic, TopicSettings()) as (sender, seal),
    ):
        at_ms = round(time.time() * 1000) + 4_000
        sender.send(topic, b"later", deliver_at_ms=at_ms)
        sender.send(topic, b"now")
        first = consumer.receive(_WAIT_MS)
        assert first.data() == b"now"
        assert time.time() * 1000 < at_ms
        second = consumer.receive(_WAIT_MS)
        assert second.data() == b"later"
        assert time.time() * 1000 >= at_ms - 1_100  # the broker looks once a second
        for message in (first, second):
            seal.verify(message)
