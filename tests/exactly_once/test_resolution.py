"""
Exactly-once: whatever answer is missing, each message is in the topic once, and the application is told the truth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.broker.outcomes import Phase
from safepulsar.durable_source import DurableSource
from safepulsar.errors import (
    AuthorizationFailed,
    BrokerUnavailable,
    InvalidMessage,
    InvalidSettings,
    ProducerNameInUse,
    SendFailed,
)
from safepulsar.exactly_once.producer_journal import ProducerJournal
from safepulsar.exactly_once.search import Search
from safepulsar.failed_messages import InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.message import ID_PROPERTY, Certainty, Fate
from safepulsar.sending.replay import replay
from safepulsar.settings import LanePolicy, TopicSettings
from safepulsar.testing import FakeBroker
from tests.senders import LONG_SECONDS, TOPIC, sender_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from safepulsar.books.handle import SendHandle
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.message import MessageId
    from safepulsar.sender import RetryingSender
    from safepulsar.settings import ProducerSettings


@pytest.fixture(params=[False, True], ids=["no deduplication", "deduplication"])
def broker(request: pytest.FixtureRequest) -> FakeBroker:
    """
    A broker of each kind.
    """
    return FakeBroker(deduplication=request.param)


@pytest.fixture(params=[False, True], ids=["one by one", "batches"])
def batches(request: pytest.FixtureRequest) -> bool:
    """
    Whether messages of any key share a batch.
    """
    return bool(request.param)


def once_sender(
    broker: FakeBroker, store: FailedMessageStore | None = None, *, batches: bool = True, deadline_seconds: float = 10.0
) -> RetryingSender:
    """
    A sender whose every topic is exactly-once, and whose lanes skip: what is tested here are single messages.
    """
    topic = TopicSettings(producer_name="shop", exactly_once=True, mix_keys=batches, lane_policy=LanePolicy.SKIP)
    return sender_of(broker, store, topic_defaults=topic, deadline_seconds=deadline_seconds)


def payloads(broker: FakeBroker) -> list[str]:
    """
    What the topic holds.
    """
    return [(each or b"").decode() for each in broker.payloads("orders")]


def numbers(broker: FakeBroker) -> list[int]:
    """
    The number that each message carries.
    """
    return [int(message.properties[ID_PROPERTY].partition("-")[0]) for message in broker.messages("orders")]


def test_each_message_carries_a_number_of_its_own(broker: FakeBroker, *, batches: bool) -> None:
    """
    From 1, rising, over senders with the same store, and beside the application's properties.
    """
    store = InMemoryFailedMessages()
    with once_sender(broker, store, batches=batches) as sender:
        for number in range(3):
            sender.send("orders", str(number), properties={"a": "b"}, partition_key="k")
    assert numbers(broker) == [1, 2, 3]
    assert broker.messages("orders")[0].properties["a"] == "b"


def test_numbers_are_never_used_again(broker: FakeBroker, tmp_path: Path) -> None:
    """
    A process that begins again, also after a crash, goes on behind what the one before may have used.
    """
    path = tmp_path / "failed.db"
    for _ in range(3):
        with once_sender(broker, SqliteFailedMessages(path)) as sender:
            sender.send("orders", b"x")
            sender.send("orders", b"y")
    assert len(set(numbers(broker))) == 6
    assert numbers(broker) == sorted(numbers(broker))


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
@pytest.mark.parametrize("code", ["Timeout", "Disconnected", "AlreadyClosed", "UnknownError"])
def test_a_missing_answer_is_found_out(broker: FakeBroker, code: str, *, batches: bool, stored: bool) -> None:
    """
    Stored: delivered, with the id that it has in the topic. Not stored: sent again. Those behind it keep their places.
    """
    with once_sender(broker, batches=batches) as sender:
        sender.send("orders", "0")
        broker.hold()
        handles = [sender.submit("orders", str(number)) for number in range(1, 3)]
        broker.wait_until(lambda: broker.held >= 1)
        broker.fail_next(1, code, stored=stored)
        handles += [sender.submit("orders", str(number)) for number in range(3, 6)]
        broker.release()
        results = [handle.result(LONG_SECONDS) for handle in handles]
    # One by one, the fake lets a later one be stored behind one that is refused; a client's order is that of each key.
    assert (payloads(broker) if batches else sorted(payloads(broker))) == [str(number) for number in range(6)]
    ids = {message.message_id: message.payload for message in broker.messages("orders")}
    for number, result in enumerate(results, 1):
        assert result.fate is Fate.DELIVERED
        assert ids[result.message_id] == str(number).encode()


def test_a_dead_broker_is_found_out_when_it_is_back(broker: FakeBroker, *, batches: bool) -> None:
    """
    Whatever had arrived before it died.
    """
    with once_sender(broker, batches=batches, deadline_seconds=LONG_SECONDS) as sender:
        sender.send("orders", "0")
        broker.hold()
        handles = [sender.submit("orders", str(number)) for number in range(1, 50)]
        broker.wait_until(lambda: broker.held >= 1)
        broker.kill()
        broker.release()
        wait_until(lambda: sender.stats().pool.open == 0, "the pool has let go of its producer")
        broker.start()
        assert {handle.result(LONG_SECONDS).fate for handle in handles} <= {Fate.DELIVERED, Fate.DUPLICATE}
    assert payloads(broker) == [str(number) for number in range(50)]


def test_a_broken_connection_sends_nothing_twice(broker: FakeBroker, *, batches: bool) -> None:
    """
    Many times, with answers under way: the producer is closed before it connects again, which takes a moment.
    """
    with once_sender(broker, batches=batches, deadline_seconds=LONG_SECONDS) as sender:
        handles: list[SendHandle] = []
        for number in range(10):
            broker.hold()  # stored, and not answered
            handles += [sender.submit("orders", f"{number}-{each}") for each in range(5)]
            broker.wait_until(lambda: broker.held >= 1)
            broker.kill()
            broker.release()
            (queue,) = sender._started().queues()
            wait_until(
                lambda: sender.stats().pool.open == 0 or bool(queue.exactly_once and queue.exactly_once.deduplicates),  # noqa: B023  # called at once
                "the pool has let go of it, unless the broker drops what comes twice",
            )
            broker.start()
            assert {handle.result(LONG_SECONDS).fate for handle in handles} <= {Fate.DELIVERED, Fate.DUPLICATE}
    assert payloads(broker) == [f"{number}-{each}" for number in range(10) for each in range(5)]


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_what_was_given_up_is_found_out_later(broker: FakeBroker, *, batches: bool, stored: bool) -> None:
    """
    The application was told MAYBE_STORED, in time. The store learns the truth before anything else goes.
    """
    store = InMemoryFailedMessages()
    with once_sender(broker, store, batches=batches) as sender:
        sender.send("orders", "0")
        if stored:
            broker.hold()
        else:
            broker.freeze()
        late = sender.submit("orders", "1", deadline_seconds=0.2)
        error = late.exception(LONG_SECONDS)
        assert isinstance(error, SendFailed)
        assert error.certainty is Certainty.MAYBE_STORED
        next_one = sender.submit("orders", "2")
        if not stored:
            broker.restart()  # a frozen one would still store what has arrived
        broker.release()
        assert next_one.result(LONG_SECONDS).fate is Fate.DELIVERED
        if stored:
            wait_until(lambda: store.count() == 0, "it is known to be stored")
        else:
            (failed,) = store.find()
            assert failed.certainty is Certainty.NOT_STORED
            assert replay(store, sender).delivered == 1
    assert payloads(broker) == (["0", "1", "2"] if stored else ["0", "2", "1"])


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_the_next_run_finds_out_what_the_one_before_could_not(
    broker: FakeBroker, tmp_path: Path, *, batches: bool, stored: bool
) -> None:
    """
    Before it sends anything. A replay at the same time sends nothing that is stored.
    """
    path = tmp_path / "failed.db"
    with once_sender(broker, SqliteFailedMessages(path), batches=batches) as sender:
        sender.send("orders", "0")
        if stored:
            broker.hold()
        else:
            broker.freeze()
        handle = sender.submit("orders", "1")
        wait_until(lambda: not any(queue.waiting for queue in sender._started().queues()), "it is on its way")
        broker.fail_next_reads(1, "AuthorizationError")  # or closing would find it out
        sender.close(0.0)
    broker.forget_faults()
    assert isinstance(handle.exception(), SendFailed)
    if not stored:
        broker.restart()
    broker.release()
    store = SqliteFailedMessages(path)
    with once_sender(broker, store, batches=batches) as sender:
        (failed,) = store.find()
        assert failed.certainty is Certainty.MAYBE_STORED
        report = replay(store, sender)
        assert (report.delivered, report.duplicate) == ((0, 1) if stored else (1, 0))
        assert store.count() == 0
    assert payloads(broker) == ["0", "1"]


def test_a_search_that_fails_is_made_again(broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A broker that dies while a run looks for what the one before left: nothing is sent before it has found that.
    """
    path = tmp_path / "import.db"

    def source() -> DurableSource:
        registry = ClientRegistry(broker.connect)
        return DurableSource(broker.url, path, topic="orders", producer_name="rows", registry=registry)

    with source() as first:
        first.submit(1, b"1")
        monkeypatch.setattr(
            "safepulsar.exactly_once.resolution.ExactlyOnce.delivered", lambda *_: None
        )  # as if killed before
    monkeypatch.undo()
    run, failures = Search.run, [BrokerUnavailable("ConnectError")]

    def fail_once(search: Search) -> Mapping[int, MessageId]:
        if failures:
            raise failures.pop()
        return run(search)

    monkeypatch.setattr(Search, "run", fail_once)
    with source() as second:
        assert second.submit(1, b"1") is None
        second.submit(2, b"2")
    assert payloads(broker) == ["1", "2"]


