"""
On brokers of both kinds, with the programs and protocols that really carry what is told.
"""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

import pytest

from safepulsar.doctor import Origin, examine_failures
from safepulsar.failed_messages import SqliteFailedMessages
from tests.observability.collector import Collector
from tests.observability.test_metrics import at, parsed
from tests.subprocesses import Script, run_script

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Broker


@pytest.mark.timeout(120)
def test_a_trace_goes_through_a_broker_and_over_otlp(broker: Broker, topic: str) -> None:
    """
    The broker carries the context, a consumer continues it, and a collector receives both spans over HTTP.
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

        url, topic, collector = sys.argv[1:]
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector)))
        trace.set_tracer_provider(provider)
        with RetryingSender(url, steps=[Tracing()]) as sender:
            print(sender.send(topic, b"x").message_id)
        client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
        reader = client.create_reader(topic, pulsar.MessageId.earliest)
        with continue_trace(reader.read_next(20_000), topic=topic, subscription="billing"):
            pass
        client.close()
        provider.shutdown()
        """
    with Collector() as collector:
        message_id = run_script(script, broker.url, topic, collector.url, timeout_seconds=90).check().strip()
    sent, processed = sorted(collector.spans, key=lambda span: span.start_time_unix_nano)
    assert (sent.name, processed.name) == (f"send {topic}", f"process {topic}")
    assert processed.trace_id == sent.trace_id
    assert processed.parent_span_id == sent.span_id
    found = {each.key: each.value.string_value for each in sent.attributes}
    assert found["messaging.system"] == "pulsar"
    assert found["safepulsar.outcome"] == "DELIVERED"
    assert found["messaging.message.id"] == message_id


@pytest.mark.timeout(180)
def test_an_outage_is_seen(own_broker: Broker, topic: str, tmp_path: Path) -> None:
    """
    A broker that freezes under an application: its log, its numbers and its store say so, and `doctor --since` where.
    """
    script = """
        import logging, sys, threading
        from prometheus_client import start_http_server
        from safepulsar import RetryingSender
        from safepulsar.logs import JsonFormatter
        from safepulsar.metrics import Metrics
        from safepulsar.metrics.prometheus import export

        url, topic, store, file = sys.argv[1:]
        handler = logging.FileHandler(file)
        handler.setFormatter(JsonFormatter())
        logging.getLogger("safepulsar").addHandler(handler)
        metrics = Metrics()
        export(metrics)
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
    with Script(script, own_broker.url, topic, store, file) as application:
        application.wait_for("healthy", timeout_seconds=60)
        own_broker.freeze()
        try:
            application.wait_for("failed", timeout_seconds=60)
        finally:
            own_broker.thaw()
        port = int(bytes(application._stdout).decode().split()[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            values = parsed(answer.read().decode())
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
