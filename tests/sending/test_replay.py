"""
Replaying: in order per lane, by one replayer at a time, and killed or stopped anywhere it can be run again.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.broker.outcomes import Phase
from safepulsar.errors import InvalidInput, SenderClosed, StoreFull
from safepulsar.failed_messages import EVERYTHING, FailedMessageFilter, InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.failed_messages.transitions import CLAIM_MAX_BYTES
from safepulsar.message import Certainty, FailedMessage, Message
from safepulsar.sending.replay import ReplayReport, replay
from safepulsar.settings import PoolSettings, TopicSettings, WhenFull
from safepulsar.testing import FakeBroker
from tests.brokers import read_topic
from tests.senders import TOPIC, Call, sender_of
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.message import MessageId
    from tests.brokers import LiteBroker


# The package's name `replay` is the function.
REPLAY_MODULE = importlib.import_module("safepulsar.sending.replay")


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


@pytest.fixture
def store() -> Iterator[InMemoryFailedMessages]:
    """
    An open store in memory.
    """
    with InMemoryFailedMessages() as store:
        yield store


def keep(
    store: FailedMessageStore,
    messages: Iterable[tuple[str, str | None]],
    *,
    certainty: Certainty = Certainty.NOT_STORED,
    topic: str = TOPIC,
) -> list[int]:
    """
    Put messages, as payload and key, into the store.
    """
    return store.keep(
        [
            failed(
                Message(topic=topic, payload=payload.encode(), partition_key=key, properties={"id": payload}), certainty
            )
            for payload, key in messages
        ]
    )


def failed(message: Message, certainty: Certainty = Certainty.MAYBE_STORED) -> FailedMessage:
    """
    A message that failed just now.
    """
    now = time.time()
    return FailedMessage(
        message=message,
        certainty=certainty,
        error="Timeout",
        accepted_at=now,
        first_failed_at=now,
        last_failed_at=now,
    )


def numbers(report: ReplayReport) -> tuple[int, int, int, int, int]:
    """
    What a test compares of a report.
    """
    return report.selected, report.delivered, report.duplicate, report.failed, report.skipped


def payloads(store: FailedMessageStore) -> list[bytes | None]:
    """
    What the store still holds.
    """
    return [row.message.payload for row in store.find(EVERYTHING)]


# -- what is sent --------------------------------------------------------------------------------------------------


def test_everything_is_sent_as_it_was(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    Each message arrives with its bytes, keys and properties, oldest first per key, and leaves the store.
    """
    messages = [(str(number), "abc"[number % 3] if number % 4 else None) for number in range(2500)]
    ids = keep(store, messages)
    with sender_of(broker, store) as sender:
        report = replay(store, sender)
    assert numbers(report) == (2500, 2500, 0, 0, 0)
    assert report.seconds > 0
    assert payloads(store) == []
    for key in ("a", "b", "c"):
        mine = [each.payload for each in broker.messages("orders") if each.partition_key == key]
        assert mine == [payload.encode() for payload, each in messages if each == key]
    told = store.status(ids[7]).message_id
    assert told == next(each.message_id for each in broker.messages("orders") if each.payload == b"7")
    assert all(each.properties["id"].encode() == each.payload for each in broker.messages("orders"))


