"""
A sender with an outbox: what it accepted is on disk, and ends in the topic once, whatever dies when.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from safepulsar.books.handle import SendHandle
from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import (
    InvalidMessage,
    InvalidSettings,
    LanePaused,
    ProducerNameInUse,
    SenderClosed,
    SendFailed,
    StoreUnavailable,
)
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.message import ID_PROPERTY, Certainty, Fate, Message
from safepulsar.outbox import Outbox, OutboxClaim
from safepulsar.sender import RetryingSender
from safepulsar.sending.queues import Queues
from safepulsar.sending.replay import replay
from safepulsar.settings import Durability, LanePolicy, SenderSettings, TopicSettings
from safepulsar.testing import FakeBroker
from tests.senders import AT_ONCE, LONG_SECONDS, TOPIC, Call
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from safepulsar.delivery.send_queue import SendQueue
    from safepulsar.outbox import OutboxRow


@pytest.fixture(params=[False, True], ids=["no deduplication", "deduplication"])
def broker(request: pytest.FixtureRequest) -> FakeBroker:
    """
    A broker of each kind.
    """
    return FakeBroker(deduplication=request.param)


def outbox_sender(broker: FakeBroker, path: Path | None, deadline_seconds: float = 10.0) -> RetryingSender:
    """
    A sender whose every topic has the outbox.
    """
    topic = TopicSettings(
        producer_name="shop", durability=Durability.OUTBOX, mix_keys=True, lane_policy=LanePolicy.SKIP
    )
    settings = SenderSettings(
        topic_defaults=topic, retry=AT_ONCE, drain_on_sigterm=False, deadline_seconds=deadline_seconds
    )
    return RetryingSender(broker.url, failed_messages=path, settings=settings, registry=ClientRegistry(broker.connect))


def payloads(broker: FakeBroker) -> list[str]:
    """
    What the topic holds.
    """
    return [(each or b"").decode() for each in broker.payloads("orders")]


def waiting_rows(path: Path) -> int:
    """
    What the outbox holds.
    """
    with SqliteFailedMessages(path) as store:
        return Outbox(store, producer_name=lambda _: "shop").stats()["waiting"]


def put(path: Path, *values: str) -> None:
    """
    As a process that dies before it sends, or one that never does.
    """
    with SqliteFailedMessages(path) as store:
        outbox = Outbox(store, producer_name=lambda _: "shop")
        outbox.put([Message(topic=TOPIC, payload=value.encode()) for value in values])


def test_what_is_delivered_leaves_the_outbox(broker: FakeBroker, tmp_path: Path) -> None:
    """
    In the order of acceptance, by many threads, each message with the number of its row.
    """
    path = tmp_path / "shop.db"
    with outbox_sender(broker, path) as sender:

        def send(thread: int) -> None:
            for number in range(50):
                sender.submit("orders", f"{thread}-{number}", partition_key=str(thread))

        threads = [threading.Thread(target=send, args=(thread,)) for thread in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sender.flush() == 0
        numbers = [int(message.properties[ID_PROPERTY].partition("-")[0]) for message in broker.messages("orders")]
        assert numbers == sorted(set(numbers))
        for thread in range(4):
            assert [each for each in payloads(broker) if each.startswith(f"{thread}-")] == [
                f"{thread}-{number}" for number in range(50)
            ]
    assert sender.close().counts.delivered == 200
    assert waiting_rows(path) == 0


def test_it_leaves_the_outbox_also_if_nothing_comes_after(broker: FakeBroker, tmp_path: Path) -> None:
    """
    A second later at the latest, about.
    """
    path = tmp_path / "shop.db"
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "1")
        wait_until(lambda: waiting_rows(path) == 0, "the row is gone")


def test_a_row_that_was_left_is_sent_before_anything_else(broker: FakeBroker, tmp_path: Path) -> None:
    """
    With its number, and in its place.
    """
    path = tmp_path / "shop.db"
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "0")
    put(path, "1", "2")
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "3")
        wait_until(lambda: len(payloads(broker)) == 4, "all is sent")
    assert payloads(broker) == ["0", "1", "2", "3"]
    assert waiting_rows(path) == 0


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_what_was_under_way_when_the_process_ended_is_found_out(
    broker: FakeBroker, tmp_path: Path, *, stored: bool
) -> None:
    """
    It is in the topic once, without a replay.
    """
    path = tmp_path / "shop.db"
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "0")
        if stored:
            broker.hold()
        else:
            broker.freeze()
        handle = sender.submit("orders", "1")
        waits = sender.submit("orders", "2")
        wait_until(lambda: handle._state != 0, "it is on its way")
        broker.fail_next_reads(1, "AuthorizationError")  # or closing would find it out
        sender.close(0.0)
    broker.forget_faults()
    for each in (handle, waits):
        error = each.exception()
        assert isinstance(error, SendFailed)
        assert error.in_outbox
        assert "the next run sends it" in str(error)
        assert error.failed_message_id is None
    assert sender.close().counts.not_kept == 0
    assert waiting_rows(path) == 2
    if not stored:
        broker.restart()
    broker.release()
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "3")
        wait_until(lambda: len(payloads(broker)) == 4, "all is sent")
    assert payloads(broker) == ["0", "1", "2", "3"]
    assert waiting_rows(path) == 0


def test_what_fails_moves_to_the_failed_messages(broker: FakeBroker, tmp_path: Path) -> None:
    """
    It is in one of the two places at any time, and a replay sends it.
    """
    path = tmp_path / "shop.db"
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "0")
        broker.kill()
        error = sender.submit("orders", "1", deadline_seconds=0.3).exception(LONG_SECONDS)
        assert isinstance(error, SendFailed)
        assert error.failed_message_id is not None
        assert waiting_rows(path) <= 1  # the first may not be removed yet
        broker.start()
        assert replay(sender.failed_messages, sender).delivered == 1
        sender.send("orders", "2")
    assert payloads(broker) == ["0", "1", "2"]
    assert waiting_rows(path) == 0


def test_another_process_may_put_while_this_one_sends(broker: FakeBroker, tmp_path: Path) -> None:
    """
    Its messages go through this one, in the order of the rows.
    """
    path = tmp_path / "shop.db"
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "0")
        put(path, "1", "2")
        result = sender.send("orders", "3")
        assert result.fate is Fate.DELIVERED
        assert payloads(broker) == ["0", "1", "2", "3"]


def test_one_process_sends(broker: FakeBroker, tmp_path: Path) -> None:
    """
    The second one is told who does.
    """
    path = tmp_path / "shop.db"
    second = outbox_sender(broker, path)
    with outbox_sender(broker, path) as first:
        first.send("orders", "0")
        with pytest.raises(ProducerNameInUse, match="outbox"):
            second.open()
    with second:
        second.send("orders", "1")
    assert payloads(broker) == ["0", "1"]


def test_a_closed_sender_accepts_nothing(broker: FakeBroker, tmp_path: Path) -> None:
    """
    And leaves nothing in the outbox of what it refused.
    """
    path = tmp_path / "shop.db"
    sender = outbox_sender(broker, path)
    sender.send("orders", "0")
    sender.close()
    with pytest.raises(SenderClosed):
        sender.send("orders", "1")
    assert waiting_rows(path) == 0


def test_an_outbox_needs_a_disk_and_a_name(broker: FakeBroker) -> None:
    """
    Named, with the remedy.
    """
    with pytest.raises(InvalidSettings, match="failed_messages: must be a path"):
        outbox_sender(broker, None).open()
    with pytest.raises(InvalidSettings, match="producer_name"):
        TopicSettings(durability=Durability.OUTBOX)


def test_many_share_a_write(broker: FakeBroker, tmp_path: Path) -> None:
    """
    A hundred at a time, in order; a value that is refused leaves those before it sent.
    """
    path = tmp_path / "shop.db"
    with outbox_sender(broker, path) as sender:
        report = sender.send_many("orders", [str(number) for number in range(1234)], partition_key="a")
        assert (report.read, report.delivered) == (1234, 1234)
        assert payloads(broker) == [str(number) for number in range(1234)]
        with pytest.raises(InvalidMessage, match=r"values\[3\]"):
            sender.send_many("orders", ["a", "b", "c", object(), "d"])  # type: ignore[list-item]
        assert payloads(broker)[-3:] == ["a", "b", "c"]
    assert waiting_rows(path) == 0


def test_one_that_is_refused_leaves_those_before_it_accepted(broker: FakeBroker, tmp_path: Path) -> None:
    """
    A paused lane, and a bound that is smaller than what is put at once.
    """
    path = tmp_path / "shop.db"
    topic = TopicSettings(producer_name="shop", durability=Durability.OUTBOX, mix_keys=True)
    settings = SenderSettings(
        topic_defaults=topic,
        retry=AT_ONCE,
        drain_on_sigterm=False,
        max_in_flight_messages=7,
        deadline_seconds=LONG_SECONDS,
    )
    registry = ClientRegistry(broker.connect)
    with RetryingSender(broker.url, failed_messages=path, settings=settings, registry=registry) as sender:
        assert sender.send_many("orders", [str(number) for number in range(50)]).delivered == 50
        broker.kill()
        assert isinstance(
            sender.submit("orders", "x", ordering_key="a", deadline_seconds=0.2).exception(LONG_SECONDS), SendFailed
        )
        broker.start()
        keys = iter(["b", "b", "a", "b"])
        with pytest.raises(LanePaused):
            sender.send_many("orders", ["50", "51", "refused", "not taken"], ordering_key=lambda _: next(keys))
    assert payloads(broker) == [str(number) for number in range(52)]
    assert waiting_rows(path) == 0


def test_opening_is_enough_to_send_what_was_left(broker: FakeBroker, tmp_path: Path) -> None:
    """
    A process that only sends what others put need not send anything itself.
    """
    path = tmp_path / "shop.db"
    put(path, "1", "2")
    with outbox_sender(broker, path):
        wait_until(lambda: len(payloads(broker)) == 2, "all is sent")
    assert payloads(broker) == ["1", "2"]


def test_a_row_whose_topic_has_no_outbox_any_more_stays(
    broker: FakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    It is named in the log, and those behind it go.
    """
    path = tmp_path / "shop.db"
    with SqliteFailedMessages(path) as store:
        outbox = Outbox(store, producer_name=lambda _: "another")
        outbox.put([Message(topic=TOPIC, payload=b"1")])
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "2")
        wait_until(lambda: "safepulsar.outbox_row_left" in caplog.messages, "it is named")
    assert waiting_rows(path) == 1


