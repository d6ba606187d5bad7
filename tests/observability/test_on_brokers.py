"""
On brokers of both kinds, with the programs and protocols that really carry what is told.
"""

from __future__ import annotations

import json
import logging
import urllib.request
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec
import pulsar
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.doctor import Origin, examine_failures
from safepulsar.errors import InvalidMessage
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.integrity import Seal, SealKind
from safepulsar.logs import LogOutcomes
from safepulsar.metrics import Metrics, prometheus
from safepulsar.sender import RetryingSender
from safepulsar.serialization import Serializers
from safepulsar.serialization.structs import StructSerializer
from safepulsar.settings import SenderSettings
from safepulsar.tracing import Tracing, continue_trace
from tests.brokers import read_topic
from tests.cli.command import Commands
from tests.observability.collector import Collector
from tests.observability.observed import Records
from tests.observability.test_metrics import at, parsed, scraped
from tests.subprocesses import Script, run_script

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Broker


_GIVEN: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_PAYLOADS: Final = ("one", "given", "many")


@pytest.mark.timeout(120)
def test_a_trace_goes_through_a_broker_and_over_otlp(broker: Broker, topic: str) -> None:
    """
    The broker carries the context, a consumer continues it, and a collector receives all spans over HTTP, with their links.
    """
    script = """
        import sys
        import pulsar
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from safepulsar import RetryingSender
        from safepulsar.tracing import Tracing, continue_trace

        url, topic, collector, given = sys.argv[1:]
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector)))
        trace.set_tracer_provider(provider)
        with RetryingSender(url, steps=[Tracing()]) as sender:
            print(sender.send(topic, b"one").message_id)
            sender.send(topic, b"given", properties={"traceparent": given})
            sender.send_many(topic, [b"many"] * 3)
        client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
        reader = client.create_reader(topic, pulsar.MessageId.earliest)
        for _ in range(5):
            message = reader.read_next(20_000)
            with continue_trace(message, topic=topic, subscription="billing") as span:
                span.set_attribute("payload", message.data().decode())
        client.close()
        provider.shutdown()
        """
    with Collector() as collector:
        message_id = run_script(script, broker.url, topic, collector.url, _GIVEN, timeout_seconds=90).check().strip()
    sent = [span for span in collector.spans if span.name == f"send {topic}"]
    created = {span.span_id: span for span in collector.spans if span.name == f"create {topic}"}
    processed = [span for span in collector.spans if span.name == f"process {topic}"]
    assert len(collector.spans) == len(sent) + len(created) + len(processed) == 3 + 3 + 5
    by_payload = {payload: [span for span in processed if _of(span)["payload"] == payload] for payload in _PAYLOADS}

    (one,) = [span for span in sent if span.kind == Span.SPAN_KIND_PRODUCER]
    (read,) = by_payload["one"]
    assert (read.trace_id, read.parent_span_id) == (one.trace_id, one.span_id)
    assert one.status.code == Status.STATUS_CODE_OK
    found = _of(one)
    assert found["messaging.system"] == "pulsar"
    assert found["messaging.operation.name"] == found["messaging.operation.type"] == "send"
    assert found["messaging.destination.name"] == topic
    assert found["safepulsar.outcome"] == "DELIVERED"
    assert found["messaging.message.id"] == message_id

    (read,) = by_payload["given"]  # whose context is the application's own: it was not overwritten
    assert (read.trace_id.hex(), read.parent_span_id.hex()) == tuple(_GIVEN.split("-")[1:3])
    (beside,) = [span for span in sent if len(span.links) == 1]
    assert beside.links[0].span_id == read.parent_span_id

    (many,) = [span for span in sent if len(span.links) == 3]
    assert many.kind == Span.SPAN_KIND_CLIENT
    assert {link.span_id for link in many.links} == set(created)
    assert {span.parent_span_id for span in by_payload["many"]} == set(created)


def _of(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


class Order(msgspec.Struct):
    """
    What is sent: types that other formats lose.
    """

    number: int
    amount: Decimal
    at: datetime
    id: UUID


_ORDER: Final = Order(
    7, Decimal("11.770"), datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=timezone.utc), UUID("12345678123456781234567812345678")
)  # fmt: skip
_bad: list[tuple[object, dict[str, Any], str]] = [
    (msgspec.structs.replace(_ORDER, number="seven"), {}, "value.number: Expected `int`, got `str`"),
    ({"number": 7}, {}, "value"),
    (_ORDER, {"properties": {"canary": 7}}, "properties['canary']: must be text"),
    (_ORDER, {"properties": {"canary": "a\x1bb"}}, "properties['canary']: holds the control character U+001B"),
    (_ORDER, {"properties": {"safepulsar-seal": "canary"}}, "properties['safepulsar-seal']"),
    (_ORDER, {"partition_key": "a\nb"}, "partition_key: holds the control character"),
]


