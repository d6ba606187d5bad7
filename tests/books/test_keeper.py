"""
Keeping what failed: in the store first, told afterwards, and whatever the store does, every message gets its fate.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from safepulsar.broker.outcomes import Phase
from safepulsar.errors import SendFailed, StoreFull
from safepulsar.failed_messages import EVERYTHING, InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.message import Certainty, Fate
from safepulsar.settings import TopicSettings
from safepulsar.testing import FakeBroker
from tests.senders import TOPIC, FullStore, HangingStore, sender_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from safepulsar.message import FailedMessage, MessageId


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


def test_a_row_has_everything_to_send_it_again_and_to_understand_it(broker: FakeBroker, tmp_path: Path) -> None:
    """
    Message, certainty, error, attempts, times and producer name are on disk when the failure is told.
    """
    began = time.time()
    topics = {"orders": TopicSettings(producer_name="shop")}
    store = SqliteFailedMessages(tmp_path / "failed.db")
    with store, sender_of(broker, store, topics=topics) as sender:
        sender.send("orders", b"0", sequence_id=1)
        broker.fail_next(1, "Timeout")
        handle = sender.submit(
            "orders",
            b"\x00payload",
            partition_key="p",
            ordering_key="o",
            properties={"a": "b"},
            sequence_id=2,
            event_timestamp_ms=1_700_000_000_000,
            deliver_at_ms=1_800_000_000_000,
        )
        error = handle.exception()
        assert isinstance(error, SendFailed)
        with SqliteFailedMessages(tmp_path / "failed.db") as again:
            (row,) = again.find(EVERYTHING)
    message = row.message
    assert (message.topic, message.payload) == (TOPIC, b"\x00payload")
    assert (message.partition_key, message.ordering_key, message.properties) == ("p", "o", {"a": "b"})
    assert (message.sequence_id, message.event_timestamp_ms) == (2, 1_700_000_000_000)
    assert message.deliver_at_ms == 1_800_000_000_000
    assert (row.id, row.certainty, row.error) == (error.failed_message_id, Certainty.MAYBE_STORED, "Timeout")
    assert row.attempts == error.attempts
    assert row.producer_name == "shop"
    assert began <= row.accepted_at <= row.first_failed_at == row.last_failed_at <= time.time()


def test_a_failure_is_told_when_it_is_kept_and_not_before(broker: FakeBroker) -> None:
    """
    While the store writes, the message is in flight; when the failure is told, it is in the store.
    """
    store = HangingStore()
    with sender_of(broker, store) as sender:
        broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
        handle = sender.submit("orders", b"x")
        assert store.asked.wait(10)
        assert not handle.done()
        assert sender.stats().counts.in_flight == 1
        store.answer.set()
        error = handle.exception()
        assert isinstance(error, SendFailed)
        assert store.get(error.failed_message_id or 0).message.payload == b"x"


def test_many_failures_share_a_transaction(broker: FakeBroker) -> None:
    """
    What fails together is kept together, a thousand at most, in the order of acceptance.
    """
    sizes: list[int] = []

    class Counting(HangingStore):
        def keep(self, messages: Sequence[FailedMessage]) -> list[int]:
            ids = super().keep(messages)
            sizes.append(len(messages))
            return ids

    store = Counting()
    with sender_of(broker, store, deadline_seconds=0.2) as sender:
        broker.freeze()
        handles = [sender.submit("orders", str(number)) for number in range(2500)]
        assert store.asked.wait(10)
        wait_until(lambda: sum(handle._state == 2 for handle in handles) == 2500, "all have failed")
        store.answer.set()
        assert sender.flush() == 0
        kept = [row.message.payload for row in store.find(EVERYTHING)]
        broker.thaw()
    assert kept == [str(number).encode() for number in range(2500)]
    assert sum(sizes) == 2500
    assert max(sizes) == 1000
    assert len(sizes) <= 5


def test_what_was_handed_over_is_kept_before_what_waited(broker: FakeBroker) -> None:
    """
    The numbers in the store rise in the order of acceptance, so that a replay keeps the order of each key.
    """
    store = InMemoryFailedMessages()
    with sender_of(broker, store, deadline_seconds=0.3) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.hold()
        handles = [sender.submit("orders", b"1", partition_key="k", deadline_seconds=0.3)]
        broker.wait_until(lambda: broker.held == 1)
        handles += [
            sender.submit("orders", str(number), partition_key="k", deadline_seconds=0.3) for number in range(2, 6)
        ]
        assert all(isinstance(handle.exception(), SendFailed) for handle in handles)
        rows = [(row.message.payload, row.certainty) for row in store.find(EVERYTHING)]
        broker.release()
    assert [payload for payload, _ in rows] == [b"1", b"2", b"3", b"4", b"5"]
    assert rows[0][1] is Certainty.MAYBE_STORED


@pytest.mark.parametrize("error", [StoreFull("full; free some space"), OSError("canary"), RuntimeError("canary")])
def test_whatever_a_store_raises_the_message_gets_its_fate(
    broker: FakeBroker, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """
    A message that cannot be kept fails all the same, says that it is the only copy, and is counted and logged.
    """

    class Raising(InMemoryFailedMessages):
        def keep(self, messages: Sequence[FailedMessage]) -> list[int]:
            if any(row.message.payload == b"x" for row in messages):
                raise error
            return super().keep(messages)

        def confirm(self, failed_message_id: int, message_id: MessageId) -> bool:  # noqa: ARG002  # it raises
            raise error

    with sender_of(broker, Raising()) as sender, caplog.at_level(logging.WARNING, logger="safepulsar"):
        broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
        failure = sender.submit("orders", b"x").exception()
        assert isinstance(failure, SendFailed)
        assert failure.failed_message_id is None
        assert "NOT kept in a store: this exception holds the only copy" in str(failure)
        assert failure.message.payload == b"x"
        assert sender.stats().counts.not_kept == 1
        (record,) = [record for record in caplog.records if record.message == "safepulsar.not_kept"]
        assert record.__dict__["error"] == type(error).__name__
        assert "canary" not in caplog.text
        # A late acknowledgement that cannot be noted harms nobody either.
        sender.send("orders", b"0", partition_key="k")
        broker.hold()
        late = sender.submit("orders", b"1", partition_key="k", deadline_seconds=0.05)
        patient = sender.submit("orders", b"2", partition_key="k")
        assert isinstance(late.exception(), SendFailed)
        broker.release()
        assert patient.result().fate is Fate.DELIVERED
        broker.fail_next(1, "CryptoError")
        failure = sender.submit("orders", b"3", partition_key="k").exception()
        assert isinstance(failure, SendFailed)
        assert failure.failed_message_id is not None, "the keeper goes on"
    assert sender.close().clean


def test_a_store_that_recovers_keeps_again(broker: FakeBroker) -> None:
    """
    A full disk costs the messages of its time their place in the store, and no later ones.
    """
    store = FullStore()
    with sender_of(broker, store) as sender:
        for full in (True, False):
            store.full = full
            broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
            failure = sender.submit("orders", b"x").exception()
            assert isinstance(failure, SendFailed)
            assert (failure.failed_message_id is None) is full
    counts = sender.close().counts
    assert (counts.failed, counts.not_kept) == (2, 1)


def test_a_memory_store_that_still_holds_messages_says_so(broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    """
    Closing a sender without a path logs that what failed is gone with the process, with the number.
    """
    with caplog.at_level(logging.WARNING, logger="safepulsar"), sender_of(broker) as sender:
        broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
        sender.submit("orders", b"x").exception()
    (record,) = [record for record in caplog.records if record.message == "safepulsar.kept_in_memory_only"]
    assert record.__dict__["messages"] == 1