def test_without_the_right_to_read_nothing_is_sent(broker: FakeBroker) -> None:
    """
    The setting asks for what can't be had, and says so.
    """
    with once_sender(broker) as sender:
        broker.fail_next_reads(1, "AuthorizationError")
        error = sender.submit("orders", "1").exception(LONG_SECONDS)
        assert isinstance(error, SendFailed)
        assert isinstance(error.__cause__, AuthorizationFailed)
        assert error.certainty is Certainty.NOT_STORED
    assert broker.topics() == [] or payloads(broker) == []


def test_a_right_that_is_gone_leaves_it_open(broker: FakeBroker) -> None:
    """
    What can't be read stays MAYBE_STORED, and what comes after goes on.
    """
    store = InMemoryFailedMessages()
    with once_sender(broker, store) as sender:
        sender.send("orders", "0")
        broker.fail_next_reads(1, "AuthorizationError")
        broker.fail_next(1, "Timeout", stored=True)
        error = sender.submit("orders", "1").exception(LONG_SECONDS)
        assert isinstance(error, SendFailed)
        assert error.certainty is Certainty.MAYBE_STORED
        sender.send("orders", "2")
    assert payloads(broker) == ["0", "1", "2"]
    assert [failed.certainty for failed in store.open().find()] == [Certainty.MAYBE_STORED]