@pytest.mark.timeout(120)
def test_one_pipeline_for_every_message(broker: Broker, topic: str) -> None:
    """
    Serialised, validated, traced, sealed, measured and logged by one chain; what is refused anywhere in it is not sent.
    """
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    serializers = Serializers({topic: StructSerializer(Order)})
    seal = Seal(SealKind.HMAC_SHA256, keys={"k": b"a secret of many bytes"}, properties=["tenant", "traceparent"])
    metrics, registry = Metrics(), CollectorRegistry()
    prometheus.export(metrics, registry=registry)
    with (
        Records() as log,
        RetryingSender(
            broker.url,
            settings=SenderSettings(drain_on_sigterm=False),
            registry=ClientRegistry(),
            steps=[serializers, Tracing(tracer_provider=provider), seal],
            observers=[metrics, LogOutcomes(delivered=logging.INFO)],
        ) as sender,
    ):
        for value, named, told in _bad:
            with pytest.raises(InvalidMessage) as caught:
                sender.send(topic, value, **named)  # type: ignore[arg-type]  # that is the test
            assert str(caught.value).startswith(told)
        result = sender.send(topic, _ORDER, partition_key="c7", properties={"tenant": "shop", "traceparent": "rubbish"})
        assert sender.stats().counts.accepted == 1

    (stored,) = read_topic(broker, topic, until=1)
    assert json.loads(stored.payload) == {
        "number": 7,
        "amount": "11.770",
        "at": "2026-02-03T04:05:06.000789Z",
        "id": "12345678-1234-5678-1234-567812345678",
    }
    client = pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        received = client.create_reader(topic, pulsar.MessageId.earliest).read_next(20_000)
    finally:
        client.close()
    seal.verify(received)
    assert serializers.read(received) == _ORDER
    with continue_trace(received, tracer_provider=provider):
        pass
    sent, processed = [
        next(span for span in exporter.get_finished_spans() if span.name.startswith(f"{name} "))
        for name in ("send", "process")
    ]
    assert sent.context is not None
    assert processed.parent is not None
    assert processed.parent.span_id == sent.context.span_id
    assert sent.attributes is not None
    assert sent.attributes["messaging.message.id"] == str(result.message_id)

    values = scraped(registry)
    assert at(values, "messages_total", fate="delivered") == at(values, "messages_total", fate="accepted") == 1
    (told_of,) = [vars(record) for record in log.of("safepulsar.delivered")]
    assert told_of["trace_id"] == f"{sent.context.trace_id:032x}"
    assert told_of["message_id"] == str(result.message_id)
    assert told_of["key"] != "c7"
    assert "canary" not in str([vars(record) for record in log.records])


