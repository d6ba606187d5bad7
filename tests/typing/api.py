"""
The public signatures as applications use them. Type-checked, never run: each line is a promise to their type checkers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from typing_extensions import assert_type

from safepulsar import (
    AccessMode,
    Attempt,
    BrokerError,
    Certainty,
    ClientRegistry,
    ClientSettings,
    CloseReport,
    Compression,
    Counts,
    Draft,
    FailedMessage,
    FailedMessageFilter,
    FailedMessageStore,
    Fate,
    InMemoryFailedMessages,
    InvalidInput,
    LogLevel,
    Message,
    MessageId,
    PoolSettings,
    PoolStats,
    ProducerPool,
    ProducerSettings,
    ReplayReport,
    RetryingSender,
    RetrySettings,
    SafePulsarError,
    Schema,
    SchemaKind,
    Seal,
    SealKind,
    SenderSettings,
    SenderStats,
    SendFailed,
    SendHandle,
    SendReport,
    SendResult,
    SequenceAllocator,
    SqliteFailedMessages,
    TopicSettings,
    WhenFull,
    __version__,
    replay,
)
from safepulsar.broker.transport import TransportClient, TransportProducer
from safepulsar.doctor import Cause, examine_failures
from safepulsar.integrity import verify
from safepulsar.logs import LogOutcomes
from safepulsar.metrics import Family, Metrics, serve_status
from safepulsar.observing import Fact, Finished, Outcome
from safepulsar.outbox import Outbox
from safepulsar.serialization import JsonSerializer, Serializers, TextSerializer
from safepulsar.tracing import Tracing, continue_trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.receiving import ReceivedMessage


def sending(sender: RetryingSender, order: dict[str, int], rows: Iterator[dict[str, str]]) -> None:
    """
    `send` gives a result, `submit` a handle, `send_many` a report; data of any JSON type need no cast.
    """
    assert_type(sender.send("orders", order), SendResult)
    assert_type(sender.send("orders", b"...", partition_key="c7", properties={"a": "b"}), SendResult)
    assert_type(sender.send("orders", None, ordering_key="c7", deadline_seconds=1), SendResult)
    assert_type(sender.submit("orders", "text", event_timestamp_ms=1, deliver_at_ms=2, sequence_id=3), SendHandle)
    assert_type(sender.submit("orders", [1, "a", None, {"b": [1.5]}]), SendHandle)
    assert_type(sender.submit("orders", bytearray(b"...")), SendHandle)
    assert_type(sender.send_many("orders", rows, partition_key="all"), SendReport)
    assert_type(sender.send_many("orders", [order, order], ordering_key=lambda _: None), SendReport)
    sender.send("orders", {1, 2})  # type: ignore[arg-type]  # a set has no JSON
    sender.send("orders", object())  # type: ignore[arg-type]  # neither has an object
    sender.send("orders", order, key="c7")  # type: ignore[call-arg]  # which key?
    sender.send("orders")  # type: ignore[call-arg]  # a tombstone is said, not left out


@dataclass
class Order:
    """
    What an application may have instead of a dict.
    """

    number: int


class Stamp:
    """
    A step.
    """

    def before_send(self, draft: Draft) -> Draft:
        """
        A draft has what a message will have.
        """
        assert_type(draft.topic, str)
        assert_type(draft.value, object)
        assert_type(draft.properties, dict[str, str] | None)
        draft.set_property("a", "b")
        return draft


class NoStep:
    """
    None, because it returns nothing.
    """

    def before_send(self, draft: Draft) -> None:
        """
        As said.
        """


def pipeline(path: Path, message: Message, received: ReceivedMessage) -> None:
    """
    Steps of the package and of the application are the same; what a serializer reads has its type.
    """
    text = TextSerializer()
    serializers = Serializers({"orders": text}, default=JsonSerializer())
    seal = Seal(SealKind.HMAC_SHA256, keys={"a": b"..."}, properties=["tenant"])
    sender = RetryingSender(
        "pulsar://localhost:6650", steps=[Stamp(), serializers, seal], topic_steps={"a": (Stamp(),)}
    )
    sender.send("orders", Order(7))
    sender.send("orders", {"order": Order(7), "at": [date(2026, 1, 1)]})
    RetryingSender("pulsar://localhost:6650", steps=[NoStep()])  # type: ignore[list-item]
    assert_type(text.deserialize(b"..."), str)
    assert_type(serializers.read(received), object)
    seal.verify(message)
    seal.verify(received)
    verify(received)
    SqliteFailedMessages(path, seal=seal)
    TopicSettings(schema=Schema(kind=SchemaKind.STRING))
    TopicSettings(schema="orders")  # type: ignore[arg-type]  # a schema is not only a name


def life(path: Path, store: FailedMessageStore) -> None:
    """
    A sender is made of a URL or settings, with a path, a store or nothing, and is a context manager of itself.
    """
    with RetryingSender("pulsar://localhost:6650", failed_messages="failed.db") as sender:
        assert_type(sender, RetryingSender)
    client = ClientSettings(url="pulsar://localhost:6650", token=lambda: "...", log_level=LogLevel.INFO)
    sender = RetryingSender(client, failed_messages=path, settings=SenderSettings())
    sender = RetryingSender(client, failed_messages=store, registry=ClientRegistry.shared())
    assert_type(sender.open(), RetryingSender)
    assert_type(sender.flush(), int)
    assert_type(sender.flush(timeout=1.5), int)
    assert_type(sender.failed_messages, FailedMessageStore)
    stats = sender.stats()
    assert_type(stats, SenderStats)
    assert_type(stats.counts, Counts)
    assert_type(stats.counts.balanced, bool)
    assert_type(stats.pool, PoolStats)
    report = sender.close(timeout=5)
    assert_type(report, CloseReport)
    assert_type(report.counts, Counts)
    assert_type(report.drained, bool)
    assert_type(report.clean, bool)
    RetryingSender(7)  # type: ignore[arg-type]  # neither a URL nor settings


async def fates(handle: SendHandle) -> None:
    """
    A handle is waited for, awaited and watched.
    """
    assert_type(handle.done(), bool)
    assert_type(handle.topic, str)
    assert_type(handle.result(), SendResult)
    assert_type(handle.result(timeout=1), SendResult)
    assert_type(handle.exception(), SafePulsarError | None)
    assert_type(await handle, SendResult)
    handle.add_done_callback(lambda done: assert_type(done, SendHandle))
    handle.add_done_callback(print)


def results(result: SendResult, report: SendReport) -> None:
    """
    Results and reports have plain values.
    """
    assert_type(result.fate, Fate)
    assert_type(result.message_id, MessageId)
    assert_type(result.topic, str)
    assert_type(result.attempts, int)
    assert_type(result.elapsed_seconds, float)
    assert_type(report.read, int)
    assert_type(report.delivered, int)
    assert_type(report.errors, tuple[SendFailed, ...])
    assert_type(sorted([result.message_id]), list[MessageId])
    assert_type({result.message_id: 1}, dict[MessageId, int])


def failures(sender: RetryingSender) -> None:
    """
    Errors say what they know without a cast.
    """
    try:
        sender.send("orders", b"...")
    except SendFailed as error:
        assert_type(error.message, Message)
        assert_type(error.attempts, tuple[Attempt, ...])
        assert_type(error.certainty, Certainty)
        assert_type(error.failed_message_id, int | None)
        assert_type(error.maybe_stored, bool)
    except BrokerError as error:
        assert_type(error.code, str)
        assert_type(error.topic, str | None)
        assert_type(error.retriable, bool)
    except InvalidInput as error:
        assert_type(error.field, str)


def settings() -> None:
    """
    Settings take keywords only, of their types, or a mapping of what a file holds.
    """
    assert_type(SenderSettings.from_mapping({"deadline_seconds": 5}), SenderSettings)
    assert_type(ClientSettings.from_mapping({"url": "pulsar://localhost"}), ClientSettings)
    assert_type(ClientSettings(url="pulsar://localhost").tls, bool)
    topic = TopicSettings(compression=Compression.LZ4, access_mode=AccessMode.EXCLUSIVE, properties=(("a", "b"),))
    assert_type(topic.producer("persistent://public/default/orders", keyed=True), ProducerSettings)
    SenderSettings(
        when_full=WhenFull.KEEP, retry=RetrySettings(max_retries=0), pool=PoolSettings(), topics={"orders": topic}
    )
    SenderSettings(deadline=5)  # type: ignore[call-arg]  # misspelt
    SenderSettings(when_full="KEEP")  # type: ignore[arg-type]  # a choice is a member
    ClientSettings("pulsar://localhost")  # type: ignore[call-arg]  # by name
    ClientSettings()  # type: ignore[call-arg]  # the URL is needed
    topic.mix_keys = True  # type: ignore[misc]  # frozen


def kept(sender: RetryingSender, path: Path) -> None:
    """
    Both stores are stores, and their messages can be found, counted and sent again.
    """
    stores: list[FailedMessageStore] = [SqliteFailedMessages(path), SqliteFailedMessages("x"), InMemoryFailedMessages()]
    where = FailedMessageFilter(topic="orders", certainty=Certainty.NOT_STORED)
    for store in stores:
        with store as opened:
            assert_type(opened.count(where), int)
            assert_type(opened.get(7), FailedMessage)
            assert_type(next(iter(opened.find(where))), FailedMessage)
        report = replay(store, sender, where=where, rate=100, limit=7, dry_run=True)
        assert_type(report, ReplayReport)
        assert_type(report.selected, int)


def on_disk(store: SqliteFailedMessages) -> None:
    """
    The outbox and the sequence ids can be used by themselves.
    """
    outbox = Outbox(store, producer_name=lambda message: message.topic)
    assert_type(outbox.put([Message(topic="t", payload=b"x")]), list[int])
    with SequenceAllocator(store, "shop", "orders", block=10) as allocator:
        assert_type(allocator.next(), int)
        assert_type(allocator.allocate(5), range)
    for row in outbox.claim("me", lease_seconds=30).take():
        assert_type(row.message, Message)
        assert_type(row.id, int)


class _Connect(Protocol):
    def __call__(self, settings: ClientSettings) -> TransportClient: ...


def lower_down(connect: _Connect, settings: ProducerSettings) -> None:
    """
    The registry and the pool can be used by themselves.
    """
    registry = ClientRegistry(connect)
    client = registry.acquire(ClientSettings(url="pulsar://localhost"))
    assert_type(client, TransportClient)
    pool = ProducerPool(client.create_producer, PoolSettings())
    with pool.lease(settings, timeout_seconds=5) as producer:
        assert_type(producer, TransportProducer)
    assert_type(pool.stats(), PoolStats)


class _Watching:
    def observe(self, fact: Fact) -> None:
        if isinstance(fact, Finished):
            assert_type(fact.durations(), list[float])
            for outcome in fact.outcomes():
                assert_type(outcome, Outcome)
                assert_type(outcome.fate, Fate)


def watching() -> None:
    """
    Observers, metrics, traces and logs.
    """
    metrics = Metrics(topics=["orders"])
    sender = RetryingSender(
        "pulsar://localhost", steps=[Tracing(roots=0.1)], observers=[metrics, _Watching(), LogOutcomes()]
    )
    assert_type(sender.stats_if_open(), SenderStats | None)
    assert_type(metrics.collect(), list[Family])
    with serve_status(metrics, "run/status.sock") as status:
        assert_type(status.path, Path)
    with continue_trace({"traceparent": "…"}, topic="orders"):
        pass
    assert_type(examine_failures(3600).causes, list[Cause])


assert_type(__version__, str)