def test_what_comes_while_rows_are_handed_out_stays_behind_them(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Between the moment when rows are taken and that when they are in the queue, too.
    """
    path = tmp_path / "shop.db"
    put(path, "1", "2")
    take = OutboxClaim.take
    calls: list[Call] = []

    def take_slowly(claim: OutboxClaim, limit: int) -> list[OutboxRow]:
        rows = take(claim, limit)
        if rows and not calls:
            calls.append(Call(sender.submit, "orders", "3"))
            assert isinstance(calls[0].outcome(), SendHandle)
        return rows

    monkeypatch.setattr(OutboxClaim, "take", take_slowly)
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "4")
        wait_until(lambda: len(payloads(broker)) == 4, "all is sent")
    assert sorted(payloads(broker)[:2]) == ["1", "2"]
    assert sorted(payloads(broker)[2:]) == ["3", "4"]


def test_what_waits_behind_others_has_its_deadline(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The store does not say what comes first. It moves to the failed messages, surely not stored, and is not sent as well.
    """
    path = tmp_path / "shop.db"
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "0")

        def fail(*_: object, **__: object) -> list[OutboxRow]:
            raise StoreUnavailable("locked")

        with monkeypatch.context() as patched:
            patched.setattr(OutboxClaim, "take", fail)
            put(path, "1")
            error = sender.submit("orders", "2", deadline_seconds=0.2).exception(LONG_SECONDS)
        assert isinstance(error, SendFailed)
        assert (error.certainty, error.in_outbox) == (Certainty.NOT_STORED, False)
        assert error.failed_message_id is not None
        sender.send("orders", "3")
        assert payloads(broker) == ["0", "1", "3"]
        assert replay(sender.failed_messages, sender).delivered == 1
    assert payloads(broker) == ["0", "1", "3", "2"]
    assert waiting_rows(path) == 0


def test_an_error_while_rows_are_handed_out_loses_none(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    They are handed out once the store answers again, in their order, and before what came meanwhile.
    """
    path = tmp_path / "shop.db"
    put(path, "1", "2", "3")
    get, failures = Queues.get, [StoreUnavailable("locked")] * 2

    def fail_twice(queues: Queues, topic: str, *, keyed: bool) -> SendQueue:
        if failures and threading.current_thread().name == "safepulsar-outbox":
            raise failures.pop()
        return get(queues, topic, keyed=keyed)

    monkeypatch.setattr("safepulsar.outbox.relay._PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(Queues, "get", fail_twice)
    with outbox_sender(broker, path) as sender:
        sender.send("orders", "4")
    assert payloads(broker) == ["1", "2", "3", "4"]
    assert not failures
    assert waiting_rows(path) == 0
