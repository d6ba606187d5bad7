"""
Every damaged row is found, reported by its id, and takes nothing else with it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import StoreCorrupted
from safepulsar.failed_messages import FailedAgain, FailedMessageFilter, SqliteFailedMessages
from safepulsar.message import Certainty, FailedMessage, Message, MessageId
from tests.failed_messages.samples import attempt, failed, meddle

if TYPE_CHECKING:
    from pathlib import Path

    from tests.failed_messages.samples import ManualClock


# One in each column of text, so that its bytes can be found in the file.
MARKED = FailedMessage(
    message=Message(
        topic="persistent://public/default/mark-topic",
        payload=b"mark-payload",
        properties={"mark-name": "mark-value"},
        partition_key="mark-partition",
        ordering_key="mark-ordering",
    ),
    certainty=Certainty.NOT_STORED,
    error="mark-error",
    attempts=(attempt("mark-code"),),
    accepted_at=1.0,
    first_failed_at=2.0,
    last_failed_at=3.0,
    producer_name="mark-producer",
    trace_id="mark-trace",
)


@pytest.mark.parametrize(
    "mark", ["topic", "payload", "name", "value", "partition", "ordering", "error", "code", "producer", "trace"]
)
def test_every_flipped_byte_of_a_row_is_found(path: Path, mark: str) -> None:
    """
    Any byte of payload, keys, properties, codes, names or topic that changes in the file makes that one row damaged.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed(b"before"), MARKED, failed(b"after")])
    meddle(path, "DROP INDEX failed_messages_by_lane")  # so that each mark is in the file once
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
                with pytest.raises(StoreCorrupted, match="failed message 2 "):
                    store.get(2)
                assert [message.message.payload for message in store.find()] == [b"before", b"after"]
                assert store.corrupted_ids() == (2,)


@pytest.mark.parametrize(
    "change",
    [
        "payload = NULL",
        "payload = x''",
        "payload = x'62'",
        "partition_key = NULL",
        "ordering_key = partition_key",
        "sequence_id = 1",
        "event_timestamp_ms = 0",
        "deliver_at_ms = 0",
        "properties = '{}'",
        "certainty = 'MAYBE_STORED'",
        "error = ''",
        "attempts = '[[1.0,1.0,\"X\",false,null]]'",
        "accepted_at = accepted_at + 1e-6",
        "first_failed_at = 0",
        "last_failed_at = last_failed_at + 1",
        "producer_name = ''",
        "trace_id = 'x'",
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
        store.keep([failed(b"a", key="k"), failed(b"b")])
        meddle(path, f"UPDATE failed_messages SET {change} WHERE id = 1")  # noqa: S608 - written above
        assert [message.message.payload for message in store.find()] == [b"b"]
        assert store.corrupted_ids() == ((9,) if change == "id = 9" else (1,))
        assert store.stats()["corrupted"] == 1


def test_a_damaged_row_is_reported_once_and_quotes_nothing(
    disk: SqliteFailedMessages, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The log names the id of a damaged row once; neither log nor error holds anything of the message.
    """
    disk.keep([failed(b"SECRET-payload", key="SECRET-key")])
    meddle(path, "UPDATE failed_messages SET trace_id = 'SECRET-trace'")
    with caplog.at_level(logging.WARNING):
        assert list(disk.find()) == list(disk.find()) == []
        with pytest.raises(StoreCorrupted, match="purge it by its id") as refused:
            disk.get(1)
    assert [(record.message, record.__dict__["failed_message_id"]) for record in caplog.records] == [
        ("safepulsar.failed_message_corrupted", 1)
    ]
    assert "SECRET" not in f"{refused.value} {refused.value.__cause__} {caplog.text} {caplog.records[0].__dict__}"


def test_a_damaged_row_stops_its_lane_until_it_is_purged(disk: SqliteFailedMessages, path: Path) -> None:
    """
    Nothing overtakes a damaged row in its lane, other lanes go on, and purging it lets the lane go on.
    """
    disk.keep([failed(key="a"), failed(key="a"), failed(key="b"), failed(), failed()])
    meddle(path, "UPDATE failed_messages SET trace_id = 'x' WHERE id IN (1, 4)")
    assert [message.id for message in disk.claim("r1", limit=10, lease_seconds=30)] == [3, 5]
    assert disk.corrupted_ids() == (1, 4)
    assert disk.purge(FailedMessageFilter(ids=(1, 4))) == 2
    assert disk.corrupted_ids() == ()
    assert [message.id for message in disk.claim("r1", limit=10, lease_seconds=30)] == [2]


def test_damage_behind_many_rows_does_not_end_a_claim(disk: SqliteFailedMessages, path: Path) -> None:
    """
    A claim goes past damaged rows until it has what it may take.
    """
    disk.keep([failed() for _ in range(20)])
    meddle(path, "UPDATE failed_messages SET trace_id = 'x' WHERE id <= 15")
    assert [message.id for message in disk.claim("r1", limit=5, lease_seconds=30)] == [16, 17, 18, 19, 20]


def test_damage_under_a_claim_is_no_trap(disk: SqliteFailedMessages, path: Path, clock: ManualClock) -> None:
    """
    A row that is damaged while it is claimed can be given back, taken over, delivered or purged.
    """
    disk.keep([failed() for _ in range(3)])
    disk.claim("r1", limit=3, lease_seconds=30)
    meddle(path, "UPDATE failed_messages SET trace_id = 'x'")
    failure = FailedAgain(id=1, attempts=(), certainty=Certainty.NOT_STORED, error="X")
    assert disk.failed_again("r1", [failure]) == [1]
    assert disk.delivered("r1", {2: MessageId(1, 2)}) == [2]
    clock.now += 31
    assert disk.claim("r2", limit=3, lease_seconds=30) == []
    assert disk.corrupted_ids() == (1, 3)
    assert disk.purge(FailedMessageFilter()) == 2


def test_damaged_rows_hide_none_behind_them(disk: SqliteFailedMessages, path: Path) -> None:
    """
    However little is asked for at a time, what comes after damaged rows of other lanes is handed out.
    """
    disk.keep([failed(), failed(key="a"), failed(key="a"), failed(key="b"), failed()])
    meddle(path, "UPDATE failed_messages SET trace_id = 'x' WHERE id IN (1, 2)")
    taken = [disk.claim("r1", limit=1, lease_seconds=30) for _ in range(3)]
    assert [[message.id for message in each] for each in taken] == [[4], [5], []]
    assert disk.corrupted_ids() == (1, 2)


@pytest.mark.parametrize("where", [FailedMessageFilter(), FailedMessageFilter(error="SendTimeout")])
def test_more_than_is_read_together_keeps_its_order(disk: SqliteFailedMessages, where: FailedMessageFilter) -> None:
    """
    A claim of many rows hands out each once and in order, with a filter that takes whole lanes and with one that doesn't.
    """
    disk.keep([failed(b"%d" % number, key=f"k{number % 7}") for number in range(1800)])
    taken = [disk.claim("r1", where, limit=700, lease_seconds=30) for _ in range(4)]
    assert [len(each) for each in taken] == [700, 700, 400, 0]
    payloads = [message.message.payload for each in taken for message in each]
    assert payloads == [b"%d" % number for number in range(1800)]
    assert disk.delivered("r1", {number: MessageId(1, number) for number in range(1, 1801)}) == list(range(1, 1801))
    assert disk.stats()["delivered"] == 1800
    assert disk.status(1799).message_id == MessageId(1, 1799)