def test_what_could_not_be_read_is_looked_for_by_the_next_run(broker: FakeBroker, tmp_path: Path) -> None:
    """
    Although others were confirmed behind it since: the journal stays where it was.
    """
    path = tmp_path / "failed.db"
    with once_sender(broker, SqliteFailedMessages(path)) as sender:
        sender.send("orders", "0")
        broker.fail_next_reads(1, "AuthorizationError")
        broker.fail_next(1, "Timeout", stored=True)
        assert isinstance(sender.submit("orders", "1").exception(LONG_SECONDS), SendFailed)
        sender.send("orders", "2")
    store = SqliteFailedMessages(path)
    with once_sender(broker, store) as sender:
        assert replay(store, sender).duplicate == 1
        sender.send("orders", "3")
    assert payloads(broker) == ["0", "1", "2", "3"]


def test_a_producer_name_has_one_sender(broker: FakeBroker, tmp_path: Path) -> None:
    """
    A second process on the same store is told who has it, before it asks the broker.
    """
    path = tmp_path / "failed.db"
    with (
        SqliteFailedMessages(path) as store,
        once_sender(broker, SqliteFailedMessages(path), deadline_seconds=0.5) as sender,
    ):
        claim = ProducerJournal(store).claim("shop", TOPIC, owner="another", lease_seconds=60)
        error = sender.submit("orders", "1").exception(LONG_SECONDS)
        assert isinstance(error, SendFailed)
        assert isinstance(error.__cause__, ProducerNameInUse)
        assert "another" in str(error.__cause__)
        claim.release()
        sender.send("orders", "2", deadline_seconds=LONG_SECONDS)


