"""
What was put is handed out once, in the order of its ids, to the one that sends, until it is final.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import (
    InvalidInput,
    InvalidMessage,
    InvalidSettings,
    ProducerNameInUse,
    StoreFull,
    StoreOfAnotherProducer,
    StoreUnavailable,
)
from safepulsar.exactly_once.producer_journal import ProducerJournal
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.failed_messages.database import Transaction
from safepulsar.message import Message
from safepulsar.outbox import Outbox
from tests.failed_messages.samples import FULL, START, ManualClock, failed
from tests.outbox.samples import ORDERS, PAYMENTS, Sender, failure, name_of, order, orders
from tests.waiting import wait_until

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from safepulsar.outbox import OutboxClaim, OutboxRow


def _claim(outbox: Outbox, owner: str = "me") -> OutboxClaim:
    return outbox.claim(owner, lease_seconds=30)


def _ids(rows: Sequence[OutboxRow]) -> list[int]:
    return [row.id for row in rows]


def test_everything_of_a_message_comes_back(outbox: Outbox, clock: ManualClock) -> None:
    """
    Each field, the producer name, the time of acceptance and the sequence id, which is the id.
    """
    message = FULL.message
    whole = Message(
        topic=message.topic,
        payload=message.payload,
        properties=message.properties,
        partition_key=message.partition_key,
        ordering_key=message.ordering_key,
        event_timestamp_ms=message.event_timestamp_ms,
        deliver_at_ms=message.deliver_at_ms,
    )
    assert outbox.put([whole, Message(topic=ORDERS, payload=None)]) == [1, 2]
    clock.now += 5
    first, second = _claim(outbox).take()
    assert first.message == whole
    assert (first.id, first.sequence_id, first.producer_name, first.accepted_at) == (1, 1, "shop-orders", START)
    assert second.message == Message(topic=ORDERS, payload=None)


def test_the_sender_gets_rows_at_once_and_in_order(outbox: Outbox) -> None:
    """
    With a claim that has handed out everything, each put hands its rows over before it returns, and `take` has none.
    """
    claim = _claim(outbox)
    sender = Sender()
    assert claim.take() == []
    for payloads in (("a",), ("b", "c"), ("d",)):
        outbox.put(orders(*payloads), sender)
    assert (sender.sent, sender.not_yet) == ([1, 2, 3, 4], [])
    assert sender.payloads == {1: "a", 2: "b", 3: "c", 4: "d"}
    assert claim.take() == []


def test_a_new_claim_gets_all_that_is_not_final(outbox: Outbox, path: Path) -> None:
    """
    Whatever the last one did not settle is handed out again in its order, and before anything new.
    """
    claim = _claim(outbox)
    outbox.put(orders("a", "b", "c"), Sender())
    outbox.remove([2])
    claim.release()
    with SqliteFailedMessages(path) as other_store:
        other = Outbox(other_store, producer_name=name_of)
        again = _claim(other, "next")
        assert again.fencing_token == 2
        sender = Sender()
        other.put(orders("d"), sender)
        assert (sender.sent, sender.not_yet) == ([], [4])
        assert _ids(again.take()) == [1, 3, 4]
        other.put(orders("e"), sender)
        assert sender.sent == [5]


def test_rows_are_taken_page_by_page(outbox: Outbox) -> None:
    """
    Neither the number of rows at a time nor their bytes grow with what waits.
    """
    outbox.put([order(b"x" * 100) for _ in range(10)])
    claim = _claim(outbox)
    assert _ids(claim.take(3)) == [1, 2, 3]
    assert _ids(claim.take(max_bytes=250)) == [4, 5]
    assert _ids(claim.take(max_bytes=1)) == [6]
    assert _ids(claim.take()) == [7, 8, 9, 10]
    assert claim.take() == []


def test_what_another_process_puts_keeps_its_place(outbox: Outbox, path: Path) -> None:
    """
    Rows that another process put in between come first; only then do this one's go on at once.
    """
    claim = _claim(outbox)
    sender = Sender()
    with SqliteFailedMessages(path) as other_store:
        other = Outbox(other_store, producer_name=name_of)
        outbox.put(orders("a"), sender)
        others = Sender()
        other.put(orders("b"), others)
        assert (others.sent, others.not_yet) == ([], [2])  # it has no claim
        outbox.put(orders("c"), sender)
        assert (sender.sent, sender.not_yet) == ([1], [3])
        assert _ids(claim.take()) == [2, 3]
        outbox.put(orders("d"), sender)
        assert sender.sent == [1, 4]
        other.put(orders("e"))
        other.remove([5])
        outbox.put(orders("f"), sender)
        assert sender.not_yet == [3, 6]
        assert _ids(claim.take()) == [6]


def test_an_id_is_never_given_again(outbox: Outbox, path: Path) -> None:
    """
    Not when the last rows are gone, not after another process has taken some, and not after a restart.
    """
    assert outbox.put(orders("a", "b", "c")) == [1, 2, 3]
    outbox.remove([2, 3])
    assert outbox.put(orders("d")) == [4]
    outbox.remove([1, 4])
    outbox.remove([1, 4, 99])
    assert outbox.put(orders("e")) == [5]
    with SqliteFailedMessages(path) as other_store:
        other = Outbox(other_store, producer_name=name_of)
        assert other.put(orders("f")) == [6]
        other.remove([6])
        assert outbox.put(orders("g")) == [7]
        outbox.remove([5, 7])
        assert other.put(orders("h")) == [8]
        assert outbox.put(orders("i")) == [9]


def test_ids_are_above_those_of_the_past(outbox: Outbox, store: SqliteFailedMessages) -> None:
    """
    A producer name that was numbered by hand before, or that the broker knows, goes on above.
    """
    journal = ProducerJournal(store)
    by_hand = journal.claim("shop-orders", ORDERS, owner="me", lease_seconds=30)
    by_hand.allocate(10)
    assert outbox.put(orders("a")) == [11]
    by_hand.advance(20)
    assert outbox.put(orders("b")) == [21]
    by_hand.record(confirmed=30, positions={})
    assert outbox.put(orders("c")) == [31]
    with pytest.raises(StoreOfAnotherProducer, match="the outbox of this store numbers"):
        by_hand.allocate(1)


def test_a_producer_name_belongs_to_one_topic(outbox: Outbox, store: SqliteFailedMessages) -> None:
    """
    Another topic under the same name is refused, and what is put at the same time is not affected.
    """
    same = Outbox(store, producer_name=lambda _: "shop")
    same.put(orders("a"))
    with pytest.raises(StoreOfAnotherProducer, match=f"'{ORDERS}' in this store, not to '{PAYMENTS}'"):
        same.put([order(), order(topic=PAYMENTS)])
    assert outbox.put([order(), order(topic=PAYMENTS)]) == [2, 3]
    assert [row.producer_name for row in _claim(outbox).take()] == ["shop", "shop-orders", "shop-payments"]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Message(topic=ORDERS, payload=b"x", sequence_id=7), "sequence_id"),
        (Message(topic=ORDERS, payload="text"), "payload"),  # type: ignore[arg-type]  # that is what is tested
        (Message(topic=ORDERS, payload=b"x", partition_key="\ud800"), "partition_key"),
    ],
)
def test_what_cannot_be_kept_is_refused(outbox: Outbox, message: Message, field: str) -> None:
    """
    One wrong message refuses the whole call, names the field, and nothing is written.
    """
    with pytest.raises(InvalidMessage, match=field):
        outbox.put([order(), message])
    assert outbox.stats()["waiting"] == 0
    assert outbox.put([]) == []


def test_a_wrong_producer_name_is_refused(store: SqliteFailedMessages) -> None:
    """
    A name is text with something in it: the empty one is the outbox's own.
    """
    for name in ("", 7, None, "a\0b"):
        outbox = Outbox(store, producer_name=lambda _, name=name: name)  # type: ignore[misc]  # that is what is tested
        with pytest.raises(InvalidSettings, match="producer_name"):
            outbox.put([order()])


def test_one_at_a_time_sends(outbox: Outbox, path: Path, clock: ManualClock) -> None:
    """
    A second claim is refused until the first is released or its lease is over; the late one is shut out then.
    """
    claim = _claim(outbox)
    with SqliteFailedMessages(path, clock=clock) as other_store:
        other = Outbox(other_store, producer_name=name_of, clock=clock)
        with pytest.raises(
            ProducerNameInUse, match="the outbox of this store is in use by 'me': end it, or use another"
        ):
            _claim(other, "other")
        clock.now += 20
        claim.extend(30)
        clock.now += 20
        with pytest.raises(ProducerNameInUse):
            _claim(other, "other")
        clock.now += 10
        taken = _claim(other, "other")
        sender = Sender()
        outbox.put(orders("a"), sender)
        assert (sender.sent, sender.not_yet) == ([], [1])  # the lease of this one is over
        for call in (claim.take, lambda: claim.extend(30), lambda: outbox.fail({1: failure(order(), 1)})):
            with pytest.raises(ProducerNameInUse, match="'other': it took over"):
                call()
        claim.release()
        assert _ids(taken.take()) == [1]


def test_taking_renews_the_lease(outbox: Outbox, clock: ManualClock) -> None:
    """
    Whoever takes now and then keeps the claim, and its rows go on at once.
    """
    claim = _claim(outbox)
    sender = Sender()
    for _ in range(5):
        clock.now += 20
        claim.take()
        outbox.put(orders("a"), sender)
    assert (sender.sent, sender.not_yet) == ([1, 2, 3, 4, 5], [])


def test_a_released_claim_hands_out_nothing(outbox: Outbox) -> None:
    """
    After its release rows are only written; a second release does nothing.
    """
    claim = _claim(outbox)
    claim.release()
    claim.release()
    sender = Sender()
    outbox.put(orders("a"), sender)
    assert sender.not_yet == [1]
    with pytest.raises(ProducerNameInUse, match="was released"):
        claim.take()


def test_a_failure_moves_to_the_failed_messages(outbox: Outbox, store: SqliteFailedMessages) -> None:
    """
    The row goes and the failed message comes, with the sequence id of the row; what is settled already is left out.
    """
    _claim(outbox)
    first, second, third = orders("a", "b", "c")
    outbox.put([first, second, third], Sender())
    outbox.remove([2])
    kept = outbox.fail({3: failure(third, 3), 2: failure(second, 2), 1: failure(first, 1)})
    assert kept == {1: 1, 3: 2}
    found = list(store.find())
    assert [(each.id, each.message.payload, each.message.sequence_id) for each in found] == [(1, b"a", 1), (2, b"c", 3)]
    assert outbox.stats()["waiting"] == 0
    assert outbox.fail({1: failure(first, 1)}) == {}
    assert outbox.fail({}) == {}
    assert outbox.put(orders("d")) == [4]


def test_only_the_one_that_sends_may_fail(outbox: Outbox) -> None:
    """
    Without a claim nothing is moved.
    """
    outbox.put(orders("a"))
    with pytest.raises(ProducerNameInUse, match="claim"):
        outbox.fail({1: failure(order(), 1)})
    assert outbox.stats()["waiting"] == 1


def test_numbers(outbox: Outbox, clock: ManualClock) -> None:
    """
    The stats say how many rows wait, since when, and how large they are.
    """
    assert outbox.stats() == {"waiting": 0, "oldest_age_seconds": 0.0, "bytes": 0, "corrupted": 0}
    outbox.put([order(b"12345"), order(None)])
    clock.now += 7
    outbox.put([order(b"123")])
    assert outbox.stats() == {"waiting": 3, "oldest_age_seconds": 7.0, "bytes": 8, "corrupted": 0}
    outbox.remove([1, 2])
    assert outbox.stats() == {"waiting": 1, "oldest_age_seconds": 0.0, "bytes": 3, "corrupted": 0}
    assert outbox.corrupted_ids() == ()


def test_a_bound_on_bytes_holds_for_the_outbox_too(path: Path) -> None:
    """
    What does not fit under `max_bytes` of the store is refused, and nothing of it is written.
    """
    with SqliteFailedMessages(path, max_bytes=200_000) as store:
        outbox = Outbox(store, producer_name=name_of)
        outbox.put([order(b"x" * 50_000)])
        with pytest.raises(StoreFull, match="max_bytes"):
            outbox.put([order(b"x" * 50_000) for _ in range(3)])
        assert outbox.stats()["waiting"] == 1


def test_another_file_in_its_place_is_begun_anew(outbox: Outbox, store: SqliteFailedMessages, path: Path) -> None:
    """
    If the file is deleted under it, what is put next is in a new one, which knows the producer name as well.
    """
    outbox.put(orders("a", "b"))
    path.unlink()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert outbox.put(orders("c")) == [1]
    claim = ProducerJournal(store).claim("shop-orders", ORDERS, owner="me", lease_seconds=30)
    with pytest.raises(StoreOfAnotherProducer, match="the outbox of this store numbers"):
        claim.allocate(1)


def test_a_full_disk_accepts_nothing(outbox: Outbox, store: SqliteFailedMessages) -> None:
    """
    What finds no space is refused as a whole, also together with others, and the ids go on as if it had not been.
    """
    claim = _claim(outbox)
    sender = Sender()
    outbox.put(orders("a"), sender)
    with store.database.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreFull, match="free disk space"):
        outbox.put([order(b"x" * 50_000)], sender)
    with pytest.raises(StoreFull, match="free disk space"):
        outbox.put([order(b"x" * 500) for _ in range(200)], sender)
    assert outbox.put(orders("b"), sender) == [2]
    with store.database.reading() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    assert outbox.put([order(b"x" * 50_000)], sender) == [3]
    assert (sender.sent, sender.not_yet) == ([1, 2, 3], [])
    assert claim.take() == []


def test_who_is_interrupted_after_the_write_has_written(store: SqliteFailedMessages) -> None:
    """
    Ctrl-C that comes between the write and the next instruction: the transaction knows that it is on disk.
    """

    class Interrupted:
        """
        A connection whose caller is interrupted.
        """

        def __init__(self, connection: sqlite3.Connection, *, after: bool) -> None:
            self._connection = connection
            self._after = after

        @property
        def total_changes(self) -> int:
            """
            As the connection's.
            """
            return self._connection.total_changes

        def execute(self, *arguments: object) -> None:
            """
            Do it, or not, and be interrupted.
            """
            if self._after:
                self._connection.execute(*arguments)  # type: ignore[arg-type]  # passed on
            raise KeyboardInterrupt

    database = store.database
    with database.writing() as connection:
        connection.execute("CREATE TABLE numbers (value)")
    for after in (True, False):
        transaction = Transaction()
        database._connection = Interrupted(connection, after=after)  # type: ignore[assignment]  # looks like one
        with pytest.raises(KeyboardInterrupt):
            database.write_at_once("INSERT INTO numbers VALUES (?)", (1,), transaction)
        assert transaction.committed is after
    database._connection = connection
    assert not database.write_at_once("INSERT INTO numbers SELECT 1 WHERE ? = 2", (1,), Transaction())
    with database.reading() as reader:
        assert reader.execute("SELECT count(*) FROM numbers").fetchone() == (1,)


def test_a_closed_store_takes_nothing(outbox: Outbox, store: SqliteFailedMessages) -> None:
    """
    Every call says that the store is closed.
    """
    claim = _claim(outbox)
    store.close()
    for call in (lambda: outbox.put(orders("a")), lambda: outbox.remove([1]), outbox.stats, claim.take):
        with pytest.raises(StoreUnavailable, match="closed"):
            call()


def test_a_callback_that_raises_harms_nobody(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    """
    The put has succeeded and says so; its rows, and those behind them, are handed out by `take`.
    """
    claim = _claim(outbox)

    def broken(_rows: Sequence[OutboxRow], _is_next: bool) -> None:  # noqa: FBT001 - as the outbox calls it
        raise ValueError

    sender = Sender()
    with caplog.at_level(logging.ERROR):
        assert outbox.put(orders("a"), broken) == [1]
    assert [record.message for record in caplog.records] == ["safepulsar.outbox_callback_failed"]
    outbox.put(orders("b"), sender)
    assert (sender.sent, sender.not_yet) == ([], [2])
    assert _ids(claim.take()) == [1, 2]
    outbox.put(orders("c"), sender)
    assert sender.sent == [3]


def test_threads_put_in_one_order(outbox: Outbox) -> None:
    """
    With eight threads the sender sees every row once, in the order of the ids, and before its own put returns.
    """
    _claim(outbox)
    sender = Sender()
    wrong: list[int] = []

    def put(name: int) -> None:
        for count in range(40):
            ids = outbox.put(orders(*[f"{name}-{count}-{i}" for i in range(1 + count % 3)]), sender)
            if any(number not in sender.payloads for number in ids):
                wrong.extend(ids)
            mine = [sender.payloads[number] for number in ids]
            if mine != [f"{name}-{count}-{i}" for i in range(1 + count % 3)]:
                wrong.extend(ids)

    threads = [threading.Thread(target=put, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sender.sent == list(range(1, 8 * 79 + 1))
    assert sender.not_yet == []


def test_many_threads_share_a_write(outbox: Outbox, store: SqliteFailedMessages) -> None:
    """
    While one write goes on the others gather, and are written by one more.
    """
    writes: list[int] = []
    real = outbox._group_commit._write

    def counted(group: Sequence[object], transaction: object) -> None:
        writes.append(len(group))
        real(group, transaction)  # type: ignore[arg-type]  # passed on

    outbox._group_commit._write = counted
    threads = [threading.Thread(target=outbox.put, args=(orders(str(number)),)) for number in range(6)]
    with store.database.reading():  # the file is in use
        threads[0].start()
        wait_until(lambda: writes == [1], "the first to write")
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: len(outbox._group_commit._queue) == 5, "the others to wait")
    for thread in threads:
        thread.join()
    assert writes == [1, 5]


def test_what_is_wrong_with_a_page_is_refused(outbox: Outbox) -> None:
    """
    A limit, a size, an owner or a lease out of range is a typed error that names the field.
    """
    claim = _claim(outbox)
    for limit in (0, 100_001, True, "1"):
        with pytest.raises(InvalidInput, match="limit"):
            claim.take(limit)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(InvalidInput, match="max_bytes"):
        claim.take(max_bytes=0)
    with pytest.raises(InvalidInput, match="lease_seconds"):
        outbox.claim("me", lease_seconds=0)
    with pytest.raises(InvalidInput, match="owner"):
        outbox.claim("", lease_seconds=1)


def test_failed_messages_and_outbox_do_not_meet(outbox: Outbox, store: SqliteFailedMessages) -> None:
    """
    They share a file and nothing else: neither counts nor ids.
    """
    store.keep([failed(b"f")])
    outbox.put(orders("a", "b"))
    assert store.stats()["kept"] == 1
    assert [each.message.payload for each in store.find()] == [b"f"]
    assert store.keep([failed(b"g")]) == [2]
    assert repr(outbox).startswith("<Outbox in <SqliteFailedMessages")
    assert repr(_claim(outbox)) == "<OutboxClaim, fencing token 1>"
