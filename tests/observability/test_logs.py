"""
What became of messages stands in the log: one event for each fact, harmless fields, nothing twice, nothing secret.
"""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from safepulsar.errors import SendFailed
from safepulsar.failed_messages import InMemoryFailedMessages
from safepulsar.logs import (
    ClientLog,
    JsonFormatter,
    KeyField,
    LogOutcomes,
    RepeatFilter,
    TextFormatter,
    structlog_fields,
)
from safepulsar.logs.repeats import Repeats
from safepulsar.settings import RetrySettings
from safepulsar.testing import FakeBroker, Phase
from tests.observability.observed import NO_RETRY, TOPIC, Records, observed
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def fields(record: logging.LogRecord) -> dict[str, object]:
    """
    Those that are ours.
    """
    plain = vars(logging.makeLogRecord({})).keys() | {"message", "taskName"}
    return {name: value for name, value in vars(record).items() if name not in plain}


def test_each_fate_has_its_event_and_its_fields() -> None:
    """
    Delivered, refused for good, and tried again: with everything that is known, and no payload or property.
    """
    broker = FakeBroker()
    logs = LogOutcomes(delivered=logging.INFO, key=KeyField.SHOWN)
    with Records() as log, observed(broker, logs) as sender:
        result = sender.send(
            "orders", b"s3cret", ordering_key="k7", properties={"traceparent": TRACEPARENT, "p": "pr0p"}
        )
        broker.fail_next(1, "ProducerBusy", phase=Phase.CREATE, topic="busy")
        sender.send("busy", b"s3cret")
        broker.fail_next(1, "TopicTerminated", phase=Phase.CREATE, topic="gone")
        with pytest.raises(SendFailed) as failed:
            sender.send("gone", b"s3cret")
    first, second = map(fields, log.of("safepulsar.delivered"))
    assert first.pop("elapsed_ms") == pytest.approx(result.elapsed_seconds * 1000, abs=0.001)
    assert first == {
        "topic": TOPIC,
        "outcome": "DELIVERED",
        "attempt": 1,
        "size_bytes": 6 + 2 + 11 + 55 + 1 + 4,
        "key": "k7",
        "message_id": str(result.message_id),
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }
    assert second["attempt"] == 2
    (bad,) = map(fields, log.of("safepulsar.failed"))
    del bad["elapsed_ms"]
    assert bad == {
        "topic": "persistent://public/default/gone",
        "outcome": "FAILED",
        "attempt": 1,
        "size_bytes": 6,
        "error_code": "TopicTerminated",
        "certainty": "NOT_STORED",
        "failed_message_id": failed.value.failed_message_id,
    }
    (retry,) = map(fields, log.of("safepulsar.retry_scheduled"))
    assert (retry["error_code"], retry["messages"]) == ("ProducerBusy", 1)
    text = "".join(str(vars(record)) for record in log.records)
    assert "s3cret" not in text
    assert "pr0p" not in text


def test_a_key_is_hashed_unless_told_otherwise() -> None:
    """
    The same key gives the same field, and the key itself stands nowhere.
    """
    with Records() as log, observed(FakeBroker(), LogOutcomes()) as sender:
        for key in ("customer-7", "customer-7", "customer-8"):
            sender.send("orders", b"x", partition_key=key)
    hashes = [record.key for record in log.of("safepulsar.delivered")]  # type: ignore[attr-defined]
    assert hashes[0] == hashes[1] != hashes[2]
    assert "customer" not in str([vars(record) for record in log.records])


def test_failures_are_logged_by_default_and_not_twice() -> None:
    """
    A sender without observers says what fails; a `LogOutcomes` of your own takes the place of that.
    """
    for own in ((), (LogOutcomes(),)):
        broker = FakeBroker()
        broker.fail_next(1, "TopicTerminated", phase=Phase.CREATE)
        with Records() as log, observed(broker, *own) as sender, pytest.raises(SendFailed):
            sender.send("orders", b"x")
        (record,) = log.of("safepulsar.failed")
        assert record.levelno == logging.WARNING


def test_many_failures_make_two_records_with_their_count() -> None:
    """
    The first at once, the others together, none uncounted: also those that nothing follows.
    """
    broker = FakeBroker()
    broker.freeze()
    store = InMemoryFailedMessages()
    with Records() as log, observed(broker, store=store, retry=NO_RETRY) as sender:
        sender.send_many("orders", [b"x"] * 200, deadline_seconds=0.2)
    records = log.of("safepulsar.failed")
    assert len(records) == 2
    assert 1 + records[1].suppressed == store.count() == 200  # type: ignore[attr-defined]
    assert (records[1].topic, records[1].error_code) == (TOPIC, records[0].error_code)  # type: ignore[attr-defined]


