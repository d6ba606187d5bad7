"""
Where failures come from is read from the store and from the log, whichever knows more.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING

import pytest

from safepulsar.doctor import Origin, examine_failures
from safepulsar.doctor.failures import origin_of
from safepulsar.doctor.log_file import read_log
from safepulsar.errors import SafePulsarError
from safepulsar.failed_messages import InMemoryFailedMessages
from safepulsar.logs import JsonFormatter, TextFormatter
from safepulsar.message import Attempt, Certainty, FailedMessage, Message
from safepulsar.testing import FakeBroker, Phase
from tests.observability.observed import observed

if TYPE_CHECKING:
    from pathlib import Path


def failed(topic: str, error: str, ago: float, *, before: str = "", maybe: bool = False) -> FailedMessage:
    """
    One that failed so many seconds ago.
    """
    at = time.time() - ago
    attempts = [
        Attempt(started_at=at, elapsed_seconds=0.1, code=code, maybe_stored=False) for code in (before, error) if code
    ]
    return FailedMessage(
        message=Message(topic=f"persistent://public/default/{topic}", payload=b"s3cret"),
        certainty=Certainty.MAYBE_STORED if maybe else Certainty.NOT_STORED,
        error=error,
        attempts=tuple(attempts),
        accepted_at=at,
        first_failed_at=at,
        last_failed_at=at,
    )


def kept(*messages: FailedMessage) -> InMemoryFailedMessages:
    """
    A store that has them.
    """
    store = InMemoryFailedMessages()
    store.open()
    store.keep(messages)
    return store


def test_causes_are_counted_dated_and_placed() -> None:
    """
    By code, the most frequent first, with topics, the worst minute, and what went before; old ones are left out.
    """
    store = kept(
        *[failed("orders", "Timeout", 100 + n / 100, before="ConnectError", maybe=True) for n in range(30)],
        *[failed("clicks", "Timeout", 1000) for _ in range(5)],
        *[failed("orders", "MessageTooBig", 50) for _ in range(2)],
        *[failed("orders", "AuthorizationError", 90_000) for _ in range(50)],
    )
    report = examine_failures(3600, store)
    first, second = report.causes
    assert (first.code, first.origin, first.messages, first.kept, first.maybe_stored) == (
        "Timeout",
        Origin.BROKER,
        35,
        35,
        30,
    )
    assert first.topics == {"persistent://public/default/orders": 30, "persistent://public/default/clicks": 5}
    assert first.after == {"ConnectError": 30}
    assert first.peak_messages in range(15, 31)
    assert first.first_at is not None
    assert first.last_at is not None
    assert first.last_at - first.first_at == pytest.approx(900, abs=1)
    assert (second.code, second.origin) == ("MessageTooBig", Origin.MESSAGE)
    assert (
        report.verdict
        == "35 of 37 failures come from the broker: 2 topics are concerned, so it is nothing of a single topic"
    )
    assert "s3cret" not in repr(report)


def test_nothing_failed() -> None:
    """
    It says so.
    """
    report = examine_failures(60, kept())
    assert (report.causes, report.verdict) == ([], "nothing failed")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_the_package_s_own_log_is_understood(formatter: logging.Formatter, tmp_path: Path) -> None:
    """
    Failures that the store has no more are counted from the log, with those that were not told one by one.
    """
    path = tmp_path / "app.log"
    handler = logging.FileHandler(path)
    handler.setFormatter(formatter)
    logger = logging.getLogger("safepulsar")
    logger.addHandler(handler)
    try:
        broker = FakeBroker()
        with observed(broker) as sender:
            broker.fail_next(99, "TopicTerminated", phase=Phase.CREATE, topic="orders")
            sender.send_many("orders", [b"x"] * 20)
            broker.fail_next(9, "ConnectError", phase=Phase.CREATE, topic="away")
            with pytest.raises(SafePulsarError):
                sender.send("away", b"x")
    finally:
        logger.removeHandler(handler)
        handler.close()
    with path.open("a") as file:
        file.write("something else\n{broken json\n" + "x" * 300_000 + "\n")
    report = examine_failures(60, None, path)
    assert {cause.code: (cause.messages, cause.kept, cause.origin) for cause in report.causes} == {
        "TopicTerminated": (20, 0, Origin.TOPIC),
        "ConnectError": (1, 0, Origin.NETWORK),
    }
    assert report.causes[0].topics == {"persistent://public/default/orders": 20}
    assert report.log_events["safepulsar.no_producer"] >= 2
    assert report.log_levels["WARNING"] == sum(report.log_events.values())
    assert report.undated == 0
    assert report.verdict.startswith("20 of 21 failures come from the topic")


def test_old_records_are_left_out_and_undated_ones_are_said(tmp_path: Path) -> None:
    """
    Of whatever format: with a zone, without one, as a number, or without any time.
    """
    path = tmp_path / "app.log"
    now = time.time()
    day = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 86_400))
    hour = time.strftime("%Y-%m-%d %H:%M:%S,123", time.localtime(now - 3000))
    path.write_text(
        f"{day} WARNING app safepulsar.failed topic=t error_code=Timeout outcome=FAILED\n"
        f"{hour} WARNING app safepulsar.failed topic=t error_code=Timeout outcome=FAILED suppressed=4\n"
        + json.dumps({"timestamp": now - 10, "event": "safepulsar.not_kept", "level": "error", "messages": 2})
        + "\nWARNING:safepulsar:safepulsar.no_producer\n"
    )
    report = examine_failures(7200, None, path)
    (cause,) = report.causes
    assert cause.messages == 5
    assert (report.log_records, report.undated) == (3, 1)
    assert report.log_levels == {"WARNING": 2, "ERROR": 1}
    assert report.verdict == "the store itself had trouble (safepulsar.not_kept): see its disk first"
    assert [entry.event.rpartition(".")[2] for entry in read_log(path)] == [
        "failed",
        "failed",
        "not_kept",
        "no_producer",
    ]


def test_a_log_without_the_package_is_no_good_news(tmp_path: Path) -> None:
    """
    Nothing found is not nothing failed.
    """
    path = tmp_path / "other.log"
    path.write_text("2026-01-01 00:00:00 INFO hello\n")
    assert "is it the right file" in examine_failures(60, None, path).verdict


@pytest.mark.parametrize(
    ("code", "origin"),
    [
        ("ConnectError", Origin.NETWORK),
        ("Timeout", Origin.BROKER),
        ("DeadlineExceeded", Origin.BROKER),
        ("ServiceUnitNotReady", Origin.BROKER),
        ("AuthenticationError", Origin.CREDENTIALS),
        ("AuthorizationError", Origin.CREDENTIALS),
        ("TopicTerminated", Origin.TOPIC),
        ("ProducerBusy", Origin.APPLICATION),
        ("ProducerFenced", Origin.APPLICATION),
        ("MessageTooBig", Origin.MESSAGE),
        ("QueueFull", Origin.APPLICATION),
        ("SenderClosed", Origin.APPLICATION),
        ("SomethingNew", Origin.BROKER),
    ],
)
def test_each_code_has_an_origin_and_a_remedy(code: str, origin: Origin) -> None:
    """
    Also one that nobody knows yet.
    """
    found, remedy = origin_of(code)
    assert found is origin
    assert remedy