@pytest.mark.timeout(180)
def test_an_outage_is_seen(own_broker: Broker, topic: str, tmp_path: Path) -> None:
    """
    A broker that freezes under an application: its log, its numbers, its store and `top` say so, `doctor --since` where.
    """
    script = """
        import logging, sys, threading
        from prometheus_client import start_http_server
        from safepulsar import RetryingSender
        from safepulsar.logs import JsonFormatter
        from safepulsar.metrics import Metrics, serve_status
        from safepulsar.metrics.prometheus import export

        url, topic, store, file, socket = sys.argv[1:]
        handler = logging.FileHandler(file)
        handler.setFormatter(JsonFormatter())
        logging.getLogger("safepulsar").addHandler(handler)
        metrics = Metrics()
        export(metrics)
        status = serve_status(metrics, socket)
        server, _ = start_http_server(0, addr="127.0.0.1")
        with RetryingSender(url, failed_messages=store, observers=[metrics]) as sender:
            for number in range(20):
                sender.send(topic, str(number))
            print("healthy", server.server_port, flush=True)
            failed = 0
            while failed < 3:  # however long a busy disk takes to keep one
                failed += sender.submit(topic, "x", deadline_seconds=1).exception_once_kept() is not None
            print("failed", flush=True)
            threading.Event().wait(60)
        """
    store, file = tmp_path / "private" / "failed.db", tmp_path / "app.log"
    socket = tmp_path / "private" / "s.sock"
    commands = Commands(tmp_path)
    with Script(script, own_broker.url, topic, store, file, socket) as application:
        application.wait_for("healthy", timeout_seconds=60)
        own_broker.freeze()
        try:
            application.wait_for("failed", timeout_seconds=60)
        finally:
            own_broker.thaw()
        port = int(bytes(application._stdout).decode().split()[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            values = parsed(answer.read().decode())
        for place in (socket, f"http://127.0.0.1:{port}/metrics"):
            shown = commands.run("top", place, "--json").check(0).json()
            assert shown["totals"]["failed"] == 3
            assert sum(shown["errors"].values()) == 3
            assert shown["store"]["kept"] >= 1
    assert at(values, "messages_total", fate="delivered") >= 20
    assert at(values, "messages_total", fate="failed") == 3
    assert at(values, "store_messages", state="kept") >= 1
    events = [json.loads(line)["event"] for line in file.read_text().splitlines()]
    assert "safepulsar.failed" in events
    with SqliteFailedMessages(store) as opened:
        report = examine_failures(300, opened, file)
    assert {cause.origin for cause in report.causes} <= {Origin.BROKER, Origin.NETWORK}
    assert sum(cause.messages for cause in report.causes) >= 1
    assert "only one topic is concerned" in report.verdict
    told = commands.run("doctor", "--since", "5m", "--failed", store, "--log", file).check(1).stdout
    assert report.verdict in told
    assert topic in told


@pytest.mark.timeout(120)
def test_gunicorn_s_workers_are_served_as_one(broker: Broker, topic: str, tmp_path: Path) -> None:
    """
    As documented: two workers of a preloaded application, and whichever answers tells the numbers of both.
    """
    (tmp_path / "shop.py").write_text(
        f"""
import os
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from safepulsar import RetryingSender
from safepulsar.metrics import Metrics
from safepulsar.metrics.prometheus import export

metrics = Metrics()
export(metrics)
sender = RetryingSender({broker.url!r}, observers=[metrics])

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return [generate_latest(registry)]
    sender.send({topic!r}, "x")
    return [str(os.getpid()).encode()]
"""
    )
    folder = tmp_path / "numbers"
    folder.mkdir()
    script = """
        import socket, subprocess, sys, time, urllib.request
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen([sys.executable, "-m", "gunicorn", "--preload", "-w", "2", "-b", f"127.0.0.1:{port}",
                                   "--chdir", sys.argv[1], "--log-level=error", "shop:app"])
        def get(path):
            deadline = time.monotonic() + 30
            while True:
                try:
                    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20).read().decode()
                except OSError:
                    assert time.monotonic() < deadline and server.poll() is None
                    time.sleep(0.05)
        pids = set()
        sent = 0
        deadline = time.monotonic() + 60
        while len(pids) < 2 and time.monotonic() < deadline:
            pids.add(get("/"))
            sent += 1
        wanted = f'safepulsar_messages_total{{fate="delivered"}} {float(sent)}'
        while wanted not in (text := get("/metrics")) and time.monotonic() < deadline:
            time.sleep(0.1)
        server.terminate()
        server.wait(30)
        print(len(pids), sent)
        print(text)
        """
    ended = run_script(
        script, tmp_path, timeout_seconds=110, environment={"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    ).check()
    first, _, text = ended.partition("\n")
    workers, sent = map(int, first.split())
    values = parsed(text)
    assert workers == 2
    assert at(values, "messages_total", fate="delivered") == sent
    assert at(values, "send_duration_seconds_count", outcome="delivered") == sent


@pytest.mark.parametrize(
    ("way", "code"),
    [("sys.exit(3)", 3), ("raise ValueError", 1), ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)", -15)],
    ids=["sys.exit", "uncaught", "SIGTERM"],
)
def test_the_end_of_a_process_tells_the_last_facts(lite_broker: Broker, tmp_path: Path, way: str, code: int) -> None:
    """
    Without a `close`, with messages under way: it ends as it would have, and what was accepted is counted to the last.
    """
    script = f"""
        import os, signal, sys, time
        from safepulsar import RetryingSender
        from safepulsar.logs import LogOutcomes
        from safepulsar.metrics import Metrics
        from safepulsar.observing import Finished
        from safepulsar.tracing import Tracing

        class Tally:
            def __init__(self, path):
                self.file = open(path, "a", buffering=1)
            def observe(self, fact):
                if isinstance(fact, Finished):
                    self.file.write(f"{{len(fact.handles)}}\\n")

        sender = RetryingSender(sys.argv[1], steps=[Tracing()], observers=[Metrics(), LogOutcomes(), Tally(sys.argv[2])])
        for number in range(3000):
            sender.submit("last-facts", str(number))
        {way}
        """
    tally = tmp_path / "tally"
    run_script(script, lite_broker.url, tally, timeout_seconds=60).check(code)
    assert sum(map(int, tally.read_text().split())) == 3000