def test_what_another_store_sent_under_the_name_is_not_taken_for_ours(
    broker: FakeBroker, tmp_path: Path, *, batches: bool
) -> None:
    """
    Two applications with one producer name and stores of their own, one after the other, have the same numbers.
    """
    path = tmp_path / "ours.db"
    with once_sender(broker, SqliteFailedMessages(path), batches=batches) as sender:
        sender.send("orders", "0")
        broker.freeze()
        handle = sender.submit("orders", "1")
        wait_until(lambda: not any(queue.waiting for queue in sender._started().queues()), "it is on its way")
        broker.fail_next_reads(1, "AuthorizationError")  # or closing would find it out
        sender.close(0.0)
    broker.forget_faults()
    assert isinstance(handle.exception(), SendFailed)
    broker.restart()
    with once_sender(broker, SqliteFailedMessages(tmp_path / "theirs.db"), batches=batches) as theirs:
        for text in "abc":
            theirs.send("orders", text)
    store = SqliteFailedMessages(path)
    with once_sender(broker, store, batches=batches) as sender:
        assert replay(store, sender).delivered == 1
    assert payloads(broker) == ["0", "a", "b", "c", "1"]


def test_what_the_broker_takes_for_a_duplicate_is_looked_for(*, batches: bool) -> None:
    """
    The ids that it has may be another producer's, who had the name while this one had no connection.
    """
    broker = FakeBroker(deduplication=True)
    with once_sender(broker, batches=batches) as sender:
        sender.send("orders", "0")
        broker._network.logs[TOPIC]._highest["shop"] = 1000  # as if another one had sent so much
        assert sender.send("orders", "1").fate is Fate.DELIVERED
    assert payloads(broker) == ["0", "1"]


def test_rows_of_another_input_are_not_taken_for_ours(broker: FakeBroker, tmp_path: Path) -> None:
    """
    Two imports with one producer name, journals of their own and different inputs; the same input is the same rows.
    """

    def source(journal: str, fingerprint: str) -> DurableSource:
        return DurableSource(
            broker.url,
            tmp_path / journal,
            topic="orders",
            producer_name="rows",
            source=fingerprint,
            registry=ClientRegistry(broker.connect),
        )

    with source("ours.db", "ours") as ours:
        ours.submit(1, b"1")
    with source("theirs.db", "theirs") as theirs:
        theirs.submit(1, b"a")
        theirs.submit(2, b"b")
    with source("ours.db", "ours") as ours:
        assert ours.submit(1, b"1") is None
        assert ours.submit(2, b"2") is not None
    assert payloads(broker) == ["1", "a", "b", "2"]


def test_a_row_of_an_input_looks_nothing_up(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Its producer's settings are made once for the input: made for each row, they took most of its time.
    """
    made, producer = [], TopicSettings.producer

    def counted(settings: TopicSettings, topic: str, *, keyed: bool) -> ProducerSettings:
        made.append(topic)
        return producer(settings, topic, keyed=keyed)

    monkeypatch.setattr(TopicSettings, "producer", counted)
    registry = ClientRegistry(broker.connect)
    with DurableSource(
        broker.url, tmp_path / "a.db", topic="orders", producer_name="rows", registry=registry
    ) as source:
        before = len(made)
        for number in range(1, 101):
            assert not source.is_stored(number)
            assert source.submit(number, b"x", partition_key="key") is not None
        assert len(made) == before
    assert len(payloads(broker)) == 100


def test_settings_that_do_not_go_together() -> None:
    """
    Named, with the reason.
    """
    with pytest.raises(InvalidSettings, match="exactly_once: needs a producer_name"):
        TopicSettings(exactly_once=True)
    with pytest.raises(InvalidSettings, match="exactly_once: does not go with chunking"):
        TopicSettings(exactly_once=True, producer_name="shop", chunking=True)


def test_ids_of_the_application_are_refused(broker: FakeBroker) -> None:
    """
    There is one numbering.
    """
    with once_sender(broker) as sender, pytest.raises(InvalidMessage, match="sequence_id: is given by safepulsar"):
        sender.send("orders", "1", sequence_id=7)


def test_an_inline_refusal_is_no_doubt(broker: FakeBroker) -> None:
    """
    Nothing is read back for what never left.
    """
    with once_sender(broker) as sender:
        sender.send("orders", "0")
        broker.fail_next_reads(1, "AuthorizationError")
        broker.fail_next(1, "ProducerQueueIsFull", phase=Phase.INLINE)
        assert sender.send("orders", "1").fate is Fate.DELIVERED
        broker.forget_faults()
    assert payloads(broker) == ["0", "1"]