def test_a_producer_that_cannot_be_opened_is_told_now_and_then() -> None:
    """
    However often it is tried.
    """
    broker = FakeBroker()
    broker.fail_next(50, "ProducerBusy", phase=Phase.CREATE)
    retry = RetrySettings(max_retries=30, first_delay_seconds=0, jitter_seconds=0)
    with Records() as log, observed(broker, retry=retry) as sender, pytest.raises(SendFailed) as failed:
        sender.send("orders", b"x")
    first, rest = log.of("safepulsar.no_producer")
    assert (vars(first)["error_code"], vars(first)["topic"]) == ("ProducerBusy", TOPIC)
    assert vars(rest)["suppressed"] == sum(each.code == "ProducerBusy" for each in failed.value.attempts) - 1 > 0


def test_repeats_are_counted_and_told_when_it_is_time() -> None:
    """
    By kind, with a clock; the memory for kinds is bounded.
    """
    moment = [0.0]
    repeats = Repeats(10.0, clock=lambda: moment[0])
    assert [repeats.count("a"), repeats.count("a"), repeats.count("b"), repeats.count("a")] == [0, None, 0, None]
    assert bool(repeats.waiting) is True
    assert repeats.overdue() == []
    moment[0] = 10.0
    assert repeats.overdue() == [("a", 2)]
    assert bool(repeats.waiting) is False
    assert repeats.count("a") is None
    moment[0] = 20.0
    assert repeats.count("a") == 1
    for number in range(5000):
        assert repeats.count(number) == 0
    assert len(repeats._kinds) == 1000


def test_control_characters_are_escaped() -> None:
    """
    What others wrote can neither forge a line nor change what a terminal shows.
    """
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    logger = logging.Logger("test")  # noqa: LOG001 - of nobody else
    logger.addHandler(handler)
    logger.error("an\nevent", extra={"topic": "a\r\nb \x1b[31m\u202e\ud800", "n\nx": 1, "long": "x" * 5000})
    (line,) = stream.getvalue().splitlines()
    assert "an\\nevent" in line
    assert "\\r\\nb \\x1b[31m\\u202e\\ud800" in line.replace("\\\\", "\\")
    assert line.isprintable()
    assert len(line) < 2500


def test_json_is_one_object_a_line() -> None:
    """
    ASCII, with time, level, logger, event, the fields as they are, and the traceback of an error.
    """
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("shop.orders")  # noqa: LOG001 - of nobody else
    logger.addHandler(handler)
    logger.warning(
        "safepulsar.failed", extra={"messages": 3, "topic": "é\n", "event": "mine", "kept": True, "id": None}
    )
    try:
        raise ValueError("two\nlines")  # noqa: TRY301 - for its traceback
    except ValueError:
        logger.exception("safepulsar.callback_failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert stream.getvalue().isascii()
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "WARNING",
        "logger": "shop.orders",
        "event": "safepulsar.failed",
        "event_": "mine",
        "messages": 3,
        "topic": "é\\n",
        "kept": True,
        "id": None,
    }
    assert "two\nlines" in second["exception"]


def test_structlog_shows_the_fields() -> None:
    """
    As in its own records, for records of `logging`.
    """
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog_fields],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logger = logging.getLogger("safepulsar")
    logger.addHandler(handler)
    try:
        broker = FakeBroker()
        broker.fail_next(1, "TopicTerminated", phase=Phase.CREATE)
        with observed(broker) as sender, pytest.raises(SendFailed):
            sender.send("orders", b"x")
    finally:
        logger.removeHandler(handler)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    (record,) = (each for each in found if each["event"] == "safepulsar.failed")
    assert (record["topic"], record["error_code"], record["level"]) == (TOPIC, "TopicTerminated", "warning")


def test_a_filter_thins_out_what_repeats() -> None:
    """
    For every event of the package, on a handler of the application's.
    """
    log = Records("test.filter")
    log.addFilter(RepeatFilter(60))
    logger = logging.getLogger("test.filter")
    with log:
        for _ in range(5):
            logger.warning("safepulsar.no_producer", extra={"topic": "a", "error_code": "x"})
        logger.warning("safepulsar.no_producer", extra={"topic": "b", "error_code": "x"})
    assert [record.topic for record in log.records] == ["a", "b"]  # type: ignore[attr-defined]