def test_only_what_matches_is_sent(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    A filter chooses; the rest stays untouched.
    """
    keep(store, [("a", None)])
    keep(store, [("b", None)], certainty=Certainty.MAYBE_STORED)
    with sender_of(broker, store) as sender:
        report = replay(store, sender, where=FailedMessageFilter(certainty=Certainty.NOT_STORED))
    assert numbers(report) == (1, 1, 0, 0, 0)
    assert (broker.payloads("orders"), payloads(store)) == ([b"a"], [b"b"])


def test_a_limit_is_kept(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    At most so many are sent, the oldest.
    """
    keep(store, [(str(number), None) for number in range(5)])
    with sender_of(broker, store) as sender:
        assert numbers(replay(store, sender, limit=2)) == (2, 2, 0, 0, 0)
        assert numbers(replay(store, sender, limit=0)) == (0, 0, 0, 0, 0)
    assert payloads(store) == [b"2", b"3", b"4"]


def test_a_dry_run_only_counts(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    Nothing is claimed or sent.
    """
    keep(store, [("a", None), ("b", "k")])
    with sender_of(broker, store) as sender:
        assert numbers(replay(store, sender, dry_run=True)) == (2, 0, 0, 0, 0)
    assert broker.payloads("orders") == []
    assert store.claim("somebody", limit=10, lease_seconds=1)


def test_progress_is_told(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    After each round the callback hears how many are done of how many, up to the last.
    """
    keep(store, [(str(number), None) for number in range(2100)])
    told: list[tuple[int, int]] = []
    with sender_of(broker, store) as sender:
        replay(store, sender, on_progress=lambda done, selected: told.append((done, selected)))
    assert told == [(1000, 2100), (2000, 2100), (2100, 2100)]


def test_a_rate_is_kept(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    At no moment more are in the topic than the rate allows and one step.
    """
    keep(store, [(str(number), None) for number in range(30)])
    with sender_of(broker, store) as sender:
        began = time.monotonic()
        call = Call(replay, store, sender, rate=40)

        def done() -> bool:
            sent = len(broker.payloads("orders"))
            assert sent <= 40 * (time.monotonic() - began + 0.1) + 20, sent
            return not call.running

        wait_until(done, "the replay ends")
        assert numbers(call.outcome()) == (30, 30, 0, 0, 0)


def test_a_duplicate_is_reported(store: InMemoryFailedMessages) -> None:
    """
    What the broker had already leaves the store, too.
    """
    broker = FakeBroker(deduplication=True)
    topics = {"orders": TopicSettings(producer_name="shop")}
    store.keep([failed(Message(topic=TOPIC, payload=b"x", sequence_id=1))])
    with sender_of(broker, topics=topics) as sender:
        sender.send("orders", b"x", sequence_id=1)
    with sender_of(broker, store, topics=topics) as sender:
        assert numbers(replay(store, sender)) == (1, 0, 1, 0, 0)
    assert payloads(store) == []


def test_what_is_dropped_and_surely_not_stored_stays(store: InMemoryFailedMessages) -> None:
    """
    A broker that drops a surely missing message, because a higher sequence id was stored, takes it from nobody.
    """
    broker = FakeBroker(deduplication=True)
    topics = {"orders": TopicSettings(producer_name="shop")}
    store.keep([failed(Message(topic=TOPIC, payload=b"5", sequence_id=5), Certainty.NOT_STORED)])
    with sender_of(broker, topics=topics) as sender:
        sender.send("orders", b"6", sequence_id=6)
    with sender_of(broker, store, topics=topics) as sender:
        assert numbers(replay(store, sender)) == (1, 0, 0, 1, 0)
    assert [(each.message.payload, each.error) for each in store.find()] == [(b"5", "SequenceIdTooLow")]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"rate": 0}, "rate: must be a number of messages per second above 0, not 0"),
        ({"rate": "5"}, "rate"),
        ({"limit": -1}, "limit: must be a whole number from 0, not -1"),
        ({"limit": 1.5}, "limit"),
    ],
)
def test_bad_arguments_are_refused(
    broker: FakeBroker, store: InMemoryFailedMessages, arguments: dict[str, Any], text: str
) -> None:
    """
    Each raises a typed error that names it, before anything is claimed.
    """
    with sender_of(broker, store) as sender, pytest.raises(InvalidInput, match=text):
        replay(store, sender, **arguments)


def test_the_sender_must_have_the_same_store(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    Otherwise a message that fails again would be kept twice, and a late acknowledgement would find nothing.
    """
    with sender_of(broker) as sender, pytest.raises(InvalidInput, match="sender: must keep its failed messages in"):
        replay(store, sender)


# -- what fails ----------------------------------------------------------------------------------------------------


def test_a_failure_stops_its_lane_and_no_other(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    Behind a message that failed again none of its lane is sent; all keep their places, and a second run sends them in order.
    """
    keep(store, [("a1", "a"), ("b1", "b"), ("a2", "a")])
    keep(store, [("free", None)], topic="others")  # of this topic, it could be the first that is handed over
    keep(store, [("a3", "a"), ("b2", "b")])
    with sender_of(broker, store) as sender:
        sender.send("orders", "first", partition_key="z")
        broker.fail_next(1, "CryptoError", phase=Phase.INLINE, topic="orders")
        report = replay(store, sender)
        assert numbers(report) == (6, 3, 0, 1, 2)
        assert payloads(store) == [b"a1", b"a2", b"a3"]
        again = next(iter(store.find(EVERYTHING)))
        assert (again.error, [each.code for each in again.attempts]) == ("CryptoError", ["CryptoError"])
        assert again.certainty is Certainty.NOT_STORED
        assert numbers(replay(store, sender)) == (3, 3, 0, 0, 0)
    assert [each.payload for each in broker.messages("orders") if each.partition_key == "a"] == [b"a1", b"a2", b"a3"]
    assert payloads(store) == []


def test_a_failure_in_a_small_round_does_not_end_the_run(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    With a low rate a round is one message: one that is refused for itself is no reason to leave the others.
    """
    keep(store, [("poison", None), ("good", None)])
    with sender_of(broker, store) as sender:
        sender.send("orders", "first")
        broker.fail_next(1, "CryptoError")
        assert numbers(replay(store, sender, rate=2)) == (2, 1, 0, 1, 0)
    assert payloads(store) == [b"poison"]


def test_a_run_ends_when_the_broker_is_away(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    It does not go through the whole store in vain, and what it claimed and did not send is free again, untouched.
    """
    keep(store, [(str(number), "k") for number in range(50)])
    pool = PoolSettings(creation_backoff_seconds=0, creation_backoff_max_seconds=0)
    with sender_of(broker, store, pool=pool) as sender:
        broker.fail_next(1000, "ConnectError", phase=Phase.CREATE)
        report = replay(store, sender)
        assert (report.selected, report.delivered, report.failed) == (50, 0, 1)
        broker.forget_faults()
        assert {row.certainty for row in store.find(EVERYTHING)} == {Certainty.NOT_STORED}
        assert numbers(replay(store, sender)) == (50, 50, 0, 0, 0)
    assert broker.payloads("orders") == [str(number).encode() for number in range(50)]


def test_the_next_ones_are_read_while_the_last_ones_fly(
    broker: FakeBroker, store: InMemoryFailedMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Of many rounds each is claimed before the one before it is marked, never more than asked for, and order stays.
    """
    monkeypatch.setattr(sys.modules["safepulsar.sending.replay"], "_AT_ONCE", 4)  # the name is the function's
    calls: list[str] = []
    real_claim, real_delivered = store.claim, store.delivered

    def claim(
        owner: str, where: FailedMessageFilter = EVERYTHING, *, limit: int, lease_seconds: float
    ) -> list[FailedMessage]:
        calls.append(f"claim {limit}")
        return real_claim(owner, where, limit=limit, lease_seconds=lease_seconds)

    def delivered(owner: str, message_ids: Mapping[int, MessageId]) -> list[int]:
        calls.append(f"delivered {len(message_ids)}")
        return real_delivered(owner, message_ids)

    monkeypatch.setattr(store, "claim", claim)
    monkeypatch.setattr(store, "delivered", delivered)
    keep(store, [(str(number), None if number % 2 else "k") for number in range(12)])
    with sender_of(broker, store) as sender:
        assert numbers(replay(store, sender, limit=10)) == (10, 10, 0, 0, 0)
    # Of four, two are of one lane: a wave of three, and one of the last, behind which more is claimed.
    assert calls == [
        *("claim 4", "delivered 3", "claim 4", "delivered 1"),
        *("delivered 3", "claim 2", "delivered 1", "delivered 2"),
    ]
    assert [payload for payload in broker.payloads("orders") if int(payload or 0) % 2 == 0] == [
        b"0",
        b"2",
        b"4",
        b"6",
        b"8",
    ]
    assert sorted(payloads(store), key=lambda payload: int(payload or 0)) == [b"10", b"11"]


def test_what_was_read_ahead_of_an_outage_is_free_again(
    broker: FakeBroker, store: InMemoryFailedMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    When the run ends because the broker is away, what it had claimed for its next round is given back untouched.
    """
    monkeypatch.setattr(sys.modules["safepulsar.sending.replay"], "_AT_ONCE", 4)  # the name is the function's
    keep(store, [(str(number), None) for number in range(12)])
    pool = PoolSettings(creation_backoff_seconds=0, creation_backoff_max_seconds=0)
    with sender_of(broker, store, pool=pool) as sender:
        broker.fail_next(1000, "ConnectError", phase=Phase.CREATE)
        report = replay(store, sender)
        assert (report.delivered, report.failed, report.skipped) == (0, 4, 0)
        assert store.stats()["claimed"] == 0
        broker.forget_faults()
        assert {row.certainty for row in store.find(EVERYTHING)} == {Certainty.NOT_STORED}
        assert numbers(replay(store, sender)) == (12, 12, 0, 0, 0)


def test_a_message_that_the_sender_refuses_is_skipped(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    It stays in the store, and its lane behind it; the run goes on.
    """
    keep(store, [("x" * 100, "a"), ("a2", "a"), ("b", "b")])
    with sender_of(broker, store, max_message_bytes=50) as sender:
        assert numbers(replay(store, sender)) == (3, 1, 0, 0, 2)
    assert payloads(store) == [b"x" * 100, b"a2"]


def test_a_doubt_stays(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    A message that may be stored is never NOT_STORED again, whatever its replay says.
    """
    keep(store, [("x", None)], certainty=Certainty.MAYBE_STORED)
    with sender_of(broker, store) as sender:
        broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
        assert numbers(replay(store, sender)) == (1, 0, 0, 1, 0)
    (row,) = store.find(EVERYTHING)
    assert (row.certainty, row.error) == (Certainty.MAYBE_STORED, "AuthorizationError")


# -- several, and stopped anywhere -----------------------------------------------------------------------------------


def test_two_replayers_never_send_one_message_twice(broker: FakeBroker, tmp_path: Path) -> None:
    """
    They share the store: together they send each message once, in order per key.
    """
    path = tmp_path / "failed.db"
    with SqliteFailedMessages(path) as first, SqliteFailedMessages(path) as second:
        keep(first, [(str(number), str(number % 20)) for number in range(1500)])
        with sender_of(broker, first) as one, sender_of(broker, second) as other:
            calls = [Call(replay, first, one), Call(replay, second, other)]
            reports = [call.outcome(60) for call in calls]
            reports += [replay(first, one) for _ in range(3)]
        assert payloads(first) == []
    assert sum(report.delivered for report in reports) == 1500
    sent = broker.messages("orders")
    assert len(sent) == 1500
    for key in map(str, range(20)):
        mine = [each.payload for each in sent if each.partition_key == key]
        assert mine == [str(number).encode() for number in range(int(key), 1500, 20)]


def test_a_sender_that_closes_leaves_the_rest_in_the_store(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    What was on its way is MAYBE_STORED, what was not sent is as it was, and nothing is claimed any more.
    """
    keep(store, [(str(number), "k") for number in range(10)])
    sender = sender_of(broker, store)
    sender.send("orders", "first", partition_key="k")
    broker.hold()
    call = Call(replay, store, sender)
    broker.wait_until(lambda: broker.held == 1)
    sender.close(0)
    assert isinstance(call.outcome(), SenderClosed)
    rows = [(row.message.payload, row.certainty) for row in store.find(EVERYTHING)]
    assert rows[0] == (b"0", Certainty.MAYBE_STORED)
    assert rows[1:] == [(str(number).encode(), Certainty.NOT_STORED) for number in range(1, 10)]
    assert len(store.claim("next", limit=100, lease_seconds=1)) == 10


def test_a_sender_without_room_leaves_the_rest_in_the_store(broker: FakeBroker, store: InMemoryFailedMessages) -> None:
    """
    QueueFull goes to the caller once all that was sent is settled; the rest is free again, untouched.
    """
    keep(store, [(str(number), None) for number in range(10)])
    with sender_of(broker, store, max_in_flight_messages=2, when_full=WhenFull.RAISE) as sender:
        sender.send("orders", "first")
        broker.hold()
        call = Call(replay, store, sender)
        broker.wait_until(lambda: broker.held == 1)
        broker.release()
        outcome = call.outcome()
        left = payloads(store)
    assert type(outcome).__name__ == "QueueFull"
    assert left == [str(number).encode() for number in range(2, 10)]
    assert broker.payloads("orders") == [b"first", b"0", b"1"]
    store.open()
    assert {row.certainty for row in store.find(EVERYTHING)} == {Certainty.NOT_STORED}


class Forgetful(InMemoryFailedMessages):
    """
    A store that cannot note deliveries.
    """

    def delivered(self, owner: str, message_ids: Mapping[int, MessageId]) -> list[int]:  # noqa: ARG002  # it raises
        """
        Refuse.
        """
        raise StoreFull("the disk is full; free some space")


def test_what_was_delivered_and_could_not_be_marked_is_in_doubt(broker: FakeBroker) -> None:
    """
    If the store fails behind the delivery, the message is not free again before its lease runs out, MAYBE_STORED.
    """
    moment = [time.time()]
    store = Forgetful(clock=lambda: moment[0])
    with sender_of(broker, store) as sender:
        sender.open()
        keep(store, [("a", None)])
        with pytest.raises(StoreFull):
            replay(store, sender)
        assert broker.payloads("orders") == [b"a"]
        assert store.claim("next", limit=1, lease_seconds=1) == []
        moment[0] += 1000
        (row,) = store.claim("next", limit=1, lease_seconds=1)
        assert row.certainty is Certainty.MAYBE_STORED


def test_ctrl_c_leaves_no_message_to_be_sent_twice_unknowingly(
    broker: FakeBroker, store: InMemoryFailedMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Interrupted while it waits for answers, what is on its way stays claimed, and the rest is free.
    """
    keep(store, [("a", "k"), ("b", "k")])
    with sender_of(broker, store) as sender:
        sender.open()

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("safepulsar.books.handle.SendHandle.exception", interrupt)
            with pytest.raises(KeyboardInterrupt):
                replay(store, sender)
        assert sender.flush() == 0
        assert broker.payloads("orders") == [b"a"]
        assert store.status(1).owner is not None
        assert store.status(2).owner is None


def test_a_lease_lasts_as_long_as_messages_may_fly(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is longer than the sender's deadline, and is renewed while a slow rate or a slow broker holds the replay up.
    """
    leases: list[float] = []
    renewed = threading.Event()

    class Watched(InMemoryFailedMessages):
        def claim(
            self,
            owner: str,
            where: FailedMessageFilter = EVERYTHING,
            *,
            limit: int,
            lease_seconds: float,
            max_bytes: int = CLAIM_MAX_BYTES,
        ) -> list[FailedMessage]:
            leases.append(lease_seconds)
            return super().claim(owner, where, limit=limit, lease_seconds=lease_seconds, max_bytes=max_bytes)

        def extend(self, owner: str, ids: Iterable[int], lease_seconds: float) -> list[int]:
            renewed.set()
            leases.append(lease_seconds)
            return super().extend(owner, ids, lease_seconds)

    monkeypatch.setattr(REPLAY_MODULE, "_RENEW_SECONDS", 0.05)
    store = Watched().open()
    keep(store, [("x", "k"), ("poison", "l"), ("y", "l"), ("z", None)])
    with sender_of(broker, store, deadline_seconds=500) as sender:
        sender.send("orders", "first")
        broker.fail_next(1, "CryptoError")
        assert replay(store, sender, rate=4).delivered + 2 >= 3
    assert renewed.is_set()
    assert min(leases) == 560


def test_a_message_that_another_one_took_over_is_not_sent(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When a lease ran out all the same (a stopped process, a wrong clock), the rest of the claim is left alone.
    """
    moment = [time.time()]
    store = InMemoryFailedMessages(clock=lambda: moment[0]).open()
    monkeypatch.setattr(REPLAY_MODULE, "_RENEW_SECONDS", 0.0)
    keep(store, [("a", "k"), ("b", "k")])
    with sender_of(broker, store) as sender:
        sender.send("orders", "first", partition_key="k")
        broker.hold()
        call = Call(replay, store, sender)
        broker.wait_until(lambda: broker.held == 1)
        moment[0] += 10_000
        assert [row.message.payload for row in store.claim("other", limit=10, lease_seconds=60)] == [b"a", b"b"]
        broker.release()
        assert numbers(call.outcome()) == (2, 1, 0, 0, 0)
    assert broker.payloads("orders") == [b"first", b"a"]


@pytest.mark.slow
def test_killed_in_the_middle_it_can_be_run_again(lite_broker: LiteBroker, topic: str, tmp_path: Path) -> None:
    """
    Killed (-9) again and again, the replay loses nothing, and sends twice only what was on its way at a kill.
    """
    path = tmp_path / "failed.db"
    with SqliteFailedMessages(path) as store:
        keep(store, [(str(number), str(number % 40)) for number in range(4000)], topic=topic)
    kills = (0.01, 0.03, 0.06, 0.1, 0.15)
    for seconds in kills:
        run_script(_REPLAY, lite_broker.url, path, seconds, timeout_seconds=60).check(-signal.SIGKILL)
        _end_leases(path)
    run_script(_REPLAY, lite_broker.url, path, 60, timeout_seconds=50).check()
    with SqliteFailedMessages(path) as store:
        assert payloads(store) == []
    records = read_topic(lite_broker, topic, until=4000)
    first: dict[bytes, int] = {}
    for place, record in enumerate(records):
        first.setdefault(record.payload, place)
    assert len(first) == 4000
    assert len(records) - 4000 <= len(kills) * 1000
    for key in range(40):
        places = [first[str(number).encode()] for number in range(key, 4000, 40)]
        assert places == sorted(places)


_REPLAY = """
    import os, signal, sys, threading
    from safepulsar import RetryingSender, SqliteFailedMessages, replay

    url, path, seconds = sys.argv[1:]
    killer = threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL))
    killer.daemon = True
    with SqliteFailedMessages(path) as store, RetryingSender(url, failed_messages=store) as sender:
        killer.start()
        report = replay(store, sender)
        assert report.failed == report.skipped == 0, report
    """


def _end_leases(path: Path) -> None:
    # As if the lease of the dead replayer had run out; the store's clock is a parameter for that.
    with SqliteFailedMessages(path, clock=lambda: time.time() + 10_000) as store:
        store.claim("waker", FailedMessageFilter(ids=()), limit=1, lease_seconds=1)
