"""
Every damaged row of the outbox is found, reported by its id, and never handed out.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import StoreCorrupted
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.message import Message
from safepulsar.outbox import Outbox
from tests.failed_messages.samples import meddle
from tests.outbox.samples import ORDERS, name_of, order, orders

if TYPE_CHECKING:
    from pathlib import Path

_MARKED = Message(
    topic="persistent://public/default/mark-topic",
    payload=b"mark-payload",
    properties={"mark-name": "mark-value"},
    partition_key="mark-partition",
    ordering_key="mark-ordering",
)


@pytest.mark.parametrize("mark", ["topic", "payload", "name", "value", "partition", "ordering", "producer"])
def test_every_flipped_byte_of_a_row_is_found(path: Path, mark: str) -> None:
    """
    Any byte of payload, keys, properties, topic or producer name that changes in the file makes that one row damaged.
    """
    with SqliteFailedMessages(path) as store:
        marked = Outbox(store, producer_name=lambda m: "mark-producer" if m is _MARKED else "shop")
        marked.put([order(b"before"), _MARKED, order(b"after")])
    # The journal has the name and the topic too; without it the outbox begins a new one.
    meddle(path, "DELETE FROM producers")
    meddle(path, "VACUUM")
    whole = path.read_bytes()
    text = f"mark-{mark}".encode()
    assert whole.count(text) == 1
    start = whole.index(text)
    for place in range(start, start + len(text)):
        for bit in (0x01, 0x80):  # another letter, and no UTF-8 at all
            flipped = bytearray(whole)
            flipped[place] ^= bit
            path.write_bytes(flipped)
            with SqliteFailedMessages(path) as store:
                outbox = Outbox(store, producer_name=name_of)
                rows = outbox.claim("me", lease_seconds=30).take()
                assert [row.message.payload for row in rows] == [b"before", b"after"]
                assert outbox.corrupted_ids() == (2,)


@pytest.mark.parametrize(
    "change",
    [
        "payload = NULL",
        "payload = x''",
        "partition_key = NULL",
        "ordering_key = partition_key",
        "event_timestamp_ms = 0",
        "deliver_at_ms = 0",
        "properties = '{}'",
        "accepted_at = accepted_at + 1e-6",
        "producer_name = ''",
        "topic = topic || 'x'",
        "checksum = checksum + 1",
        "id = 9",
    ],
)
def test_every_changed_column_is_found(path: Path, change: str) -> None:
    """
    No column can change without the row being found damaged.
    """
    with SqliteFailedMessages(path) as store:
        outbox = Outbox(store, producer_name=name_of)
        outbox.put([order(b"a", key="k"), order(b"b")])
        meddle(path, f"UPDATE outbox SET {change} WHERE id = 1")  # noqa: S608 - written above
        rows = outbox.claim("me", lease_seconds=30).take()
        assert [row.message.payload for row in rows] == [b"b"]
        assert outbox.corrupted_ids() == ((9,) if change == "id = 9" else (1,))
        assert outbox.stats()["corrupted"] == 1


def test_a_damaged_row_is_reported_once_and_quotes_nothing(
    outbox: Outbox, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The log names the id of a damaged row once and nothing of the message; removing it is the end of it.
    """
    outbox.put([order(b"SECRET-payload", key="SECRET-key"), order(b"b")])
    meddle(path, "UPDATE outbox SET partition_key = 'SECRET-other' WHERE id = 1")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            claim = outbox.claim("me", lease_seconds=30)
            assert [row.id for row in claim.take(1)] == [2]
            claim.release()
    assert [(record.message, record.__dict__["outbox_id"]) for record in caplog.records] == [
        ("safepulsar.outbox_row_corrupted", 1)
    ]
    assert "SECRET" not in f"{caplog.text} {caplog.records[0].__dict__}"
    outbox.remove([1])
    assert outbox.stats()["waiting"] == 1
    assert outbox.stats()["corrupted"] == 0


def test_a_damaged_count_gives_no_id(outbox: Outbox, path: Path) -> None:
    """
    If it is not known which ids were given, none is: a second message under an old id would be dropped as a duplicate.
    """
    outbox.put(orders("a", "b"))
    outbox.remove([1, 2])
    meddle(path, "UPDATE producers SET allocated = 1 WHERE name = ''")
    with pytest.raises(StoreCorrupted, match="the ids of its outbox fails its checksum"):
        outbox.put(orders("c"))
    meddle(path, "UPDATE producers SET allocated = 2 WHERE name = ''")
    assert outbox.put(orders("c")) == [3]


def test_a_damaged_name_harms_no_other(path: Path) -> None:
    """
    What is put under a producer name whose facts are damaged is refused; other names go on.
    """
    with SqliteFailedMessages(path) as store:
        Outbox(store, producer_name=name_of).put(orders("a"))
    meddle(path, "UPDATE producers SET confirmed = 7 WHERE name = 'shop-orders'")
    with SqliteFailedMessages(path) as store:
        outbox = Outbox(store, producer_name=name_of)
        with pytest.raises(StoreCorrupted, match="'shop-orders'"):
            outbox.put(orders("b"))
        assert outbox.put([order(topic=ORDERS + "-2")]) == [2]


def test_what_is_removed_is_overwritten(path: Path) -> None:
    """
    A payload that was delivered is not in the file any more.
    """
    with SqliteFailedMessages(path) as store:
        outbox = Outbox(store, producer_name=name_of)
        outbox.put(orders("SECRET-delivered", "stays"))
        outbox.remove([1])
    content = path.read_bytes()
    assert b"SECRET" not in content
    assert b"stays" in content