def test_the_client_s_own_log_is_read_from_its_file(tmp_path: Path) -> None:
    """
    New lines only, by level, whole lines only, across rotation and a file that is not there yet.
    """
    path = tmp_path / "client.log"
    path.write_text("2026-01-01 00:00:00.000 INFO  [1] A:1 | old\n")
    with Records("test.client") as log:
        reader = ClientLog(path, logger=logging.getLogger("test.client"), poll_seconds=0.02)
        with reader:
            with path.open("a") as file:
                file.write("2026-01-01 00:00:00.001 WARN  [140:2] ClientConnection:190 | [a -> b] lost\x1b[0m\n2026")
                file.flush()
                wait_until(lambda: len(log.records) == 1, "the first line")
                file.write("-01-01 00:00:01.000 ERROR [1] B:2 | second\nno format\n")
            wait_until(lambda: len(log.records) == 3, "the rest")
            path.rename(tmp_path / "client.log.1")
            path.write_text("2026-01-01 00:00:02.000 DEBUG [1] C:3 | after rotation\n")
            wait_until(lambda: len(log.records) == 4, "the new file")
            path.write_text("2026-01-01 00:00:02.000 INFO  [1] C:3 | cut\n")
            wait_until(lambda: len(log.records) == 5, "the file that was cut")
    assert [(record.levelname, record.source, record.text) for record in log.records] == [  # type: ignore[attr-defined]
        ("WARNING", "ClientConnection:190", "[a -> b] lost\\x1b[0m"),
        ("ERROR", "B:2", "second"),
        ("INFO", "", "no format"),
        ("DEBUG", "C:3", "after rotation"),
        ("INFO", "C:3", "cut"),
    ]
    assert {record.msg for record in log.records} == {"safepulsar.client_log"}


def test_the_client_really_writes_such_a_file(tmp_path: Path, lite_broker: object) -> None:
    """
    Its own lines are understood: each has its level and its place in the library.
    """
    from safepulsar.local_broker import LocalBroker  # noqa: PLC0415 - for its type
    from tests.subprocesses import run_script  # noqa: PLC0415 - for this test alone

    assert isinstance(lite_broker, LocalBroker)
    script = """
        import logging, sys
        from safepulsar import ClientSettings, RetryingSender, LogLevel
        from safepulsar.logs import ClientLog, JsonFormatter
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(JsonFormatter())
        logging.getLogger("safepulsar.client").addHandler(handler)
        logging.getLogger("safepulsar.client").setLevel(logging.DEBUG)
        settings = ClientSettings(url=sys.argv[1], log_file=sys.argv[2], log_level=LogLevel.INFO)
        with ClientLog(sys.argv[2], poll_seconds=0.05), RetryingSender(settings) as sender:
            sender.send("logged", b"x")
        """
    written = run_script(script, lite_broker.url, tmp_path / "client.log", timeout_seconds=30).check()
    lines = [json.loads(line) for line in written.splitlines()]
    assert len(lines) > 3
    assert all(line["source"] and line["text"] and line["event"] == "safepulsar.client_log" for line in lines)


def test_without_opentelemetry_the_request_s_trace_is_carried_and_logged() -> None:
    """
    Where it is not even installed: in the message's properties, in the log of what is delivered, and of what fails.
    """
    result = run_script(
        """
        import logging, sys
        sys.modules["opentelemetry"] = None
        from safepulsar import RetryingSender, SendFailed
        from safepulsar.broker.client_registry import ClientRegistry
        from safepulsar.logs import LogOutcomes, TextFormatter
        from safepulsar.request_context import ContextStep, RequestContext, use_context
        from safepulsar.testing import FakeBroker, Phase

        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(TextFormatter())
        logging.getLogger("safepulsar").addHandler(handler)
        broker = FakeBroker()
        with RetryingSender(
            broker.url,
            registry=ClientRegistry(broker.connect),
            steps=[ContextStep()],
            observers=[LogOutcomes(delivered=logging.WARNING)],
        ) as sender, use_context(RequestContext(traceparent=sys.argv[1])):
            sender.send("orders", b"x")
            broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE, topic="others")
            try:
                sender.send("others", b"x")
            except SendFailed:
                pass
        (message,) = broker.messages("orders")
        assert message.properties == {"traceparent": sys.argv[1]}
        """,
        TRACEPARENT,
        timeout_seconds=30,
    )
    lines = result.check().splitlines()
    for event in ("safepulsar.delivered", "safepulsar.failed"):
        (line,) = [each for each in lines if f" {event} " in each]
        assert f"trace_id={TRACEPARENT[3:35]}" in line
