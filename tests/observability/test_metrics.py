"""
The numbers are those of the books, whoever reads them; labels are few, and hold nothing private.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from safepulsar.errors import InvalidSettings, InvalidTopic, QueueFull, SendFailed
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.metrics import BUCKETS, Distribution, Kind, Metrics, otel, prometheus
from safepulsar.settings import WhenFull
from safepulsar.testing import FakeBroker, Phase
from tests.observability.observed import NO_RETRY, TOPIC, Listener, observed
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(registry: CollectorRegistry) -> Values:
    """
    What Prometheus reads, by name and labels.
    """
    return parsed(generate_latest(registry).decode())


def parsed(text: str) -> Values:
    """
    The same from the text that it reads.
    """
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def at(values: Values, name: str, **labels: str) -> float:
    """
    One of them.
    """
    return values[f"safepulsar_{name}", frozenset(labels.items())]


@pytest.fixture
def broker() -> FakeBroker:
    """
    One of its own for each test.
    """
    return FakeBroker()


def test_the_numbers_are_those_of_the_books(broker: FakeBroker) -> None:
    """
    Rate, latency and errors; attempts, retries, refusals, waits; books, pool, store: after a run with all of it.
    """
    metrics, registry = Metrics(), CollectorRegistry()
    prometheus.export(metrics, registry)
    with observed(
        broker, metrics, messages_per_second=500, max_in_flight_messages=100, when_full=WhenFull.RAISE
    ) as sender:
        sender.send_many("orders", [b"12345"] * 80)
        broker.fail_next(1, "ProducerBusy", phase=Phase.CREATE, topic="busy")
        sender.send("busy", b"x")
        broker.fail_next(1, "TopicTerminated", phase=Phase.CREATE, topic="gone")
        with pytest.raises(SendFailed):
            sender.send("gone", b"x")
        broker.freeze()
        for _ in range(100):
            sender.submit("orders", b"x", deadline_seconds=20)
        with pytest.raises(QueueFull):
            sender.submit("orders", b"x")
        during = scraped(registry)
        broker.thaw()
    after = scraped(registry)
    assert at(during, "inflight_messages") == 100
    assert at(during, "inflight_bytes") == 100
    assert at(during, "pool_producers") == 2
    assert at(during, "store_messages", state="kept") == 1
    assert at(during, "store_up") == 1
    assert at(after, "inflight_messages") == 0
    assert at(after, "messages_total", fate="accepted") == 182
    assert at(after, "messages_total", fate="delivered") == 181
    assert at(after, "messages_total", fate="failed") == 1
    assert at(after, "send_duration_seconds_count", outcome="delivered") == 181
    assert at(after, "send_duration_seconds_bucket", outcome="delivered", le="+Inf") == 181
    assert 0 < at(after, "send_duration_seconds_sum", outcome="delivered") < 181 * 30
    assert at(after, "send_duration_seconds_count", outcome="failed") == 1
    assert at(after, "sent_bytes_total", outcome="delivered") == 80 * 5 + 1 + 100
    assert at(after, "errors_total", code="TopicTerminated") == 1
    assert at(after, "attempts_total", result="ok") == 181
    assert at(after, "attempts_total", result="ProducerBusy") == 1
    assert at(after, "attempts_total", result="TopicTerminated") == 1
    assert at(after, "retries_total", code="ProducerBusy") == 1
    assert at(after, "refused_total", code="QueueFull") == 1
    assert at(after, "rate_limit_waits_total") >= 1
    assert at(after, "rate_limit_wait_seconds_total") > 0
    assert at(after, "pool_created_total") == 2
    assert at(after, "facts_dropped_total") == 0


def test_latencies_fall_into_their_buckets() -> None:
    """
    By a plain count, for few and for many at once.
    """
    from dataclasses import dataclass  # noqa: PLC0415 - for this test alone

    from safepulsar.message import Fate  # noqa: PLC0415 - as above
    from safepulsar.observing import Finished  # noqa: PLC0415 - as above

    @dataclass
    class Handle:
        _final_at: float
        _accepted_at: float = 0.0
        _attempts: tuple[()] = ()
        size_bytes: int = 1

    durations = [0.0, 0.005, 0.00500001, 0.3, 10.0, 10.1, 99.0, *(number / 100 for number in range(1, 500))]
    for some in (durations[:7], durations):
        metrics = Metrics()
        handles = [Handle(seconds) for seconds in some]
        metrics.observe(Finished(topic=TOPIC, fate=Fate.DELIVERED, handles=handles))  # type: ignore[arg-type]
        (spread,) = metrics.collect()[0].samples.values()
        assert isinstance(spread, Distribution)
        bounds = [-1.0, *BUCKETS, math.inf]
        plain = [sum(low < each <= high for each in some) for low, high in pairwise(bounds)]
        assert list(spread.counts) == plain
        assert spread.total == pytest.approx(sum(some))


def test_topics_are_no_label_unless_they_are_named(broker: FakeBroker) -> None:
    """
    Off by default; with an allow-list all others share one value, so that the number of series is bounded.
    """
    for topics, expected in (((), {frozenset({("outcome", "delivered")})}), (("orders",), None)):
        metrics, registry = Metrics(topics=topics), CollectorRegistry()
        prometheus.export(metrics, registry)
        with observed(broker, metrics) as sender:
            for topic in ("orders", "a", "b", "c"):
                sender.send(topic, b"x")
        found = {labels for name, labels in scraped(registry) if name == "safepulsar_send_duration_seconds_count"}
        named = {frozenset({("outcome", "delivered"), ("topic", topic)}) for topic in (TOPIC, "other")}
        assert found == (named if expected is None else expected)


def test_no_label_holds_anything_private(broker: FakeBroker) -> None:
    """
    Keys, payloads, properties and tokens stand nowhere in what is scraped.
    """
    metrics, registry = Metrics(topics=["orders"]), CollectorRegistry()
    prometheus.export(metrics, registry)
    with observed(broker, metrics) as sender:
        sender.send("orders", b"payl0ad", partition_key="k3y", properties={"pr0p": "v4lue"})
    text = generate_latest(registry).decode()
    assert not any(secret in text for secret in ("payl0ad", "k3y", "pr0p", "v4lue"))


def test_the_number_of_codes_is_bounded() -> None:
    """
    Whatever a client may invent: beyond sixty it is `other`.
    """
    from safepulsar.observing import Retrying  # noqa: PLC0415 - for this test alone

    metrics = Metrics()
    for number in range(500):
        metrics.observe(Retrying(topic=TOPIC, error_code=f"Code{number}", messages=1, delay_seconds=0))
    (retries,) = (family for family in metrics.collect() if family.name == "safepulsar_retries_total")
    assert len(retries.samples) == 61
    assert retries.samples["other",] == 440


def test_counts_of_closed_senders_stay(broker: FakeBroker) -> None:
    """
    What rises never falls, also when one sender after the other is closed; and looking opens none.
    """
    metrics = Metrics()
    for number in range(1, 4):
        sender = observed(broker, metrics)
        metrics.collect()
        assert sender.stats_if_open() is None
        with sender:
            sender.send("orders", b"x")
        (books,) = (family for family in metrics.collect() if family.name == "safepulsar_messages_total")
        assert books.samples["delivered",] == number
    assert len(metrics._lookup._senders) == 0


def test_a_store_that_does_not_answer_hides_no_other_number(broker: FakeBroker, tmp_path: Path) -> None:
    """
    It is said to be down; and it is asked once in five seconds, not with every scrape.
    """
    metrics, asked = Metrics(), [0]
    with observed(broker, metrics, store=str(tmp_path / "private" / "f.db")) as sender:
        sender.send("orders", b"x")
        ask = sender.failed_messages.stats

        def fails() -> None:
            asked[0] += 1
            raise OSError

        sender.failed_messages.stats = fails  # type: ignore[method-assign,assignment]  # a disk that fails
        values = {family.name: family.samples for family in metrics.collect()}
        metrics.collect()
        assert values["safepulsar_store_up"][()] == 0
        assert values["safepulsar_messages_total"]["delivered",] == 1
        assert asked[0] == 1
        sender.failed_messages.stats = ask  # type: ignore[method-assign]


def test_a_store_that_senders_share_is_counted_once(broker: FakeBroker, tmp_path: Path) -> None:
    """
    As one object or as one path; those of different paths add up.
    """
    metrics, path = Metrics(), str(tmp_path / "private" / "f.db")
    with (
        SqliteFailedMessages(path) as store,
        observed(broker, metrics, store=store, retry=NO_RETRY) as one,
        observed(broker, metrics, store=store) as two,
        observed(broker, metrics, store=path) as three,
        observed(broker, metrics, store=f"{path}-other", retry=NO_RETRY) as other,
    ):
        for sender in (two, three):
            sender.send("orders", b"x")
        for sender in (one, other):
            broker.fail_next(1, "TopicTerminated")
            with pytest.raises(SendFailed):
                sender.send("orders", b"x")
        kept = next(family for family in metrics.collect() if family.name == "safepulsar_store_messages")
    assert kept.samples["kept",] == 2


@pytest.mark.parametrize(("topics", "error"), [("orders", InvalidSettings), (["a/b"], InvalidTopic)])
def test_topics_are_checked(topics: object, error: type[Exception]) -> None:
    """
    When they are given, not when the first message comes.
    """
    with pytest.raises(error):
        Metrics(topics=topics)  # type: ignore[arg-type]  # that is the test


def test_opentelemetry_has_its_own_names(broker: FakeBroker) -> None:
    """
    Those of the semantic conventions where there are some, with their attributes; no unit twice.
    """
    reader, metrics = InMemoryMetricReader(), Metrics(topics=["orders"])
    otel.export(metrics, MeterProvider([reader]))
    with observed(broker, metrics, retry=NO_RETRY) as sender:
        for _ in range(3):
            sender.send("orders", b"x")
        broker.fail_next(1, "TopicTerminated", phase=Phase.CREATE, topic="gone")
        with pytest.raises(SendFailed):
            sender.send("gone", b"x")
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        metric.name: metric for one in data.resource_metrics for two in one.scope_metrics for metric in two.metrics
    }
    duration = found["messaging.client.operation.duration"]
    points = [point for point in duration.data.data_points if isinstance(point, HistogramDataPoint)]
    assert (duration.unit, tuple(points[0].explicit_bounds)) == ("s", BUCKETS)
    common = {"messaging.system": "pulsar", "messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert [(dict(point.attributes or {}), point.count) for point in points] == [
        (common | {"messaging.destination.name": TOPIC}, 3),
        (common | {"messaging.destination.name": "other", "error.type": "TopicTerminated"}, 1),
    ]
    sent = {
        frozenset((point.attributes or {}).items()): point.value
        for point in found["messaging.client.sent.messages"].data.data_points
        if isinstance(point, NumberDataPoint)
    }
    assert sorted(sent.values()) == [1, 3]
    assert found["pulsar.client.producer.message.pending.size"].unit == "By"
    assert found["safepulsar.store_oldest"].unit == "s"
    assert not any(name.endswith(("_total", "_seconds", "_bytes")) for name in found)


def test_every_number_goes_both_ways(broker: FakeBroker) -> None:
    """
    Both ways out have every family; a family has a sentence.
    """
    metrics, registry, reader = Metrics(), CollectorRegistry(), InMemoryMetricReader()
    prometheus.export(metrics, registry)
    otel.export(metrics, MeterProvider([reader]))
    families = metrics.collect()
    assert all(family.text.endswith(".") for family in families)
    shown = {family.name for family in registry.collect()}
    assert shown == {family.name.removesuffix("_total") for family in families}
    assert len({otel._name(family.name) for family in families}) == len(families)
    assert {family.kind for family in families} == set(Kind)
    del broker


def test_a_forked_child_begins_at_zero() -> None:
    """
    Or what the parent counted would be counted twice, by two processes that are both scraped.
    """
    run_script(
        """
        import os
        from safepulsar.metrics import Metrics
        from safepulsar.testing import FakeBroker
        from tests.observability.observed import observed

        def delivered():
            return {family.name: family.samples for family in metrics.collect()}["safepulsar_messages_total"]["delivered",]

        metrics = Metrics()
        sender = observed(FakeBroker(), metrics)
        sender.send("orders", b"x")
        assert delivered() == 1
        metrics._lock.acquire()  # as if another thread were just counting
        pid = os.fork()
        if pid == 0:
            assert delivered() == 0
            child = observed(FakeBroker(), metrics)
            child.send_many("orders", [b"x"] * 2)
            child.close()
            assert delivered() == 2
            os._exit(0)
        metrics._lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        sender.close()
        assert delivered() == 1
        """,
        timeout_seconds=30,
    ).check()


def test_processes_add_up_in_a_folder(tmp_path: Path) -> None:
    """
    Prometheus' multiprocess mode, as under gunicorn with a preloaded application: forked workers, served as one.
    """
    script = """
        import os
        from safepulsar.metrics import Metrics, prometheus
        from safepulsar.testing import FakeBroker
        from tests.observability.observed import observed

        metrics = Metrics()
        prometheus.export(metrics)
        for number in range(3):
            if os.fork() == 0:
                sender = observed(FakeBroker(), metrics)
                sender.send_many("orders", [b"x"] * 1000)
                raise SystemExit(0)
        for number in range(3):
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        print(generate_latest(registry).decode())
        """
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    values = parsed(run_script(script, timeout_seconds=60, environment=environment).check())
    assert at(values, "messages_total", fate="delivered") == 3000
    assert at(values, "send_duration_seconds_count", outcome="delivered") == 3000
    assert at(values, "send_duration_seconds_bucket", outcome="delivered", le="+Inf") == 3000
    assert at(values, "send_duration_seconds_sum", outcome="delivered") > 0
    assert at(values, "attempts_total", result="ok") == 3000


def test_missing_prometheus_names_the_extra() -> None:
    """
    What to install is said, and the package itself needs none of it.
    """
    for module, extra in (("prometheus", "prometheus"), ("otel", "otel")):
        result = run_script(
            f"""
            import sys
            sys.modules["prometheus_client"] = sys.modules["opentelemetry"] = None
            import safepulsar.metrics
            import safepulsar.metrics.{module}
            """,
            timeout_seconds=30,
        )
        assert f"pip install 'safepulsar[{extra}]'" in str(result.check(1) or result)


def test_reading_while_counting(broker: FakeBroker) -> None:
    """
    Every scrape is consistent in itself: the buckets add up to the count, while messages go.
    """
    metrics, listener = Metrics(), Listener()
    with observed(broker, metrics, listener) as sender:
        handles = [sender.submit("orders", b"x") for _ in range(3000)]
        seen = []

        def done() -> bool:
            spread = next(iter(metrics.collect()[0].samples.values()), Distribution())
            assert isinstance(spread, Distribution)
            seen.append(sum(spread.counts))
            return seen[-1] == 3000

        wait_until(done, "all of them counted")
        assert seen == sorted(seen)
        assert all(handle.result() for handle in handles)
